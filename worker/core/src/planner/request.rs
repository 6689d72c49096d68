//! Judges a move that somebody asked for. Balance is not asked, budgets and standing are.

use std::time::Duration;

use crate::{
    id::{NodeId, ShardId},
    registry::{BeginMove, Holding},
};

use super::{HeldBack, Leave, PlanInput, PlannedMove, Reason, Standing};

/// Why a requested move is not begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("no shard {0}")]
    UnknownShard(ShardId),
    #[error("node {0} is not up")]
    NotUp(NodeId),
    #[error("shard {0} has no owner, it is about to be assigned")]
    Unassigned(ShardId),
    #[error("shard {shard} is already on {node}")]
    AlreadyThere { shard: ShardId, node: NodeId },
    #[error("shard {shard} is already moving to {target}")]
    AlreadyMoving { shard: ShardId, target: NodeId },
    #[error("node {node} receives nothing: {why}")]
    TargetHeldBack { node: NodeId, why: HeldBack },
    #[error("node {node} receives nothing: it leaves for {leave}")]
    TargetLeaving { node: NodeId, leave: Leave },
    #[error("node {0} is marked for removal and closes its shards itself")]
    SourceMarked(NodeId),
    #[error("the last move of {shard} to {target} failed, the next may start in {left:?}")]
    BackingOff { shard: ShardId, target: NodeId, left: Duration },
    #[error("{limit} moves are in flight, the most allowed")]
    ClusterBudget { limit: u32 },
    #[error("node {node} takes part in {limit} moves, the most allowed")]
    NodeBudget { node: NodeId, limit: u32 },
}

/// The move of `shard` to `target` as it may be begun now.
pub fn request(
    input: &PlanInput<'_>,
    shard: ShardId,
    target: NodeId,
) -> Result<PlannedMove, Error> {
    let row = (input.shards.get(shard.0 as usize)).ok_or(Error::UnknownShard(shard))?;
    let from = match row.holding {
        Holding::Unassigned => return Err(Error::Unassigned(shard)),
        Holding::Moving { target, .. } => return Err(Error::AlreadyMoving { shard, target }),
        Holding::Owned { node, .. } if node == target => {
            return Err(Error::AlreadyThere { shard, node });
        }
        Holding::Owned { node, .. } => node,
    };
    let find = |id| input.nodes.iter().find(|node| node.id == id).ok_or(Error::NotUp(id));
    if find(from)?.standing == Standing::HeldBack(HeldBack::Marked) {
        return Err(Error::SourceMarked(from));
    }
    let node = find(target)?;
    match node.standing {
        Standing::Target => {}
        Standing::HeldBack(why) => return Err(Error::TargetHeldBack { node: target, why }),
        Standing::Leaving { leave, .. } => {
            return Err(Error::TargetLeaving { node: target, leave });
        }
    }
    if let Some(&left) = input.backing_off.get(&(shard, target)) {
        return Err(Error::BackingOff { shard, target, left });
    }
    within_budgets(input, [from, target])?;
    Ok(PlannedMove {
        begin: BeginMove { shard, epoch: row.epoch, target, incarnation: node.incarnation },
        from,
        reason: Reason::Requested,
    })
}

fn within_budgets(input: &PlanInput<'_>, ends: [NodeId; 2]) -> Result<(), Error> {
    let moves = || {
        input.shards.iter().filter_map(|row| match row.holding {
            Holding::Moving { node, target, .. } => Some([node, target]),
            Holding::Owned { .. } | Holding::Unassigned => None,
        })
    };
    let limit = input.settings.max_moves;
    if moves().count() >= limit as usize {
        return Err(Error::ClusterBudget { limit });
    }
    let limit = input.settings.max_moves_per_node;
    for node in ends {
        if moves().filter(|pair| pair.contains(&node)).count() >= limit as usize {
            return Err(Error::NodeBudget { node, limit });
        }
    }
    Ok(())
}
