//! Calls of clients: their entry, the pipes to owners, admission, the handler, the answer.
//! Each call increments the counter of one shard; some write to a store outside, too.

mod owner;

use std::{collections::BTreeMap, time::Duration};

use shoal_core::{
    admit::{
        Class, Header, Nack,
        generations::{Generation, Generations, Origin},
        ingress::{self, Decision, Outcome, Parked},
        owner::{Facts, Queue, Recheck, Verdict, admit, recheck},
    },
    handoff::{Process, shard::Event as ShardEvent},
    id::{Epoch, Incarnation, LogIndex, MapVersion, NodeId, ShardId, Timestamp},
    registry::ShardRow,
};

use crate::{
    clock::{MS, True},
    mutant::Mutant,
    world::{Due, Event, Message, Place, SHARDS, World},
};

/// What a client allows for its call.
pub const BUDGET: Duration = Duration::from_secs(8);
const BYTES: u64 = 100;
const MAX_CALLS: u32 = 64;

/// The entry of one process.
#[derive(Default)]
pub struct Ingress {
    pub calls: BTreeMap<u64, Pending>,
    pipes: BTreeMap<Place, u64>,
}

/// A call that has no answer yet.
pub struct Pending {
    shard: ShardId,
    state: ingress::Call,
    began: Timestamp,
    length: True,
    flight: Option<Flight>,
    parked: Option<Stay>,
}

/// A stay in the park, until the row is newer than `past`.
#[derive(Clone, Copy)]
struct Stay {
    past: LogIndex,
    until: Timestamp,
    /// When time is up, it is sent again all the same.
    pause: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Flight {
    peer: Place,
    generation: u64,
    /// It left our queue.
    handed: bool,
}

/// The owner's side of one process.
#[derive(Default)]
pub struct Owner {
    waiting: Vec<(Frame, Timestamp)>,
    generations: Generations,
    /// The newest run of each peer that opened a pipe.
    runs: BTreeMap<Place, Process>,
    pub running: BTreeMap<u64, Running>,
    /// Rows that one mutant learned from late answers.
    pub late: BTreeMap<ShardId, ShardRow>,
    /// Handlers that begin until then do not end when they are cancelled.
    pub stubborn_until: True,
}

#[derive(Clone, Debug)]
pub struct Frame {
    call: u64,
    origin: Place,
    pub run: u64,
    from: Process,
    pub generation: u64,
    shard: ShardId,
    header: Header,
    length: True,
}

#[derive(Clone, Debug)]
pub struct Answered {
    call: u64,
    run: u64,
    from: Place,
    generation: u64,
    what: CallEnd,
}

#[derive(Clone, Copy, Debug)]
enum CallEnd {
    Reply(u64),
    Nack(Nack),
    Withheld,
}

/// An admitted call.
pub struct Running {
    frame: Frame,
    me: Process,
    epoch: Epoch,
    stage: Stage,
    stubborn: bool,
    /// Highest value acknowledged to anybody before this call was admitted.
    floor: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Checks the ownership, then writes outside.
    Check,
    Write,
    End,
}

impl World {
    pub fn client_call(&mut self) {
        let open = |place: &Place| self.awake(*place) && !self.live(*place).ending;
        let up: Vec<Place> = (0..self.nodes.len()).filter(open).collect();
        let Some(place) = self.random.pick(&up) else { return };
        let shard = ShardId(self.random.below(SHARDS.into()) as u32);
        let class = if self.random.percent(60) { Class::Plain } else { Class::Idempotent };
        let length = match self.random.below(100) {
            0 => self.random.below(self.setup.longest_call),
            1..10 => self.random.below(100 * MS),
            _ => self.random.below(5 * MS),
        };
        self.call(place, shard, class, length);
    }

    /// One call that enters at `place` and runs for `length`.
    pub fn call(&mut self, place: Place, shard: ShardId, class: Class, length: True) -> u64 {
        self.next_call += 1;
        let (id, began) = (self.next_call, self.clock(place));
        let state = ingress::Call {
            class,
            bytes: BYTES,
            attempts: 0,
            sent: 0,
            paced: LogIndex::default(),
            tainted: false,
            left: BUDGET,
            row_sent: LogIndex::default(),
            row_now: LogIndex::default(),
            stale_since: None,
        };
        let (now, run) = (self.now, self.live(place).run);
        self.oracle.call_begins(id, place, run, class, length, now);
        let pending = Pending { shard, state, began, length, flight: None, parked: None };
        self.live_mut(place).ingress.calls.insert(id, pending);
        self.resend(place, id);
        id
    }

