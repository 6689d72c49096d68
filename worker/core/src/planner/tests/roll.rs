//! A roll of all nodes, one after the other, and what it may cost.

use proptest::prelude::*;

use super::world::{World, up};
use crate::{id::NodeId, planner::Leave};

/// Replaces the revision of every node in the given order; the moves of the whole roll.
fn roll(world: &mut World, order: &[NodeId]) -> usize {
    let mut moves = 0;
    for &node in order {
        world.stand(node, Leave::Restart, None);
        moves += world.settle();
        let down = world.members.remove(&node).unwrap();
        moves += world.settle();
        world.members.insert(node, down);
        world.stay(node);
        world.revise(node, "r2");
        moves += world.settle();
    }
    moves
}

proptest! {
    #[test]
    fn a_roll_moves_each_shard_little_more_than_once(
        order in (2u64..12).prop_flat_map(|nodes| {
            Just((1..=nodes).map(NodeId).collect::<Vec<_>>()).prop_shuffle()
        }),
        shards in 16u32..300,
        max_moves in 1u32..64,
        max_moves_per_node in 1u32..16,
    ) {
        let nodes = order.len();
        let mut world = World::new(&vec![up(0); nodes]).unassigned(shards);
        world.settings.max_moves = max_moves;
        world.settings.max_moves_per_node = max_moves_per_node;
        world.settle();
        let moves = roll(&mut world, &order);
        let bound = shards as usize * (nodes + 2) / nodes + nodes;
        prop_assert!(moves <= bound, "{moves} moves, at most {bound} allowed");
        let counts = world.counts();
        prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
    }
}
