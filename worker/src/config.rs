//! Environment and flags → one typed `Config`, judged as a whole before any port is bound.
//!
//! Each setting is an environment variable and a flag of the same name in kebab-case; a
//! flag wins. An error names the setting, what it holds and what would be right.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::Args;
use shoal_core::registry::{LEASES_MS, SHARD_COUNTS, WEIGHTS};

use crate::tls;

mod address;
pub mod memory;
mod pod;
mod start;

pub use address::HostPort;
pub use pod::Pod;
pub use start::{Discovery, Start};

/// Distance of the default ports from the one of NODE_ADDRESS.
const RAFT_PORT_OFFSET: u16 = 1_000;
pub const ADMIN_PORT_OFFSET: u16 = 2_000;
pub const HTTP_PORT_OFFSET: u16 = 3_000;
/// What the first process of a container tells the node's: how often it started it again.
pub const RESTARTS: &str = "SHOAL_RESTARTS";

/// A setting that cannot be used; `main` prints it and exits 64.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{setting} is {value:?}: {problem}; {remedy}")]
    Invalid { setting: &'static str, value: String, problem: String, remedy: &'static str },
    #[error("{setting} is missing: {remedy}")]
    Missing { setting: &'static str, remedy: &'static str },
    #[error("{first} and {second} exclude each other: {remedy}")]
    Conflict { first: &'static str, second: &'static str, remedy: &'static str },
}

pub(crate) fn invalid(
    setting: &'static str,
    value: impl ToString,
    problem: impl ToString,
    remedy: &'static str,
) -> Error {
    Error::Invalid { setting, value: value.to_string(), problem: problem.to_string(), remedy }
}

/// The settings of `shoal run` as they were given.
#[derive(Args, Debug, Clone, Default)]
pub struct RunArgs {
    /// Data port, clients and pipes; advertised `host:port` [default in a pod: POD_IP:11000]
    #[arg(long, env = "NODE_ADDRESS", value_name = "HOST:PORT")]
    pub node_address: Option<String>,
    /// Raft, sessions, hand-over [default: NODE_ADDRESS port + 1000]
    #[arg(long, env = "RAFT_ADDRESS", value_name = "HOST:PORT")]
    pub raft_address: Option<String>,
    /// Admin gRPC [default: NODE_ADDRESS port + 2000]
    #[arg(long, env = "ADMIN_ADDRESS", value_name = "HOST:PORT")]
    pub admin_address: Option<String>,
    /// livez, readyz, drained, metrics [default: NODE_ADDRESS port + 3000]
    #[arg(long, env = "HTTP_ADDRESS", value_name = "HOST:PORT")]
    pub http_address: Option<String>,
    /// Host or IP to listen on [default: NODE_ADDRESS host if an IP or localhost, else [::]; in a
    /// pod [::]]
    #[arg(long, env = "BIND_ADDRESS", value_name = "HOST")]
    pub bind_address: Option<String>,
    /// Name of this node [default: POD_NAME, else the host name]
    #[arg(long, env = "RAFT_ID", value_name = "NAME")]
    pub raft_id: Option<String>,
    /// Data directory [default: ./data/<RAFT_ID>]
    #[arg(long, env = "RAFT_DIR", value_name = "PATH")]
    pub raft_dir: Option<PathBuf>,
    /// true or false: the data directory ends with this node, as on a volume of its pod alone
    /// [default: false]
    #[arg(long, env = "EPHEMERAL", value_name = "BOOL")]
    pub ephemeral: Option<String>,
    /// NODE_ADDRESS of any member to join; empty founds a cluster of one
    #[arg(long, env = "JOIN_ADDRESS", value_name = "HOST:PORT")]
    pub join_address: Option<String>,
    /// NODE_ADDRESSes of all founding nodes, comma-separated, equal on all of them
    #[arg(long, env = "PEER_ADDRESSES", value_name = "LIST")]
    pub peer_addresses: Option<String>,
    /// static, dns:<name>[:port], or kubernetes:<label selector> [default: static]
    #[arg(long, env = "DISCOVERY", value_name = "KIND")]
    pub discovery: Option<String>,
    /// Size of the founding set with kubernetes discovery: 1, 2, 3 or 5; its names are the
    /// ordinals below it of this pod's StatefulSet
    #[arg(long, env = "BOOTSTRAP_EXPECT", value_name = "COUNT")]
    pub bootstrap_expect: Option<String>,
    /// File in which an operator names the founding nodes and records the cluster
    #[arg(long, env = "IDENTITY_FILE", value_name = "PATH")]
    pub identity_file: Option<PathBuf>,
    /// How to reach the API server, as a kubeconfig [default: the pod's service account]
    #[arg(long, env = "KUBE_CONFIG", value_name = "PATH")]
    pub kube_config: Option<PathBuf>,
    /// Shards of a cluster founded now: a power of two, 16…65536 [default: 1024]
    #[arg(long, env = "SHARDS", value_name = "COUNT")]
    pub shards: Option<String>,
    /// Lease of a cluster founded now, seconds, 2…60 [default: 3]
    #[arg(long, env = "LEASE", value_name = "SECONDS")]
    pub lease: Option<String>,
    /// Share of shards relative to other nodes, 1…1000 [default: 100]
    #[arg(long, env = "WEIGHT", value_name = "WEIGHT")]
    pub weight: Option<String>,
    /// Failure zone of this node
    #[arg(long, env = "ZONE", value_name = "NAME")]
    pub zone: Option<String>,
    /// Largest payload in bytes (or with KiB, MiB) [default: 4MiB]
    #[arg(long, env = "MAX_PAYLOAD", value_name = "SIZE")]
    pub max_payload: Option<String>,
    /// Most memory for calls under way in bytes (or with KiB, MiB, GiB); more are refused
    /// [default: a quarter of the memory limit of its cgroup, else 256MiB]
    #[arg(long, env = "CALL_MEMORY", value_name = "SIZE")]
    pub call_memory: Option<String>,
    /// Time from SIGTERM to exit, seconds [default: 20]
    #[arg(long, env = "SHUTDOWN_BUDGET", value_name = "SECONDS")]
    pub shutdown_budget: Option<String>,
    #[command(flatten)]
    pub pod: pod::PodArgs,
    /// json or text [default: text on a terminal, else json in a pod]
    #[arg(long, env = "LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// error, warn, info, debug, trace, or a tracing filter [default: info]
    #[arg(long, env = "LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
    #[command(flatten)]
    pub tls: tls::Args,
    /// No setting: see [`RESTARTS`]
    #[arg(long, env = RESTARTS, default_value_t, hide = true)]
    pub restarts: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}

