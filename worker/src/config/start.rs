//! How a node finds others, and how one with an empty directory gets into a cluster.

use std::path::PathBuf;

use shoal_core::found::FOUNDING_SIZES;

use super::{Error, HostPort, RunArgs, address, invalid};

/// Where a node found by a name takes clients, unless the setting says otherwise.
const DATA_PORT: u16 = 11_000;

/// How a node with an empty directory gets into a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// JOIN_ADDRESS="": found a cluster of one.
    FoundAlone,
    /// JOIN_ADDRESS: the NODE_ADDRESS of any member.
    Join(HostPort),
    /// PEER_ADDRESSES: static discovery and the founding set.
    Peers(Vec<HostPort>),
    /// Join what discovery finds; found nothing.
    Found,
    /// BOOTSTRAP_EXPECT: found with the pods of these names.
    Pods(Vec<String>),
    /// IDENTITY_FILE: as an operator says there.
    Identity(PathBuf),
}

/// What finds others, beside PEER_ADDRESSES and JOIN_ADDRESS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    Static,
    /// All addresses of this name.
    Dns(HostPort),
    /// The pods of this label selector in the own namespace.
    Kubernetes(String),
}

pub(super) fn resolve(
    args: &RunArgs,
    own: &HostPort,
    name: &str,
) -> Result<(Start, Discovery), Error> {
    let discovery = discovery(args)?;
    let start = match &discovery {
        Discovery::Kubernetes(_) => in_pods(args, name)?,
        Discovery::Static | Discovery::Dns(_) => {
            only_in_pods(args)?;
            by_address(args, own, discovery != Discovery::Static)?
        }
    };
    Ok((start, discovery))
}

fn discovery(args: &RunArgs) -> Result<Discovery, Error> {
    const REMEDY: &str = "set static, dns:<name>[:port] or kubernetes:<label selector>";
    let Some(text) = args.discovery.as_deref() else { return Ok(Discovery::Static) };
    let bad = |problem: &str| Err(invalid("DISCOVERY", text, problem, REMEDY));
    match text.split_once(':') {
        None if text == "static" => Ok(Discovery::Static),
        Some(("dns", "")) => bad("it names no host"),
        Some(("dns", name)) if name.contains(':') => {
            Ok(Discovery::Dns(address("DISCOVERY", name)?))
        }
        Some(("dns", name)) => {
            let found = address("DISCOVERY", &format!("{name}:{DATA_PORT}"));
            found.map(Discovery::Dns).or_else(|_| bad("it names no host"))
        }
        Some(("kubernetes", "")) => bad("it has no label selector, which would take in every pod"),
        Some(("kubernetes", selector)) => Ok(Discovery::Kubernetes(selector.to_owned())),
        Some(_) | None => bad("this build knows no such discovery"),
    }
}

/// PEER_ADDRESSES or JOIN_ADDRESS; with DNS neither is needed, but then this node founds nothing.
fn by_address(args: &RunArgs, own: &HostPort, finds: bool) -> Result<Start, Error> {
    const ONE_WAY: &str = "set JOIN_ADDRESS to join (empty: found alone) or PEER_ADDRESSES to found together, not both";
    match (args.join_address.as_deref(), args.peer_addresses.as_deref()) {
        (Some(_), _) if finds => Err(Error::Conflict {
            first: "JOIN_ADDRESS",
            second: "DISCOVERY",
            remedy: "unset one: JOIN_ADDRESS names the one member to join through",
        }),
        (Some(_), Some(_)) => Err(Error::Conflict {
            first: "JOIN_ADDRESS",
            second: "PEER_ADDRESSES",
            remedy: ONE_WAY,
        }),
        (None, None) if finds => Ok(Start::Found),
        (None, None) => {
            Err(Error::Missing { setting: "JOIN_ADDRESS or PEER_ADDRESSES", remedy: ONE_WAY })
        }
        (Some(""), None) => Ok(Start::FoundAlone),
        (Some(text), None) => match address("JOIN_ADDRESS", text)? {
            join if join == *own => Err(invalid(
                "JOIN_ADDRESS",
                text,
                "it is this node itself",
                "name another member, or leave it empty to found a cluster of one",
            )),
            join => Ok(Start::Join(join)),
        },
        (None, Some(list)) => peers(list).map(Start::Peers),
    }
}

