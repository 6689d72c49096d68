//! Feature levels: what a later version knows, and processes of before it.

use shoal_tests::{Cluster, Counters, Load, Node, admin, wait};

/// Knows one level more than the other processes.
const LATER: &str = "next-level";

fn restart(node: &mut Node, later: bool) {
    node.leave();
    if later {
        node.set("SHOAL_MUTANT", LATER);
    } else {
        node.unset("SHOAL_MUTANT");
    }
    node.start();
}

/// The level that a node's table shows; none where it has no table yet.
fn level(node: &Node) -> Option<u32> {
    let told = admin::status(&node.admin_address()).ok()?;
    told.settings.map(|settings| settings.feature_level)
}

/// S10: the level of a cluster rises once all know it. An older process does not guess then what it
/// reads: a member ends, and who is to become one is not admitted.
#[test]
fn s10_the_level_rises_once_all_know_it_and_no_older_process_runs_or_joins_then() {
    let mut cluster = Cluster::founded(3, 1);
    let mut counters = Counters::new(60);
    counters.add(&mut cluster.client(0));
    let load = Load::start(&[cluster.nodes[2].address()]);
    for at in 0..2 {
        restart(&mut cluster.nodes[at], true);
        cluster.nodes[at].ready();
        cluster.settle(3);
        assert_eq!(level(&cluster.nodes[at]), Some(1), "one of them does not know it");
    }
    load.end().flawless();
    restart(&mut cluster.nodes[2], true);
    cluster.nodes[2].ready();
    wait::until("the level rises", || {
        let levels: Vec<_> = cluster.nodes.iter().map(level).collect();
        levels
            .iter()
            .all(|level| *level == Some(2))
            .then_some(())
            .ok_or_else(|| format!("{levels:?}"))
    });
    cluster.settle(3);
    counters.add(&mut cluster.client(1));

    restart(&mut cluster.nodes[1], false);
    let line = cluster.nodes[1].refuses(70);
    assert!(line.contains("feature level 2 is required, this build knows 1"), "{line}");
    let joiner = cluster.joiner(0);
    joiner.start();
    joiner.waits("to admit this node");
    joiner.leave();
    let status = cluster.status_of(0).unwrap();
    assert_eq!(status.nodes.len(), 3, "it was admitted: {status:?}");
    cluster.nodes[1].set("SHOAL_MUTANT", LATER).start();
    cluster.nodes[1].ready();
    cluster.nodes[3].set("SHOAL_MUTANT", LATER).start();
    cluster.nodes[3].ready();
    cluster.settle(4);
    counters.check(&mut cluster.client(3));
}
