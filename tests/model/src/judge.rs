//! What must never be seen, and what must have been seen for a search to mean anything.

use shoal_core::{
    id::Epoch,
    registry::{Holding, Life, check_step},
};

use crate::{
    decision::Decision,
    protocol::Protocol,
    table::Table,
    world::{Seat, World},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// Two processes pass the check before an acknowledgement at one instant.
    TwoOwners,
    /// An acknowledgement under an older token than one before.
    LateAcknowledgement,
    /// A member that applied everything holds a session for expired that has a right.
    RightOutlives,
    /// A process that passes the check is not the owner in the committed log.
    NotTheOwner,
    /// The registry contradicts itself, or an epoch fell.
    Unsound,
    /// What was acknowledged is not in the state, or the state is of another lineage.
    StateLost,
    /// Received state was opened although another move, or none, brought the shard.
    OpenedWithoutVia,
    /// The store took a write with an older token than it had seen.
    StaleWrite,
    /// A move ended by an abort that names another.
    ForeignAbort,
}

/// Each must be reached somewhere in the configurations that name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Seen {
    Fence,
    FenceRefused,
    RenewalRefused,
    Granted,
    RightEnded,
    Commit,
    CommitRefused,
    Abort,
    AbortRefused,
    BeginRefused,
    Reopened,
    OpenedReceived,
    Discarded,
    FirstOwnerAcks,
    SecondOwnerAcks,
    Withheld,
    StaleWriteRefused,
    Registered,
    RegisterRefused,
    RegisterWaits,
    Reowned,
    DeathReported,
    DeathRefused,
    ClosedInPlace,
    Closed,
    CloseRefused,
    Cancelled,
    Marked,
    Left,
    LeaseChanged,
    Settled,
    LateRowShown,
    CrashAfterRelease,
    StaleLeaderDecides,
    MemberRestarts,
    TwoRunOneDirectory,
    LongGap,
    FloorHolds,
}

impl Seen {
    pub fn bit(self) -> u64 {
        1 << (self as u32)
    }
}

/// The truth that no machine can read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Oracle {
    /// The highest token under which anybody acknowledged.
    pub token: Epoch,
    /// Acknowledged since the shard was last opened empty.
    pub acknowledged: u8,
    /// The highest token that the store took.
    pub stored: Epoch,
    pub violation: Option<Violation>,
}

impl Protocol {
    pub fn fail(&self, world: &mut World, violation: Violation) {
        world.oracle.violation.get_or_insert(violation);
    }

    /// Looks at all processes at one instant.
    pub fn judge_instant(&self, world: &mut World) {
        let passing = (0..world.processes.len()).filter(|seat| self.may_acknowledge(world, *seat));
        let passing: Vec<Seat> = passing.collect();
        if passing.len() > 1 {
            self.fail(world, Violation::TwoOwners);
        }
        // What follows is seen before the harm that comes of it: a mutant is wanted for the harm.
        if self.mutant.is_some() {
            return;
        }
        let truth = world.truth().row();
        let owner = |seat: &Seat| {
            let process = &world.processes[*seat];
            let row = self.row_of(world, *seat);
            truth.epoch == row.epoch && truth.owner() == Some((process.node, process.me))
        };
        if !passing.iter().all(owner) {
            self.fail(world, Violation::NotTheOwner);
        }
        if self.a_right_outlives(world) {
            self.fail(world, Violation::RightOutlives);
        }
    }

    fn a_right_outlives(&self, world: &World) -> bool {
        let now = self.clocks.member(world.now);
        let last = world.log.len() - 1;
        let up_to_date = world.members.iter().filter(|member| member.at == last);
        let passed = |node| up_to_date.clone().any(|member| member.expiry.has_passed(node, now));
        let mut rights = world.processes.iter().filter(|process| process.right.is_some());
        rights.any(|process| !process.steady && passed(process.node))
    }

    pub fn judge_entry(
        &self,
        world: &mut World,
        before: &Table,
        after: &Table,
        decision: Decision,
    ) {
        let (old, new) = (before.row(), after.row());
        if new.epoch < old.epoch {
            self.fail(world, Violation::Unsound);
        }
        if self.mutant.is_none() {
            let unsound = after.registry.check().into_iter();
            let mut unsound = unsound.chain(check_step(&before.registry, &after.registry));
            if unsound.next().is_some() {
                self.fail(world, Violation::Unsound);
            }
        }
        if new.epoch != old.epoch && !matches!(new.holding, Holding::Owned { via: Some(_), .. }) {
            world.oracle.acknowledged = 0;
        }
        if let (Decision::AbortMove { id, .. }, Holding::Moving { id: moving, .. }) =
            (decision, old.holding)
            && id != moving
            && new.changed != old.changed
        {
            self.fail(world, Violation::ForeignAbort);
        }
        self.note_entry(world, before, after, decision);
    }

