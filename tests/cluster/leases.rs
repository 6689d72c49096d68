//! Leases: too short ones, a leader that hears no renewals, and what must end before an incarnation
//! may follow another.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use shoal_tests::{
    Cluster, Counters, Node, Ports, Space, admin, calls::key_in, cluster::Status, wait,
};

fn lease_of(cluster: &Cluster) -> String {
    let told = cluster.ask(0, &["status"]).succeeded();
    let word = told.split_whitespace().find(|word| word.starts_with("lease_ms="));
    word.expect("a setting").to_owned()
}

/// L14: with a lease of one second elections would outlast the right to serve.
#[test]
fn l14_a_lease_that_elections_would_outlast_is_refused_at_the_start_and_by_a_cluster_that_runs() {
    let (space, ports) = (Space::new(), Ports::any(1));
    let mut node = Node::new(&space, "node-x", ports.get(0));
    node.set("JOIN_ADDRESS", "").set("LEASE", "1").start();
    let line = node.refuses(64);
    assert!(line.contains("LEASE is \"1\"") && line.contains("from 2 to 60"), "{line}");
    assert!(!node.data().exists(), "it wrote before it judged");

    let mut cluster = Cluster::founded(3, 0);
    let configure = |cluster: &Cluster, lease: &str| {
        cluster.ask(1, &["configure", &format!("lease_ms={lease}")])
    };
    let line = configure(&cluster, "1000").failed(1);
    assert!(line.contains("lease_ms is 1000, allowed: 2000 to 60000"), "{line}");
    // Allowed to others, and too short for the elections of these three.
    let line = configure(&cluster, "2500").failed(1);
    assert!(line.contains("set 2808 or more"), "{line}");
    assert_eq!(lease_of(&cluster), "lease_ms=3000");
    // The remedy: elections follow from the lease that a process is started with.
    for at in 0..3 {
        cluster.nodes[at].leave();
        cluster.nodes[at].set("LEASE", "2").start();
        cluster.nodes[at].ready();
        cluster.settle(3);
    }
    configure(&cluster, "2500").succeeded();
    assert_eq!(lease_of(&cluster), "lease_ms=2500");
    cluster.client(2).increment("after").unwrap();
}

/// How often a process has registered: the first part of an incarnation.
fn registrations(status: &Status, name: &str) -> u64 {
    let incarnation = &status.node(name).expect("a node of this cluster").incarnation;
    incarnation.split('.').next().and_then(|count| count.parse().ok()).expect("a number")
}

/// L4: a leader that hears Raft and no renewals ends the sessions of a minority, and goes.
#[test]
fn l4_a_deaf_leader_ends_the_session_of_one_of_three_and_hands_over() {
    let mut cluster = Cluster::prepared(3, 0);
    for node in &mut cluster.nodes {
        // Long enough that nobody loses a session because a machine is busy.
        node.set("LEASE", "6");
    }
    cluster.nodes[1].set("SHOAL_MUTANT", "deaf-leader");
    let before = cluster.start_led_by_first();
    let deaf = before.node("node-b").unwrap().id;
    let mut counters = Counters::new(60);
    counters.add(&mut cluster.client(0));

    let names = ["node-a", "node-b", "node-c"];
    let again = |after: &Status| {
        names.map(|name| registrations(after, name) - registrations(&before, name))
    };
    // On a busy machine an election may end its term before a lease is over.
    let again = wait::until_within("it has fenced somebody", wait::PATIENCE * 3, || {
        admin::lead(&cluster.nodes[0].admin_address(), deaf)?;
        cluster.until("the deaf one leads no more", |status| {
            status.leader_id != 0 && status.leader_id != deaf
        });
        let after = cluster.settle(3);
        let again = again(&after);
        (again != [0; 3]).then_some(again).ok_or_else(|| format!("{after:?}"))
    });
    assert_eq!(again.iter().sum::<u64>(), 1, "one of three was fenced: {again:?}");
    assert_eq!(again[1], 0, "it hears itself: {again:?}");
    let fenced = names[again.iter().position(|count| *count == 1).unwrap()];
    let mut client = cluster.client(1);
    let mut kept = 0;
    for key in counters.keys() {
        let (value, answer) = client.read(key).unwrap();
        assert!(value <= 1, "{key}: {answer:?}");
        kept += value;
    }
    assert!(kept >= 30, "only what {fenced} owned was lost, not all but {kept}");
}

/// S15: a process that was fenced registers again once no handler of its former session runs.
#[test]
fn s15_a_fenced_process_registers_again_once_its_last_handler_has_ended() {
    const STUCK: Duration = Duration::from_secs(9);
    let mut cluster = Cluster::prepared(3, 0);
    cluster.nodes[1].set("SHOAL_MUTANT", "slow-handlers");
    let before = cluster.start_led_by_first();
    let shard = cluster.shard_of("node-b");
    let stuck = key_in(shard.id, before.shards.total, "stuck");
    let mut caller = cluster.client(0);
    caller.deadline = Duration::from_secs(30);
    let began = Instant::now();
    let call = thread::spawn(move || caller.increment(&stuck));
    wait::until("the handler runs", || {
        let log = cluster.nodes[1].log();
        log.contains("is stuck on purpose").then_some(()).ok_or(log)
    });
    cluster.nodes[1].signal(Signal::STOP);
    let fenced = wait::until("it is fenced", || {
        let status = cluster.status_of(0)?;
        let fenced = status.node("node-b").is_some_and(|row| row.life == "fenced");
        if fenced { Ok(status) } else { Err(format!("{status:?}")) }
    });
    assert!(began.elapsed() < STUCK, "the handler has ended before: nothing is tried");
    cluster.nodes[1].signal(Signal::CONT);
    let after = cluster.until("it has registered again", |status| {
        status.node("node-b").is_some_and(|row| row.life == "up")
    });
    assert!(began.elapsed() >= STUCK, "its handler still ran after {:?}", began.elapsed());
    assert_eq!(registrations(&fenced, "node-b"), registrations(&before, "node-b"));
    assert_eq!(registrations(&after, "node-b"), registrations(&before, "node-b") + 1);
    call.join().unwrap().expect_err("what it did counts no more");
    cluster.settle(3);
}