/// Everything `shoal run` needs to know, valid as a whole.
#[derive(Debug, Clone)]
pub struct Config {
    pub node_address: HostPort,
    pub raft_address: HostPort,
    pub admin_address: HostPort,
    pub http_address: HostPort,
    pub bind_host: String,
    pub raft_id: String,
    pub raft_dir: PathBuf,
    /// The data directory ends with this node: it takes its vote along.
    pub ephemeral: bool,
    pub start: Start,
    pub discovery: Discovery,
    /// `None` outside of a pod.
    pub pod: Option<Pod>,
    pub kube_config: Option<PathBuf>,
    /// Where the incarnation is written for whoever reads it once this process has ended.
    pub termination_log: Option<PathBuf>,
    /// Tells the versions of one cluster's nodes apart.
    pub revision: String,
    /// Only as given: counts at founding, later a different value is refused.
    pub shards: Option<u32>,
    pub lease: Option<Duration>,
    pub weight: u32,
    pub zone: String,
    /// A node that was removed stays so in the pod that it was removed in.
    pub pod_uid: Option<String>,
    pub max_payload: usize,
    /// None: what this process has room for, by [`memory::for_calls`].
    pub call_memory: Option<usize>,
    pub shutdown_budget: Duration,
    pub log_format: LogFormat,
    pub log_level: String,
    /// None: disabled.
    pub tls: Option<tls::Settings>,
    /// How often this container started a node's process again.
    pub restarts: u32,
}

impl Config {
    pub const DEFAULT_SHARDS: u32 = 1_024;
    pub const DEFAULT_LEASE: Duration = Duration::from_secs(3);

