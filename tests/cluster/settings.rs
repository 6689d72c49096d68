//! Settings that cannot be used: exit 64 with one line that names the setting and the remedy,
//! before any port is bound and before anything is written.

use std::net::{Ipv4Addr, TcpListener};

use shoal_tests::{Ports, Space, command};

struct Case {
    /// Laid over a node that would start; "unset" takes a setting away.
    settings: &'static [(&'static str, &'static str)],
    /// Beside `run`.
    flags: &'static [&'static str],
    named: &'static str,
    remedy: &'static str,
}

const fn setting(
    settings: &'static [(&'static str, &'static str)],
    named: &'static str,
    remedy: &'static str,
) -> Case {
    Case { settings, flags: &[], named, remedy }
}

const CASES: &[Case] = &[
    setting(&[("NODE_ADDRESS", "unset")], "NODE_ADDRESS is missing", "set it to the host:port"),
    setting(&[("NODE_ADDRESS", "")], "NODE_ADDRESS is missing", "set it to the host:port"),
    setting(&[("NODE_ADDRESS", "localhost")], "NODE_ADDRESS is \"localhost\"", "write host:port"),
    setting(&[("NODE_ADDRESS", "::1:11000")], "NODE_ADDRESS", "IPv6 address in brackets"),
    setting(&[("NODE_ADDRESS", "localhost:0")], "NODE_ADDRESS", "write host:port"),
    setting(&[("NODE_ADDRESS", "localhost:65000")], "NODE_ADDRESS", "choose a lower port"),
    setting(&[("RAFT_ADDRESS", "12000")], "RAFT_ADDRESS is \"12000\"", "write host:port"),
    setting(&[("ADMIN_ADDRESS", "a b:1")], "ADMIN_ADDRESS is \"a b:1\"", "write host:port"),
    setting(&[("HTTP_ADDRESS", "localhost:http")], "HTTP_ADDRESS", "write host:port"),
    setting(&[("BIND_ADDRESS", "eth0")], "BIND_ADDRESS is \"eth0\"", "give an IP address"),
    setting(&[("RAFT_ID", "node a")], "RAFT_ID is \"node a\"", "letters, digits"),
    setting(&[("RAFT_ID", "")], "RAFT_ID is \"\"", "letters, digits"),
    setting(
        &[("PEER_ADDRESSES", "localhost:1")],
        "JOIN_ADDRESS and PEER_ADDRESSES exclude each other",
        "not both",
    ),
    setting(
        &[("JOIN_ADDRESS", "unset")],
        "JOIN_ADDRESS or PEER_ADDRESSES is missing",
        "set JOIN_ADDRESS to join (empty: found alone) or PEER_ADDRESSES",
    ),
    setting(&[("JOIN_ADDRESS", "nowhere")], "JOIN_ADDRESS is \"nowhere\"", "write host:port"),
    setting(
        &[("JOIN_ADDRESS", "unset"), ("PEER_ADDRESSES", "")],
        "PEER_ADDRESSES is \"\"",
        "write host:port",
    ),
    setting(
        &[("JOIN_ADDRESS", "unset"), ("PEER_ADDRESSES", "localhost:1,localhost:1")],
        "PEER_ADDRESSES",
        "name each founding node once",
    ),
    setting(
        &[("JOIN_ADDRESS", "unset"), ("PEER_ADDRESSES", "localhost:1,,localhost:2")],
        "PEER_ADDRESSES",
        "write host:port",
    ),
    setting(
        &[("DISCOVERY", "consul")],
        "DISCOVERY is \"consul\"",
        "set static, dns:<name>[:port] or kubernetes:<label selector>",
    ),
    setting(&[("SHARDS", "1000")], "SHARDS is \"1000\"", "a power of two from 16 to 65536"),
    setting(&[("SHARDS", "131072")], "SHARDS is \"131072\"", "a power of two from 16 to 65536"),
    setting(&[("SHARDS", "many")], "SHARDS is \"many\"", "a power of two from 16 to 65536"),
    setting(&[("LEASE", "1")], "LEASE is \"1\"", "whole seconds from 2 to 60"),
    setting(&[("LEASE", "3s")], "LEASE is \"3s\"", "whole seconds from 2 to 60"),
    setting(&[("WEIGHT", "0")], "WEIGHT is \"0\"", "from 1 to 1000"),
    setting(&[("WEIGHT", "-1")], "WEIGHT is \"-1\"", "from 1 to 1000"),
    setting(&[("MAX_PAYLOAD", "4GB")], "MAX_PAYLOAD is \"4GB\"", "from 1024 to 64MiB"),
    setting(&[("MAX_PAYLOAD", "1023")], "MAX_PAYLOAD is \"1023\"", "1KiB"),
    setting(&[("CALL_MEMORY", "1MiB")], "CALL_MEMORY is \"1MiB\"", "or lower MAX_PAYLOAD"),
    setting(&[("SHUTDOWN_BUDGET", "0")], "SHUTDOWN_BUDGET is \"0\"", "whole seconds from 1"),
    setting(&[("LOG_FORMAT", "xml")], "LOG_FORMAT is \"xml\"", "set json or text"),
    setting(&[("LOG_LEVEL", "loud")], "LOG_LEVEL is \"loud\"", "set error, warn"),
    setting(&[("TLS_MODE", "mutual")], "TLS_CERT is missing", "set TLS_CERT, TLS_KEY and TLS_CA"),
    setting(&[("TLS_MODE", "maybe")], "TLS_MODE is \"maybe\"", "set mutual, or disabled"),
    setting(&[("TLS_CERT", "cert.pem")], "TLS_KEY is missing", "set TLS_CERT, TLS_KEY and TLS_CA"),
    setting(&[("TLS_CLIENTS", "mutual")], "TLS_CLIENTS and disabled TLS", "unset TLS_CLIENTS"),
    setting(&[("TLS_CLIENTS", "some")], "TLS_CLIENTS is \"some\"", "set optional, required"),
    setting(
        &[("TLS_CERT", "no.crt"), ("TLS_KEY", "no.key"), ("TLS_CA", "no.ca")],
        "TLS_CERT is \"no.crt\": there is no such file",
        "name a PEM file",
    ),
    setting(&[("NODE_ADDRESS", "10.0.0.1:11000")], "TLS_MODE is missing", "set TLS_MODE=disabled"),
    Case {
        settings: &[("LEASE", "3")],
        flags: &["--lease", "1"],
        named: "LEASE is \"1\"",
        remedy: "whole seconds from 2 to 60",
    },
];

