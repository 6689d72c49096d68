//! Tables and properties of the planner, on a small world that carries its plans out.

mod properties;
mod roll;
pub(super) mod world;

use std::time::Duration;

use super::*;
use crate::{
    id::LogIndex,
    registry::{NodeInfo, Rebalance},
};
use world::{Member, World, flapping, heavy, leaving, up};

/// Settles the world and compares what each node then has, and how many moves it took.
#[track_caller]
fn check(mut world: World, settled: &[u32], moves: usize) {
    let taken = world.settle();
    assert_eq!((world.counts(), taken), (settled.to_vec(), moves));
}

#[test]
fn shards_without_an_owner_are_spread_by_weight() {
    check(World::new(&[up(0), up(0), up(0)]).unassigned(1024), &[342, 341, 341], 0);
    check(World::new(&[heavy(0, 300), up(0)]).unassigned(16), &[12, 4], 0);
    check(World::new(&[heavy(0, 1000), heavy(0, 1)]).unassigned(16), &[16, 0], 0);
}

#[test]
fn a_balanced_cluster_is_left_alone() {
    check(World::new(&[up(341), up(341), up(342)]), &[341, 341, 342], 0);
    check(World::new(&[heavy(11, 200), up(6), up(5)]), &[11, 6, 5], 0);
}

#[test]
fn a_fourth_node_takes_its_share_and_nothing_else_moves() {
    check(World::new(&[up(342), up(341), up(341), up(0)]), &[256, 256, 256, 256], 256);
    check(World::new(&[up(6), up(5), up(5), up(0)]), &[4, 4, 4, 4], 4);
    check(World::new(&[up(6), up(6), up(5), up(0)]), &[5, 4, 4, 4], 4);
}

#[test]
fn several_leavers_hand_over_to_those_who_stay() {
    check(World::new(&[up(4), leaving(4), leaving(4), up(4)]), &[8, 0, 0, 8], 8);
    check(World::new(&[leaving(4), leaving(4)]), &[4, 4], 0);
}

#[test]
fn a_node_that_is_held_back_keeps_what_it_has() {
    check(World::new(&[up(8), up(0), flapping(0)]), &[4, 4, 0], 4);
    check(World::new(&[up(2), up(0), flapping(12)]), &[1, 1, 12], 1);
    check(World::new(&[flapping(0), leaving(3)]), &[0, 3], 0);
}

#[test]
fn whoever_was_fenced_lately_gets_what_nobody_else_can_have() {
    let assigned = |members: &[Member]| {
        let world = World::new(members).unassigned(16);
        let plan = plan(&world.input().sparing_nobody());
        let to = |id| plan.assigns.iter().filter(|a| a.assign.target == NodeId(id)).count();
        (1..=members.len() as u64).map(to).collect::<Vec<_>>()
    };
    assert_eq!(assigned(&[flapping(0), flapping(0)]), [8, 8]);
    assert_eq!(assigned(&[flapping(0), leaving(0)]), [16, 0]);
    assert_eq!(assigned(&[flapping(0), up(0)]), [0, 16]);
    let behind = Member { standing: Standing::HeldBack(HeldBack::TableBehind), ..up(0) };
    assert_eq!(assigned(&[flapping(0), behind]), [16, 0]);
    assert_eq!(assigned(&[behind]), [0]);
    // With an owner for each they keep what they have, and get nothing more.
    let world = World::new(&[flapping(0), flapping(16)]);
    assert!(plan(&world.input().sparing_nobody()).moves.is_empty());
}

#[test]
fn a_failover_spreads_over_all_targets_and_moves_nothing_else() {
    let mut world = World::new(&[up(10), up(10), up(10), up(10)]);
    world.fence(NodeId(4));
    let plan = world.plan();
    assert_eq!((plan.assigns.len(), plan.moves.len()), (10, 0));
    assert!(plan.assigns.iter().all(|assign| assign.reason == Reason::Failover));
    world.apply(&plan);
    assert_eq!(world.counts(), [14, 13, 13]);
}

#[test]
fn budgets_bind_moves_and_never_assignments() {
    let mut world = World::new(&[up(12), up(0), up(0)]).unassigned(6);
    world.apply_first(NodeId(1), NodeId(3), 1);
    world.settings.max_moves = 1;
    let plan = world.plan();
    assert_eq!((plan.assigns.len(), plan.moves.len()), (6, 0));
    assert_eq!(
        plan.report.refusals,
        [Refusal { node: Some(NodeId(1)), shards: 5, why: Why::ClusterBudget { limit: 1 } }]
    );

    let mut world = World::new(&[up(12), up(0), up(0)]);
    world.settings.max_moves_per_node = 2;
    let plan = world.plan();
    let targets: Vec<_> = plan.moves.iter().map(|planned| planned.begin.target).collect();
    assert_eq!(targets, [NodeId(2), NodeId(3)]);
    assert_eq!(
        plan.report.refusals,
        [Refusal { node: Some(NodeId(1)), shards: 6, why: Why::NodeBudget { limit: 2 } }]
    );
}