    fn note_entry(&self, world: &mut World, before: &Table, after: &Table, decision: Decision) {
        let (old, new) = (before.row(), after.row());
        let seen = match decision {
            Decision::Register(registration) => {
                let same = new.owner() == Some((registration.node, registration.incarnation));
                if same { Seen::Reowned } else { Seen::Registered }
            }
            Decision::Fence { .. } => Seen::Fence,
            Decision::ReportDeath { .. } => Seen::DeathReported,
            Decision::CloseInPlace { .. } => Seen::ClosedInPlace,
            Decision::Close { .. } => Seen::Closed,
            Decision::CancelDrain { .. } => Seen::Cancelled,
            Decision::Mark { .. } => Seen::Marked,
            Decision::Remove { .. } => Seen::Left,
            Decision::CommitMove { .. } => Seen::Commit,
            Decision::AbortMove { .. } => Seen::Abort,
            Decision::Configure { .. } => Seen::LeaseChanged,
            Decision::Settle { .. } => Seen::Settled,
            Decision::DrainRestart { .. }
            | Decision::DrainRemoval { .. }
            | Decision::Assign { .. }
            | Decision::BeginMove { .. } => {
                // A drain of the target ends the move as well.
                if old.target().is_some() && new.target().is_none() {
                    world.saw(Seen::Abort);
                }
                return;
            }
        };
        world.saw(seen);
    }

    pub fn note_refused(&self, world: &mut World, decision: Decision) {
        let seen = match decision {
            Decision::Register(_) => Seen::RegisterRefused,
            Decision::Fence { .. } => Seen::FenceRefused,
            Decision::ReportDeath { .. } => Seen::DeathRefused,
            Decision::CommitMove { .. } => Seen::CommitRefused,
            Decision::AbortMove { .. } => Seen::AbortRefused,
            Decision::BeginMove { .. } => Seen::BeginRefused,
            Decision::Close { .. } => Seen::CloseRefused,
            Decision::CloseInPlace { .. }
            | Decision::DrainRestart { .. }
            | Decision::DrainRemoval { .. }
            | Decision::CancelDrain { .. }
            | Decision::Mark { .. }
            | Decision::Remove { .. }
            | Decision::Assign { .. }
            | Decision::Configure { .. }
            | Decision::Settle { .. } => return,
        };
        world.saw(seen);
    }

    /// The acknowledgement of a call that was admitted under `epoch`.
    pub fn judge_acknowledgement(&self, world: &mut World, seat: Seat, epoch: Epoch) {
        if epoch < world.oracle.token {
            self.fail(world, Violation::LateAcknowledgement);
        }
        let first = world.first_owner;
        let process = world.process_mut(seat);
        let me = (process.node, process.me);
        if let Some(value) = &mut process.host {
            *value += 1;
        }
        let value = process.host;
        let row = world.truth().row();
        if row.epoch == epoch && row.owner() == Some(me) {
            world.oracle.acknowledged += 1;
            if value != Some(world.oracle.acknowledged) {
                self.fail(world, Violation::StateLost);
            }
        }
        world.oracle.token = world.oracle.token.max(epoch);
        let first = first == me;
        world.saw(if first { Seen::FirstOwnerAcks } else { Seen::SecondOwnerAcks });
    }

    /// A write of the app arrives at its store, which compares the token.
    pub fn judge_write(&self, world: &mut World, epoch: Epoch) {
        let stale = epoch < world.oracle.stored;
        if stale && self.mutant != Some(crate::mutant::Mutant::StoreTakesAnyToken) {
            return world.saw(Seen::StaleWriteRefused);
        }
        if stale {
            self.fail(world, Violation::StaleWrite);
        }
        world.oracle.stored = epoch;
    }

    pub fn is_up(table: &Table, seat: &crate::process::Process) -> bool {
        let node = table.node(seat.node);
        node.life == Life::Up && node.incarnation == seat.me
    }
}
