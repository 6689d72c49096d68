//! Stock clients in other languages, with default options and no retry policy, while nodes
//! join, are drained, leave and restart: no call may fail and no increment may be lost.
//!
//! CLIENT_CALLS, CLIENT_RATE and CLIENT_CONNECTIONS change how much each client does.
// Everything here is a test, outside of the product.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::{env, process::Command, time::Instant};

use shoal_tests::{
    Cluster, Node, Vip,
    stock::{self, Load, Stock},
    wait,
};

/// Enough to last from before the first change until after the last.
const CALLS: &str = "3000";
/// Calls a second of each client.
const RATE: &str = "200";
const CONNECTIONS: &str = "16";
const KEYS: usize = 1_000;
/// Twice what is promised of a release build on an idle machine, which `make bench` holds.
const LONGEST_STALL_MS: f64 = 2_000.0;
/// At least this share enters at a node that is not the owner.
const FORWARDED_PERCENT: f64 = 60.0;

fn clients(vip: &Vip) -> Vec<Stock> {
    let setting = |name, default: &str| env::var(name).unwrap_or(default.to_owned());
    let load = Load {
        addresses: vip.addresses(),
        calls: setting("CLIENT_CALLS", CALLS).parse().unwrap(),
        keys: KEYS,
        rate: setting("CLIENT_RATE", RATE).parse().unwrap(),
    };
    let start = |words: Vec<String>| {
        let mut program = Command::new(&words[0]);
        program.args(&words[1..]);
        Stock::start(program, &load).unwrap()
    };
    stock::programs().into_iter().map(start).collect()
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
    assert!(clients.iter_mut().all(Stock::runs), "a client ended early");
    for client in clients {
        let told = client.end().unwrap();
        println!("{told}");
        assert!(told.flawless(), "{told}");
        assert!(told.longest_ms <= LONGEST_STALL_MS, "{told}");
        assert!(told.forwarded_percent >= FORWARDED_PERCENT, "{told}");
    }
}
