//! The shards of one incarnation: their machines, what their hosts do in order, and the two
//! ends of their hand-overs. A host holds one counter per shard and forgets it with the process.

mod jobs;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shoal_core::{
    handoff::{
        Action, DRAIN_CAP, Local, Message as Said, News, Process, Shard, State, Step, Whole,
        shard::Event,
    },
    id::{Epoch, Incarnation, LogIndex, MoveId, ShardId, Timestamp},
    registry::{Holding, MoveRef, ShardRow},
    session::holder,
};

use crate::{
    clock::{MS, True},
    mutant::Mutant,
    requests::{AskBody, For},
    world::{Due, Message, Place, World},
};

/// What a host holds of a shard: acknowledged increments and others, since which empty opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counter {
    pub lineage: u64,
    pub count: u64,
}

/// One incarnation.
pub struct Life {
    pub me: Process,
    pub slots: BTreeMap<ShardId, Slot>,
    seen: LogIndex,
    pub shut_at: Option<Timestamp>,
    pub leave_by: Option<Timestamp>,
}

pub struct Slot {
    pub machine: Shard,
    wakes: Option<Timestamp>,
    /// Admitted and not yet ended.
    pub calls: BTreeSet<u64>,
    draining: Option<MoveRef>,
    jobs: VecDeque<Action>,
    working: bool,
    pub open: Option<Counter>,
    pub frozen: Option<Counter>,
    received: Option<(MoveRef, Transfer, True)>,
    sent: Option<(MoveRef, Transfer)>,
    /// Rounds that the first phase of the present move takes.
    rounds: u64,
}

/// What went over the wire for one move, seen from either end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Transfer {
    parts: u64,
    state: Counter,
    whole: Whole,
}

impl Transfer {
    fn add(&mut self, part: Counter) {
        self.parts += 1;
        self.state = Counter { lineage: part.lineage, count: self.state.count + part.count };
        self.whole.length += 1 + part.count;
        let mixed = part.lineage.wrapping_mul(7).wrapping_add(part.count + 1);
        self.whole.digest = self.whole.digest.wrapping_mul(31).wrapping_add(mixed);
    }
}

#[derive(Clone, Debug)]
pub enum Packet {
    Said { from: Process, to: Process, said: Said },
    Part { to: Process, key: MoveRef, number: u64, part: Counter },
}

/// The next job of a shard's host.
#[derive(Clone, Copy, Debug)]
pub enum Task {
    Job {
        shard: ShardId,
        of: Incarnation,
    },
    /// The stream of a move broke.
    Broken {
        key: MoveRef,
        of: Incarnation,
    },
}

impl Slot {
    fn new(shard: ShardId, me: Process) -> Self {
        Self {
            machine: Shard::new(shard, me),
            wakes: None,
            calls: BTreeSet::new(),
            draining: None,
            jobs: VecDeque::new(),
            working: false,
            open: None,
            frozen: None,
            received: None,
            sent: None,
            rounds: 0,
        }
    }
}

impl World {
    pub fn new_life(&mut self, place: Place, incarnation: Incarnation) {
        let Some(node) = self.nodes[place].disk.node else { return };
        self.live_mut(place).life = Some(Life {
            me: Process::new(node, incarnation),
            slots: BTreeMap::new(),
            seen: LogIndex(0),
            shut_at: None,
            leave_by: None,
        });
        self.follow_rows(place);
    }

    /// Admits nothing more; calls get a while to end.
    pub fn shut_life(&mut self, place: Place) {
        let now = self.clock(place);
        if let Some(life) = &mut self.live_mut(place).life {
            life.shut_at.get_or_insert(now);
        }
    }

    pub fn poll_shards(&mut self, place: Place) {
        let now = self.clock(place);
        self.tick_slots(place, now);
        self.finish_life(place, now);
    }

    fn tick_slots(&mut self, place: Place, now: Timestamp) {
        let forgets = self.setup.mutant == Some(Mutant::TargetDropsByTimer);
        let true_now = self.now;
        let Some(life) = &mut self.live_mut(place).life else { return };
        if life.shut_at.is_some() {
            return;
        }
        let mut due = Vec::new();
        for (shard, slot) in &mut life.slots {
            if forgets {
                slot.received.take_if(|(_, _, since)| true_now > *since + 400 * MS);
            }
            if slot.wakes.is_some_and(|at| now.maybe_past(at)) {
                due.push(*shard);
            }
        }
        for shard in due {
            self.slot_event(place, shard, Event::Tick);
        }
        if self.random.percent(2) {
            self.late_answer(place);
        }
    }

