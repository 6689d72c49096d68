//! A process that is told to stop: hands over, closes, or closes in place, as its shell does.

use std::time::Duration;

use shoal_core::{
    id::{Incarnation, NodeId, Timestamp},
    registry::{Command, Drain, Life},
    session::holder::{Answer, Event, Refusal},
};

use crate::{
    clock::{MS, True},
    requests::{AskBody, For},
    world::{Place, World},
};

/// What SIGTERM leaves a process.
const BUDGET: Duration = Duration::from_secs(20);
/// Kept back of it for closing in place.
const RESERVE: Duration = Duration::from_secs(4);
const ASK_EVERY: True = 150 * MS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Asking,
    Draining,
    Closing,
    GaveUp,
}

#[derive(Clone, Copy, Debug)]
pub struct Leaving {
    phase: Phase,
    by: Timestamp,
    next: True,
}

impl World {
    /// SIGTERM: the process comes back after a while.
    pub fn told_to_stop(&mut self, place: Place) {
        if self.nodes[place].live.is_none() || self.live(place).leaving.is_some() {
            return;
        }
        self.note(format_args!("{place} is told to stop"));
        let now = self.clock(place);
        let by = now.plus(BUDGET.saturating_sub(RESERVE));
        self.live_mut(place).leaving = Some(Leaving { phase: Phase::Asking, by, next: 0 });
        self.tell_holder(place, Event::Leaving);
        self.leave_by(place, now.plus(BUDGET));
        if self.live(place).holder.is_none() {
            self.crash(place);
            self.schedule(self.now + 500 * MS, crate::world::Event::Start(place));
        }
    }

    /// Whether somebody else should have the shards of this slow disk.
    pub fn ask_of_drain(&mut self, place: Place, command: fn(NodeId, Incarnation) -> Command) {
        let Some(me) = self.live(place).node() else { return };
        self.ask_member(place, command(me.node, me.incarnation));
    }

    fn ask_member(&mut self, place: Place, command: Command) {
        let member = self.random.below(self.nodes.len() as u64) as Place;
        self.ask(place, member, For::Leave, AskBody::Propose(command));
    }

    pub fn poll_leave(&mut self, place: Place) {
        let Some(leaving) = self.live(place).leaving else { return };
        let now = self.clock(place);
        let Some(me) = self.live(place).node() else {
            if leaving.phase != Phase::GaveUp {
                self.give_up(place);
            }
            return;
        };
        let table = &self.live(place).table;
        let mine = table
            .node(me.node)
            .filter(|row| row.life == Life::Up && row.incarnation == me.incarnation);
        let held = table.held(me.node);
        let others = table.nodes().any(|(id, _)| id != me.node && table.is_target(id));
        let drains = mine.is_some_and(|row| row.drain != Drain::None);
        let empty = held.owned == 0 && held.receiving == 0;
        if leaving.phase == Phase::GaveUp {
            return;
        }
        if mine.is_none() && leaving.phase != Phase::Closing
            || now.maybe_past(leaving.by)
            || drains && !empty && !others
        {
            return self.give_up(place);
        }
        if self.now < leaving.next {
            return;
        }
        let next = Leaving { next: self.now + ASK_EVERY, ..leaving };
        let (phase, command) = match (drains, empty) {
            (false, _) => {
                let drain = Command::Leave { node: me.node, incarnation: me.incarnation };
                (Phase::Asking, Some(drain))
            }
            (true, false) => (Phase::Draining, None),
            (true, true) => {
                let close = Command::Close { node: me.node, incarnation: me.incarnation };
                (Phase::Closing, Some(close))
            }
        };
        self.live_mut(place).leaving = Some(Leaving { phase, ..next });
        if phase == Phase::Closing && leaving.phase != Phase::Closing {
            self.tell_holder(place, Event::ToldToStop);
        }
        if let (Some(command), true) = (command, self.nodes[place].live.is_some()) {
            self.ask_member(place, command);
        }
    }

    pub fn leave_answer(&mut self, place: Place, answer: Answer) {
        let closed = match answer {
            Answer::Granted { .. } => true,
            Answer::Refused(refusal) => refusal == Refusal::Closed,
            Answer::NotLeader { .. } | Answer::Failed => false,
        };
        let closing = |leaving: Leaving| leaving.phase == Phase::Closing;
        if closed && self.live(place).leaving.is_some_and(closing) {
            self.saw("left empty");
        }
    }

    fn give_up(&mut self, place: Place) {
        self.saw("closed in place");
        if let Some(leaving) = &mut self.live_mut(place).leaving {
            leaving.phase = Phase::GaveUp;
        }
        self.tell_holder(place, Event::ToldToStop);
        if self.nodes[place].live.is_some() {
            self.tell_holder(place, Event::GiveUp);
        }
    }
}
