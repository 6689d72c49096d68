//! The receiving side of one move: prepare, collect, acknowledge, hold until the row decides.
//!
//! It has no timer on purpose: the owner may already have been told that the state is safe
//! here, so only the row may end the holding.

use super::{Action, Body, Message, Process, Refusal, Step, Whole, began};
use crate::registry::{Holding, MoveRef, ShardRow};

#[derive(Clone, Debug, Hash)]
pub struct Target {
    key: MoveRef,
    me: Process,
    source: Process,
    prepared: bool,
    stored: Whole,
    acknowledged: bool,
}

/// What a row says of the state held for this move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The move is not decided, or the row is older than it.
    Hold,
    /// The move brought the shard here: open with the state.
    Open,
    Drop,
}

impl Target {
    pub fn new(key: MoveRef, me: Process, source: Process, actions: &mut Vec<Action>) -> Self {
        actions.push(Action::Prepare(key));
        Self { key, me, source, prepared: false, stored: Whole::default(), acknowledged: false }
    }

    pub fn key(&self) -> MoveRef {
        self.key
    }

    pub fn message(&mut self, body: Body, actions: &mut Vec<Action>) {
        match body {
            // Said again because the answer was lost.
            Body::Prepare { .. } if self.prepared => self.reply(Body::Prepared, actions),
            Body::Whole(whole) if whole == self.stored => {
                self.acknowledged = true;
                self.reply(Body::Holds(whole), actions);
            }
            Body::Whole(_) => self.reply(Body::Refused(Refusal::Differs(self.stored)), actions),
            Body::Prepare { .. } | Body::Prepared | Body::Holds(_) | Body::Refused(_) => {}
        }
    }

    pub fn step(&mut self, step: Step, actions: &mut Vec<Action>) {
        match step {
            Step::Prepared => {
                self.prepared = true;
                self.reply(Body::Prepared, actions);
            }
            Step::CannotPrepare => {
                self.reply(Body::Refused(Refusal::CannotPrepare), actions);
            }
            // What was acknowledged is what will be opened.
            Step::Stored(_) if self.acknowledged => {}
            Step::Stored(stored) => self.stored = stored,
            Step::Round { .. }
            | Step::Measured { .. }
            | Step::Idle
            | Step::RestSent(_)
            | Step::Broken => {}
        }
    }

    /// `via` names the move whose state counts; an assignment after this move must not find it.
    pub fn fate(&self, row: &ShardRow) -> Fate {
        if row.changed < began(self.key.id) {
            return Fate::Hold;
        }
        let (owner, via) = match row.holding {
            Holding::Moving { id, .. } if id == self.key.id => return Fate::Hold,
            // Already moving on: what it brought here must be opened before it can leave.
            Holding::Moving { node, incarnation, via, .. }
            | Holding::Owned { node, incarnation, via } => (Process::new(node, incarnation), via),
            Holding::Unassigned => return Fate::Drop,
        };
        if owner == self.me && via == Some(self.key.id) && self.acknowledged {
            Fate::Open
        } else {
            Fate::Drop
        }
    }

    fn reply(&self, body: Body, actions: &mut Vec<Action>) {
        actions.push(Action::Send { to: self.source, message: Message { key: self.key, body } });
    }
}
