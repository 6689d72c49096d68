//! The balance of a cluster as a small integer problem, and the stock of shards beside it.
//!
//! `Problem` holds counts only and is all that `solve` sees; `Stock` remembers which shards
//! the counts stand for. Nothing is decided here.

use std::collections::BTreeMap;

use crate::{
    id::{NodeId, ShardId},
    registry::Holding,
};

use super::{PlanInput, Standing};

/// Nodes and counts. Moves in flight count at their target.
pub(super) struct Problem {
    pub nodes: Vec<Candidate>,
    pub unassigned: u32,
}

/// One node. Its weight is the only measure of what it can bear and its count the only one
/// of what it bears; measured load would replace the count here, and the zone would stand
/// beside the role as a bound on the quota.
pub(super) struct Candidate {
    pub role: Role,
    pub weight: u64,
    pub have: u32,
    /// Runs the newest revision.
    pub newest: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Receives,
    /// Neither gives nor receives; the others share what it does not hold.
    Keeps,
    Leaves,
}

/// Which shards may be placed, and how busy each node is.
pub(super) struct Stock {
    /// Per node what it owns at rest.
    pub resting: Vec<Vec<ShardId>>,
    pub unassigned: Vec<ShardId>,
    /// Per node the moves it takes part in, as source or as target.
    pub in_flight: Vec<u32>,
    pub moves: u32,
}

pub(super) fn read(input: &PlanInput<'_>) -> (Problem, Stock) {
    let mut stock = Stock {
        resting: vec![Vec::new(); input.nodes.len()],
        unassigned: Vec::new(),
        in_flight: vec![0; input.nodes.len()],
        moves: 0,
    };
    let place: BTreeMap<NodeId, usize> =
        (input.nodes.iter().enumerate()).map(|(i, node)| (node.id, i)).collect();
    let mut have = vec![0; input.nodes.len()];
    for (shard, row) in (0..).map(ShardId).zip(&input.shards) {
        match row.holding {
            Holding::Unassigned => stock.unassigned.push(shard),
            Holding::Owned { node, .. } => {
                if let Some(&i) = place.get(&node) {
                    stock.resting[i].push(shard);
                    have[i] += 1;
                }
            }
            Holding::Moving { node, target, .. } => {
                stock.moves += 1;
                for end in [node, target] {
                    if let Some(&i) = place.get(&end) {
                        stock.in_flight[i] += 1;
                    }
                }
                if let Some(&i) = place.get(&target) {
                    have[i] += 1;
                }
            }
        }
    }
    let nodes = (input.nodes.iter().zip(have))
        .map(|(node, have)| Candidate {
            role: match node.standing {
                Standing::Target => Role::Receives,
                Standing::HeldBack(_) => Role::Keeps,
                Standing::Leaving { .. } => Role::Leaves,
            },
            weight: u64::from(node.weight.max(1)),
            have,
            newest: node.revision == input.newest_revision,
        })
        .collect();
    let unassigned = stock.unassigned.len() as u32;
    (Problem { nodes, unassigned }, stock)
}
