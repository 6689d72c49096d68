//! One table under each of its two feeders.

use shoal_core::{
    id::{ClusterId, Epoch, Incarnation, NodeId},
    registry::{Configure, NodeInfo, Register},
};

use super::*;

fn info() -> NodeInfo {
    NodeInfo { name: "a".into(), weight: 1, feature_level: 1, ..NodeInfo::default() }
}

fn found(cluster: u128) -> Command {
    Command::Found {
        cluster: ClusterId(cluster),
        founder: info(),
        directory: 1,
        shard_count: 16,
        lease_ms: 3_000,
    }
}

/// A table fed by the log with a founded and formed cluster at index 3.
fn member(cluster: u128) -> Table {
    let table = Table::default();
    table.adopt(Registry::new());
    table.advance(LogIndex(1));
    table.apply(LogIndex(2), &found(cluster)).unwrap();
    let form = Command::Form { unix_seconds: 9, highest_epoch_found: Epoch::default() };
    table.apply(LogIndex(3), &form).unwrap();
    table
}

fn configure(lease_ms: u32) -> Command {
    Command::Configure(Configure { lease_ms: Some(lease_ms), ..Configure::default() })
}

#[test]
fn readers_see_each_entry_once_it_is_told() {
    let table = Table::default();
    let (mut feed, map) = (table.feed(), table.watch_map());
    table.adopt(Registry::new());
    table.apply(LogIndex(2), &found(7)).unwrap();
    assert!(feed.try_recv().unwrap().install);
    let applied = feed.try_recv().unwrap();
    assert_eq!((applied.index, applied.lease_ms, applied.install), (LogIndex(2), 3_000, false));
    assert!(applied.changes.cluster);
    assert_eq!(table.applied(), LogIndex(2));
    assert_eq!(table.routes().applied(), LogIndex(2));
    assert_eq!(*map.borrow(), table.routes().version());
    assert_eq!(table.registry().cluster().id, ClusterId(7));
}

#[test]
fn p1_the_map_stands_still_while_indexes_move() {
    let table = member(7);
    let (mut map, mut applied) = (table.watch_map(), table.watch_applied());
    map.mark_unchanged();
    applied.mark_unchanged();
    table.advance(LogIndex(4));
    table.apply(LogIndex(5), &Command::Blank).unwrap();
    table.apply(LogIndex(6), &configure(4_000)).unwrap();
    assert!(!map.has_changed().unwrap());
    assert!(applied.has_changed().unwrap());
    assert_eq!(table.routes().applied(), LogIndex(6));
}

#[test]
fn a_watcher_follows_and_never_goes_back() {
    let (source, watcher) = (member(7), Table::default());
    let old = source.registry().parts();
    watcher.install_snapshot(old.clone()).unwrap();
    source.apply(LogIndex(4), &configure(5_000)).unwrap();
    let delta = source.registry().rows_since(watcher.applied());
    watcher.apply_delta(delta).unwrap();
    assert_eq!(*watcher.registry(), *source.registry());
    assert_eq!(watcher.routes(), source.routes());

    let before = watcher.registry().clone();
    assert!(matches!(watcher.install_snapshot(old.clone()), Err(Error::Behind { .. })));
    assert!(matches!(watcher.apply_delta(old), Err(Error::Behind { .. })));
    let foreign = member(8);
    foreign.advance(LogIndex(99));
    let foreign = foreign.registry().parts();
    assert!(matches!(watcher.install_snapshot(foreign), Err(Error::Foreign { .. })));
    assert_eq!(*watcher.registry(), before);
}

const FIRST: Incarnation = Incarnation { counter: 1, nonce: 1 };

fn renew_first() -> Command {
    Command::Renew { sessions: vec![(NodeId(1), FIRST)] }
}

fn drain() -> Command {
    Command::DrainRemoval { node: NodeId(1) }
}

fn register() -> Command {
    Command::Register(Register {
        node: NodeId(1),
        replaces: Incarnation::default(),
        incarnation: FIRST,
        info: info(),
        lock: None,
        renewed: LogIndex(2),
        proof: false,
        reown: false,
    })
}

/// The table of a node that follows the same log as `source`, up to the same entry.
fn follower(source: &Table) -> Table {
    let table = Table::default();
    table.adopt(source.of_log());
    table
}

fn both(tables: [&Table; 2], index: u64, command: &Command) {
    for table in tables {
        table.apply(LogIndex(index), command).unwrap();
    }
}