fn peers(list: &str) -> Result<Vec<HostPort>, Error> {
    let mut peers = Vec::new();
    for text in list.split(',').map(str::trim) {
        let peer = address("PEER_ADDRESSES", text)?;
        if peers.contains(&peer) {
            return Err(invalid(
                "PEER_ADDRESSES",
                list,
                format!("{peer} stands in it twice"),
                "name each founding node once",
            ));
        }
        peers.push(peer);
    }
    Ok(peers)
}

fn only_in_pods(args: &RunArgs) -> Result<(), Error> {
    const REMEDY: &str =
        "it counts with DISCOVERY=kubernetes:<label selector> only: set that, or unset it";
    match (&args.identity_file, &args.bootstrap_expect) {
        (Some(path), _) => {
            let problem = "nodes of a founding set given by names are found by no address";
            Err(invalid("IDENTITY_FILE", path.display(), problem, REMEDY))
        }
        (None, Some(count)) => {
            let problem = "a founding set given by a count has no names";
            Err(invalid("BOOTSTRAP_EXPECT", count, problem, REMEDY))
        }
        (None, None) => Ok(()),
    }
}

fn in_pods(args: &RunArgs, name: &str) -> Result<Start, Error> {
    const EXCLUDES: &str = "unset it: with kubernetes discovery names found, not addresses";
    for (setting, given) in
        [("JOIN_ADDRESS", &args.join_address), ("PEER_ADDRESSES", &args.peer_addresses)]
    {
        if given.is_some() {
            return Err(Error::Conflict { first: "DISCOVERY", second: setting, remedy: EXCLUDES });
        }
    }
    let Some(pod) = args.pod.pod() else {
        return Err(Error::Missing {
            setting: "POD_NAME",
            remedy: "with kubernetes discovery set it from metadata.name",
        });
    };
    if pod.namespace.is_none() {
        return Err(Error::Missing {
            setting: "POD_NAMESPACE",
            remedy: "with kubernetes discovery set it from metadata.namespace",
        });
    }
    if name != pod.name {
        let problem = format!("peers know this node by the name of its pod, {}", pod.name);
        return Err(invalid("RAFT_ID", name, problem, "unset it"));
    }
    match (&args.identity_file, &args.bootstrap_expect) {
        (Some(_), Some(_)) => Err(Error::Conflict {
            first: "IDENTITY_FILE",
            second: "BOOTSTRAP_EXPECT",
            remedy: "unset BOOTSTRAP_EXPECT: the file names the founding nodes",
        }),
        (Some(path), None) => Ok(Start::Identity(path.clone())),
        (None, Some(count)) => ordinals(count, &pod.name).map(Start::Pods),
        (None, None) => Err(Error::Missing {
            setting: "BOOTSTRAP_EXPECT",
            remedy: "set it to how many pods found the cluster together: 1, 2, 3 or 5, equal on \
                     all and never changed",
        }),
    }
}

/// The names of the first pods of the StatefulSet that this pod is of.
fn ordinals(count: &str, pod: &str) -> Result<Vec<String>, Error> {
    let wanted = count.parse().ok().filter(|count| FOUNDING_SIZES.contains(count));
    let Some(wanted) = wanted else {
        let remedy = "give 1, 2, 3 or 5, the same on all pods";
        return Err(invalid("BOOTSTRAP_EXPECT", count, "no founding set has that size", remedy));
    };
    let set = pod.rsplit_once('-').filter(|(set, ordinal)| {
        !set.is_empty() && !ordinal.is_empty() && ordinal.bytes().all(|c| c.is_ascii_digit())
    });
    let Some((set, _)) = set else {
        let problem = "it does not end with an ordinal, so that no others can be named after it";
        return Err(invalid("POD_NAME", pod, problem, "run the nodes as a StatefulSet"));
    };
    Ok((0..wanted).map(|ordinal| format!("{set}-{ordinal}")).collect())
}
