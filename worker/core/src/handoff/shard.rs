//! One shard as one process of a node sees it: who serves it here, and with what state.
//!
//! Follows the node's own table only; hints of others never open anything. Admission reads
//! [`Shard::local`]. Renewing the right to serve and closing in place are not done here.

use super::{
    Action, Body, Message, Output, Process, Refusal, State, Step, began,
    source::{Source, Stance, Turn},
    target::{Fate, Target},
};
use crate::{
    id::{Epoch, LogIndex, MoveId, NodeId, ShardId, Timestamp},
    registry::{Holding, MoveRef, ShardRow},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The row in the node's own applied table.
    Row(ShardRow),
    /// The host opened under this epoch.
    Opened(Epoch),
    Message {
        from: Process,
        message: Message,
    },
    /// The shell finished a step of a move.
    Host {
        key: MoveRef,
        step: Step,
    },
    /// A caller's table is ahead of this one: somebody may own the shard under that epoch.
    NewerEpoch(Epoch),
    /// The process must have left by then.
    LeaveBy(Timestamp),
    Tick,
}

/// Where a shard went when it was closed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tombstone {
    pub to: Option<NodeId>,
    pub epoch: Epoch,
    pub row: LogIndex,
}

/// How the shard stands on this node, as admission reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    Closed {
        tombstone: Option<Tombstone>,
    },
    Opening {
        epoch: Epoch,
    },
    Open {
        epoch: Epoch,
    },
    /// Admitted calls finish, no others are admitted.
    Draining {
        epoch: Epoch,
        id: MoveId,
    },
    /// No call runs; the state waits for the row.
    Frozen {
        epoch: Epoch,
        id: MoveId,
    },
    /// Open, but a higher epoch was seen: serves nothing until its own table says who owns it.
    Superseded {
        epoch: Epoch,
        by: Epoch,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Host {
    Closed { tombstone: Option<Tombstone> },
    Opening { epoch: Epoch },
    Open { epoch: Epoch },
}

#[derive(Clone, Debug, Hash)]
pub struct Shard {
    id: ShardId,
    me: Process,
    row: Option<ShardRow>,
    host: Host,
    source: Option<Source>,
    /// Received, or still being received. More than one only while this table lags.
    targets: Vec<Target>,
    superseded_by: Option<Epoch>,
    leave_by: Option<Timestamp>,
}

impl Shard {
    pub fn new(id: ShardId, me: Process) -> Self {
        Self {
            id,
            me,
            row: None,
            host: Host::Closed { tombstone: None },
            source: None,
            targets: Vec::new(),
            superseded_by: None,
            leave_by: None,
        }
    }

    pub fn on(&mut self, event: Event, now: Timestamp) -> Output {
        let mut actions = Vec::new();
        match event {
            Event::Row(row) => self.on_row(row, now, &mut actions),
            Event::Opened(epoch) => {
                if self.host == (Host::Opening { epoch }) {
                    self.host = Host::Open { epoch };
                    self.follow_move(now, &mut actions);
                }
            }
            Event::Message { from, message } => self.on_message(from, message, now, &mut actions),
            Event::Host { key, step } => self.on_step(key, step, now, &mut actions),
            Event::NewerEpoch(epoch) => {
                if self.row.is_none_or(|row| row.epoch < epoch) {
                    self.superseded_by = self.superseded_by.max(Some(epoch));
                }
            }
            Event::LeaveBy(by) => {
                self.leave_by = Some(by);
                if let Some(source) = &mut self.source {
                    source.leave_by(by);
                }
            }
            Event::Tick => {
                let turn = self
                    .source
                    .as_mut()
                    .map_or(Turn::Stay, |source| source.tick(now, &mut actions));
                self.turn(turn, &mut actions);
            }
        }
        Output { actions, wake_at: self.wake_at() }
    }

    pub fn local(&self) -> Local {
        let epoch = match self.host {
            Host::Closed { tombstone } => return Local::Closed { tombstone },
            Host::Opening { epoch } => return Local::Opening { epoch },
            Host::Open { epoch } => epoch,
        };
        if let Some(by) = self.superseded_by {
            return Local::Superseded { epoch, by };
        }
        match &self.source {
            Some(source) => {
                let id = source.key().id;
                match source.stance() {
                    Stance::Serving => Local::Open { epoch },
                    Stance::Draining => Local::Draining { epoch, id },
                    Stance::Frozen => Local::Frozen { epoch, id },
                }
            }
            None => Local::Open { epoch },
        }
    }

    /// The moves whose state this node holds or receives.
    pub fn receiving(&self) -> impl Iterator<Item = MoveRef> + '_ {
        self.targets.iter().map(Target::key)
    }

    /// Nothing to open, keep or say: the shell may forget this shard.
    pub fn is_idle(&self) -> bool {
        matches!(self.host, Host::Closed { .. }) && self.source.is_none() && self.targets.is_empty()
    }

    pub fn wake_at(&self) -> Option<Timestamp> {
        self.source.as_ref().and_then(Source::wake_at)
    }

    fn on_row(&mut self, row: ShardRow, now: Timestamp, actions: &mut Vec<Action>) {
        // A table never goes back; a late answer must not teach a released shard again.
        if self.row.is_some_and(|known| row.changed <= known.changed) {
            return;
        }
        self.row = Some(row);
        self.superseded_by = self.superseded_by.filter(|by| *by > row.epoch);
        if let Some(source) = &mut self.source {
            let turn = source.row(&row, actions);
            if source.is_over() {
                self.source = None;
            }
            self.turn(turn, actions);
        }
        self.follow_owner(&row, actions);
        self.follow_move(now, actions);
    }

    /// Opens and closes the host as the row says, and decides what was received.
    fn follow_owner(&mut self, row: &ShardRow, actions: &mut Vec<Action>) {
        let mine = row.owner() == Some((self.me.node, self.me.incarnation));
        let kept = match self.host {
            Host::Closed { .. } => false,
            Host::Opening { epoch } | Host::Open { epoch } => mine && epoch == row.epoch,
        };
        if !kept {
            self.close(actions);
        }
        let mut with = State::Empty;
        self.targets.retain(|target| match target.fate(row) {
            Fate::Hold => true,
            Fate::Open => {
                with = State::Received(target.key().id);
                false
            }
            Fate::Drop => {
                actions.push(Action::Discard(target.key()));
                false
            }
        });
        if mine && !kept {
            self.host = Host::Opening { epoch: row.epoch };
            actions.push(Action::Open { epoch: row.epoch, with });
        }
    }

    /// Starts the owner's side once the shard that moves away is open here.
    fn follow_move(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let Some(row) = self.row else { return };
        let Holding::Moving { node, incarnation, target, target_incarnation, id, .. } = row.holding
        else {
            return;
        };
        let open = self.host == (Host::Open { epoch: row.epoch });
        let known = self.source.as_ref().is_some_and(|source| source.key().id == id);
        if Process::new(node, incarnation) != self.me || !open || known {
            return;
        }
        let key = MoveRef { shard: self.id, epoch: row.epoch, id };
        let target = Process::new(target, target_incarnation);
        self.source = Some(Source::new(key, self.me, target, self.leave_by, now, actions));
    }

    fn on_message(
        &mut self,
        from: Process,
        message: Message,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        match message.body {
            Body::Prepare { .. } | Body::Whole(_) => self.for_target(from, message, actions),
            Body::Prepared | Body::Holds(_) | Body::Refused(_) => {
                let turn = match &mut self.source {
                    Some(source) if source.is_with(from) && source.key() == message.key => {
                        source.message(message.body, now, actions)
                    }
                    Some(_) | None => Turn::Stay,
                };
                self.turn(turn, actions);
            }
        }
    }

    fn for_target(&mut self, from: Process, message: Message, actions: &mut Vec<Action>) {
        let key = message.key;
        if let Some(target) = self.targets.iter_mut().find(|target| target.key() == key) {
            return target.message(message.body, actions);
        }
        let refusal = match message.body {
            Body::Prepare { target } if target != self.me.incarnation => Refusal::OtherIncarnation,
            Body::Prepare { .. } if self.may_receive(key, from) => {
                self.targets.push(Target::new(key, self.me, from, actions));
                return;
            }
            Body::Prepare { .. }
            | Body::Whole(_)
            | Body::Prepared
            | Body::Holds(_)
            | Body::Refused(_) => Refusal::Over,
        };
        actions.push(Action::Send {
            to: from,
            message: Message { key, body: Body::Refused(refusal) },
        });
    }

    /// A table that has not reached the move yet cannot judge it; one that has, must show it.
    fn may_receive(&self, key: MoveRef, from: Process) -> bool {
        let Some(row) = self.row.filter(|row| row.changed >= began(key.id)) else {
            return true;
        };
        match row.holding {
            Holding::Moving { node, incarnation, target, target_incarnation, id, .. } => {
                id == key.id
                    && Process::new(node, incarnation) == from
                    && Process::new(target, target_incarnation) == self.me
            }
            Holding::Owned { .. } | Holding::Unassigned => false,
        }
    }

    fn on_step(&mut self, key: MoveRef, step: Step, now: Timestamp, actions: &mut Vec<Action>) {
        if let Some(target) = self.targets.iter_mut().find(|target| target.key() == key) {
            target.step(step, actions);
        }
        let turn = match &mut self.source {
            Some(source) if source.key() == key => source.step(step, now, actions),
            Some(_) | None => Turn::Stay,
        };
        self.turn(turn, actions);
    }

    fn turn(&mut self, turn: Turn, actions: &mut Vec<Action>) {
        let epoch = match self.host {
            Host::Closed { .. } => return,
            Host::Opening { epoch } | Host::Open { epoch } => epoch,
        };
        match turn {
            Turn::Stay => {}
            Turn::Resume(key) => actions.push(Action::Resume(key)),
            Turn::Reopen => {
                self.host = Host::Opening { epoch };
                actions.push(Action::Open { epoch, with: State::Frozen });
            }
            Turn::Leave => self.close(actions),
        }
    }

    fn close(&mut self, actions: &mut Vec<Action>) {
        let tombstone = self.row.map(|row| Tombstone {
            to: row.owner().map(|(node, _)| node),
            epoch: row.epoch,
            row: row.changed,
        });
        match self.host {
            Host::Closed { tombstone: None } => {}
            Host::Closed { tombstone: Some(_) } => self.host = Host::Closed { tombstone },
            Host::Opening { .. } | Host::Open { .. } => {
                self.host = Host::Closed { tombstone };
                actions.push(Action::Close);
            }
        }
    }
}