#[test]
fn leavers_go_first_and_the_earliest_deadline_before_all() {
    let mut world = World::new(&[up(20), leaving(5), leaving(5), up(0), up(0)]);
    world.settings.max_moves = 6;
    world.stand(NodeId(2), Leave::Removal, None);
    world.stand(NodeId(3), Leave::Restart, Some(Duration::from_secs(20)));
    let from: Vec<_> = world.plan().moves.iter().map(|planned| planned.from.0).collect();
    assert_eq!(from, [3, 3, 3, 3, 3, 2]);
}

#[test]
fn balancing_waits_for_pause_cooldown_and_the_end_of_a_roll_and_drains_do_not() {
    #[track_caller]
    fn check(change: impl Fn(&mut World), why: Why) {
        let mut world = World::new(&[up(6), up(0), leaving(2)]);
        change(&mut world);
        let plan = world.plan();
        assert!(plan.moves.iter().all(|planned| planned.reason == Reason::Drain(Leave::Restart)));
        assert_eq!(plan.moves.len(), 2);
        let refusal = Refusal { node: Some(NodeId(1)), shards: 2, why };
        assert_eq!(plan.report.refusals, [refusal]);
    }
    check(|world| world.settings.rebalance = Rebalance::Paused, Why::Paused);
    check(|world| world.revise(NodeId(2), "r2"), Why::TwoRevisions);
    let left = Duration::from_millis(400);
    check(|world| world.cooldown_left = left, Why::Cooldown { left });
}

#[test]
fn drains_prefer_the_newest_revision_up_to_its_share() {
    let mut world = World::new(&[leaving(10), up(9), up(0), up(10)]);
    world.revise(NodeId(3), "r2");
    check(world, &[0, 9, 10, 10], 10);
}

#[test]
fn a_node_back_from_its_restart_takes_its_share_again() {
    let mut world = World::new(&[leaving(8), up(8), up(8)]);
    world.settle();
    world.stay(NodeId(1));
    check(world, &[8, 8, 8], 8);
}

#[test]
fn assignments_wait_while_owners_may_come_back() {
    let mut world = World::new(&[up(0)]).unassigned(16);
    let left = Duration::from_secs(4);
    world.assigns_held = left;
    let plan = world.plan();
    assert!(plan.is_empty());
    assert_eq!(
        plan.report.refusals,
        [Refusal { node: None, shards: 16, why: Why::AssignsHeld { left } }]
    );
}

#[test]
fn a_shard_without_any_target_is_reported() {
    let plan = World::new(&[leaving(1), flapping(0)]).unassigned(2).plan();
    assert_eq!(
        plan.to_string(),
        "n2 receives nothing: it was fenced lately, held back for 6s\n\
         n1 keeps 1 shard for now: no node may receive shards\n\
         2 shards stay unassigned for now: no node may receive shards\n"
    );
}

#[test]
fn a_shard_whose_move_failed_lately_goes_elsewhere_or_waits() {
    let mut world = World::new(&[up(2), up(0)]);
    world.back_off(0, NodeId(2));
    let plan = world.plan();
    assert_eq!(plan.moves[0].begin.shard, ShardId(1));
    world.back_off(1, NodeId(2));
    let plan = world.plan();
    assert!(plan.is_empty());
    assert_eq!(
        plan.report.refusals,
        [Refusal { node: Some(NodeId(1)), shards: 1, why: Why::BackingOff }]
    );
}

#[test]
fn a_leaver_is_emptied_past_a_target_that_fails() {
    let mut world = World::new(&[leaving(2), up(4), up(2)]);
    world.back_off(0, NodeId(3));
    world.back_off(1, NodeId(3));
    let plan = world.plan();
    let targets: Vec<_> =
        (plan.moves.iter()).map(|planned| (planned.from.0, planned.begin.target.0)).collect();
    assert_eq!(targets, [(1, 2), (1, 2), (2, 3), (2, 3)]);
}

#[test]
fn a_shard_that_came_last_is_the_last_to_be_moved_on() {
    let mut world = World::new(&[up(4), up(4)]);
    let begin = request(&world.input(), ShardId(0), NodeId(2)).unwrap();
    world.apply(&Plan { moves: vec![begin], ..Plan::default() });
    world.finish_moves();
    world.settle();
    assert_eq!(world.counts(), [4, 4]);
    assert_eq!(world.owner(ShardId(0)), Some(NodeId(2)));
}

