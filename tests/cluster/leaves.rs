//! Nodes that are drained: for good, for a restart, and not after all.

use std::{fs, thread, time::Duration};

use shoal_proto::shoal::admin::v1::CloseRequest;
use shoal_tests::{Client, Cluster, Counters, Load, Node, admin, cluster::Row, http, wait};
use tonic::{Code, Status};

/// Twice what is promised of a release build on an idle machine.
const LONGEST_STALL: Duration = Duration::from_secs(2);

/// Through the address of another node: any member may be asked.
fn drain(cluster: &Cluster, through: usize, arguments: &[&str]) -> serde_json::Value {
    let command = [&["drain", "--output", "json"], arguments].concat();
    let told = wait::until("the drain is told", || {
        let ended = cluster.ask(through, &command);
        // During an election the command says so, and leaves it to its caller.
        if ended.stderr.contains("try again") { Err(ended.stderr) } else { Ok(ended.succeeded()) }
    });
    serde_json::from_str(&told).unwrap()
}

#[test]
fn a_removed_node_stays_parked_and_still_forwards() {
    let mut cluster = Cluster::founded(3, 1);
    cluster.joiner(0).start();
    cluster.nodes[3].ready();
    cluster.settle(4);
    let mut counters = Counters::new(100);
    counters.add(&mut cluster.client(3));
    let load = Load::start(&cluster.addresses());
    let removed = drain(&cluster, 0, &["node-b", "--remove"]);
    assert_eq!(removed["state"], "removed");
    cluster.nodes[1].waits("parked: this node was removed from the cluster");
    cluster.settle(3);
    load.end().flawless();
    let status = cluster.status_of(0).unwrap();
    assert!(status.node("node-b").is_none(), "left nodes are listed with --all only");
    let all = cluster.ask(0, &["nodes", "--all"]).succeeded();
    assert!(all.lines().any(|line| line.contains("node-b") && line.contains("left")), "{all}");
    let mut through = cluster.client(1);
    counters.add(&mut through);
    let (_, answer) = through.read("counter-0").unwrap();
    assert!(answer.forwarded && answer.owner != "node-b", "{answer:?}");
    assert_eq!(http::get(&cluster.nodes[1].http_address(), "/livez").unwrap().0, 200);
    assert_eq!(http::get(&cluster.nodes[1].http_address(), "/drained").unwrap().0, 200);
    counters.check(&mut cluster.client(0));
    cluster.nodes[1].leave();
}

#[test]
fn a_drain_for_good_is_taken_back() {
    let mut cluster = Cluster::founded(3, 0);
    let mut counters = Counters::new(100);
    counters.add(&mut cluster.client(0));
    let load = Load::start(&cluster.addresses());
    drain(&cluster, 2, &["node-b"]);
    let drained = cluster.until("node-b owns nothing", |status| {
        status.node("node-b").is_some_and(|row| row.shards_owned == 0)
    });
    assert_eq!(drained.node("node-b").unwrap().drain, "restart");
    counters.add(&mut cluster.client(1));
    let told = drain(&cluster, 0, &["node-b", "--cancel"]);
    assert_eq!(told["node"], "node-b");
    cluster.settle(3);
    load.end().flawless();
    counters.add(&mut cluster.client(1));
    counters.check(&mut cluster.client(2));
}

#[test]
fn drained_answers_once_a_node_owns_nothing() {
    let mut cluster = Cluster::founded(3, 0);
    let address = cluster.nodes[2].http_address();
    let patience = Duration::from_millis(500);
    let early = http::get_within(&address, "/drained", patience);
    assert!(early.is_err(), "it owns shards: {early:?}");
    let waiting =
        std::thread::spawn(move || http::get_within(&address, "/drained", wait::PATIENCE));
    drain(&cluster, 0, &["node-c"]);
    let (code, text) = waiting.join().unwrap().unwrap();
    assert!(code == 200 && text.starts_with("drained"), "{code} {text}");
    cluster.status().unwrap();
}