    /// Routes by the present row and sends.
    pub fn resend(&mut self, place: Place, call: u64) {
        let now = self.clock(place);
        let me = self.origin_of(place);
        let live = self.live_mut(place);
        let map_version = live.table.map_version();
        let run = live.run;
        let Some(pending) = live.ingress.calls.get_mut(&call) else { return };
        let row = live.table.shard(pending.shard).copied();
        let left = BUDGET.saturating_sub(now.raw.saturating_sub(pending.began.raw));
        pending.state.row_sent = row.map_or(LogIndex::default(), |row| row.changed);
        let epoch = row.map_or(Epoch::default(), |row| row.epoch);
        let (shard, length) = (pending.shard, pending.length);
        let owner = row.and_then(|row| row.owner()).map(|(owner, _)| owner);
        let peer = owner.and_then(|owner| self.place_of(owner));
        let Some(peer) = peer else {
            let row = row.map_or(LogIndex::default(), |row| row.changed);
            return self.outcome(place, call, Outcome::Nack(Nack::Moving { row }));
        };
        let pipes = &mut self.live_mut(place).ingress.pipes;
        let generation = *pipes.entry(peer).or_insert(1);
        let header = Header { epoch, map_version, budget: left };
        let frame = Frame { call, origin: place, run, from: me, generation, shard, header, length };
        // A pipe that cannot be opened keeps the frame in its queue.
        let listens = self.nodes[peer].live.is_some();
        let handed = listens && (self.network.passes(place, peer) || self.random.percent(50));
        if let Some(pending) = self.live_mut(place).ingress.calls.get_mut(&call) {
            pending.flight = Some(Flight { peer, generation, handed });
        }
        if peer == place {
            return self.frame(place, frame);
        }
        let arrives = handed && self.send(place, peer, Message::Frame(frame));
        if !arrives {
            let after = self.random.between(50, 900) * MS;
            self.own(place, after, Due::Broken { peer, generation });
        }
    }

    /// This run of this process, as its pipes name it.
    fn origin_of(&self, place: Place) -> Process {
        let incarnation = Incarnation { counter: self.live(place).run, nonce: 0 };
        Process::new(NodeId(place as u64), incarnation)
    }

    /// How one sending, or one stay in the park, ended: `ingress` says what follows.
    fn outcome(&mut self, place: Place, call: u64, outcome: Outcome) {
        let now = self.clock(place);
        let lease = self.lease_at(place).length();
        let live = self.live_mut(place);
        let parked = live.ingress.calls.values().filter(|one| one.parked.is_some()).count() as u64;
        let row_now = {
            let Some(pending) = live.ingress.calls.get(&call) else { return };
            live.table.shard(pending.shard).map_or(LogIndex::default(), |row| row.changed)
        };
        let Some(pending) = live.ingress.calls.get_mut(&call) else { return };
        pending.flight = None;
        pending.parked = None;
        pending.state.left = BUDGET.saturating_sub(now.raw.saturating_sub(pending.began.raw));
        pending.state.row_now = row_now;
        let parked = Parked { shard_bytes: parked * BYTES, node_bytes: parked * BYTES, lease };
        let (state, decision) = ingress::retry(outcome, pending.state, &parked);
        pending.state = state;
        match decision {
            Decision::Resend { after } => {
                let after = after.as_micros() as u64;
                let jitter = self.random.below(after / 2 + 50);
                self.own(place, after * 3 / 4 + jitter, Due::Resend(call));
            }
            Decision::Pause { past, at_most } => {
                pending.parked = Some(Stay { past, until: now.plus(at_most), pause: true });
                self.release_parked(place);
            }
            Decision::Park { past, at_most } => {
                pending.parked = Some(Stay { past, until: now.plus(at_most), pause: false });
                self.saw("call parked");
                self.release_parked(place);
            }
            Decision::Answer(status) => self.finish(place, call, status, None),
        }
    }

    fn finish(&mut self, place: Place, call: u64, status: ingress::Status, value: Option<u64>) {
        self.live_mut(place).ingress.calls.remove(&call);
        self.note(format_args!("call {call} ends: {status:?} {value:?}"));
        let now = self.now;
        self.oracle.call_ends(call, status, now);
    }

