//! Executions about who may serve, until when, and how a process comes back.

use shoal_core::{
    admit::Class,
    registry::{Command, Configure, Event as Applied, Life, Refused},
};

use super::*;
use crate::{clock::SLEW, world::Event};

#[test]
fn s1_one_volume_on_two_machines_serves_from_one() {
    let mut world = settled(4);
    let (first, second) = (world.another(&[world.leader()]), 3);
    let (id, me) = (world.id(first), world.process(first));
    assert_ne!(first, second);
    // The second machine starts on the very directory, with the very lock file.
    world.crash(second);
    world.nodes[second].disk = world.nodes[first].disk.clone();
    world.schedule(world.now, Event::Start(second));
    world.pass(3 * L);
    assert!(world.coverage.count("register waits for the old session") > 2);
    assert_eq!(world.process(first), me, "both asked, the first goes on");
    assert!(world.is_up(id) && world.has_right(first) && !world.has_right(second));
    world.isolate(first, 3 * L);
    world.until("the second takes over", 2 * L, |world| {
        world.truth().node(id).is_some_and(|row| row.incarnation != me.incarnation)
    });
    assert!(!world.has_right(first));
    world.pass(L);
}

#[test]
fn s2_a_late_status_does_not_end_the_next_incarnation() {
    let mut world = settled(3);
    let place = world.another(&[world.leader()]);
    let (id, old) = (world.id(place), world.process(place).incarnation);
    world.crash_for(place, 100 * MS);
    world.until("the next incarnation", L, |world| {
        world.truth().node(id).is_some_and(|row| row.incarnation != old)
    });
    let late = world.order(Command::ReportDeath { node: id, incarnation: old });
    assert!(matches!(late, Err(Refused::StaleIncarnation { .. })), "{late:?}");
    assert!(world.is_up(id));
    // A status that names the one that ended is proof, and spares the wait.
    world.pass(L);
    let present = world.process(place).incarnation;
    world.nodes[place].stays_down = true;
    world.crash(place);
    let ended = world.order(Command::ReportDeath { node: id, incarnation: present });
    assert!(matches!(ended, Ok(Applied::Unassigned { shards: 1.. })), "{ended:?}");
    world.until("its shards elsewhere", SECOND, |world| {
        world.truth().shards().all(|(_, row)| row.owner().is_some())
    });
    world.ends_well();
}

#[test]
fn s8_a_slowed_owner_and_a_hurried_leader_never_overlap() {
    let mut world = settled(3);
    let slow = world.another(&[world.leader()]);
    for place in 0..3 {
        world.clock(place);
        world.nodes[place].clock.slew_ppm = if place == slow { -SLEW } else { SLEW };
    }
    world.pass(L);
    world.isolate(slow, 3 * L);
    let id = world.id(slow);
    world.until("its right to end", 2 * L, |world| world.live(slow).right.is_none());
    assert!(world.is_up(id), "the right ends first");
    world.until("the fence", 2 * L, |world| !world.is_up(id));
    world.ends_well();
}

#[test]
fn s9_a_lowered_lease_does_not_shorten_a_right_already_given() {
    let mut world = settled_as(Setup { lease_ms: 10_000, ..Setup::calm(2, 3) });
    let (leader, place) = (world.leader(), world.another(&[world.leader()]));
    let id = world.id(place);
    world.pass(3 * SECOND);
    // It hears no answer any more, so it knows nothing of the shorter lease.
    for other in (0..3).filter(|other| *other != place) {
        world.cut_until(other, place, world.now + 12 * SECOND);
    }
    let lower = Configure { lease_ms: Some(2_000), ..Configure::default() };
    assert_eq!(world.order(Command::Configure(lower)), Ok(Applied::Done));
    world.pass(5 * SECOND);
    assert_ne!(leader, place);
    assert!(world.has_right(place), "two of the new leases later it serves on");
    assert!(world.is_up(id), "and nobody took it for dead");
    world.until("the fence", 10 * SECOND, |world| !world.is_up(id));
    assert!(!world.has_right(place));
    world.ends_well();
}

#[test]
fn s15_a_handler_of_the_old_incarnation_holds_the_new_one_back() {
    let mut world = settled(3);
    let place = world.another(&[world.leader()]);
    let (id, old) = (world.id(place), world.process(place));
    world.live_mut(place).owner.stubborn_until = world.now + 9 * SECOND;
    // Three in ten of them will not end when they are cancelled.
    let shard = world.shard_of(place);
    for _ in 0..20 {
        world.call(place, shard, Class::Plain, MS);
    }
    world.isolate(place, L + SECOND);
    world.until("the fence", 2 * L, |world| !world.is_up(id));
    world.pass(2 * SECOND);
    assert!(!world.live(place).owner.running.is_empty(), "a handler that does not end");
    assert_eq!(world.live(place).node(), Some(old), "and so no other incarnation");
    world.until("the next one", 8 * SECOND, |world| {
        world.live(place).node().is_some_and(|me| me != old)
    });
    assert!(world.live(place).owner.running.is_empty());
    world.ends_well();
}