#[test]
fn commands_about_a_node_that_is_not_there_name_those_that_are() {
    let cluster = Cluster::founded(1, 0);
    for arguments in [&["drain", "node-x"][..], &["move", "0", "node-x"]] {
        let line = cluster.ask(0, arguments).failed(1);
        assert!(line.contains("node-x") && line.contains("the cluster has node-a"), "{line}");
    }
    Client::to(&cluster.nodes[0].address()).increment("still served").unwrap();
}

#[test]
fn a_parked_node_follows_the_cluster_whoever_leaves() {
    let mut cluster = Cluster::founded(3, 1);
    cluster.joiner(0).start();
    cluster.nodes[3].ready();
    cluster.settle(4);
    drain(&cluster, 0, &["node-b", "--remove"]);
    cluster.nodes[1].waits("parked");
    cluster.settle(3);
    let load = Load::start(&[cluster.nodes[1].address()]);
    for at in [0, 2, 3] {
        cluster.nodes[at].leave();
        cluster.nodes[at].start();
        cluster.nodes[at].ready();
        cluster.settle(3);
    }
    let tally = load.end();
    tally.flawless();
    assert!(tally.longest < LONGEST_STALL, "{tally:?}");
}

#[test]
fn whoever_leads_is_removed_by_one_command() {
    let mut cluster = Cluster::founded(3, 1);
    cluster.joiner(0).start();
    cluster.nodes[3].ready();
    let leader = cluster.settle(4).leader().unwrap().name.clone();
    let at = cluster.place(&leader);
    let load = Load::start(&[cluster.nodes[(at + 1) % 4].address()]);
    let arguments = ["drain", &leader, "--remove"];
    let told = cluster.ask((at + 2) % 4, &arguments).succeeded();
    assert!(told.contains("is removed"), "{told}");
    cluster.nodes[at].waits("parked");
    cluster.settle(3);
    load.end().flawless();
}

/// Three nodes, of which the second hands over so slowly that it can be disturbed at it.
fn slow_leaver() -> Cluster {
    let mut cluster = Cluster::prepared(3, 0);
    for node in &mut cluster.nodes {
        node.set("SHARDS", "1024");
    }
    cluster.start_led_by_first();
    cluster.settle(3);
    cluster.ask(0, &["configure", "max_moves=1"]).succeeded();
    cluster
}

/// Node-b goes in good time, and no call notices.
#[track_caller]
fn hands_over(cluster: &mut Cluster, load: Load) {
    cluster.ask(0, &["configure", "max_moves=64"]).succeeded();
    let leaver = &mut cluster.nodes[1];
    assert_eq!(leaver.ended(), 0);
    assert!(leaver.log().contains("handed over and closed"), "{}", leaver.log());
    load.end().flawless();
}

#[test]
fn a_node_that_was_told_to_stop_goes_whoever_wants_it_to_stay() {
    let mut cluster = slow_leaver();
    let load = Load::start(&[cluster.nodes[0].address()]);
    cluster.nodes[1].terminate();
    cluster
        .until("node-b leaves", |status| status.node("node-b").is_some_and(|b| b.drain == "own"));
    let line = cluster.ask(0, &["drain", "node-b", "--cancel"]).failed(1);
    assert!(line.contains("only it can take this drain back"), "{line}");
    hands_over(&mut cluster, load);
}

#[test]
fn a_node_told_to_stop_in_a_removal_that_is_called_off_hands_over_all_the_same() {
    let mut cluster = slow_leaver();
    let load = Load::start(&[cluster.nodes[0].address()]);
    drain(&cluster, 0, &["node-b", "--remove", "--no-wait"]);
    cluster.nodes[1].terminate();
    wait::until("node-b is told to stop", || {
        let log = cluster.nodes[1].log();
        if log.contains("told to stop") { Ok(()) } else { Err(log) }
    });
    drain(&cluster, 0, &["node-b", "--cancel"]);
    cluster.until("node-b asks again", |status| {
        status.node("node-b").is_some_and(|b| b.drain == "own")
    });
    hands_over(&mut cluster, load);
}

