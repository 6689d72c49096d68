//! Stock clients in other languages, with default options and no retry policy, while nodes
//! join, are drained, leave and restart: no call may fail and no increment may be lost.
//!
//! CLIENT_CALLS, CLIENT_RATE and CLIENT_CONNECTIONS change how much each client does.
#![allow(clippy::unwrap_used)] // everything here is a test

use std::{
    collections::BTreeMap,
    env, fmt,
    io::Read as _,
    process::{Child, Command, Stdio},
};

use serde::Deserialize;
use shoal_tests::{Cluster, Vip, space};

/// Enough to last from before the first change until after the last.
const CALLS: &str = "3000";
/// Calls a second of each client.
const RATE: &str = "200";
const CONNECTIONS: &str = "16";
/// Of a planned change, for calls that take no time themselves.
const LONGEST_STALL_MS: f64 = 1_000.0;
/// At least this share enters at a node that is not the owner.
const FORWARDED_PERCENT: f64 = 60.0;

/// What a client says at its end.
#[derive(Deserialize)]
struct Told {
    client: String,
    calls: u64,
    seconds: f64,
    failed: u64,
    failures: BTreeMap<String, u64>,
    forwarded_percent: f64,
    longest_ms: f64,
    lost: u64,
    doubled: u64,
    unread: u64,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} calls in {:.0} s, {:.0} % forwarded, {} failed {:?}, longest {:.0} ms, \
             {} lost, {} doubled, {} not read",
            self.client,
            self.calls,
            self.seconds,
            self.forwarded_percent,
            self.failed,
            self.failures,
            self.longest_ms,
            self.lost,
            self.doubled,
            self.unread,
        )
    }
}

struct Client {
    child: Child,
}

impl Client {
    fn start(mut program: Command, vip: &Vip) -> Self {
        let setting = |name, default: &str| env::var(name).unwrap_or(default.to_owned());
        program.arg(format!("--addresses={}", vip.addresses()));
        program.arg(format!("--calls={}", setting("CLIENT_CALLS", CALLS)));
        program.arg(format!("--rate={}", setting("CLIENT_RATE", RATE)));
        let child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        Self { child: child.expect("tests/clients/build.sh was run") }
    }

    #[track_caller]
    fn assert_runs(&mut self) {
        assert_eq!(self.child.try_wait().unwrap(), None, "a client ended early");
    }

    /// Closes its standard input: the story is over.
    fn end(mut self) -> Told {
        drop(self.child.stdin.take());
        let mut told = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut told).unwrap();
        assert!(self.child.wait().unwrap().success());
        serde_json::from_str(&told).unwrap()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Both fail only where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn clients(vip: &Vip) -> Vec<Client> {
    let built = space::build_directory().join("clients");
    let mut python = Command::new(built.join("python/venv/bin/python"));
    python.arg(built.join("python/client.py"));
    let go = Command::new(built.join("go/client"));
    [python, go].into_iter().map(|program| Client::start(program, vip)).collect()
}

/// Join, removal, and a restart of every node that is left, one by one.
fn story(cluster: &mut Cluster) {
    cluster.nodes[3].start();
    cluster.nodes[3].ready();
    cluster.settle(4);
    cluster.ask(0, &["drain", "node-b", "--remove"]).succeeded();
    cluster.settle(3);
    for at in [2, 0, 3] {
        cluster.nodes[at].leave();
        cluster.nodes[at].start();
        cluster.nodes[at].ready();
        cluster.settle(3);
    }
    // Parked until now: the connections that it kept still entered there.
    cluster.nodes[1].leave();
}

#[test]
fn planned_changes_fail_no_call_of_a_stock_client() {
    let mut cluster = Cluster::founded(3, 1);
    cluster.joiner(0);
    let connections = env::var("CLIENT_CONNECTIONS").unwrap_or(CONNECTIONS.to_owned());
    let vip = Vip::new(&cluster.nodes, connections.parse().unwrap());
    let mut clients = clients(&vip);
    story(&mut cluster);
    clients.iter_mut().for_each(Client::assert_runs);
    for client in clients {
        let told = client.end();
        println!("{told}");
        assert!(told.calls > 0, "{told}");
        assert_eq!((told.failed, told.lost, told.doubled, told.unread), (0, 0, 0, 0), "{told}");
        assert!(told.longest_ms <= LONGEST_STALL_MS, "{told}");
        assert!(told.forwarded_percent >= FORWARDED_PERCENT, "{told}");
    }
}
