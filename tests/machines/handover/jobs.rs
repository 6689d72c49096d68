//! What the host of one shard does, one step after the other, in the order asked for.

use super::*;

impl World {
    pub fn enqueue(&mut self, place: Place, shard: ShardId, job: Action) {
        let Some(slot) = self.slot_mut(place, shard) else { return };
        slot.jobs.push_back(job);
        if !std::mem::replace(&mut slot.working, true) {
            self.work_later(place, shard);
        }
    }

    fn work_later(&mut self, place: Place, shard: ShardId) {
        let Some(me) = self.live(place).node() else { return };
        let slow = if self.random.percent(2) { 60 } else { 1 };
        let takes = self.random.below(self.network.weather.work * slow);
        self.own(place, takes, Due::Task(Task::Job { shard, of: me.incarnation }));
    }

    pub fn task(&mut self, place: Place, task: Task) {
        let present = self.live(place).node().map(|me| me.incarnation);
        match task {
            Task::Job { shard, of } if present == Some(of) => self.job(place, shard),
            Task::Broken { key, of } if present == Some(of) => {
                self.saw("stream of a move broke");
                self.slot_event(place, key.shard, Event::Host { key, step: Step::Broken });
            }
            Task::Job { .. } | Task::Broken { .. } => {}
        }
    }

    fn job(&mut self, place: Place, shard: ShardId) {
        let Some(slot) = self.slot_mut(place, shard) else { return };
        let waits = matches!(slot.jobs.front(), Some(Action::Close)) && !slot.calls.is_empty();
        let job = if waits { None } else { slot.jobs.pop_front() };
        if let Some(job) = job {
            self.do_job(place, shard, job);
        }
        let Some(slot) = self.slot_mut(place, shard) else { return };
        slot.working = !slot.jobs.is_empty();
        if slot.working {
            self.work_later(place, shard);
        }
    }

    fn do_job(&mut self, place: Place, shard: ShardId, job: Action) {
        let now = self.now;
        let Some(slot) = self.slot_mut(place, shard) else { return };
        match job {
            Action::Prepare(key) => {
                let newer = slot.received.is_none_or(|(known, ..)| known.id < key.id);
                let may = slot.open.is_none() && slot.frozen.is_none() && newer;
                let step = if may {
                    slot.received = Some((key, Transfer::default(), now));
                    Step::Prepared
                } else {
                    Step::CannotPrepare
                };
                self.slot_event(place, shard, Event::Host { key, step });
            }
            Action::Export { key, to } => self.export(place, shard, key, to),
            Action::Freeze { key, to } => self.freeze(place, shard, key, to),
            Action::Open { epoch, with } => self.open(place, shard, epoch, with),
            Action::Close => {
                slot.open = None;
                slot.frozen = None;
                slot.received = None;
                slot.sent = None;
            }
            Action::Discard(key) => {
                if slot.received.is_some_and(|(known, ..)| known == key) {
                    slot.received = None;
                }
            }
            Action::Send { .. }
            | Action::Report(_)
            | Action::Drain(_)
            | Action::CancelCalls(_)
            | Action::StopTransfer(_)
            | Action::Resume(_) => unreachable!("{action:?} takes no time", action = job),
        }
    }

    /// One round of the first phase; some hosts cannot export while they serve.
    fn export(&mut self, place: Place, shard: ShardId, key: MoveRef, to: Process) {
        if shard.0 % 4 == 3 {
            let step = Step::Measured { total: 1 << 10 };
            return self.slot_event(place, shard, Event::Host { key, step });
        }
        let more = self.random.below(3);
        let Some(slot) = self.slot_mut(place, shard) else { return };
        slot.rounds = if slot.sent.is_none_or(|(known, _)| known != key) {
            more
        } else {
            slot.rounds.saturating_sub(1)
        };
        // Far above what one chunk may leave, and less each round.
        let remainder = slot.rounds << 24;
        match self.send_part(place, shard, key, to) {
            Some(part) => {
                let step = Step::Round { sent: part.count + 1, remainder };
                self.slot_event(place, shard, Event::Host { key, step });
            }
            None => self.slot_event(place, shard, Event::Host { key, step: Step::Broken }),
        }
    }

    fn freeze(&mut self, place: Place, shard: ShardId, key: MoveRef, to: Process) {
        let Some(slot) = self.slot_mut(place, shard) else { return };
        if !slot.calls.is_empty() {
            self.oracle.fail(format!("{place} freezes {shard} while calls run"));
        }
        let sent = self.send_part(place, shard, key, to);
        let Some(slot) = self.slot_mut(place, shard) else { return };
        if slot.open.is_some() {
            slot.frozen = slot.open.take();
        }
        let step = match (sent, slot.sent) {
            (Some(_), Some((_, transfer))) => Step::RestSent(transfer.whole),
            (_, _) => Step::Broken,
        };
        self.slot_event(place, shard, Event::Host { key, step });
    }

    /// Sends what has changed since the last part.
    fn send_part(
        &mut self,
        place: Place,
        shard: ShardId,
        key: MoveRef,
        to: Process,
    ) -> Option<Counter> {
        let slot = self.slot_mut(place, shard)?;
        let state = slot.open?;
        let mut transfer = match slot.sent {
            Some((known, transfer)) if known == key => transfer,
            Some(_) | None => Transfer::default(),
        };
        let part = Counter { lineage: state.lineage, count: state.count - transfer.state.count };
        let number = transfer.parts;
        transfer.add(part);
        slot.sent = Some((key, transfer));
        let there = self.place_of(to.node)?;
        let packet = Packet::Part { to, key, number, part };
        if !self.send(place, there, Message::Handover(packet)) && self.random.percent(70) {
            let Some(me) = self.live(place).node() else { return Some(part) };
            let after = self.random.between(20, 800) * MS;
            let task = Task::Broken { key, of: me.incarnation };
            self.own(place, after, Due::Task(task));
        }
        Some(part)
    }

    fn open(&mut self, place: Place, shard: ShardId, epoch: Epoch, with: State) {
        let empty = self.oracle.empty(shard, epoch);
        let Some(slot) = self.slot_mut(place, shard) else { return };
        let (state, what) = match with {
            State::Empty => (empty, "opened empty"),
            // The move ended before the host froze: it has been open all the time.
            State::Frozen => (slot.frozen.or(slot.open).unwrap_or(empty), "reopened frozen"),
            State::Received(id) => (received(slot, id).unwrap_or(empty), "opened received"),
        };
        slot.open = Some(state);
        slot.frozen = None;
        slot.received = None;
        slot.sent = None;
        self.saw(what);
        self.note(format_args!("{place} opens {shard} {epoch:?} {with:?} {state:?}"));
        self.slot_event(place, shard, Event::Opened(epoch));
        self.ask_waiting_again(place);
    }
}

fn received(slot: &Slot, id: MoveId) -> Option<Counter> {
    slot.received.filter(|(key, ..)| key.id == id).map(|(_, transfer, _)| transfer.state)
}
