//! Calls and effects: admitted, acknowledged or withheld, and written to a store.
//!
//! Between the admission and the check before the acknowledgement anything may happen, and
//! between the check before an effect and the effect as well. The two checks are the real ones.

use std::time::Duration;

use shoal_core::{
    admit::{
        Header,
        owner::{Facts, Queue, Recheck, Verdict, admit, recheck},
    },
    handoff::Local,
    id::Epoch,
};

use crate::{
    judge::Seen,
    mutant::Mutant,
    process::Phase,
    protocol::Protocol,
    world::{Seat, World},
};

impl Protocol {
    /// The token under which a call would be admitted now.
    pub fn admits(&self, world: &World, seat: Seat) -> Option<Epoch> {
        let process = &world.processes[seat];
        if process.phase != Phase::Registered || process.call.is_some() {
            return None;
        }
        let (table, row) = (&world.log[process.at].registry, self.row_of(world, seat));
        let header = Header {
            epoch: row.epoch,
            map_version: table.map_version(),
            budget: Duration::from_secs(1),
        };
        let facts = Facts {
            me: process.process(),
            row: Some(row),
            applied: table.applied(),
            map_version: table.map_version(),
            local: process.shard.local(),
            right: self.right(world, seat),
            now: self.clocks.worker(world.now),
            header,
            waited: Duration::ZERO,
            queue: Queue { calls: 0, max_calls: 1 },
        };
        match admit(&facts).verdict {
            Verdict::Admit { epoch, .. } => Some(epoch),
            Verdict::Wait(_) | Verdict::Nack(_) => None,
        }
    }

    pub fn admit(&self, world: &mut World, seat: Seat) {
        if let Some(epoch) = self.admits(world, seat) {
            world.left.calls -= 1;
            world.process_mut(seat).call = Some(epoch);
        }
    }

    fn passes(&self, world: &World, seat: Seat, admitted: Epoch) -> bool {
        let process = &world.processes[seat];
        let facts = Recheck {
            me: process.process(),
            admitted,
            row: Some(self.row_of(world, seat)),
            local: process.shard.local(),
            right: self.right(world, seat),
            now: self.clocks.worker(world.now),
        };
        recheck(&facts).is_ok()
    }

    /// A call under the present token would be acknowledged at this instant.
    pub fn may_acknowledge(&self, world: &World, seat: Seat) -> bool {
        let process = &world.processes[seat];
        if !process.may_have_right() {
            return false;
        }
        match process.shard.local() {
            Local::Closed { .. } => false,
            Local::Opening { epoch }
            | Local::Open { epoch }
            | Local::Draining { epoch, .. }
            | Local::Frozen { epoch, .. }
            | Local::Superseded { epoch, .. } => self.passes(world, seat, epoch),
        }
    }

    /// The call has run: it is acknowledged, or its answer is withheld.
    pub fn acknowledge(&self, world: &mut World, seat: Seat) {
        let Some(epoch) = world.process_mut(seat).call.take() else { return };
        let may = world.processes[seat].may_have_right() && self.passes(world, seat, epoch);
        if may || self.mutant == Some(Mutant::NoRecheck) {
            self.judge_acknowledgement(world, seat, epoch);
        } else {
            world.saw(Seen::Withheld);
        }
        self.drained(world, seat);
        self.go_on(world, seat);
    }

    /// The app asks whether it still owns the shard, and sends its write.
    pub fn check(&self, world: &mut World, seat: Seat) {
        world.left.effects -= 1;
        let epoch = self.row_of(world, seat).epoch;
        let place = world.writes.partition_point(|other| *other <= epoch);
        world.writes.insert(place, epoch);
    }

    pub fn write(&self, world: &mut World, epoch: Epoch) {
        if let Some(place) = world.writes.iter().position(|other| *other == epoch) {
            world.writes.remove(place);
            self.judge_write(world, epoch);
        }
    }
}
