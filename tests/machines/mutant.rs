//! Rules of the protocol left out, each by bending what a machine sees or what becomes of
//! what it says, exactly as an implementation without the rule would.

use shoal_core::{
    id::{LogIndex, MoveId},
    registry::{
        BeginMove, Changes, Command, Event as Applied, Holding, MoveRef, Refused, Registry,
    },
};

use crate::{
    log::{STRIDE, index},
    world::World,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    NoWaitAfterElection,
    LeaseFromReceipt,
    SentOfAnotherRequest,
    RenewalAfterFence,
    NoRecheck,
    LateAnswerLearned,
    AnswerBeforeApply,
    CommitIgnoresIncarnation,
    StateDroppedAtReleased,
    LeaseOfTheAnswerIgnored,
    AbortNotKeyed,
    OneClockOnly,
    OpenedWithoutVia,
    ExpiryMovedBack,
    TargetDropsByTimer,
}

type Outcome = Result<Applied, Refused>;

impl World {
    pub fn apply_to(&self, table: &mut Registry, position: usize, command: &Command) -> Outcome {
        self.apply_all(table, position, command).0
    }

    /// Applies one entry as this world's registry does; the same on every replica.
    pub fn apply_all(
        &self,
        table: &mut Registry,
        position: usize,
        command: &Command,
    ) -> (Outcome, Changes) {
        let at = index(position);
        match (self.setup.mutant, command) {
            (Some(Mutant::CommitIgnoresIncarnation), Command::CommitMove { items }) => {
                self.commit_anyway(table, at, items)
            }
            (Some(Mutant::AbortNotKeyed), Command::AbortMove { items }) => {
                let items = items.iter().map(|item| loose(table, *item)).collect();
                table.apply(at, &Command::AbortMove { items })
            }
            (_, _) => table.apply(at, command),
        }
    }
}

/// Aborts whatever move the shard is in.
fn loose(table: &Registry, item: MoveRef) -> MoveRef {
    match table.shard(item.shard).map(|row| row.holding) {
        Some(Holding::Moving { id, .. }) => MoveRef { id, ..item },
        Some(Holding::Owned { .. } | Holding::Unassigned) | None => item,
    }
}

impl World {
    /// A registry that commits a move although its target is another process by now: the
    /// move that the restart called off is begun anew with that process, and committed.
    fn commit_anyway(
        &self,
        table: &mut Registry,
        at: LogIndex,
        items: &[MoveRef],
    ) -> (Outcome, Changes) {
        let begun: Vec<BeginMove> =
            items.iter().filter_map(|item| self.begin_again(table, item)).collect();
        if begun.is_empty() {
            return table.apply(at, &Command::CommitMove { items: items.to_vec() });
        }
        let first = LogIndex(at.0 - 1);
        let items = items.iter().map(|item| {
            let again = begun.iter().any(|begin| begin.shard == item.shard);
            MoveRef { id: if again { MoveId(first.0) } else { item.id }, ..*item }
        });
        let items = items.collect();
        let (_, before) = table.apply(first, &Command::BeginMove { items: begun });
        let (outcome, mut changes) = table.apply(at, &Command::CommitMove { items });
        changes.shards.extend(before.shards);
        changes.shards.sort_unstable();
        changes.shards.dedup();
        changes.map_version_changed |= before.map_version_changed;
        (outcome, changes)
    }

    fn begin_again(&self, table: &Registry, item: &MoveRef) -> Option<BeginMove> {
        let row = table.shard(item.shard).filter(|row| row.epoch == item.epoch)?;
        let Holding::Owned { .. } = row.holding else { return None };
        let position = (item.id.0 / STRIDE) as usize;
        let (target, old) = self.log.history.get(position)?.shard(item.shard)?.target()?;
        let node = table.node(target).filter(|node| node.incarnation != old)?;
        let incarnation = node.incarnation;
        Some(BeginMove { shard: item.shard, epoch: item.epoch, target, incarnation })
    }
}