    /// An answer that was sent long ago tells of a row as it was then.
    fn late_answer(&mut self, place: Place) {
        let live = self.live(place);
        let (applied, shard) = (live.applied, ShardId(self.now as u32 / 7 % crate::world::SHARDS));
        let back = self.random.below(40) as usize;
        let past = &self.log.history[applied.saturating_sub(back)];
        let Some(mut row) = past.shard(shard).copied() else { return };
        let present = self.live(place).table.shard(shard).copied();
        if present.is_none_or(|present| present.changed <= row.changed) {
            return;
        }
        self.saw("late row shown");
        if self.setup.mutant == Some(Mutant::LateAnswerLearned) {
            let live = self.live_mut(place);
            live.owner.late.insert(shard, row);
            // Shown as the newest of all that was shown.
            row.changed = LogIndex(live.table.applied().0 * 2);
        }
        self.slot_event(place, shard, Event::Row(row));
    }

    /// Closes a shut life once no call runs, and begins the next if one waits.
    fn finish_life(&mut self, place: Place, now: Timestamp) {
        if let Some(life) = &self.live(place).life {
            let Some(shut) = life.shut_at else { return };
            let calls: Vec<u64> =
                life.slots.values().flat_map(|slot| slot.calls.iter().copied()).collect();
            if !calls.is_empty() {
                if now.at_least_since(shut) >= DRAIN_CAP {
                    self.cancel(place, &calls);
                }
                return;
            }
            let closed = life.me.incarnation;
            self.live_mut(place).life = None;
            if self.live(place).closing == Some(closed) {
                self.live_mut(place).closing = None;
                self.tell_holder(place, holder::Event::AllClosed(closed));
            }
        } else if let Some(closing) = self.live_mut(place).closing.take() {
            self.tell_holder(place, holder::Event::AllClosed(closing));
        }
        let Some(live) = &mut self.nodes[place].live else { return };
        if live.life.is_none()
            && let Some(incarnation) = live.beginning.take()
        {
            self.begin(place, incarnation);
        }
    }

    /// Tells every slot that it concerns which rows changed.
    pub fn follow_rows(&mut self, place: Place) {
        let live = self.live_mut(place);
        let Some(life) = &mut live.life else { return };
        if life.shut_at.is_some() {
            return;
        }
        let seen = std::mem::replace(&mut life.seen, live.table.applied());
        let me = (life.me.node, life.me.incarnation);
        let rows: Vec<(ShardId, ShardRow)> = live
            .table
            .shards()
            .filter(|(_, row)| row.changed > seen)
            .map(|(id, row)| (id, *row))
            .collect();
        for (shard, row) in rows {
            self.live_mut(place).owner.late.remove(&shard);
            let known = self.has_slot(place, shard);
            if known {
                let row = self.bend_row(place, shard, row);
                self.slot_event(place, shard, Event::Row(row));
            } else if row.owner() == Some(me) {
                self.slot(place, shard);
            }
        }
    }

    /// One mutant takes whatever was received for what the row brought.
    fn bend_row(&self, place: Place, shard: ShardId, mut row: ShardRow) -> ShardRow {
        let life = self.live(place).life.as_ref();
        let slot = life.and_then(|life| life.slots.get(&shard));
        if self.setup.mutant == Some(Mutant::OpenedWithoutVia)
            && let Some((key, _, _)) = slot.and_then(|slot| slot.received)
            && let Holding::Owned { via, .. } = &mut row.holding
        {
            *via = Some(key.id);
        }
        row
    }

    fn has_slot(&self, place: Place, shard: ShardId) -> bool {
        self.live(place).life.as_ref().is_some_and(|life| life.slots.contains_key(&shard))
    }

    /// Makes the slot of a shard that exists; false once this life closes.
    pub fn slot(&mut self, place: Place, shard: ShardId) -> bool {
        if self.has_slot(place, shard) {
            return true;
        }
        let live = self.live_mut(place);
        let Some(row) = live.table.shard(shard).copied() else { return false };
        let Some(life) = live.life.as_mut().filter(|life| life.shut_at.is_none()) else {
            return false;
        };
        life.slots.insert(shard, Slot::new(shard, life.me));
        if let Some(by) = life.leave_by {
            self.slot_event(place, shard, Event::LeaveBy(by));
        }
        let row = self.bend_row(place, shard, row);
        self.slot_event(place, shard, Event::Row(row));
        true
    }