#[test]
fn a_requested_move_is_begun_or_refused_with_a_reason() {
    let mut world = World::new(&[up(2), up(1), flapping(0), leaving(0)]).unassigned(1);
    let ask = |world: &World, shard, target| {
        request(&world.input(), ShardId(shard), NodeId(target)).map_err(|error| error.to_string())
    };
    let planned = ask(&world, 0, 2).unwrap();
    assert_eq!(planned.to_string(), "s0 n1 → n2: requested");
    world.back_off(1, NodeId(2));
    for (shard, target, words) in [
        (9, 2, "no shard s9"),
        (0, 9, "node n9 is not up"),
        (3, 1, "shard s3 has no owner, it is about to be assigned"),
        (0, 1, "shard s0 is already on n1"),
        (0, 3, "node n3 receives nothing: it was fenced lately, held back for 6s"),
        (0, 4, "node n4 receives nothing: it leaves for restart"),
        (1, 2, "the last move of s1 to n2 failed, the next may start in 9s"),
    ] {
        assert_eq!(ask(&world, shard, target), Err(words.to_owned()));
    }
    world.apply(&Plan { moves: vec![planned], ..Plan::default() });
    assert_eq!(ask(&world, 0, 2), Err("shard s0 is already moving to n2".to_owned()));
    world.settings.max_moves_per_node = 1;
    let busy = "node n2 takes part in 1 moves, the most allowed";
    assert_eq!(ask(&world, 2, 1), Err(busy.to_owned()));
    world.settings.max_moves = 1;
    assert_eq!(ask(&world, 2, 1), Err("1 moves are in flight, the most allowed".to_owned()));
}

#[test]
fn a_plan_reads_in_plain_words() {
    let mut world = World::new(&[up(5), up(0), leaving(1)]).unassigned(1);
    world.settings.max_moves = 2;
    assert_eq!(
        world.plan().to_string(),
        "s6 → n2: assign (it never had an owner)\n\
         s5 n3 → n2: drain (n3 leaves for restart)\n\
         s0 n1 → n2: balance (n1 has 5, its share is 4)\n"
    );
}

#[test]
fn the_largest_cluster_is_planned_whole() {
    let nodes = vec![up(0); 1000];
    let mut world = World::new(&nodes).unassigned(65_536);
    world.settle();
    assert!(world.counts().iter().all(|&count| count == 65 || count == 66));
    for id in 1..=500 {
        world.stand(NodeId(id), Leave::Removal, None);
    }
    world.settings.max_moves = u32::MAX;
    world.settings.max_moves_per_node = u32::MAX;
    let left: u32 = world.counts()[..500].iter().sum();
    assert_eq!(world.plan().moves.len(), left as usize);
}

#[test]
fn the_newest_revision_is_the_one_that_appeared_last() {
    let node = |revision: &str, changed, drain| Node {
        info: NodeInfo { revision: revision.to_owned(), ..NodeInfo::default() },
        directory: 0,
        incarnation: Incarnation::default(),
        lock: None,
        life: Life::Up,
        drain,
        marked: false,
        renewed: LogIndex(changed),
        changed: LogIndex(changed),
    };
    let old = node("r1", 7, Drain::None);
    let came_back = node("r1", 40, Drain::None);
    let draining = node("r1", 50, Drain::Removal);
    let new = node("r2", 30, Drain::None);
    assert_eq!(newest_revision([&old, &came_back, &draining]), "r1");
    assert_eq!(newest_revision([&old, &came_back, &draining, &new]), "r2");
    assert_eq!(newest_revision([&draining, &new]), "r2");
    assert_eq!(newest_revision([]), "");
}

#[test]
fn a_node_that_is_not_up_has_no_standing_and_a_mark_outranks_a_drain() {
    let mut node = Node {
        info: NodeInfo::default(),
        directory: 0,
        incarnation: Incarnation::default(),
        lock: None,
        life: Life::Up,
        drain: Drain::None,
        marked: false,
        renewed: LogIndex(1),
        changed: LogIndex(1),
    };
    let sound = Judgement::default();
    let behind = Judgement { held_back: Some(HeldBack::TableBehind), ..sound };
    assert_eq!(Standing::of(&node, sound), Some(Standing::Target));
    assert_eq!(Standing::of(&node, behind), Some(Standing::HeldBack(HeldBack::TableBehind)));
    node.drain = Drain::Removal;
    let leaving = Standing::Leaving { leave: Leave::Removal, deadline: None };
    assert_eq!(Standing::of(&node, behind), Some(leaving));
    node.marked = true;
    assert_eq!(Standing::of(&node, sound), Some(Standing::HeldBack(HeldBack::Marked)));
    node.life = Life::Closed;
    assert_eq!(Standing::of(&node, sound), None);
}
