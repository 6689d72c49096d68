//! One table under each of its two feeders.

use shoal_core::{
    id::{ClusterId, Epoch},
    registry::{Configure, NodeInfo},
};

use super::*;

fn found(cluster: u128) -> Command {
    Command::Found {
        cluster: ClusterId(cluster),
        founder: NodeInfo { name: "a".into(), weight: 1, feature_level: 1, ..NodeInfo::default() },
        directory: 1,
        shard_count: 16,
        lease_ms: 3_000,
    }
}

/// A table fed by the log with a founded and formed cluster at index 3.
fn member(cluster: u128) -> Table {
    let table = Table::default();
    assert!(table.adopt(&Registry::new()));
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
    assert!(table.adopt(&Registry::new()));
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

#[test]
fn the_log_takes_over_only_once_it_is_not_behind() {
    let (source, table) = (member(7), Table::default());
    let behind = source.registry().clone();
    source.apply(LogIndex(4), &configure(5_000)).unwrap();
    table.install_snapshot(source.registry().parts()).unwrap();
    assert!(!table.adopt(&behind));
    assert_eq!(table.applied(), LogIndex(4));
    assert!(table.adopt(&source.registry().clone()));
    let delta = source.registry().rows_since(LogIndex(4));
    assert!(table.apply_delta(delta.clone()).is_err(), "two feeders");
    table.release();
    table.apply_delta(delta).unwrap();
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
