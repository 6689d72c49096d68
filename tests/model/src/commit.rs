//! The log: what is committed is applied by the real registry, or refused by it.
//!
//! Whoever decided it may have been deposed since. Raft would commit an entry of a deposed
//! leader only before those of the next; here it may come at any later time, which is more.

use std::sync::Arc;

use shoal_core::{
    handoff::Process,
    id::{Epoch, LogIndex, MoveId},
    registry::{BeginMove, Changes, Command, Event, Holding, Life, Refused, Registry},
};

use crate::{
    decision::{Decision, move_ref},
    judge::Seen,
    mutant::Mutant,
    process::{Answer, Call},
    protocol::Protocol,
    table::{SHARD, Table},
    world::{Seat, World},
};

type Applied = (Result<Event, Refused>, Changes);

impl Protocol {
    /// A decision comes to its turn in the log.
    pub fn commit(&self, world: &mut World, decision: Decision) -> Option<Event> {
        let before = world.truth().clone();
        let mut registry = before.registry.clone();
        let index = before.next_index(decision.is_remembered());
        let (outcome, changes) = self.apply(&mut registry, index, decision);
        match outcome {
            Ok(Event::Items { refused }) if refused.iter().any(Option::is_some) => {
                self.note_refused(world, decision);
                None
            }
            Ok(event) => {
                let after = Table::new(registry, &changes);
                self.judge_entry(world, &before, &after, decision);
                self.push(world, after);
                Some(event)
            }
            Err(_) => {
                self.note_refused(world, decision);
                None
            }
        }
    }

    /// A refused entry leaves nothing behind, so the log of a model does without it.
    fn push(&self, world: &mut World, table: Arc<Table>) {
        let last = world.log.len() - 1;
        let still = world.truth().registry.map_version() == table.registry.map_version();
        world.log.push(table);
        for seat in 0..world.processes.len() {
            // A worker reads no renewals and no settings in its table.
            let process = &world.processes[seat];
            if !process.is_alive() || (still && process.at == last) {
                world.process_mut(seat).at = last + 1;
            }
        }
        for seat in 0..world.processes.len() {
            if self.setup.seats[seat].prompt && world.processes[seat].at == last {
                self.learn(world, seat, true);
            }
        }
        if let [_] = world.members[..] {
            self.member_applies(world, 0);
        }
    }

    fn apply(&self, registry: &mut Registry, index: LogIndex, decision: Decision) -> Applied {
        let command = decision.command();
        match (self.mutant, decision) {
            (Some(Mutant::FenceWithoutCompare), Decision::Fence { node, incarnation, .. }) => {
                registry.apply(index, &Command::ReportDeath { node, incarnation })
            }
            (Some(Mutant::AbortNotKeyed), Decision::AbortMove { epoch, id }) => {
                let moving = match registry.shard(SHARD).map(|row| row.holding) {
                    Some(Holding::Moving { id, .. }) => id,
                    Some(Holding::Owned { .. } | Holding::Unassigned) | None => id,
                };
                let items = vec![move_ref(epoch, moving)];
                registry.apply(index, &Command::AbortMove { items })
            }
            (
                Some(Mutant::CommitIgnoresIncarnation),
                Decision::CommitMove { epoch, target, .. },
            ) => commit_anyway(registry, index, &command, epoch, target),
            (Some(Mutant::MarkTakesShards), Decision::Mark { node }) => {
                let (outcome, changes) = registry.apply(index, &command);
                let incarnation =
                    registry.node(node).map(|node| node.incarnation).unwrap_or_default();
                let close = Command::CloseInPlace { node, incarnation };
                let _ = registry.apply(LogIndex(index.0 + 1), &close);
                (outcome, changes)
            }
            (_, _) => registry.apply(index, &command),
        }
    }

    /// A renewal or a Register of a living process comes to its turn.
    pub fn commit_request(&self, world: &mut World, seat: Seat, number: usize) {
        let process = &world.processes[seat];
        let (node, incarnation) = (process.node, process.me);
        let answer = match process.requests[number].call {
            Call::Renew => self.commit_renewal(world, seat),
            Call::Register(registration) => {
                match self.commit(world, Decision::Register(registration)) {
                    Some(Event::Registered { lease_ms, .. }) => Some(Answer::Granted { lease_ms }),
                    Some(_) | None => None,
                }
            }
        };
        let process = world.process_mut(seat);
        if (process.node, process.me) != (node, incarnation) {
            return;
        }
        match answer {
            Some(answer) => process.requests[number].answer = Some(answer),
            // It asks again.
            None => {
                process.requests.remove(number);
            }
        }
    }

    fn commit_renewal(&self, world: &mut World, seat: Seat) -> Option<Answer> {
        let process = &world.processes[seat];
        let (node, incarnation) = (process.node, process.me);
        let before = world.truth().clone();
        let mut registry = before.registry.clone();
        let index = before.next_index(false);
        let command = Command::Renew { sessions: vec![(node, incarnation)] };
        let (Ok(Event::Renewed { refused, lease_ms }), changes) = registry.apply(index, &command)
        else {
            return None;
        };
        if refused.is_empty() {
            self.push(world, Table::new(registry, &changes));
            return Some(Answer::Granted { lease_ms });
        }
        world.saw(Seen::RenewalRefused);
        if self.mutant == Some(Mutant::RenewalAfterFence) {
            return Some(Answer::Granted { lease_ms });
        }
        let row = before.node(node);
        Some(if row.life == Life::Left {
            Answer::Left
        } else if row.marked {
            Answer::Marked
        } else if row.incarnation == incarnation && row.life == Life::Closed {
            Answer::Closed
        } else {
            Answer::Stale
        })
    }
}

/// A registry that commits a move although its target is another process by now: the move that
/// the restart called off is begun anew with that process, and committed.
fn commit_anyway(
    registry: &mut Registry,
    index: LogIndex,
    command: &Command,
    epoch: Epoch,
    target: Process,
) -> Applied {
    let row = registry.shard(SHARD).copied();
    let at_rest =
        row.is_some_and(|row| row.epoch == epoch && matches!(row.holding, Holding::Owned { .. }));
    let now = registry.node(target.node).map(|node| node.incarnation).unwrap_or_default();
    if !at_rest || now == target.incarnation {
        return registry.apply(index, command);
    }
    let begin = BeginMove { shard: SHARD, epoch, target: target.node, incarnation: now };
    let _ = registry.apply(index, &Command::BeginMove { items: vec![begin] });
    let again = move_ref(epoch, MoveId(index.0));
    registry.apply(LogIndex(index.0 + 1), &Command::CommitMove { items: vec![again] })
}