    pub fn local(&self, place: Place, shard: ShardId) -> Local {
        let life = self.live(place).life.as_ref();
        let slot = life.and_then(|life| life.slots.get(&shard));
        slot.map_or(Local::Closed { tombstone: None }, |slot| slot.machine.local())
    }

    fn slot_mut(&mut self, place: Place, shard: ShardId) -> Option<&mut Slot> {
        self.live_mut(place).life.as_mut()?.slots.get_mut(&shard)
    }

    pub fn slot_event(&mut self, place: Place, shard: ShardId, event: Event) {
        let now = self.clock(place);
        let Some(life) = &mut self.live_mut(place).life else { return };
        if life.shut_at.is_some() {
            return;
        }
        let Some(slot) = life.slots.get_mut(&shard) else { return };
        let output = slot.machine.on(event, now);
        slot.wakes = output.wake_at;
        for action in output.actions {
            self.perform_move(place, shard, action);
        }
    }

    fn perform_move(&mut self, place: Place, shard: ShardId, action: Action) {
        let Some(me) = self.live(place).node() else { return };
        let Some(slot) = self.slot_mut(place, shard) else { return };
        match action {
            Action::Send { to, message } => {
                if let Some(there) = self.place_of(to.node) {
                    let packet = Packet::Said { from: me, to, said: message };
                    self.send(place, there, Message::Handover(packet));
                }
            }
            Action::Report(report) => {
                if report.news == News::Released {
                    self.saw("released");
                    if self.setup.mutant == Some(Mutant::StateDroppedAtReleased)
                        && let Some(slot) = self.slot_mut(place, shard)
                    {
                        slot.frozen = None;
                    }
                }
                if let News::GaveUp(_) = report.news {
                    self.saw("move given up");
                }
                let heard = report.news != News::Released || self.spring(place, report.target);
                if heard && self.nodes[place].live.is_some() {
                    let member = self.live(place).usual;
                    self.ask(place, member, For::Nobody, AskBody::Report(report));
                }
            }
            Action::Drain(key) if slot.calls.is_empty() => {
                self.slot_event(place, shard, Event::Host { key, step: Step::Idle });
            }
            Action::Drain(key) => slot.draining = Some(key),
            Action::CancelCalls(_) => {
                self.saw("calls cancelled for a deadline");
                self.cancel_shard(place, shard);
            }
            Action::StopTransfer(_) => {}
            Action::Resume(_) => slot.draining = None,
            Action::Close => {
                slot.draining = None;
                self.cancel_shard(place, shard);
                self.enqueue(place, shard, action);
            }
            Action::Prepare(_)
            | Action::Export { .. }
            | Action::Freeze { .. }
            | Action::Open { .. }
            | Action::Discard(_) => self.enqueue(place, shard, action),
        }
    }

    pub fn handover(&mut self, place: Place, packet: Packet) {
        let Some(me) = self.live(place).node() else { return };
        match packet {
            Packet::Said { from, to, said } => {
                if to.node == me.node && self.slot(place, said.key.shard) {
                    let event = Event::Message { from, message: said };
                    self.slot_event(place, said.key.shard, event);
                }
            }
            Packet::Part { to, key, number, part } => {
                if to.node != me.node {
                    return;
                }
                let Some(slot) = self.slot_mut(place, key.shard) else { return };
                let Some((known, transfer, _)) = &mut slot.received else { return };
                if *known == key && transfer.parts == number {
                    transfer.add(part);
                    let step = Step::Stored(transfer.whole);
                    self.slot_event(place, key.shard, Event::Host { key, step });
                }
            }
        }
    }

    /// A call ended: a drain may go on.
    pub fn call_left(&mut self, place: Place, shard: ShardId, call: u64) {
        let Some(slot) = self.slot_mut(place, shard) else { return };
        slot.calls.remove(&call);
        if slot.calls.is_empty()
            && let Some(key) = slot.draining.take()
        {
            self.slot_event(place, shard, Event::Host { key, step: Step::Idle });
        }
    }

    /// The process must be gone by then.
    pub fn leave_by(&mut self, place: Place, by: Timestamp) {
        let Some(life) = &mut self.live_mut(place).life else { return };
        life.leave_by = Some(by);
        let shards: Vec<_> = life.slots.keys().copied().collect();
        for shard in shards {
            self.slot_event(place, shard, Event::LeaveBy(by));
        }
    }
}