#[test]
fn s17_the_only_node_reboots_and_waits_for_its_own_session() {
    let mut world = settled(1);
    let (id, old) = (world.id(0), world.process(0).incarnation);
    world.reboot(0, 100 * MS);
    world.pass(L / 2);
    let row = world.truth().node(id).cloned().expect("its row");
    assert_eq!((row.incarnation, row.life), (old, Life::Up), "no proof: the old one may live");
    world.until("the next incarnation", 2 * L, |world| {
        world.truth().node(id).is_some_and(|row| row.incarnation != old)
    });
    world.ends_well();
}

#[test]
fn s18_a_restored_directory_is_refused_and_joins_anew() {
    let mut world = settled(4);
    let place = world.another(&[world.leader()]);
    let (id, copy) = (world.id(place), world.nodes[place].disk.clone());
    for _ in 0..2 {
        world.crash_for(place, 100 * MS);
        world.pass(L);
    }
    world.crash_for(place, 100 * MS);
    world.nodes[place].disk = copy;
    world.until("another id", 10 * SECOND, |world| {
        world.nodes[place].disk.node.is_some_and(|now| now != id)
    });
    assert!(world.coverage.count("restored copy refused") > 0);
    world.ends_well();
}

#[test]
fn s19_a_mark_takes_nothing_from_a_node_that_has_not_read_it() {
    let mut world = settled(4);
    let place = world.another(&[world.leader()]);
    let (id, shard) = (world.id(place), world.shard_of(place));
    let lags = world.now + 20 * SECOND;
    world.live_mut(place).lags_until = lags;
    for other in (0..4).filter(|other| *other != place) {
        world.cut_until(other, place, world.now + 20 * SECOND);
    }
    assert_eq!(world.order(Command::Mark { node: id }), Ok(Applied::Done));
    world.pass(L / 2);
    assert!(world.has_right(place), "it knows nothing of the mark");
    assert_eq!(world.owner(shard), Some(place), "and keeps what it serves");
    world.until("the expiry", 2 * L, |world| world.owner(shard) != Some(place));
    assert!(!world.has_right(place));
    world.ends_well();
}

#[test]
fn s20_empty_directories_beside_a_living_quorum_join_it() {
    let mut world = settled(5);
    let leader = world.leader();
    let lost: Vec<Place> = (0..5).filter(|place| *place != leader).take(2).collect();
    let cluster = world.truth().cluster().id;
    for place in &lost {
        world.crash_for(*place, 500 * MS);
        world.wipe(*place);
    }
    world.until("new members", 12 * SECOND, |world| {
        lost.iter().all(|place| world.nodes[*place].disk.node.is_some_and(|id| world.is_up(id)))
    });
    assert_eq!(world.truth().cluster().id, cluster);
    world.ends_well();
}

#[test]
fn l5_a_wedged_executor_ends_the_session_and_a_half_open_watch_is_replaced() {
    let setup = Setup { max_voters: 1, max_learners: 0, ..Setup::calm(3, 5) };
    let mut world = settled_as(setup);
    let watcher = (0..5).find(|place| world.is_watcher(*place)).expect("a watcher");
    world.live_mut(watcher).watch.half_open = true;
    world.until("another source", 4 * L, |world| {
        world.coverage.count("table read from another source") > 0
    });
    world.pass(L);
    assert_eq!(world.coverage.count("fence"), 0);
    let place = world.another(&[world.leader(), watcher]);
    let (id, now) = (world.id(place), world.clock(place));
    world.live_mut(place).wedged = Some(now);
    world.until("the fence", 4 * L, |world| !world.is_up(id));
    world.ends_well();
}

#[test]
fn l6_a_disk_that_stalls_for_1600_ms_changes_nothing() {
    let mut world = settled(3);
    let place = world.another(&[world.leader()]);
    let (now, version) = (world.clock(place), world.truth().map_version());
    world.live_mut(place).probe = Some(now);
    world.pass(1_600 * MS);
    world.live_mut(place).probe = None;
    world.pass(2 * L);
    assert_eq!(world.truth().map_version(), version);
    let now = world.clock(place);
    world.live_mut(place).probe = Some(now);
    world.until("it asks for a drain", 2 * L, |world| {
        world.coverage.count("slow disk asks for a drain") > 0
    });
    world.ends_well();
}
