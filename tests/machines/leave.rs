//! A process that is told to stop: hands over, closes, or closes in place, as its shell does.

use std::time::Duration;

use shoal_core::{
    handoff::Process,
    id::{Incarnation, NodeId},
    registry::Command,
    session::{
        holder::{Answer, Event, Refusal},
        leave::{Leaver, Standing, Step},
    },
};

use crate::{
    clock::MS,
    requests::{AskBody, For},
    world::{Place, World},
};

/// What SIGTERM leaves a process.
const BUDGET: Duration = Duration::from_secs(20);
/// Kept back of it for closing in place.
const RESERVE: Duration = Duration::from_secs(4);

#[derive(Clone, Copy, Debug)]
pub struct Leaving {
    leaver: Leaver,
    gave_up: bool,
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
        let leaving = Leaving { leaver: Leaver::new(by), gave_up: false };
        self.live_mut(place).leaving = Some(leaving);
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
        let Some(mut leaving) = self.live(place).leaving.filter(|leaving| !leaving.gave_up) else {
            return;
        };
        let Some(me) = self.live(place).node() else { return self.give_up(place) };
        let Process { node, incarnation, .. } = me;
        let standing = Standing::of(&self.live(place).table, node, incarnation);
        let closed_before = leaving.leaver.is_closing();
        let step = leaving.leaver.on(standing, self.clock(place));
        self.live_mut(place).leaving = Some(leaving);
        if step == Step::Close && !closed_before {
            self.tell_holder(place, Event::ToldToStop);
        }
        let command = match step {
            Step::Wait | Step::Closed => return,
            Step::Drain => Command::Leave { node, incarnation },
            Step::Close => Command::Close { node, incarnation },
            Step::GiveUp => return self.give_up(place),
        };
        if self.nodes[place].live.is_some() {
            self.ask_member(place, command);
        }
    }

    pub fn leave_answer(&mut self, place: Place, answer: Answer) {
        let closed = match answer {
            Answer::Granted { .. } => true,
            Answer::Refused(refusal) => refusal == Refusal::Closed,
            Answer::NotLeader { .. } | Answer::Failed => false,
        };
        if closed && self.live(place).leaving.is_some_and(|leaving| leaving.leaver.is_closing()) {
            self.saw("left empty");
        }
    }

    fn give_up(&mut self, place: Place) {
        self.saw("closed in place");
        if let Some(leaving) = &mut self.live_mut(place).leaving {
            leaving.gave_up = true;
        }
        self.tell_holder(place, Event::ToldToStop);
        if self.nodes[place].live.is_some() {
            self.tell_holder(place, Event::GiveUp);
        }
    }
}
