//! Moves of shards between processes: beside long calls, to slow targets, of large state.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use shoal_proto::shoal::v1::CallResponse;
use shoal_tests::{Client, Cluster, Load, calls::key_in, cluster::Shard, command::Ended, wait};
use tonic::Status;

/// How long kv takes for keys that begin with `long`, where it dawdles on purpose.
const LONG: Duration = Duration::from_secs(12);
/// Twice what is promised of a release build on an idle machine.
const LONGEST_STALL: Duration = Duration::from_secs(2);

/// Three nodes that move nothing by themselves, under these settings; node-a leads.
fn still(settings: &[(&'static str, &str)]) -> Cluster {
    let mut cluster = Cluster::prepared(3, 0);
    for node in &mut cluster.nodes {
        for (setting, value) in settings {
            node.set(setting, value);
        }
    }
    cluster.start_led_by_first();
    cluster.ask(0, &["configure", "rebalance=paused"]).succeeded();
    cluster
}

/// Increments of one key through one node, one after the other, until it is told to stop.
struct Caller {
    stop: Arc<AtomicBool>,
    calling: JoinHandle<Called>,
}

#[derive(Debug, Default)]
struct Called {
    count: i64,
    longest: Duration,
    last: Option<CallResponse>,
    wrong: Vec<String>,
}

impl Caller {
    fn start(mut client: Client, key: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let calling = thread::spawn(move || {
            let mut called = Called::default();
            while !told.load(Ordering::Relaxed) {
                let began = Instant::now();
                let answer = client.call("incr", &key, "");
                called.longest = called.longest.max(began.elapsed());
                called.count += 1;
                match answer {
                    Ok(answer) if answer.payload == called.count.to_string().as_bytes() => {
                        called.last = Some(answer);
                    }
                    other => called.wrong.push(format!("call {}: {other:?}", called.count)),
                }
            }
            called
        });
        Self { stop, calling }
    }

    #[track_caller]
    fn end(self) -> Called {
        self.stop.store(true, Ordering::Relaxed);
        let called = self.calling.join().expect("a caller ends");
        assert!(called.count > 0 && called.wrong.is_empty(), "{called:?}");
        called
    }
}

/// A long call in a shard of node-a, seen to run, and short ones in the same shard beside it.
struct Beside {
    cluster: Cluster,
    shard: Shard,
    began: Instant,
    long: JoinHandle<Result<CallResponse, Status>>,
    short: Caller,
}

impl Beside {
    fn begin() -> Self {
        let cluster = still(&[("SHOAL_MUTANT", "slow-handlers")]);
        let shard = cluster.shard_of("node-a");
        let key = |prefix| key_in(shard.id, 64, prefix);
        let short = Caller::start(cluster.client(2), key("short"));
        let (mut client, long) = (cluster.client(2), key("long"));
        client.deadline = Duration::from_secs(30);
        let began = Instant::now();
        let long = thread::spawn(move || client.call("incr", &long, ""));
        wait::until("the long call runs", || {
            let log = cluster.nodes[0].log();
            log.contains("takes its time on purpose").then_some(()).ok_or(log)
        });
        Self { cluster, shard, began, long, short }
    }

    /// `shoal move` to node-b.
    fn moves(&self) -> Ended {
        self.cluster.ask(2, &["move", &self.shard.id.to_string(), "node-b"])
    }

    /// What was given up has changed nothing: no call failed, and owner and epoch are the former.
    #[track_caller]
    fn untouched(self) -> (Cluster, Shard) {
        assert!(!self.long.is_finished() || self.began.elapsed() >= LONG, "it was cut short");
        let long = self.long.join().unwrap().expect("the long call is answered");
        assert_eq!(long.payload, "1".as_bytes());
        let short = self.short.end().last.expect("it was answered");
        for answer in [long, short] {
            assert_eq!((answer.owner.as_str(), answer.epoch), ("node-a", self.shard.epoch));
        }
        (self.cluster, self.shard)
    }
}

/// P2: what runs longer than an owner waits for it ends the move and not itself.
#[test]
fn p2_a_long_call_ends_the_move_and_neither_itself_nor_those_that_wait() {
    let beside = Beside::begin();
    let line = beside.moves().failed(1);
    assert!(line.contains("was given up"), "{line}");
    assert!(beside.began.elapsed() < LONG, "the long call had ended before the move");
    let (cluster, shard) = beside.untouched();
    // With nothing in its way it moves, once the time to try it again has come.
    let moved = wait::until("the shard moves", || {
        let ended = cluster.ask(2, &["move", &shard.id.to_string(), "node-b"]);
        if ended.code == Some(0) { Ok(ended) } else { Err(ended.stderr) }
    });
    assert!(moved.stdout.contains("node-b owns shard"), "{moved:?}");
    let mut client = cluster.client(2);
    let answer = client.call("incr", key_in(shard.id, 64, "short"), "0").unwrap();
    assert!(answer.owner == "node-b" && answer.epoch > shard.epoch, "{answer:?}");
}

/// P3: a move is called off while its owner admits no call any more.
#[test]
fn p3_a_move_called_off_after_its_owner_stopped_admitting_changes_nothing() {
    let beside = Beside::begin();
    let line = thread::scope(|scope| {
        let moving = scope.spawn(|| beside.moves());
        // What waits at its entry has been refused by an owner that stopped.
        wait::until("calls wait for the next owner", || {
            let waiting = beside.cluster.nodes[2].figure("shoal_forward_parked_calls");
            (waiting == 1).then_some(()).ok_or_else(|| format!("{waiting} do"))
        });
        // No move goes on to a node that is drained.
        beside.cluster.ask(2, &["drain", "node-b", "--no-wait"]).succeeded();
        moving.join().unwrap().failed(1)
    });
    assert!(line.contains("was given up"), "{line}");
    assert!(beside.began.elapsed() < LONG, "the long call had ended before the move");
    let (mut cluster, _) = beside.untouched();
    cluster.ask(2, &["drain", "node-b", "--cancel"]).succeeded();
    cluster.ask(2, &["configure", "rebalance=automatic"]).succeeded();
    cluster.settle(3);
}

/// P4: while its target does not answer, a shard that moves is served by its owner.
#[test]
fn p4_while_the_target_stands_still_the_owner_serves_what_moves() {
    // A lease long enough that the target keeps its session meanwhile.
    let mut cluster = still(&[("LEASE", "20")]);
    let shard = cluster.shard_of("node-a");
    let key = key_in(shard.id, 64, "key");
    cluster.nodes[1].signal(Signal::STOP);
    let caller = Caller::start(cluster.client(2), key);
    let ended = thread::scope(|scope| {
        let cluster = &cluster;
        let arguments = ["move", &shard.id.to_string(), "node-b"].map(str::to_owned);
        let moving = scope.spawn(move || cluster.ask(2, &arguments.each_ref().map(String::as_str)));
        wait::until("it moves", || {
            assert!(!moving.is_finished(), "the move has ended already");
            let status = cluster.status_of(0)?;
            (status.shards.moving == 1).then_some(()).ok_or_else(|| format!("{status:?}"))
        });
        let mut client = cluster.client(0);
        for _ in 0..200 {
            let answer = client.call("incr", key_in(shard.id, 64, "other"), "").unwrap();
            assert_eq!((answer.owner.as_str(), answer.epoch), ("node-a", shard.epoch));
        }
        let status = cluster.status_of(0).unwrap();
        assert_eq!(status.shards.moving, 1, "it moved meanwhile: {status:?}");
        cluster.nodes[1].signal(Signal::CONT);
        moving.join().unwrap()
    });
    assert!(ended.succeeded().contains("node-b owns shard"));
    let called = caller.end();
    assert!(called.longest < LONGEST_STALL, "{called:?}");
    let status = cluster.status().unwrap();
    assert!(status.nodes.iter().all(|row| row.incarnation.starts_with("1.")), "{status:?}");
}

/// P6: a shard that holds 96 MiB moves, with all of it and with no long pause, while calls go on.
#[test]
fn p6_a_shard_of_96_mib_moves_between_processes_without_a_failed_call_or_a_long_one() {
    const VALUES: u32 = 48;
    const SIZE: usize = 2 << 20;
    let cluster = still(&[]);
    let shard = cluster.shard_of("node-a");
    let value = |at: u32| -> Vec<u8> {
        let words = (0..SIZE as u32 / 4).flat_map(|word| (word.wrapping_mul(at + 1)).to_le_bytes());
        words.collect()
    };
    let key = |at: u32| key_in(shard.id, 64, &format!("large-{at}"));
    let mut client = cluster.client(2);
    for at in 0..VALUES {
        client.call("put", key(at), value(at)).unwrap();
    }
    let caller = Caller::start(cluster.client(2), key_in(shard.id, 64, "counter"));
    let load = Load::start(&cluster.addresses());
    let moved = cluster.ask(2, &["move", &shard.id.to_string(), "node-b"]);
    assert!(moved.succeeded().contains("node-b owns shard"));
    let (called, tally) = (caller.end(), load.end());
    tally.flawless();
    let last = called.last.unwrap();
    assert!(last.owner == "node-b" && last.epoch > shard.epoch, "{last:?}");
    assert!(called.longest < LONGEST_STALL, "the longest call took {:?}", called.longest);
    for at in 0..VALUES {
        let answer = client.call("get", key(at), "").unwrap();
        assert!(answer.payload == value(at), "value {at} is another one");
        assert_eq!(answer.owner, "node-b");
    }
}
