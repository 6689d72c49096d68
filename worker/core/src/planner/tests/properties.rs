//! What holds of every plan, on random worlds.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::world::{Member, World, flapping, heavy, leaving};
use crate::{
    id::{NodeId, ShardId},
    planner::Standing,
    registry::Holding,
};

fn member() -> impl Strategy<Value = Member> {
    let weight = prop_oneof![Just(100u32), 1u32..5, 1u32..=1000];
    (0u32..9, weight, 0u32..8).prop_map(|(has, weight, standing)| {
        let member = match standing {
            0 => flapping(has),
            1 | 2 => leaving(has),
            _ => heavy(has, weight),
        };
        Member { weight, ..member }
    })
}

fn world() -> impl Strategy<Value = World> {
    let members = prop::collection::vec(member(), 1..7);
    let budgets = (1u32..20, 1u32..6);
    let backing_off = prop::collection::vec((0u32..30, 1u64..7), 0..4);
    let in_flight = prop::collection::vec((0u32..30, 1u64..7), 0..4);
    (members, 0u32..9, budgets, backing_off, in_flight, 0u32..3).prop_map(
        |(members, unassigned, budgets, backing_off, in_flight, newest)| {
            let mut world = World::new(&members).unassigned(unassigned);
            (world.settings.max_moves, world.settings.max_moves_per_node) = budgets;
            for (shard, target) in in_flight {
                let moved = super::request(&world.input(), ShardId(shard), NodeId(target));
                let moves = moved.into_iter().collect();
                world.apply(&super::Plan { moves, ..super::Plan::default() });
            }
            for (shard, target) in backing_off {
                world.back_off(shard, NodeId(target));
            }
            if newest == 0 {
                world.revise(NodeId(1), "r2");
            }
            world
        },
    )
}

/// Moves that take part at each node, and all of them.
fn in_flight(world: &World) -> (Vec<usize>, usize) {
    let pairs: Vec<[NodeId; 2]> = (world.shards.iter())
        .filter_map(|row| match row.holding {
            Holding::Moving { node, target, .. } => Some([node, target]),
            Holding::Owned { .. } | Holding::Unassigned => None,
        })
        .collect();
    let at = |node| pairs.iter().filter(|pair| pair.contains(node)).count();
    (world.members.keys().map(at).collect(), pairs.len())
}

/// The fewest moves to any rounding of the weighted shares, tried one by one.
fn fewest_moves(world: &World) -> u32 {
    let counts = world.counts();
    let members: Vec<_> = world.members.values().zip(counts).collect();
    let targets: Vec<_> =
        (members.iter()).filter(|(member, _)| member.standing == Standing::Target).collect();
    let is_held = |member: &Member| matches!(member.standing, Standing::HeldBack(_));
    let held: u32 = members.iter().filter(|(member, _)| is_held(member)).map(|(_, n)| n).sum();
    let total = world.shards.len() as u32 - held;
    let placed: u32 = targets.iter().map(|(_, n)| n).sum();
    let unassigned = world.shards.iter().filter(|row| row.owner().is_none()).count() as u32;
    let from_leavers = total - placed - unassigned;
    let weights: u64 = targets.iter().map(|(member, _)| u64::from(member.weight)).sum();
    let surplus = (0u32..1 << targets.len()).filter_map(|rounding| {
        let mut quotas = 0;
        let mut surplus = 0;
        for (i, (member, has)) in targets.iter().enumerate() {
            let product = u64::from(total) * u64::from(member.weight);
            let up = rounding >> i & 1;
            if up == 1 && product.is_multiple_of(weights) {
                return None;
            }
            let quota = (product / weights) as u32 + up;
            quotas += quota;
            surplus += has.saturating_sub(quota);
        }
        (quotas == total).then_some(surplus)
    });
    surplus.min().map_or(0, |surplus| surplus + from_leavers)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_second_plan_has_nothing_to_add(world in world()) {
        let mut world = world;
        let plan = world.plan();
        prop_assert_eq!(&plan, &world.plan());
        world.apply(&plan);
        let again = world.plan();
        prop_assert!(again.is_empty(), "first:\n{plan}then:\n{again}");
    }

    #[test]
    fn a_plan_stays_within_the_budgets(world in world()) {
        let mut world = world;
        let limit = |before: usize, limit: u32| before.max(limit as usize);
        let (per_node, all) = in_flight(&world);
        world.apply(&world.plan());
        let (per_node_after, all_after) = in_flight(&world);
        prop_assert!(all_after <= limit(all, world.settings.max_moves));
        for (before, after) in per_node.into_iter().zip(per_node_after) {
            prop_assert!(after <= limit(before, world.settings.max_moves_per_node));
        }
    }

    #[test]
    fn only_targets_receive_and_each_shard_is_planned_once(world in world()) {
        let plan = world.plan();
        let assigned = plan.assigns.iter().map(|planned| (planned.assign.shard, planned.assign.target));
        let moved = plan.moves.iter().map(|planned| (planned.begin.shard, planned.begin.target));
        let mut seen = BTreeSet::new();
        for (shard, target) in assigned.chain(moved) {
            prop_assert_eq!(world.members[&target].standing, Standing::Target);
            prop_assert!(seen.insert(shard));
        }
        for planned in &plan.moves {
            let pair = (planned.begin.shard, planned.begin.target);
            prop_assert!(!world.backing_off.contains_key(&pair));
        }
        let has_target = world.members.values().any(|member| member.standing == Standing::Target);
        let unassigned = world.shards.iter().filter(|row| row.owner().is_none()).count();
        prop_assert_eq!(plan.assigns.len(), if has_target { unassigned } else { 0 });
    }

    #[test]
    fn balance_is_reached_with_the_fewest_moves_whatever_the_budgets(world in world()) {
        let mut world = world;
        world.backing_off.clear();
        for member in world.members.values_mut() {
            member.revision = world.newest_revision;
        }
        let shards = world.shards.len();
        let fewest = fewest_moves(&world);
        prop_assert_eq!(world.settle() as u32, fewest);
        prop_assert_eq!(world.shards.len(), shards);
        prop_assert_eq!(fewest_moves(&world), 0);
    }
}