/// Closes a node as whoever has seen it empty does.
fn close(cluster: &Cluster, node: &Row) -> Result<(), Status> {
    let request =
        CloseRequest { node: node.id, incarnation: node.incarnation.clone(), operator: None };
    admin::ask(&cluster.nodes[0].admin_address(), |mut client| async move {
        client.close(request).await.map(|_| ())
    })
}

#[track_caller]
fn not_closed(closed: Result<(), Status>, words: &str) {
    let status = closed.expect_err("it is to be refused");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(status.message().contains(words), "{status:?} lacks {words:?}");
}

/// Its directory ends with it, as that of a pod without a volume: with its vote gone as well, one of
/// three would be left.
#[test]
fn a_node_that_takes_its_vote_along_stays_until_the_others_are_a_majority() {
    let mut cluster = Cluster::prepared(3, 0);
    for node in &mut cluster.nodes {
        node.set("EPHEMERAL", "true").set("SHUTDOWN_BUDGET", "120").start();
    }
    cluster.settle(3);
    cluster.nodes[1].leave();
    fs::remove_dir_all(cluster.nodes[1].data()).unwrap();
    cluster.nodes[2].terminate();
    cluster.until("it has handed over", |status| {
        status.node("node-c").is_some_and(|row| row.life == "closed")
    });
    // Far longer than it takes to end connections.
    thread::sleep(Duration::from_secs(6));
    assert_eq!(cluster.nodes[2].has_ended(), None, "it took the quorum along");
    cluster.nodes[1].start();
    assert_eq!(cluster.nodes[2].ended(), 0);
    fs::remove_dir_all(cluster.nodes[2].data()).unwrap();
    cluster.nodes[2].start();
    cluster.settle(3);
    // All together wait for nobody.
    cluster.nodes.iter().for_each(Node::terminate);
    cluster.nodes.iter_mut().for_each(|node| assert_eq!(node.ended(), 0));
}

/// S16: a leaver is not closed by who saw it empty once, and its drain is taken back until it is.
#[test]
fn s16_a_leaver_with_shards_is_not_closed_and_a_drain_is_taken_back_until_the_close() {
    let mut cluster = Cluster::founded(3, 1);
    cluster.joiner(0).start();
    cluster.nodes[3].ready();
    let settled = cluster.settle(4);
    let row = settled.node("node-d").unwrap().clone();
    let mut counters = Counters::new(100);
    counters.add(&mut cluster.client(3));
    let load = Load::start(&cluster.addresses());
    let empty = |cluster: &mut Cluster| {
        cluster.until("node-d is empty", |status| {
            status.node("node-d").is_some_and(|row| row.shards_owned + row.shards_receiving == 0)
        });
    };
    for _ in 0..3 {
        not_closed(close(&cluster, &row), "not draining");
        drain(&cluster, 1, &["node-d", "--no-wait"]);
        empty(&mut cluster);
        // Seen to be empty; and then it is not, for somebody changed their mind.
        drain(&cluster, 2, &["node-d", "--cancel"]);
        not_closed(close(&cluster, &row), "not draining");
        cluster.settle(4);
    }
    drain(&cluster, 1, &["node-d", "--no-wait"]);
    // Asked for from the first moment on: it is accepted when nothing is left to lose.
    wait::until("node-d is closed", || match close(&cluster, &row) {
        Ok(()) => Ok(()),
        Err(status) if status.message().contains("still owns") => Err(status.to_string()),
        Err(status) => panic!("{status:?}"),
    });
    let line = cluster.ask(2, &["drain", "node-d", "--cancel"]).failed(1);
    assert!(line.contains("closed"), "{line}");
    load.end().flawless();
    counters.add(&mut cluster.client(0));
    counters.check(&mut cluster.client(3));
}