/// Settings of a node that would start, its ports held by the test: had it tried to listen
/// before it judged its settings, it would say so.
struct Held {
    node_address: String,
    directory: String,
    _listeners: Vec<TcpListener>,
    _ports: Ports,
    _space: Space,
}

impl Held {
    fn new() -> Self {
        let (ports, space) = (Ports::any(1), Space::new());
        let hold = |offset| TcpListener::bind((Ipv4Addr::LOCALHOST, ports.get(0) + offset));
        let listeners = [0, 1_000, 2_000, 3_000].map(|offset| hold(offset).unwrap());
        Self {
            node_address: format!("localhost:{}", ports.get(0)),
            directory: space.path().join("node").display().to_string(),
            _listeners: listeners.into(),
            _ports: ports,
            _space: space,
        }
    }

    fn run(&self, flags: &[&str], over: &[(&str, &str)]) -> command::Ended {
        let mut settings = vec![
            ("NODE_ADDRESS", self.node_address.as_str()),
            ("RAFT_ID", "node-a"),
            ("RAFT_DIR", &self.directory),
            ("JOIN_ADDRESS", ""),
        ];
        settings.retain(|(name, _)| !over.iter().any(|(other, _)| other == name));
        settings.extend(over.iter().filter(|(_, value)| *value != "unset"));
        command::run(&[&["run"], flags].concat(), &settings)
    }

    fn wrote_nothing(&self) {
        assert!(!std::path::Path::new(&self.directory).exists(), "a directory was made");
    }
}

#[test]
fn every_bad_setting_ends_the_process_before_a_port_is_bound() {
    let held = Held::new();
    for case in CASES {
        let line = held.run(case.flags, case.settings).failed(64);
        for part in [case.named, case.remedy] {
            assert!(line.contains(part), "{:?}: {line:?} lacks {part:?}", case.settings);
        }
        assert!(!line.contains("cannot listen"), "a port was tried first: {line}");
        held.wrote_nothing();
    }
}

#[test]
fn a_good_setting_gets_as_far_as_the_ports() {
    let line = Held::new().run(&[], &[]).failed(64);
    assert!(line.contains("cannot listen"), "the ports are held: {line}");
}

#[test]
fn an_unknown_flag_or_command_is_named() {
    let held = Held::new();
    for (arguments, named) in [(["run", "--shard"], "--shard"), (["walk", "--now"], "walk")] {
        let ended = command::run(&arguments, &[("NODE_ADDRESS", &held.node_address)]);
        assert_eq!(ended.code, Some(64), "{ended:?}");
        let line = ended.stderr.lines().next().unwrap_or_default();
        assert!(line.contains(named), "{ended:?}");
        assert!(ended.stderr.contains("--help"), "the remedy: {ended:?}");
        held.wrote_nothing();
    }
}