#[test]
fn a_watch_goes_ahead_of_a_log_that_stands_still_and_the_log_catches_up() {
    let source = member(7);
    let table = follower(&source);
    source.apply(LogIndex(4), &configure(5_000)).unwrap();
    table.apply_delta(source.registry().rows_since(table.applied())).unwrap();
    assert_eq!(table.registry().settings().lease_ms, 5_000);
    assert_eq!(table.of_log().applied(), LogIndex(3), "no entry is applied on top of a delta");
    source.advance(LogIndex(5));
    table.progress(LogIndex(4), LogIndex(5)).unwrap();

    table.apply(LogIndex(4), &configure(5_000)).unwrap();
    assert_eq!((table.applied(), table.of_log().applied()), (LogIndex(5), LogIndex(4)));
    table.advance(LogIndex(5));
    assert_eq!(table.of_log(), *table.registry());
    assert_eq!(*table.registry(), *source.registry());
    table.apply(LogIndex(6), &configure(6_000)).unwrap();
    assert_eq!(table.registry().settings().lease_ms, 6_000);
}

#[test]
fn renewals_that_only_the_log_brought_are_told_when_it_has_caught_up() {
    let source = member(7);
    let table = follower(&source);
    both([&source, &table], 4, &register());
    let mut feed = table.feed();
    source.apply(LogIndex(5), &renew_first()).unwrap();
    source.apply(LogIndex(6), &drain()).unwrap();
    table.apply_delta(source.registry().rows_since(table.applied())).unwrap();
    assert_eq!(feed.try_recv().unwrap().changes.renewed, [], "a delta tells of no renewal");
    table.apply(LogIndex(5), &renew_first()).unwrap();
    assert!(feed.try_recv().is_err(), "the log is still behind");
    table.apply(LogIndex(6), &drain()).unwrap();
    let met = feed.try_recv().unwrap();
    assert_eq!((met.changes.renewed.clone(), met.install), (vec![NodeId(1)], false));
    assert_eq!(met.changes.nodes, [], "the row was told before");
    assert_eq!(table.registry().node(NodeId(1)).unwrap().renewed, LogIndex(5));
}

#[test]
fn a_lease_that_changed_meanwhile_starts_every_session_anew() {
    let source = member(7);
    let table = follower(&source);
    source.apply(LogIndex(4), &configure(5_000)).unwrap();
    source.advance(LogIndex(5));
    table.apply_delta(source.registry().rows_since(table.applied())).unwrap();
    let mut feed = table.feed();
    table.apply(LogIndex(4), &configure(5_000)).unwrap();
    table.advance(LogIndex(5));
    assert!(feed.try_recv().unwrap().install);
}

#[test]
fn the_log_begins_apart_while_it_is_behind_the_watch() {
    let source = member(7);
    let behind = source.of_log();
    source.apply(LogIndex(4), &configure(5_000)).unwrap();
    let table = Table::default();
    table.install_snapshot(source.registry().parts()).unwrap();
    table.adopt(behind);
    let mut feed = table.feed();
    assert_eq!((table.applied(), table.of_log().applied()), (LogIndex(4), LogIndex(3)));
    table.apply(LogIndex(4), &configure(5_000)).unwrap();
    assert!(feed.try_recv().unwrap().install);
    assert_eq!(table.of_log(), *table.registry());
}

#[test]
fn nothing_is_noted_across_a_gap_nor_backwards() {
    let source = member(7);
    let table = follower(&source);
    assert!(matches!(table.progress(LogIndex(4), LogIndex(9)), Err(Error::Gap { .. })));
    table.progress(LogIndex(1), LogIndex(2)).unwrap();
    assert_eq!(table.applied(), LogIndex(3));
    source.advance(LogIndex(9));
    let delta = source.registry().rows_since(LogIndex(4));
    assert!(matches!(table.apply_delta(delta), Err(Error::Gap { .. })));
    assert_eq!(table.of_log(), *table.registry(), "a refused delta parts nothing");
}

#[test]
fn only_a_log_that_moves_is_followed() {
    let table = Table::default();
    let (span, now) = (Duration::from_secs(1), env::clock::now);
    assert!(!table.follows_log(span, now()));
    table.adopt(Registry::new());
    assert!(!table.follows_log(span, now()), "no entry came yet");
    let table = member(7);
    let later = now().plus(2 * span);
    assert!(table.follows_log(span, now()) && !table.follows_log(span, later));
    table.progress(LogIndex(3), LogIndex(4)).unwrap();
    assert!(!table.follows_log(span, now()), "the watch is ahead");
    table.advance(LogIndex(4));
    assert!(table.follows_log(span, now()));
    table.release();
    assert!(!table.follows_log(span, now()));
}

#[test]
fn a_slow_listener_is_told_that_it_lags() {
    let table = member(7);
    let mut feed = table.feed();
    for index in 4..4 + FEED as u64 + 1 {
        table.advance(LogIndex(index));
    }
    assert!(matches!(feed.try_recv(), Err(broadcast::error::TryRecvError::Lagged(1))));
    assert_eq!(feed.try_recv().unwrap().index, LogIndex(5));
}