    /// Judges all settings together. Reads nothing but `args` and `host_name`.
    pub fn resolve(args: &RunArgs, host_name: &str) -> Result<Self, Error> {
        let pod = args.pod.pod();
        let node_address = node_address(args)?;
        let near = |setting, given: &Option<String>, offset| match given {
            Some(text) => address(setting, text),
            None => node_address.with_port_offset(offset).ok_or_else(|| {
                invalid(
                    "NODE_ADDRESS",
                    &node_address,
                    format!("its port + {offset} is over 65535"),
                    "choose a lower port or set the other addresses",
                )
            }),
        };
        let raft_address = near("RAFT_ADDRESS", &args.raft_address, RAFT_PORT_OFFSET)?;
        let admin_address = near("ADMIN_ADDRESS", &args.admin_address, ADMIN_PORT_OFFSET)?;
        let http_address = near("HTTP_ADDRESS", &args.http_address, HTTP_PORT_OFFSET)?;
        distinct(&[
            ("NODE_ADDRESS", &node_address),
            ("RAFT_ADDRESS", &raft_address),
            ("ADMIN_ADDRESS", &admin_address),
            ("HTTP_ADDRESS", &http_address),
        ])?;
        let name = pod.as_ref().map_or(host_name, |pod| &pod.name);
        let raft_id = node_name(args.raft_id.as_deref(), name)?;
        let (start, discovery) = start::resolve(args, &node_address, &raft_id)?;
        let max_payload = args.max_payload.as_deref().map_or(Ok(4 << 20), memory::max_payload)?;
        let call_memory = |text| memory::call_memory(text, max_payload);
        let loopback = [&node_address, &raft_address, &admin_address, &http_address]
            .iter()
            .all(|address| address.is_loopback());
        Ok(Self {
            tls: tls::settings(&args.tls, loopback)?,
            restarts: args.restarts,
            bind_host: bind_host(args.bind_address.as_deref(), &node_address, pod.is_some())?,
            raft_dir: args.raft_dir.clone().unwrap_or_else(|| PathBuf::from("data").join(&raft_id)),
            ephemeral: args.ephemeral.as_deref().map_or(Ok(false), ephemeral)?,
            start,
            discovery,
            kube_config: args.kube_config.clone(),
            termination_log: args.pod.termination_log(),
            revision: args.pod.revision(),
            shards: args.shards.as_deref().map(shards).transpose()?,
            lease: args.lease.as_deref().map(lease).transpose()?,
            weight: args.weight.as_deref().map_or(Ok(100), weight)?,
            zone: args.zone.clone().unwrap_or_default(),
            pod_uid: args.pod.uid(),
            max_payload,
            call_memory: args.call_memory.as_deref().map(call_memory).transpose()?,
            shutdown_budget: shutdown_budget(args.shutdown_budget.as_deref().unwrap_or("20"))?,
            log_format: log_format(args.log_format.as_deref(), pod.is_some())?,
            log_level: log_level(args.log_level.as_deref())?,
            pod,
            node_address,
            raft_address,
            admin_address,
            http_address,
            raft_id,
        })
    }
}

fn ephemeral(text: &str) -> Result<bool, Error> {
    text.parse().map_err(|_| invalid("EPHEMERAL", text, "it is neither", "set true or false"))
}

fn weight(text: &str) -> Result<u32, Error> {
    let range = u64::from(*WEIGHTS.start())..=u64::from(*WEIGHTS.end());
    let weight = number("WEIGHT", text, range, "give a whole number from 1 to 1000")?;
    Ok(weight as u32)
}

fn shutdown_budget(text: &str) -> Result<Duration, Error> {
    let remedy = "give whole seconds from 1 to 86400";
    number("SHUTDOWN_BUDGET", text, 1..=86_400, remedy).map(Duration::from_secs)
}

impl Config {
    /// Whether what was given for founding fits the cluster that there is. The lease may have
    /// been configured since, so that it is held against newcomers only.
    pub fn fits(&self, shard_count: u32, lease_ms: u32, newcomer: bool) -> Result<(), Error> {
        if let Some(asked) = self.shards.filter(|asked| *asked != shard_count) {
            let problem = format!("the cluster was founded with {shard_count} shards");
            return Err(invalid("SHARDS", asked, problem, "unset it, or give the cluster's own"));
        }
        let lease = Duration::from_millis(lease_ms.into());
        match self.lease.filter(|asked| newcomer && *asked != lease) {
            Some(asked) => Err(invalid(
                "LEASE",
                asked.as_secs(),
                format!("the lease of the cluster is {} s", lease.as_secs_f64()),
                "unset it, and change the cluster's by `shoal configure`",
            )),
            None => Ok(()),
        }
    }
}

fn node_address(args: &RunArgs) -> Result<HostPort, Error> {
    let given = args.node_address.as_deref().filter(|text| !text.is_empty());
    match (given, args.pod.address()?) {
        (Some(text), _) => address("NODE_ADDRESS", text),
        (None, Some(in_pod)) => Ok(in_pod),
        (None, None) => Err(Error::Missing {
            setting: "NODE_ADDRESS",
            remedy: "set it to the host:port that clients and peers reach this node at; in a pod \
                     set POD_IP from status.podIP",
        }),
    }
}

