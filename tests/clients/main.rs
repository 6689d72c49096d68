//! Stock clients in other languages, with default options and no retry policy, while nodes
//! join, are drained, leave and restart: no call may fail and no increment may be lost.
//!
//! CLIENT_CALLS, CLIENT_RATE and CLIENT_CONNECTIONS change how much each client does.
// Everything here is a test, outside of the product.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::{
    collections::BTreeMap,
    env, fmt,
    io::Read as _,
    process::{Child, Command, Stdio},
    time::Instant,
};

use serde::Deserialize;
use shoal_tests::{Cluster, Node, Vip, space, wait};

/// Enough to last from before the first change until after the last.
const CALLS: &str = "3000";
/// Calls a second of each client.
const RATE: &str = "200";
const CONNECTIONS: &str = "16";
/// Twice what is promised of a release build on an idle machine, which `make bench` holds.
const LONGEST_STALL_MS: f64 = 2_000.0;
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
    /// Seconds after its first call.
    longest_at: f64,
    lost: u64,
    doubled: u64,
    unread: u64,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} calls in {:.0} s, {:.0} % forwarded, {} failed {:?}, longest {:.0} ms after {:.1} s, \
             {} lost, {} doubled, {} not read",
            self.client,
            self.calls,
            self.seconds,
            self.forwarded_percent,
            self.failed,
            self.failures,
            self.longest_ms,
            self.longest_at,
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

/// Two nodes join, one is removed and leaves, every other one restarts, one by one.
fn story(cluster: &mut Cluster) {
    let began = Instant::now();
    let say = |what: &str| println!("{:>5.1} s: {what}", began.elapsed().as_secs_f64());
    say("node-d and node-e join");
    cluster.nodes[3..].iter_mut().for_each(Node::start);
    cluster.nodes[3..].iter_mut().for_each(Node::ready);
    cluster.settle(5);
    say("node-b is removed");
    wait::until("node-b is removed", || {
        let ended = cluster.ask(0, &["drain", "node-b", "--remove"]);
        if ended.code == Some(0) { Ok(()) } else { Err(ended.stderr) }
    });
    cluster.settle(4);
    say("node-b leaves");
    cluster.nodes[1].leave();
    for at in [2, 0, 3, 4] {
        say(&format!("{} leaves", cluster.nodes[at].name));
        cluster.nodes[at].leave();
        say(&format!("{} starts", cluster.nodes[at].name));
        cluster.nodes[at].start();
        cluster.nodes[at].ready();
        cluster.settle(4);
    }
    say("the end");
}

#[test]
fn planned_changes_fail_no_call_of_a_stock_client() {
    let mut cluster = Cluster::founded(3, 2);
    cluster.joiner(0);
    cluster.joiner(1);
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
