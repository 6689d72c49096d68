//! The owner's side of calls: admission, the handler, the check before the acknowledgement.

use super::*;

impl World {
    /// A frame reached its owner, or who was taken for it.
    pub fn frame(&mut self, place: Place, frame: Frame) {
        let now = self.clock(place);
        if frame.origin != place {
            let owner = &mut self.live_mut(place).owner;
            let newest = owner.runs.entry(frame.origin).or_insert(frame.from);
            let older_run = frame.from.incarnation < newest.incarnation;
            if !older_run && *newest != frame.from {
                owner.generations.forget(std::mem::replace(newest, frame.from));
            }
            let origin = frame.origin();
            if older_run || !owner.generations.open(origin, Generation(frame.generation)) {
                self.saw("frame of an older pipe dropped");
                let due = Due::Broken { peer: place, generation: frame.generation };
                let event = Event::Own { place: frame.origin, run: frame.run, due };
                return self.schedule(self.now + MS, event);
            }
        }
        self.consider(place, frame, now);
    }

    pub fn ask_waiting_again(&mut self, place: Place) {
        let waiting = std::mem::take(&mut self.live_mut(place).owner.waiting);
        for (frame, since) in waiting {
            self.consider(place, frame, since);
        }
    }

    fn consider(&mut self, place: Place, frame: Frame, since: Timestamp) {
        let generation = Generation(frame.generation);
        let owner = &self.live(place).owner;
        if frame.origin != place && !owner.generations.may_admit(frame.origin(), generation) {
            return self.saw("frame of an older pipe dropped");
        }
        let Some(facts) = self.facts(place, frame.shard, frame.header, since) else {
            return self.answer(place, &frame, CallEnd::Nack(Nack::StaleReceiver));
        };
        let admission = admit(&facts);
        if admission.stop_serving {
            self.saw("stops serving for a newer epoch");
            self.slot_event(place, frame.shard, ShardEvent::NewerEpoch(frame.header.epoch));
        }
        match admission.verdict {
            Verdict::Admit { epoch, .. } => self.run(place, frame, facts.me, epoch),
            Verdict::Wait(_) => self.live_mut(place).owner.waiting.push((frame, since)),
            Verdict::Nack(nack) => self.answer(place, &frame, CallEnd::Nack(nack)),
        }
    }

    /// None while this process begins no incarnation or ends one.
    fn facts(
        &mut self,
        place: Place,
        shard: ShardId,
        header: Header,
        since: Timestamp,
    ) -> Option<Facts> {
        let now = self.clock(place);
        if !self.slot(place, shard) {
            return None;
        }
        self.facts_of(place, shard, header, since, now)
    }

    fn facts_of(
        &self,
        place: Place,
        shard: ShardId,
        header: Header,
        since: Timestamp,
        now: Timestamp,
    ) -> Option<Facts> {
        let live = self.live(place);
        let life = live.life.as_ref().filter(|life| life.shut_at.is_none())?;
        let calls = life.slots.get(&shard)?.calls.len() as u32;
        Some(Facts {
            me: life.me,
            row: self.row_at(place, shard),
            applied: live.table.applied(),
            map_version: live.table.map_version(),
            local: self.local(place, shard),
            right: live.right.unwrap_or_default(),
            now,
            header,
            waited: now.raw.saturating_sub(since.raw),
            queue: Queue { calls, max_calls: MAX_CALLS },
        })
    }

    fn row_at(&self, place: Place, shard: ShardId) -> Option<ShardRow> {
        let live = self.live(place);
        live.owner.late.get(&shard).or(live.table.shard(shard)).copied()
    }

    /// Whether a call that came now would be admitted, under which epoch.
    pub fn would_admit(&mut self, place: Place, shard: ShardId) -> Option<(Process, Epoch)> {
        self.nodes[place].live.as_ref()?;
        let now = self.clock(place);
        let epoch = self.row_at(place, shard)?.epoch;
        let header = Header { epoch, map_version: MapVersion(0), budget: BUDGET };
        let facts = self.facts_of(place, shard, header, now, now)?;
        match admit(&facts).verdict {
            Verdict::Admit { epoch, .. } => Some((facts.me, epoch)),
            Verdict::Wait(_) | Verdict::Nack(_) => None,
        }
    }

    fn run(&mut self, place: Place, frame: Frame, me: Process, epoch: Epoch) {
        self.next_call += 1;
        let execution = self.next_call;
        let shard = frame.shard;
        self.judge_service(place, me, shard, epoch, "admits");
        self.oracle.execution_begins(frame.call);
        let floor = self.oracle.highest_value(shard);
        let outside = self.random.percent(25);
        let stage = if outside { Stage::Check } else { Stage::End };
        let length = frame.length;
        let until = self.live(place).owner.stubborn_until;
        let stubborn = self.now < until && self.random.percent(30);
        let running = Running { frame, me, epoch, stage, stubborn, floor };
        let live = self.live_mut(place);
        live.owner.running.insert(execution, running);
        if let Some(slot) = live.life.as_mut().and_then(|life| life.slots.get_mut(&shard)) {
            slot.calls.insert(execution);
        }
        let length = if stubborn { length + until.saturating_sub(self.now) } else { length };
        let first = if outside { length / 2 } else { length };
        self.own(place, first, Due::Handler(execution));
    }

