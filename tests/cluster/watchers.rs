//! Nodes beyond the voters and learners, which watch the registry instead of following the log.

use shoal_tests::{Client, Cluster, Counters, Load, cluster::Status, wait};

const SIZE: usize = 7;

fn roles(status: &Status, role: &str) -> Vec<String> {
    let wanted = |row: &&shoal_tests::cluster::Row| row.role == role;
    status.nodes.iter().filter(wanted).map(|row| row.name.clone()).collect()
}

#[track_caller]
fn configure(cluster: &Cluster, at: usize, settings: &[&str]) {
    cluster.ask(at, &[&["configure"], settings].concat()).succeeded();
}

/// Three voters, two learners and two watchers, which own their share of the shards.
fn crowd() -> Cluster {
    let mut cluster = Cluster::founded(3, SIZE - 3);
    configure(&cluster, 0, &["max_voters=3", "max_learners=2"]);
    for at in 3..SIZE {
        cluster.joiner(at - 3).start();
    }
    cluster.nodes.iter_mut().for_each(shoal_tests::Node::ready);
    cluster.settle(SIZE);
    cluster
}

/// Places in `nodes` of those that watch.
fn watchers(cluster: &mut Cluster) -> Vec<usize> {
    let status = cluster.until("two nodes watch", |status| {
        roles(status, "watcher").len() == SIZE - 5 && roles(status, "learner").len() == 2
    });
    roles(&status, "watcher").iter().map(|name| cluster.place(name)).collect()
}

/// One figure, summed over the nodes that run.
fn figure(cluster: &Cluster, name: &str) -> u64 {
    cluster.nodes.iter().filter(|node| node.runs()).map(|node| node.figure(name)).sum()
}

fn applied(cluster: &Cluster, at: usize) -> u64 {
    cluster.nodes[at].figure("shoal_table_applied_index")
}

#[test]
fn watchers_own_serve_forward_and_follow_moves() {
    let mut cluster = crowd();
    let watching = watchers(&mut cluster);
    let (one, other) = (watching[0], watching[1]);
    let before = cluster.status_of(other).unwrap();
    let name = |cluster: &Cluster, at: usize| cluster.nodes[at].name.clone();
    let (first, second) = (name(&cluster, one), name(&cluster, other));
    assert!(before.leader_id != 0 && before.voters.len() == 3, "a watcher knows: {before:?}");
    assert_eq!(roles(&before, "watcher").len(), 2, "{before:?}");
    let mut counters = Counters::new(200);
    counters.add(&mut cluster.client(one));
    let load = Load::start(&cluster.addresses());

    // A removal asked through a watcher: every shard of the other one moves away.
    cluster.ask(other, &["drain", &first, "--remove"]).succeeded();
    cluster.nodes[one].waits("parked: this node was removed from the cluster");
    cluster.settle(SIZE - 1);
    load.end().flawless();
    counters.add(&mut cluster.client(one));

    // What moves after it has left reaches the parked node as well.
    let load = Load::start(&cluster.addresses());
    let founder = name(&cluster, 0);
    cluster.ask(other, &["drain", &founder]).succeeded();
    let version = cluster.status_of(other).unwrap().map_version;
    wait::until("the parked node follows", || {
        let status = cluster.status_of(one)?;
        (status.map_version >= version).then_some(()).ok_or_else(|| format!("{status:?}"))
    });
    load.end().flawless();
    counters.add(&mut cluster.client(one));
    let after = cluster.status_of(other).unwrap();
    let incarnation = |status: &Status| status.node(&second).unwrap().incarnation.clone();
    assert_eq!(incarnation(&before), incarnation(&after), "its session has lasted");
    counters.check(&mut cluster.client(other));
}

