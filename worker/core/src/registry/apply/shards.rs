//! Commands about shards, item by item, and what the end of a session does to its shards.
//!
//! A shard leaves a live incarnation only by `commit_move`, `vacate` or `reown`.

use super::*;
use crate::{
    id::MoveId,
    registry::{Assign, BeginMove, MoveRef},
};

impl Step<'_> {
    /// A bulk command: one stale item does not hold up the others.
    pub(super) fn each<T>(
        &mut self,
        items: &[T],
        apply: fn(&mut Self, &T) -> Result<(), Refused>,
    ) -> Result<Event, Refused> {
        if !self.registry.formed() {
            return Err(Refused::NotFormed);
        }
        if items.len() > MAX_BATCH {
            return Err(Refused::BatchTooLarge(items.len()));
        }
        let refused = items.iter().map(|item| apply(self, item).err()).collect();
        Ok(Event::Items { refused })
    }

    pub(super) fn assign(&mut self, item: &Assign) -> Result<(), Refused> {
        let row = self.row(item.shard, item.epoch)?;
        match row.holding {
            Holding::Unassigned => {}
            Holding::Owned { .. } | Holding::Moving { .. } => {
                return Err(Refused::NotUnassigned(item.shard));
            }
        }
        self.target(item.target, item.incarnation)?;
        let holding = owned(item.target, item.incarnation, None);
        self.change_shard(item.shard, item.epoch, holding);
        Ok(())
    }

    pub(super) fn begin_move(&mut self, item: &BeginMove) -> Result<(), Refused> {
        let row = self.row(item.shard, item.epoch)?;
        let Holding::Owned { node, incarnation, via } = row.holding else {
            return Err(Refused::NotOwned(item.shard));
        };
        if node == item.target {
            return Err(Refused::SameNode(item.shard));
        }
        self.target(item.target, item.incarnation)?;
        let holding = Holding::Moving {
            node,
            incarnation,
            via,
            target: item.target,
            target_incarnation: item.incarnation,
            id: MoveId(self.index.0),
        };
        self.change_shard(item.shard, item.epoch, holding);
        Ok(())
    }

    /// Compares the target once more: it may have restarted after the owner released (S11).
    pub(super) fn commit_move(&mut self, item: &MoveRef) -> Result<(), Refused> {
        let row = self.moving(item)?;
        let Some((target, incarnation)) = row.target() else {
            return Err(not_moving(item));
        };
        self.target(target, incarnation)?;
        let holding = owned(target, incarnation, Some(item.id));
        self.change_shard(item.shard, row.epoch.next(), holding);
        Ok(())
    }

    /// Keeps owner and epoch: calls in flight are untouched (P3).
    pub(super) fn abort_move(&mut self, item: &MoveRef) -> Result<(), Refused> {
        let row = self.moving(item)?;
        self.change_shard(item.shard, row.epoch, at_rest(row.holding));
        Ok(())
    }

    /// The end of a session: all it owned waits under a new epoch, all that moved to it
    /// stays where it is. Answers how many it lost.
    pub(super) fn vacate(&mut self, id: NodeId) -> u32 {
        let lost = self.registry.held(id).owned;
        self.end_tenure(id, Holding::Unassigned);
        lost
    }

    /// As `vacate`, but all it owned is the next incarnation's at once, empty and under a new
    /// epoch. Answers how many.
    pub(super) fn reown(&mut self, id: NodeId, incarnation: Incarnation) -> u32 {
        let owned_before = self.registry.held(id).owned;
        self.end_tenure(id, owned(id, incarnation, None));
        owned_before
    }

    fn end_tenure(&mut self, id: NodeId, holding: Holding) {
        self.abort_moves_to(id);
        if self.registry.held(id).owned > 0 {
            self.rewrite(|row| {
                let (owner, _) = row.owner()?;
                (owner == id).then(|| (row.epoch.next(), holding))
            });
        }
    }

    pub(super) fn abort_moves_to(&mut self, id: NodeId) {
        if self.registry.held(id).receiving > 0 {
            self.rewrite(|row| {
                let (target, _) = row.target()?;
                (target == id).then(|| (row.epoch, at_rest(row.holding)))
            });
        }
    }

    fn rewrite(&mut self, change: impl Fn(&ShardRow) -> Option<(Epoch, Holding)>) {
        let rows = self.registry.shards();
        let changed: Vec<_> = rows.filter_map(|(id, row)| Some((id, change(row)?))).collect();
        for (id, (epoch, holding)) in changed {
            self.change_shard(id, epoch, holding);
        }
    }

    fn row(&self, id: ShardId, seen: Epoch) -> Result<ShardRow, Refused> {
        let row = self.registry.shard(id).ok_or(Refused::UnknownShard(id))?;
        if row.epoch == seen {
            Ok(*row)
        } else {
            Err(Refused::StaleEpoch { shard: id, seen, current: row.epoch })
        }
    }

    fn moving(&self, item: &MoveRef) -> Result<ShardRow, Refused> {
        let row = self.row(item.shard, item.epoch)?;
        match row.holding {
            Holding::Moving { id, .. } if id == item.id => Ok(row),
            Holding::Moving { .. } | Holding::Owned { .. } | Holding::Unassigned => {
                Err(not_moving(item))
            }
        }
    }

    fn target(&self, id: NodeId, incarnation: Incarnation) -> Result<(), Refused> {
        let node = self.session(id, incarnation)?;
        if node.marked {
            return Err(Refused::Marked(id));
        }
        match node.drain {
            Drain::None => Ok(()),
            Drain::Restart(_) | Drain::Own(_) | Drain::Removal => Err(Refused::NotATarget(id)),
        }
    }
}

fn owned(node: NodeId, incarnation: Incarnation, via: Option<MoveId>) -> Holding {
    Holding::Owned { node, incarnation, via }
}

/// Where a shard rests once its move is called off.
fn at_rest(holding: Holding) -> Holding {
    match holding {
        Holding::Moving { node, incarnation, via, .. } => owned(node, incarnation, via),
        Holding::Owned { .. } | Holding::Unassigned => holding,
    }
}

fn not_moving(item: &MoveRef) -> Refused {
    Refused::NotMoving { shard: item.shard, id: item.id }
}