    pub fn handler(&mut self, place: Place, execution: u64) {
        let Some(running) = self.live(place).owner.running.get(&execution) else { return };
        let (stage, rest) = (running.stage, running.frame.length / 2);
        let (shard, epoch, me) = (running.frame.shard, running.epoch, running.me);
        match stage {
            Stage::Check => {
                let next = if self.owns(place, execution) { Stage::Write } else { Stage::End };
                let pause = self.random.below(20 * MS);
                self.set_stage(place, execution, next);
                self.own(place, pause, Due::Handler(execution));
            }
            Stage::Write => {
                let now = self.now;
                self.oracle.store_write(shard, epoch, me, now);
                self.set_stage(place, execution, Stage::End);
                self.own(place, rest, Due::Handler(execution));
            }
            Stage::End => self.end_call(place, execution),
        }
    }

    fn set_stage(&mut self, place: Place, execution: u64, stage: Stage) {
        if let Some(running) = self.live_mut(place).owner.running.get_mut(&execution) {
            running.stage = stage;
        }
    }

    /// `Ownership::check` of a handler, and the check before the acknowledgement.
    fn owns(&mut self, place: Place, execution: u64) -> bool {
        let now = self.clock(place);
        let live = self.live(place);
        let Some(running) = live.owner.running.get(&execution) else { return false };
        let shard = running.frame.shard;
        let facts = Recheck {
            me: running.me,
            admitted: running.epoch,
            row: self.row_at(place, shard),
            local: self.local(place, shard),
            right: live.right.unwrap_or_default(),
            now,
        };
        recheck(&facts).is_ok()
    }

    /// The effect, the check and the acknowledgement.
    fn end_call(&mut self, place: Place, execution: u64) {
        let may = self.owns(place, execution) || self.setup.mutant == Some(Mutant::NoRecheck);
        let Some(running) = self.live_mut(place).owner.running.remove(&execution) else { return };
        let Running { frame, me, epoch, floor, .. } = running;
        let shard = frame.shard;
        let life = self.live_mut(place).life.as_mut();
        let slot = life.and_then(|life| life.slots.get_mut(&shard));
        let state = slot.and_then(|slot| slot.open.as_mut()).map(|state| {
            state.count += 1;
            *state
        });
        let end = match (may, state) {
            (true, Some(state)) => {
                self.judge_service(place, me, shard, epoch, "acknowledges");
                self.oracle.acknowledged(shard, epoch, state, floor);
                CallEnd::Reply(state.count)
            }
            (true, None) if self.setup.mutant.is_none() => {
                self.oracle.fail(format!("{place} may acknowledge {shard}, its host is closed"));
                CallEnd::Withheld
            }
            (true | false, _) => {
                self.saw("answer withheld");
                CallEnd::Withheld
            }
        };
        self.call_left(place, shard, execution);
        self.answer(place, &frame, end);
    }

    fn answer(&mut self, place: Place, frame: &Frame, what: CallEnd) {
        let Frame { call, run, generation, origin, .. } = *frame;
        let answered = Answered { call, run, from: place, generation, what };
        if origin == place {
            return self.answered(place, answered);
        }
        if !self.send(place, origin, Message::Answered(answered)) {
            let at = self.now + self.random.between(50, 900) * MS;
            let due = Due::Broken { peer: place, generation };
            self.schedule(at, Event::Own { place: origin, run, due });
        }
    }

    /// The right has ended: what overruns is cancelled.
    pub fn cancel_all(&mut self, place: Place) {
        let all: Vec<u64> = self.live(place).owner.running.keys().copied().collect();
        self.cancel(place, &all);
    }

    pub fn cancel_shard(&mut self, place: Place, shard: ShardId) {
        let running = &self.live(place).owner.running;
        let of_it = running.iter().filter(|(_, one)| one.frame.shard == shard);
        let calls: Vec<u64> = of_it.map(|(id, _)| *id).collect();
        self.cancel(place, &calls);
    }

    pub fn cancel(&mut self, place: Place, executions: &[u64]) {
        // One mutant forgets that the right has an end, so nothing is cancelled for it.
        if self.setup.mutant == Some(Mutant::NoRecheck) {
            return;
        }
        for execution in executions {
            let running = &mut self.live_mut(place).owner.running;
            if running.get(execution).is_none_or(|one| one.stubborn) {
                continue;
            }
            if let Some(Running { frame, .. }) = running.remove(execution) {
                self.saw("handler cancelled");
                self.call_left(place, frame.shard, *execution);
                self.answer(place, &frame, CallEnd::Withheld);
            }
        }
    }
}