    /// Rows may have changed: parked calls leave.
    pub fn release_parked(&mut self, place: Place) {
        let live = self.live(place);
        let leaves = |(id, pending): (&u64, &Pending)| {
            let Stay { past, .. } = pending.parked?;
            let row = live.table.shard(pending.shard)?;
            ingress::leaves(past, row).then_some(*id)
        };
        let released: Vec<u64> = live.ingress.calls.iter().filter_map(leaves).collect();
        for call in released {
            self.unpark(place, call);
            self.own(place, 0, Due::Resend(call));
        }
    }

    fn unpark(&mut self, place: Place, call: u64) {
        if let Some(pending) = self.live_mut(place).ingress.calls.get_mut(&call) {
            pending.parked = None;
        }
    }

    pub fn poll_calls(&mut self, place: Place) {
        let now = self.clock(place);
        let live = self.live(place);
        let over = |(id, pending): (&u64, &Pending)| {
            let stay = pending.parked?;
            now.maybe_past(stay.until).then_some((*id, stay.pause))
        };
        let expired: Vec<_> = live.ingress.calls.iter().filter_map(over).collect();
        for (call, pause) in expired {
            if pause {
                self.unpark(place, call);
                self.resend(place, call);
            } else {
                self.outcome(place, call, Outcome::ParkEnded);
            }
        }
        self.ask_waiting_again(place);
    }

    pub fn pipe_broke(&mut self, place: Place, peer: Place, generation: u64) {
        let ingress = &mut self.live_mut(place).ingress;
        if ingress.pipes.get(&peer) != Some(&generation) {
            return;
        }
        ingress.pipes.insert(peer, generation + 1);
        let lost = |(id, pending): (&u64, &Pending)| {
            let flight = pending.flight?;
            let on_it = flight.peer == peer && flight.generation == generation;
            on_it.then_some((*id, flight.handed))
        };
        let lost: Vec<_> = ingress.calls.iter().filter_map(lost).collect();
        self.saw("pipe broke");
        for (call, handed) in lost {
            let outcome = if handed { Outcome::Unknown } else { Outcome::NotSent };
            self.outcome(place, call, outcome);
        }
    }

    /// The peer says at once that nobody listens.
    pub fn reset_pipe(&mut self, from: Place, frame: &Frame) {
        let peer = frame.owner_place(self);
        let Some(peer) = peer else { return };
        let at = self.now + self.random.below(20 * MS);
        let due = Due::Broken { peer, generation: frame.generation };
        self.schedule(at, Event::Own { place: from, run: frame.run, due });
    }

    /// The process is gone: sooner or later its peers notice.
    pub fn reset_pipes_to(&mut self, place: Place, peer: Place) {
        let after = self.random.between(1, 1_500) * MS;
        self.break_pipe(place, peer, after);
    }

    /// The process says farewell before it goes.
    pub fn close_pipes_to(&mut self, peer: Place) {
        for place in 0..self.nodes.len() {
            if self.network.passes(peer, place) {
                self.break_pipe(place, peer, self.network.weather.delay);
            }
        }
    }

    fn break_pipe(&mut self, place: Place, peer: Place, after: True) {
        let Some(live) = &self.nodes[place].live else { return };
        let Some(generation) = live.ingress.pipes.get(&peer).copied() else { return };
        self.own(place, after, Due::Broken { peer, generation });
    }

    pub fn answered(&mut self, place: Place, answered: Answered) {
        let Answered { call, run, from, generation, what } = answered;
        let live = self.live(place);
        let flight = live.ingress.calls.get(&call).and_then(|pending| pending.flight);
        let expected =
            flight.is_some_and(|flight| flight.peer == from && flight.generation == generation);
        if live.run != run || !expected {
            return;
        }
        match what {
            CallEnd::Reply(value) => {
                self.finish(place, call, ingress::Status::Result, Some(value));
            }
            CallEnd::Nack(nack) => self.outcome(place, call, Outcome::Nack(nack)),
            CallEnd::Withheld => self.outcome(place, call, Outcome::Withheld),
        }
    }
}

impl Frame {
    fn origin(&self) -> Origin {
        Origin { peer: self.from, thread: 0 }
    }

    /// Where it was sent: the pipe of its generation.
    fn owner_place(&self, world: &World) -> Option<Place> {
        let live = world.nodes[self.origin].live.as_ref()?;
        live.ingress.calls.get(&self.call)?.flight.map(|flight| flight.peer)
    }
}