#[test]
fn p1_watchers_of_an_idle_cluster_are_told_of_no_row() {
    let mut cluster = crowd();
    let watching = watchers(&mut cluster);
    let told = |cluster: &Cluster| {
        let rows = figure(cluster, "shoal_map_deltas_total");
        (rows, figure(cluster, "shoal_map_snapshots_total"))
    };
    // The map may have moved just before.
    wait::until("the watchers know all", || {
        let status = cluster.status_of(0)?;
        let current = |at: &usize| {
            cluster.status_of(*at).is_ok_and(|seen| seen.map_version == status.map_version)
        };
        watching.iter().all(current).then_some(()).ok_or_else(|| format!("{status:?}"))
    });
    let (before, version) = (told(&cluster), cluster.status_of(0).unwrap().map_version);
    let begin = applied(&cluster, watching[0]);
    wait::until("some renewals", || {
        let now = applied(&cluster, watching[0]);
        (now > begin + 30).then_some(()).ok_or_else(|| format!("{now} after {begin}"))
    });
    assert_eq!(cluster.status_of(0).unwrap().map_version, version);
    assert_eq!(told(&cluster), before);
    assert!(figure(&cluster, "shoal_map_watchers") >= 2);
}

#[test]
fn nodes_change_between_log_and_watch_while_calls_go_on() {
    let mut cluster = crowd();
    watchers(&mut cluster);
    let mut counters = Counters::new(200);
    counters.add(&mut cluster.client(3));
    let load = Load::start(&cluster.addresses());
    configure(&cluster, 3, &["max_learners=4"]);
    cluster.until("all follow the log", |status| roles(status, "learner").len() == 4);
    wait::until("nobody is watched", || match figure(&cluster, "shoal_map_watchers") {
        0 => Ok(()),
        some => Err(format!("{some} watchers")),
    });
    configure(&cluster, 4, &["max_learners=2"]);
    let watching = watchers(&mut cluster);
    let begin = applied(&cluster, watching[0]);
    wait::until("the dropped learner reads on", || {
        let now = applied(&cluster, watching[0]);
        (now > begin + 10).then_some(()).ok_or_else(|| format!("{now} after {begin}"))
    });
    load.end().flawless();
    for at in watching {
        counters.add(&mut cluster.client(at));
    }
    let status = cluster.settle(SIZE);
    assert!(status.nodes.iter().all(|row| row.incarnation.starts_with("1.")), "{status:?}");
}

#[test]
fn l5_a_watcher_whose_table_lags_is_no_target_and_loses_what_it_was_given() {
    let mut cluster = Cluster::founded(3, 3);
    configure(&cluster, 0, &["max_voters=3", "max_learners=2"]);
    for at in 3..5 {
        cluster.joiner(0).start();
        cluster.nodes[at].ready();
    }
    cluster.settle(5);
    cluster.joiner(0).set("SHOAL_MUTANT", "deaf-watcher").start();
    let deaf = cluster.nodes[5].name.clone();
    let settled = cluster.until("the others own all", |status| {
        let others = status.nodes.iter().filter(|row| row.name != deaf);
        let owned: u32 = others.map(|row| row.shards_owned).sum();
        // It has lost a session, so that its table has certainly lagged by then.
        let row = status.node(&deaf);
        owned == status.shards.total
            && status.shards.moving == 0
            && row.is_some_and(|row| row.role == "watcher" && row.life == "fenced")
    });
    let mut client = Client::to(&cluster.nodes[0].address());
    for at in 0..200 {
        client.increment(&format!("key-{at}")).unwrap();
    }
    // It registers again and again, and is given nothing.
    let (begin, id) = (applied(&cluster, 0), settled.node(&deaf).unwrap().id);
    wait::until("some leases", || {
        let status = cluster.status_of(0)?;
        let row = status.nodes.iter().find(|row| row.id == id).unwrap();
        assert_eq!((row.shards_owned, row.shards_receiving), (0, 0), "{status:?}");
        let now = applied(&cluster, 0);
        (now > begin + 60).then_some(()).ok_or_else(|| format!("{now} after {begin}"))
    });
    assert!(cluster.nodes[5].log().contains("misbehaves on purpose"));
}