fn address(setting: &'static str, text: &str) -> Result<HostPort, Error> {
    text.parse().map_err(|problem: address::Error| {
        invalid(setting, text, problem, "write host:port, an IPv6 address in brackets")
    })
}

fn distinct(addresses: &[(&'static str, &HostPort)]) -> Result<(), Error> {
    for (index, (first, one)) in addresses.iter().enumerate() {
        for (second, other) in &addresses[index + 1..] {
            if one == other && one.port != 0 {
                return Err(invalid(
                    second,
                    other,
                    format!("it is the same as {first}"),
                    "give each its own port",
                ));
            }
        }
    }
    Ok(())
}

fn node_name(given: Option<&str>, host_name: &str) -> Result<String, Error> {
    const LONGEST: usize = 253;
    let name = given.unwrap_or(host_name);
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_.:[]".contains(c);
    if name.is_empty() || name.len() > LONGEST || !name.chars().all(legal) {
        return Err(invalid(
            "RAFT_ID",
            name,
            "it is not a node name",
            "use 1 to 253 letters, digits, '-', '_', '.'",
        ));
    }
    Ok(name.to_owned())
}

/// Probes and `kubectl exec` come to other addresses of a pod than its own.
fn bind_host(given: Option<&str>, node: &HostPort, in_pod: bool) -> Result<String, Error> {
    let Some(text) = given else {
        return Ok(match node.host.parse::<IpAddr>() {
            _ if in_pod => "::".to_owned(),
            Ok(_) => node.host.clone(),
            Err(_) if node.host == "localhost" => node.host.clone(),
            Err(_) => "::".to_owned(),
        });
    };
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if bare == "localhost" || bare.parse::<IpAddr>().is_ok() {
        return Ok(bare.to_owned());
    }
    Err(invalid(
        "BIND_ADDRESS",
        text,
        "it is no IP address",
        "give an IP address or localhost, without a port",
    ))
}

fn number(
    setting: &'static str,
    text: &str,
    allowed: std::ops::RangeInclusive<u64>,
    remedy: &'static str,
) -> Result<u64, Error> {
    let value: u64 =
        text.parse().map_err(|_| invalid(setting, text, "it is not a whole number", remedy))?;
    if !allowed.contains(&value) {
        return Err(invalid(
            setting,
            text,
            format!("it is outside {}…{}", allowed.start(), allowed.end()),
            remedy,
        ));
    }
    Ok(value)
}

fn shards(text: &str) -> Result<u32, Error> {
    const REMEDY: &str = "give a power of two from 16 to 65536";
    let count = number(
        "SHARDS",
        text,
        u64::from(*SHARD_COUNTS.start())..=u64::from(*SHARD_COUNTS.end()),
        REMEDY,
    )?;
    if !count.is_power_of_two() {
        return Err(invalid("SHARDS", text, "it is not a power of two", REMEDY));
    }
    Ok(count as u32)
}

fn lease(text: &str) -> Result<Duration, Error> {
    let (least, most) = (LEASES_MS.start() / 1_000, LEASES_MS.end() / 1_000);
    number("LEASE", text, u64::from(least)..=u64::from(most), "give whole seconds from 2 to 60")
        .map(Duration::from_secs)
}

fn log_format(given: Option<&str>, in_pod: bool) -> Result<LogFormat, Error> {
    use std::io::IsTerminal as _;
    match given {
        Some("json") => Ok(LogFormat::Json),
        Some("text") => Ok(LogFormat::Text),
        Some(other) => {
            Err(invalid("LOG_FORMAT", other, "it is not a log format", "set json or text"))
        }
        None if std::io::stderr().is_terminal() => Ok(LogFormat::Text),
        None if in_pod || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() => {
            Ok(LogFormat::Json)
        }
        None => Ok(LogFormat::Text),
    }
}

fn log_level(given: Option<&str>) -> Result<String, Error> {
    use tracing_subscriber::filter::{LevelFilter, targets::Targets};
    let text = given.unwrap_or("info");
    // A bare word that is no level would be read as a target with everything on.
    let words =
        text.split(',').all(|part| part.contains('=') || part.parse::<LevelFilter>().is_ok());
    if words && text.parse::<Targets>().is_ok() {
        return Ok(text.to_owned());
    }
    let remedy = "set error, warn, info, debug or trace, or target=level pairs";
    Err(invalid("LOG_LEVEL", text, "it is not a log level", remedy))
}

#[cfg(test)]
mod tests;
