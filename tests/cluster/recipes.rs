//! How a cluster starts: both recipes with exactly their settings, in any order, by any kind
//! of address.

use std::{
    net::{IpAddr, ToSocketAddrs as _},
    thread,
    time::Duration,
};

use shoal_tests::{Cluster, Counters, Node, Ports, Space, cluster::Status, ports};

const LETTERS: [char; 3] = ['a', 'b', 'c'];
/// Of node-a in the recipes.
const FIRST_PORT: u16 = 11_000;
const SIZE: usize = LETTERS.len();

enum Recipe {
    /// (a): one founds, the others join.
    Join,
    /// (b): all found together.
    Peers,
}

/// The nodes of a recipe: its names, directories and addresses, and no other setting.
fn cluster(recipe: &Recipe, host: &str, ports: Ports) -> Cluster {
    let space = Space::new();
    let mut nodes: Vec<_> = LETTERS
        .iter()
        .zip(0..)
        .map(|(letter, at)| {
            let name = format!("node-{letter}");
            let mut node = Node::at(&space, &name, host, ports.get(at));
            let (raft, data) = (node.raft_address(), format!(".local/{name}"));
            node.set("RAFT_ADDRESS", &raft).set("RAFT_DIR", &data);
            node
        })
        .collect();
    let addresses: Vec<_> = nodes.iter().map(Node::address).collect();
    for (at, node) in nodes.iter_mut().enumerate() {
        match recipe {
            Recipe::Join if at == 0 => node.set("JOIN_ADDRESS", ""),
            Recipe::Join => node.set("JOIN_ADDRESS", &addresses[0]),
            Recipe::Peers => node.set("PEER_ADDRESSES", &addresses.join(",")),
        };
    }
    Cluster::of(space, ports, nodes)
}

/// Every node is ready and in one cluster; every key answers at every entry.
#[track_caller]
fn whole(cluster: &mut Cluster) -> Status {
    cluster.nodes.iter_mut().for_each(Node::ready);
    let status = cluster.serves(cluster.nodes.len());
    let mut counters = Counters::new(50);
    for at in 0..cluster.nodes.len() {
        assert_eq!(cluster.status_of(at).unwrap().cluster_id, status.cluster_id);
        counters.add(&mut cluster.client(at));
    }
    counters.check(&mut cluster.client(0));
    status
}

/// Until it is on disk how old the directory is.
#[track_caller]
fn start_and_listen(node: &mut Node) {
    node.start();
    node.waits("");
}

#[test]
fn recipe_a_exactly_as_given() {
    let ports = Ports::exactly(FIRST_PORT, SIZE as u16);
    let mut cluster = cluster(&Recipe::Join, "localhost", ports);
    cluster.nodes.iter_mut().for_each(Node::start);
    let status = whole(&mut cluster);
    assert_eq!(status.node("node-a").unwrap().id, 1, "the founder");
    assert_eq!(status.shards.total, 1_024);
}

#[test]
fn recipe_b_exactly_as_given() {
    let ports = Ports::exactly(FIRST_PORT, SIZE as u16);
    let mut cluster = cluster(&Recipe::Peers, "localhost", ports);
    cluster.nodes.iter_mut().for_each(Node::start);
    let status = whole(&mut cluster);
    assert_eq!(status.voters.len(), SIZE);
    assert_eq!(status.leader_id, 1, "the founder leads first");
}

#[test]
fn founding_peers_start_in_any_order_and_the_oldest_leads() {
    const ORDERS: [[usize; 3]; 6] =
        [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for order in ORDERS {
        let mut cluster = cluster(&Recipe::Peers, "localhost", Ports::any(SIZE as u16));
        for at in order {
            start_and_listen(&mut cluster.nodes[at]);
        }
        let status = whole(&mut cluster);
        let oldest = &cluster.nodes[order[0]].name;
        assert_eq!(&status.leader().unwrap().name, oldest, "{order:?}");
        assert_eq!(status.node(oldest).unwrap().id, 1, "{order:?}");
    }
}

#[test]
fn two_founding_peers_start_at_once_after_the_third() {
    let mut cluster = cluster(&Recipe::Peers, "localhost", Ports::any(SIZE as u16));
    start_and_listen(&mut cluster.nodes[2]);
    cluster.nodes[..2].iter_mut().for_each(Node::start);
    let status = whole(&mut cluster);
    assert_eq!(status.leader().unwrap().name, "node-c");
}

#[test]
fn joining_nodes_may_start_before_the_founder() {
    let mut cluster = cluster(&Recipe::Join, "localhost", Ports::any(SIZE as u16));
    for at in [2, 1] {
        start_and_listen(&mut cluster.nodes[at]);
        cluster.nodes[at].waits("waiting for a formed cluster");
    }
    cluster.nodes[0].start();
    let status = whole(&mut cluster);
    assert_eq!(status.node("node-a").unwrap().id, 1);
}

#[test]
fn a_founding_peer_comes_seconds_late() {
    let mut cluster = cluster(&Recipe::Peers, "localhost", Ports::any(SIZE as u16));
    let late = cluster.nodes[1].address();
    cluster.nodes[0].start();
    cluster.nodes[2].start();
    let missing = format!("waiting for 1 of 3 founding peers: {late}");
    cluster.nodes[0].waits(&missing);
    thread::sleep(Duration::from_secs(4)); // as late as this is what is tested
    for at in [0, 2] {
        let (code, text) = cluster.nodes[at].readiness().unwrap();
        assert_eq!((code, text.trim()), (503, missing.as_str()));
        assert!(cluster.nodes[at].log().contains(&missing), "the log says it as well");
    }
    cluster.nodes[1].start();
    whole(&mut cluster);
}

#[test]
fn nodes_join_through_any_member() {
    let mut cluster = Cluster::founded(3, 2);
    cluster.joiner(1).start();
    cluster.nodes[3].ready();
    cluster.joiner(3).start();
    whole(&mut cluster);
    let status = cluster.settle(5);
    let owned: Vec<_> = status.nodes.iter().map(|node| node.shards_owned).collect();
    assert!(owned.iter().all(|owned| [12, 13].contains(owned)), "64 over 5: {owned:?}");
}

#[test]
fn both_recipes_on_the_loopback_of_ipv6() {
    if !ports::has_ipv6() {
        println!("left out: this machine has no IPv6");
        return;
    }
    for recipe in [Recipe::Join, Recipe::Peers] {
        let mut cluster = cluster(&recipe, "[::1]", Ports::any(SIZE as u16));
        cluster.nodes.iter_mut().for_each(Node::start);
        whole(&mut cluster);
    }
}

#[test]
fn both_recipes_by_the_name_of_this_machine() {
    let Some(name) = name_of_loopback() else {
        println!("left out: no name of this machine but localhost stands for loopback");
        return;
    };
    for recipe in [Recipe::Join, Recipe::Peers] {
        let mut cluster = cluster(&recipe, &name, Ports::any(SIZE as u16));
        for node in &mut cluster.nodes {
            node.set("TLS_MODE", "disabled").start();
        }
        whole(&mut cluster);
    }
}

fn name_of_loopback() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    [name.trim(), "ip6-localhost", "localhost.localdomain"].into_iter().map(str::to_owned).find(
        |name| {
            let addresses = (name.as_str(), 0).to_socket_addrs();
            let loopback = |ip: IpAddr| ip.is_loopback();
            name != "localhost"
                && addresses.is_ok_and(|mut all| all.all(|address| loopback(address.ip())))
        },
    )
}
