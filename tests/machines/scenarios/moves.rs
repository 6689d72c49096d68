//! Executions about planned moves.

use shoal_core::{
    admit::Class,
    handoff::Local,
    registry::{Command, Event as Applied, Refused},
};

use super::*;
use crate::{
    faults::Trap,
    world::{Due, Event},
};

/// A move that is released while entries take long to commit.
fn released(trap: Trap) -> (World, ShardId, Place, Place) {
    let mut world = settled(3);
    world.fill();
    let from = world.another(&[world.leader()]);
    let to = world.another(&[world.leader(), from]);
    let shard = world.begin_move(from, to);
    world.traps.push(trap);
    world.log.extra_delay = 300 * MS;
    world.until("the release", 5 * SECOND, |world| world.traps.is_empty());
    (world, shard, from, to)
}

#[test]
fn s11_the_target_restarts_before_the_commit_and_gets_nothing() {
    let (mut world, shard, from, to) = released(Trap::RestartTarget);
    let epoch = world.truth().shard(shard).expect("a row").epoch;
    let old = world.truth().node(world.id(to)).map(|row| row.incarnation);
    let id = world.id(to);
    world.until("the next incarnation", 5 * SECOND, |world| {
        world.truth().node(id).map(|row| row.incarnation) != old
    });
    world.until("the end of the move", 5 * SECOND, |world| world.key_of(shard).is_none());
    let row = *world.truth().shard(shard).expect("a row");
    if row.epoch == epoch {
        assert_eq!(world.owner(shard), Some(from), "called off: its owner keeps it");
    }
    world.log.extra_delay = 0;
    world.pass(L);
    world.ends_well();
}

#[test]
fn s11_a_commit_after_the_restart_of_its_target_is_refused() {
    let mut world = settled(3);
    let from = world.another(&[world.leader()]);
    let to = world.another(&[world.leader(), from]);
    let shard = world.begin_move(from, to);
    let key = world.key_of(shard).expect("it moves");
    let target = world.process(to);
    let fence = Command::ReportDeath { node: target.node, incarnation: target.incarnation };
    world.nodes[to].stays_down = true;
    world.crash(to);
    assert!(world.order(fence).is_ok());
    let commit = world.order(Command::CommitMove { items: vec![key] });
    let Ok(Applied::Items { refused }) = commit else { panic!("{commit:?}") };
    assert!(matches!(refused[..], [Some(Refused::NotMoving { .. })]), "{refused:?}");
    assert_eq!(world.owner(shard), Some(from));
    world.ends_well();
}

#[test]
fn s12_the_target_dies_before_the_commit_and_the_owner_has_its_state() {
    let mut world = settled(3);
    world.fill();
    let from = world.another(&[world.leader()]);
    let to = world.another(&[world.leader(), from]);
    let shard = world.begin_move(from, to);
    let epoch = world.truth().shard(shard).expect("a row").epoch;
    world.until("the frozen state", 5 * SECOND, |world| {
        matches!(world.local(from, shard), Local::Frozen { .. })
    });
    world.nodes[to].stays_down = true;
    world.crash(to);
    world.until("the end of the move", 4 * L, |world| world.key_of(shard).is_none());
    let row = *world.truth().shard(shard).expect("a row");
    assert_eq!((world.owner(shard), row.epoch), (Some(from), epoch));
    world.until("the owner serves again", L, |world| {
        world.local(from, shard) == Local::Open { epoch }
    });
    assert!(world.coverage.count("reopened frozen") > 0);
    world.call(from, shard, Class::Plain, MS);
    world.pass(SECOND);
    world.ends_well();
}

#[test]
fn s14_a_frame_of_an_older_pipe_read_late_is_dropped() {
    let dropped = (0..20).map(|seed| {
        let mut world = settled_as(Setup::calm(seed, 3));
        let owner = world.another(&[world.leader()]);
        let entry = world.another(&[owner]);
        let shard = world.shard_of(owner);
        world.pause(owner, 700 * MS);
        world.call(entry, shard, Class::Idempotent, MS);
        let run = world.live(entry).run;
        // The entry gives the pipe up and sends on the next one; the owner reads both later.
        let due = Due::Broken { peer: owner, generation: 1 };
        world.schedule(world.now + 300 * MS, Event::Own { place: entry, run, due });
        world.until("the answer", 3 * SECOND, |world| world.oracle.open_calls() == 0);
        let dropped = world.coverage.count("frame of an older pipe dropped");
        assert!(world.coverage.count("pipe broke") > 0);
        world.ends_well();
        dropped
    });
    assert!(dropped.sum::<u64>() > 0, "the older pipe was always read first");
}

