//! Who founds a cluster with whom, and what must stand before it is formed.

use std::fs;

use shoal_tests::{Cluster, Counters, Node, admin, wait};

/// S3: each half of four nodes has a majority of the three names that it was given. The halves
/// share two names, so that each hears of the other list.
#[test]
fn s3_founders_with_different_lists_form_nothing_and_show_both() {
    let mut cluster = Cluster::prepared(4, 0);
    let addresses = cluster.addresses();
    let (lower, upper) = (&addresses[..3], &addresses[1..]);
    for (at, node) in cluster.nodes.iter_mut().enumerate() {
        node.set("PEER_ADDRESSES", &if at < 2 { lower } else { upper }.join(","));
        node.start();
    }
    for node in &mut cluster.nodes {
        let told = node.waits("founding sets differ");
        for address in &addresses {
            assert!(told.contains(address), "{told}");
        }
    }
    for at in 0..4 {
        assert!(!cluster.status_of(at).unwrap().formed, "node {at}");
    }
    // Whoever had formed a cluster by itself would never leave it for this one.
    for (at, node) in cluster.nodes.iter_mut().enumerate().skip(2) {
        node.leave();
        match at {
            2 => node.set("PEER_ADDRESSES", &lower.join(",")),
            _ => node.unset("PEER_ADDRESSES").set("JOIN_ADDRESS", &addresses[0]),
        };
        node.start();
    }
    cluster.nodes.iter_mut().for_each(Node::ready);
    cluster.settle(4);
}

/// S21: a node outside the founding set was there first. Its age counts for nothing.
#[test]
fn s21_a_stranger_older_than_all_founders_founds_nothing_and_joins_what_they_form() {
    let mut cluster = Cluster::prepared(3, 1);
    let founders = cluster.addresses().join(",");
    cluster.joiner(0).unset("JOIN_ADDRESS").set("PEER_ADDRESSES", &founders).start();
    cluster.nodes[3].waits("to form a cluster");
    for at in 0..2 {
        cluster.nodes[at].start();
    }
    // It is no substitute for the one that is missing either.
    for at in 0..2 {
        cluster.nodes[at].waits("waiting for 1 of 3 founding peers");
    }
    cluster.nodes[3].waits("to form a cluster");
    cluster.nodes[2].start();
    cluster.nodes.iter_mut().for_each(Node::ready);
    let whole = cluster.settle(4);
    let first = whole.nodes.iter().find(|row| row.id == 1).expect("the founder");
    assert_ne!(first.name, cluster.nodes[3].name, "{whole:?}");
}

/// S6: from the first word of a formed cluster on three vote, and so the founder's disk may be lost.
#[test]
fn s6_three_vote_when_the_cluster_is_first_said_to_be_formed_and_the_founders_disk_may_be_lost() {
    let mut cluster = Cluster::prepared(3, 0);
    cluster.nodes.iter_mut().for_each(Node::start);
    // Who votes is known to the founder first; to others a little later.
    let formed = wait::until("the founder says that the cluster is formed", || {
        let mut said =
            cluster.nodes.iter().filter_map(|node| admin::status(&node.admin_address()).ok());
        let formed = said.find(|said| said.formed && said.leader_id == said.node_id);
        formed.ok_or_else(|| "nobody does".to_owned())
    });
    assert_eq!(formed.voters.len(), 3, "{formed:?}");
    let founder = formed.nodes.iter().find(|node| node.id == formed.leader_id);
    let founder = cluster.place(&founder.expect("the founder leads").name);
    cluster.nodes[founder].kill();
    fs::remove_dir_all(cluster.nodes[founder].data()).unwrap();

    let after = cluster.serves(2);
    assert_eq!(after.cluster_id, formed.cluster_id);
    let mut counters = Counters::new(20);
    counters.add(&mut cluster.client((founder + 1) % 3));
    // Its name is free once its session has ended; it is another member then.
    cluster.nodes[founder].start();
    cluster.nodes[founder].ready();
    let whole = cluster.settle(3);
    assert_eq!(whole.cluster_id, formed.cluster_id);
    let name = cluster.nodes[founder].name.clone();
    let mut up = whole.nodes.iter().filter(|row| row.life == "up");
    assert!(up.any(|row| row.name == name && !formed.voters.contains(&row.id)), "{whole:?}");
    counters.check(&mut cluster.client((founder + 2) % 3));
}
