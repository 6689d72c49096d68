//! Executions about leaders: lost, deaf, late, and after everything went dark.

use std::collections::BTreeSet;

use shoal_core::{admit::Class, registry::Command};

use super::*;

/// Every call between these two nodes in the next while gets its result.
fn serve_meanwhile(world: &mut World, entry: Place, owner: Place, span: True) {
    let (end, shard) = (world.now + span, world.shard_of(owner));
    let before = world.oracle.tally;
    let mut calls = 0;
    while world.now < end {
        world.call(entry, shard, Class::Plain, MS);
        calls += 1;
        world.pass(20 * MS);
    }
    world.until("all answers", SECOND, |world| world.oracle.open_calls() == 0);
    let after = world.oracle.tally;
    assert_eq!(after.answered - before.answered, calls);
    assert!(after.longest < SHORT, "{after:?}");
}

#[test]
fn l1_the_leader_is_killed_and_no_owner_goes_dark() {
    let mut world = settled(3);
    let leader = world.leader();
    let others: Vec<Place> = (0..3).filter(|place| *place != leader).collect();
    let shards: BTreeSet<ShardId> =
        (0..SHARDS).map(ShardId).filter(|shard| world.owner(*shard) != Some(leader)).collect();
    world.nodes[leader].stays_down = true;
    world.crash(leader);
    serve_meanwhile(&mut world, others[0], others[1], 2 * L);
    serve_meanwhile(&mut world, others[1], others[0], L);
    assert_ne!(world.leader(), leader);
    assert_eq!(world.coverage.count("fence"), 1, "the dead one alone");
    assert!(shards.iter().all(|shard| world.truth().shard(*shard).is_some_and(|row| {
        row.epoch == world.truth().cluster().first_epoch || row.owner().is_some()
    })));
    world.ends_well();
}

#[test]
fn l2_of_two_nodes_one_dies_and_the_other_takes_all() {
    let mut world = settled(2);
    let dead = world.another(&[world.leader()]);
    world.nodes[dead].stays_down = true;
    world.crash(dead);
    let left = world.another(&[dead]);
    world.until("all shards at the other", 3 * L, |world| {
        (0..SHARDS).map(ShardId).all(|shard| world.owner(shard) == Some(left))
    });
    world.ends_well();
}

#[test]
fn l3_an_election_of_three_seconds_fences_nobody() {
    let mut world = settled(3);
    let version = world.truth().map_version();
    for gap in [3 * SECOND, 4 * SECOND] {
        world.election(gap);
        assert_eq!(world.log.leader, None);
        world.until("a leader", 6 * SECOND, |world| world.log.leader.is_some());
        world.pass(2 * L);
    }
    assert_eq!(world.coverage.count("fence"), 0);
    assert_eq!(world.truth().map_version(), version);
    world.ends_well();
}

#[test]
fn l4_a_leader_that_hears_no_renewals_ends_a_minority_and_goes() {
    let mut world = settled(5);
    let leader = world.leader();
    world.deaf = Some(leader);
    world.until("doubt", 4 * L, |world| world.leader() != leader);
    let fences = world.coverage.count("fence");
    assert!((1..=2).contains(&fences), "{fences} fences of 5 nodes");
    world.pass(2 * L);
    assert_eq!(world.coverage.count("fence"), fences, "the next one hears everybody");
    world.ends_well();
}

#[test]
fn l8_one_of_three_crashes_and_three_vote() {
    let mut world = settled(3);
    let dead = world.another(&[world.leader()]);
    world.nodes[dead].stays_down = true;
    world.crash(dead);
    world.pass(20 * SECOND);
    assert_eq!(world.log.voters.len(), 3, "a restart may take so long");
    world.ends_well();
}

#[test]
fn l11_after_a_power_cycle_shards_wait_for_slow_owners() {
    let mut world = settled_as(Setup { max_voters: 3, ..Setup::calm(5, 5) });
    let voters: Vec<Place> =
        (0..5).filter(|place| world.log.voters.contains(&world.id(*place))).collect();
    let opened = world.coverage.count("opened empty");
    for place in 0..5 {
        // Two voters lead again at once, the other three nodes are slow.
        let quick = voters[..2].contains(&place);
        world.reboot(place, if quick { 300 * MS } else { 10 * SECOND });
    }
    world.pass(9 * SECOND);
    let back: Vec<Place> = (0..5).filter(|place| world.nodes[*place].live.is_some()).collect();
    assert_eq!(back, voters[..2]);
    assert!(back.iter().all(|place| world.has_right(*place)), "they are ready");
    let now = world.coverage.count("opened empty");
    assert_eq!(now, opened, "and get nothing yet: {}", world.trace.text());
    world.until("all owners", 10 * SECOND, |world| world.unfinished().is_none());
    assert_eq!(world.coverage.count("move committed"), 0, "nothing had to move back");
    world.ends_well();
}

#[test]
fn l7_everybody_is_told_to_stop_and_nobody_hands_over() {
    let mut world = settled(3);
    world.fill();
    let moves = world.coverage.count("move committed");
    assert!(world.order(Command::StopAll).is_ok());
    for place in 0..3 {
        world.told_to_stop(place);
    }
    world.until("closed in place", 5 * SECOND, |world| world.coverage.count("closed in place") > 1);
    assert_eq!(world.coverage.count("move committed"), moves);
    world.pass(2 * SECOND);
    world.ends_well();
}

#[test]
fn p1_an_idle_cluster_wakes_nobody() {
    let mut world = settled(3);
    let (version, applied) = (world.truth().map_version(), world.truth().applied());
    world.pass(20 * SECOND);
    assert_eq!(world.truth().map_version(), version);
    assert!(world.truth().applied().0 > applied.0 + 50, "renewals went on");
    // A call that waits for a new row is not woken by any of them.
    let dead = world.another(&[world.leader()]);
    let shard = world.shard_of(dead);
    world.nodes[dead].stays_down = true;
    world.crash(dead);
    world.call(world.leader(), shard, Class::Idempotent, MS);
    world.until("the result", 3 * L, |world| world.oracle.open_calls() == 0);
    assert_eq!(world.oracle.tally.answered, 1);
    world.ends_well();
}