#[test]
fn s16_a_leaver_that_was_seen_empty_is_not_closed_with_a_shard() {
    let mut world = settled(3);
    let to = world.another(&[world.leader()]);
    let from = world.leader();
    let leaver = world.process(to);
    let shard = world.begin_move(from, to);
    world.until("the commit", 5 * SECOND, |world| world.owner(shard) == Some(to));
    let drain = Command::DrainRestart { node: leaver.node, incarnation: leaver.incarnation };
    let close = Command::Close { node: leaver.node, incarnation: leaver.incarnation };
    assert_eq!(world.order(close.clone()), Err(Refused::NotDraining(leaver.node)));
    assert!(world.order(drain).is_ok());
    let closed = world.order(close);
    assert!(matches!(closed, Err(Refused::StillOwns { .. })), "{closed:?}");
    assert!(world.is_up(leaver.node));
    world.until("it is empty", 10 * SECOND, |world| world.truth().held(leaver.node).owned == 0);
    world.told_to_stop(to);
    world.until("closed", 5 * SECOND, |world| !world.is_up(leaver.node));
    world.ends_well();
}

#[test]
fn s19_state_of_a_move_called_off_is_not_opened_by_a_later_assignment() {
    let (mut world, shard, from, to) = released(Trap::LoseOwnerUnheard);
    let epoch = world.truth().shard(shard).expect("a row").epoch;
    assert!(world.live(to).lags_until > world.now, "its table stands still");
    world.until("the failover", 4 * L, |world| {
        world.truth().shard(shard).is_some_and(|row| row.epoch > epoch && row.owner().is_some())
    });
    assert_ne!(world.owner(shard), Some(from));
    world.log.extra_delay = 0;
    world.pass(L);
    world.ends_well();
}

#[test]
fn p2_a_long_call_ends_the_move_and_not_itself() {
    let mut world = settled(3);
    let from = world.another(&[world.leader()]);
    let to = world.another(&[world.leader(), from]);
    let shard = world.shard_of(from);
    world.call(world.leader(), shard, Class::Plain, 4 * SECOND);
    world.pass(SHORT);
    let moved = world.begin_move(from, to);
    assert_eq!(moved, shard);
    world.until("the call", 5 * SECOND, |world| world.oracle.open_calls() == 0);
    assert_eq!(world.oracle.tally.answered, 1);
    assert!(world.coverage.count("move given up") > 0);
    assert_eq!(world.coverage.count("calls cancelled for a deadline"), 0);
    world.ends_well();
}

#[test]
fn p3_a_move_called_off_leaves_calls_in_flight_alone() {
    let mut world = settled(3);
    let from = world.another(&[world.leader()]);
    let to = world.another(&[world.leader(), from]);
    let shard = world.shard_of(from);
    let row = *world.truth().shard(shard).expect("a row");
    world.call(world.leader(), shard, Class::Plain, SECOND);
    world.pass(SHORT);
    world.begin_move(from, to);
    world.pass(SHORT);
    let local = world.local(from, shard);
    assert!(matches!(local, Local::Draining { .. }), "{local:?}");
    let key = world.key_of(shard).expect("it moves");
    assert!(world.order(Command::AbortMove { items: vec![key] }).is_ok());
    world.until("the call", 2 * SECOND, |world| world.oracle.open_calls() == 0);
    assert_eq!(world.oracle.tally.answered, 1);
    let after = world.truth().shard(shard).expect("a row");
    assert_eq!((after.epoch, after.owner()), (row.epoch, row.owner()));
    world.ends_well();
}

#[test]
fn p4_a_slow_target_costs_the_callers_nothing() {
    let mut world = settled(3);
    let from = world.another(&[world.leader()]);
    let to = world.another(&[world.leader(), from]);
    let shard = world.begin_move(from, to);
    world.pause(to, 2 * SECOND);
    for _ in 0..50 {
        world.call(from, shard, Class::Plain, MS);
        world.pass(20 * MS);
    }
    assert!(world.key_of(shard).is_some(), "it has not prepared yet");
    assert!(world.oracle.tally.answered >= 49 && world.oracle.tally.longest < SHORT);
    world.ends_well();
}
