//! Getting into a cluster that is not there, not formed, not one, or not as it was expected.

use std::net::{Ipv4Addr, TcpListener};

use shoal_tests::{Cluster, Node, Ports, Space};

fn alone(shards: &str) -> (Space, Ports, Node, Node) {
    let (space, ports) = (Space::new(), Ports::any(2));
    let mut founder = Node::new(&space, "node-a", ports.get(0));
    founder.set("JOIN_ADDRESS", "").set("SHARDS", shards);
    let mut joiner = Node::new(&space, "node-b", ports.get(1));
    joiner.set("JOIN_ADDRESS", &founder.address());
    (space, ports, founder, joiner)
}

#[test]
fn a_member_that_does_not_answer_is_waited_for_and_named() {
    let (_space, _ports, mut founder, mut joiner) = alone("64");
    joiner.start();
    let waits = format!(
        "waiting for a formed cluster at {}, which does not answer: Connection refused",
        founder.address()
    );
    joiner.waits(&waits);
    assert!(joiner.log().contains(&waits), "{}", joiner.log());
    founder.start();
    joiner.ready();
}

#[test]
fn what_is_no_shoal_node_is_waited_for_and_named() {
    let (_space, ports, founder, mut joiner) = alone("64");
    let web = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.get(0))).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::io::Write as _;
            for stream in web.incoming().take(2) {
                let _ = stream.unwrap().write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            }
        });
        joiner.start();
        let address = founder.address();
        let why = "which does not answer: what answers there is no shoal node";
        joiner.waits(&format!("waiting for a formed cluster at {address}, {why}"));
    });
}

#[test]
fn a_cluster_that_has_not_formed_is_waited_for() {
    let mut cluster = Cluster::prepared(3, 1);
    let first = cluster.nodes[0].address();
    cluster.nodes[0].start();
    let joiner = cluster.joiner(0);
    joiner.start();
    joiner.waits(&format!("waiting for {first} at"));
    cluster.nodes[1].start();
    cluster.nodes[2].start();
    cluster.settle(4);
}

#[test]
fn a_join_address_that_leads_back_here_is_refused() {
    let (_space, ports, _founder, mut joiner) = alone("64");
    joiner.set("JOIN_ADDRESS", &format!("127.0.0.1:{}", ports.get(1)));
    joiner.start();
    let line = joiner.refuses(64);
    assert!(line.contains("JOIN_ADDRESS is \"127.0.0.1:"), "{line}");
    assert!(line.contains("name another member"), "{line}");
}

#[test]
fn settings_of_founding_that_do_not_fit_the_cluster_are_refused() {
    let (_space, _ports, mut founder, mut joiner) = alone("64");
    founder.start();
    founder.ready();
    let bad = |joiner: &mut Node, words: &[&str]| {
        joiner.start();
        let line = joiner.refuses(64);
        for words in words {
            assert!(line.contains(words), "{line:?} lacks {words:?}");
        }
    };
    joiner.set("SHARDS", "128");
    bad(&mut joiner, &["SHARDS is \"128\"", "founded with 64 shards", "unset it"]);
    joiner.unset("SHARDS").set("LEASE", "7");
    bad(&mut joiner, &["LEASE is \"7\"", "the lease of the cluster is 3 s", "unset it"]);
    joiner.unset("LEASE").start();
    joiner.ready();
    // Later as well; but a lease may have been configured since.
    joiner.leave();
    joiner.set("SHARDS", "32");
    bad(&mut joiner, &["SHARDS is \"32\"", "founded with 64 shards"]);
    joiner.set("SHARDS", "64").set("LEASE", "7").start();
    joiner.ready();
}
