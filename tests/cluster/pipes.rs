//! Pipes between processes: what is in them when their owner leaves, and what is read late from one
//! that was given up.

use std::{
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::process::Signal;
use shoal_tests::{Client, Cluster, Load, calls::key_in, wait};

/// Callers through each of two entry nodes: enough that every pipe has frames of several.
const CALLERS: usize = 12;
/// Of a value that takes several frames.
const LARGE: usize = 256 << 10;
/// Longer than the owner stands still.
const DEADLINE: Duration = Duration::from_secs(30);

/// Puts one value after the other through one node; each must be what is read next.
fn put(mut client: Client, key: String, count: usize, length: usize) -> JoinHandle<()> {
    client.deadline = DEADLINE;
    thread::spawn(move || {
        for round in 0..count {
            let value = vec![round as u8; length];
            client.call("put", &key, &value).unwrap_or_else(|status| panic!("{key}: {status:?}"));
            let read = client.call("get", &key, "").unwrap();
            assert!(read.payload == value, "{key}: {round} was acknowledged, then another held");
        }
    })
}

/// P5: whoever leaves answers all that is in its pipes, of many callers and in many pieces.
#[test]
fn p5_a_process_that_leaves_answers_every_call_in_its_pipes() {
    let mut cluster = Cluster::founded(3, 0);
    let entries = [0, 2].map(|at| cluster.nodes[at].address());
    let callers: Vec<_> = entries.iter().cycle().take(2 * CALLERS).cloned().collect();
    for round in 0..3 {
        let shard = cluster.shard_of("node-b").id;
        let forwarded = cluster.nodes[0].figure("shoal_forward_calls_total{kind=\"forwarded\"}");
        let load = Load::start(&callers);
        let large = [0, 2].map(|at| {
            put(cluster.client(at), key_in(shard, 64, &format!("large-{round}-{at}")), 40, LARGE)
        });
        wait::until("calls are forwarded", || {
            let now = cluster.nodes[0].figure("shoal_forward_calls_total{kind=\"forwarded\"}");
            if now > forwarded + 100 { Ok(()) } else { Err(now.to_string()) }
        });
        cluster.nodes[1].leave();
        for caller in large {
            caller.join().expect("every value was kept");
        }
        load.end().flawless();
        cluster.nodes[1].start();
        cluster.nodes[1].ready();
        cluster.settle(3);
    }
}

/// S14: calls wait unread in the pipe of an owner that stands still; they are sent again on another
/// pipe; the owner goes on and reads both.
#[test]
fn s14_what_is_read_late_from_a_pipe_that_was_given_up_changes_nothing() {
    let mut cluster = Cluster::prepared(3, 0);
    for node in &mut cluster.nodes {
        // The owner stands still for longer than a pipe is waited for, and keeps its session.
        node.set("LEASE", "15");
    }
    cluster.start_led_by_first();
    cluster.ask(0, &["configure", "rebalance=paused"]).succeeded();
    let shard = cluster.shard_of("node-b");
    let failed = |cluster: &Cluster| cluster.nodes[0].figure("shoal_forward_pipes_failed_total");
    let opened = |cluster: &Cluster| cluster.nodes[0].figure("shoal_forward_pipes_opened_total");
    cluster.client(0).call("put", key_in(shard.id, 64, "first"), "").unwrap();
    let before = (failed(&cluster), opened(&cluster));
    cluster.nodes[1].signal(Signal::STOP);
    let key = |at| key_in(shard.id, 64, &format!("late-{at}"));
    let callers: Vec<_> = (0..CALLERS).map(|at| put(cluster.client(0), key(at), 100, 8)).collect();
    wait::until("the pipe is given up, and no other opens", || {
        if failed(&cluster) > before.0 { Ok(()) } else { Err("it is waited for".to_owned()) }
    });
    cluster.nodes[1].signal(Signal::CONT);
    for caller in callers {
        caller.join().expect("every value was kept");
    }
    assert!(opened(&cluster) > before.1, "it was the same pipe");
    let mut client = cluster.client(2);
    for at in 0..CALLERS {
        let answer = client.call("get", key(at), "").unwrap();
        assert_eq!(answer.payload, vec![99; 8], "{}", key(at));
        assert_eq!(answer.epoch, shard.epoch, "the owner lost its session");
    }
}
