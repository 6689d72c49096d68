//! One run after the other of a worker's process: its session.
//!
//! What becomes of a session at each answer and each row is transcribed from
//! `session::holder`; which right an answer gives is asked of a real holder.

use shoal_core::{
    handoff::{self, Shard},
    id::{Epoch, Incarnation, LogIndex, NodeId, Timestamp},
    registry::{Drain, Life, ShardRow},
    session::{
        holder::{self, Answer as Told, Holder},
        lease::Lease,
        register::{Ask, Refusal, Standing, Verdict, judge},
    },
};

use crate::{
    decision::{Decision, Registration},
    judge::Seen,
    mutant::Mutant,
    protocol::Protocol,
    table::{SHARD, lock},
    world::{Received, Seat, World},
};

#[derive(Clone, Debug)]
pub struct Process {
    pub node: NodeId,
    pub machine: u8,
    pub boot: u8,
    pub steady: bool,
    pub phase: Phase,
    pub me: Incarnation,
    /// Place of its table in the log.
    pub at: usize,
    pub right: Option<Timestamp>,
    pub requests: Vec<Request>,
    pub shard: Shard,
    /// The host's state while it is open: how many calls it acknowledged.
    pub host: Option<u8>,
    pub frozen: Option<u8>,
    pub received: Vec<Received>,
    /// A call that was admitted under this token and runs.
    pub call: Option<Epoch>,
    /// The row before the present one, as late answers show it.
    pub late: Option<ShardRow>,
    /// Of the mutant that believes it.
    pub relearned: Option<ShardRow>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Dead, or not begun.
    Down,
    /// Asks to be registered.
    Starting,
    Registered,
    /// Admits nothing; goes on once no call runs.
    Closing(Then),
    /// Everything is closed, and that is told.
    Reporting,
    /// Closed after its drain.
    Resting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Then {
    RegisterAnew,
    Exit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// The tick in which it was sent.
    pub sent: u32,
    pub call: Call,
    pub answer: Option<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    Renew,
    Register(Registration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    Granted { lease_ms: u32 },
    Stale,
    Closed,
    Marked,
    Left,
}

impl Process {
    pub fn process(&self) -> handoff::Process {
        handoff::Process::new(self.node, self.me)
    }

    pub fn is_alive(&self) -> bool {
        self.phase != Phase::Down
    }

    /// Its calls may still be acknowledged.
    pub fn may_have_right(&self) -> bool {
        matches!(self.phase, Phase::Registered | Phase::Closing(_))
    }

    pub fn may_renew(&self) -> bool {
        !self.steady && matches!(self.phase, Phase::Registered | Phase::Closing(Then::Exit))
    }
}

impl Protocol {
    /// End of the right to serve, as the process has it.
    pub fn right(&self, world: &World, seat: Seat) -> Timestamp {
        let process = &world.processes[seat];
        if process.steady {
            return self.always.right(self.clocks.worker(world.now));
        }
        process.right.unwrap_or_default()
    }

    /// The right that an answer received in one tick gives to the request sent in another.
    pub fn granted(&self, sent: u32, received: u32, lease_ms: u32) -> Timestamp {
        let lease = Lease::from_millis(lease_ms).unwrap_or_default();
        let (sent, received) = (self.clocks.worker(sent), self.clocks.worker(received));
        let (mut holder, _) = Holder::new(lease, sent);
        let asked = holder.on(holder::Event::Incarnation(Incarnation::default()), sent).actions;
        for action in asked {
            if let holder::Action::Send { request, .. } = action {
                let answer = Told::Granted { index: LogIndex(1), lease };
                let event = holder::Event::Answered { request, answer };
                let _ = holder.on(event, received);
            }
        }
        holder.right().unwrap_or_default()
    }

    pub fn renew(&self, world: &mut World, seat: Seat) {
        world.left.renewals -= 1;
        let sent = world.now;
        let early = self.mutant == Some(Mutant::AnswerBeforeApply);
        let lease_ms = world.truth().registry.settings().lease_ms;
        let answer = early.then_some(Answer::Granted { lease_ms });
        world.process_mut(seat).requests.push(Request { sent, call: Call::Renew, answer });
    }

    /// What a member that thinks it leads makes of a Register asked for now.
    pub fn judge_register(&self, world: &World, seat: Seat, member: usize) -> Verdict {
        let process = &world.processes[seat];
        let member = &world.members[member];
        let row = world.log[member.at].node(process.node);
        let bent = self.mutant == Some(Mutant::ProofOfAnotherMachine);
        let mine = lock(process.machine, process.boot);
        let lock = if bent { row.lock.as_ref() } else { Some(&mine) };
        let ask = Ask { incarnation: process.me, lock, lock_is_local: true };
        let standing = Standing { expires: member.expiry.of(process.node), may_reown: true };
        judge(row, ask, standing, self.clocks.member(world.now))
    }

    pub fn register(&self, world: &mut World, seat: Seat, member: usize) {
        match self.judge_register(world, seat, member) {
            Verdict::Propose { replaces, renewed, proof, reown } => {
                let process = &world.processes[seat];
                // The mutant that takes a foreign lock for proof believes in the row's machine.
                let of = if proof {
                    self.owner_of_lock(process)
                } else {
                    (process.machine, process.boot)
                };
                let registration = Registration {
                    node: process.node,
                    machine: of.0,
                    boot: of.1,
                    incarnation: process.me,
                    replaces,
                    renewed,
                    proof,
                    reown,
                };
                let call = Call::Register(registration);
                let request = Request { sent: world.now, call, answer: None };
                world.process_mut(seat).requests.push(request);
            }
            Verdict::Refuse(Refusal::AlreadyRegistered) => {
                world.process_mut(seat).phase = Phase::Registered;
            }
            Verdict::Refuse(_) | Verdict::Wait { .. } => world.saw(Seen::RegisterWaits),
        }
    }

    fn owner_of_lock(&self, process: &Process) -> (u8, u8) {
        let bent = self.mutant == Some(Mutant::ProofOfAnotherMachine);
        if bent { (0, 0) } else { (process.machine, process.boot) }
    }

    pub fn answered(&self, world: &mut World, seat: Seat, number: usize) {
        let request = world.process_mut(seat).requests.remove(number);
        let Some(answer) = request.answer else { return };
        match answer {
            Answer::Granted { lease_ms } => self.grant(world, seat, request, lease_ms),
            Answer::Stale => self.lose(world, seat),
            Answer::Closed => self.rest(world, seat),
            Answer::Marked => self.close(world, seat, Then::Exit),
            Answer::Left => self.die(world, seat),
        }
        self.go_on(world, seat);
    }

    fn grant(&self, world: &mut World, seat: Seat, request: Request, lease_ms: u32) {
        let process = world.process_mut(seat);
        match process.phase {
            Phase::Starting => process.phase = Phase::Registered,
            Phase::Registered | Phase::Closing(Then::Exit) => {}
            Phase::Down
            | Phase::Closing(Then::RegisterAnew)
            | Phase::Reporting
            | Phase::Resting => {
                return;
            }
        }
        let sent = match self.mutant {
            Some(Mutant::LeaseFromReceipt) => world.now,
            Some(Mutant::SentOfAnotherRequest) => {
                process.requests.iter().map(|other| other.sent).fold(request.sent, u32::max)
            }
            Some(_) | None => request.sent,
        };
        let ignored = self.mutant == Some(Mutant::LeaseOfTheAnswerIgnored);
        let lease_ms = if ignored { self.setup.lease_ms } else { lease_ms };
        let right = self.granted(sent, world.now, lease_ms);
        let now = self.clocks.worker(world.now);
        let process = world.process_mut(seat);
        let later = process.right.is_none_or(|held| right != held && right.surely_past(held));
        if later && !now.maybe_past(right) {
            process.right = Some(right);
            world.saw(Seen::Granted);
        }
    }

    /// The process reads a newer table: first of itself, then of its shard.
    pub fn read_table(&self, world: &mut World, seat: Seat) {
        let process = &world.processes[seat];
        let node = world.log[process.at].node(process.node);
        let (life, drain, marked, of) = (node.life, node.drain, node.marked, node.incarnation);
        let me = process.me;
        if life == Life::Left {
            self.die(world, seat);
        } else if process.phase == Phase::Resting && drain == Drain::None {
            self.begin(world, seat);
        } else if of != me {
            // An older row is only a table that lags.
            if of.counter >= me.counter {
                self.lose(world, seat);
            }
        } else {
            match life {
                Life::Closed => self.rest(world, seat),
                Life::Fenced => self.lose(world, seat),
                Life::Up if marked => self.close(world, seat, Then::Exit),
                Life::Up | Life::Joining | Life::Left => {}
            }
        }
        self.read_row(world, seat);
        self.go_on(world, seat);
    }

    fn lose(&self, world: &mut World, seat: Seat) {
        let process = world.process_mut(seat);
        match process.phase {
            Phase::Registered => {
                process.right = None;
                process.phase = Phase::Closing(Then::RegisterAnew);
            }
            Phase::Closing(_) => process.right = None,
            Phase::Reporting => self.die(world, seat),
            Phase::Down | Phase::Starting | Phase::Resting => {}
        }
    }

    pub fn close(&self, world: &mut World, seat: Seat, then: Then) {
        let process = world.process_mut(seat);
        match process.phase {
            Phase::Registered | Phase::Closing(_) => process.phase = Phase::Closing(then),
            Phase::Starting => self.die(world, seat),
            Phase::Down | Phase::Reporting | Phase::Resting => {}
        }
    }

    fn rest(&self, world: &mut World, seat: Seat) {
        let process = world.process_mut(seat);
        if process.is_alive() {
            process.right = None;
            process.call = None;
            process.phase = Phase::Resting;
            self.empty(world, seat);
        }
    }

    /// What follows as soon as no handler runs.
    pub fn go_on(&self, world: &mut World, seat: Seat) {
        let process = world.process_mut(seat);
        let early = self.mutant == Some(Mutant::ClosedWithCallsRunning);
        if process.call.is_some() && !early {
            return;
        }
        match process.phase {
            Phase::Closing(Then::RegisterAnew) if process.call.is_none() => self.begin(world, seat),
            Phase::Closing(Then::Exit) => {
                let (node, incarnation) = (process.node, process.me);
                if process.call.is_none() {
                    process.right = None;
                    process.phase = Phase::Reporting;
                    self.empty(world, seat);
                }
                world.decide(Decision::CloseInPlace { node, incarnation });
            }
            Phase::Closing(Then::RegisterAnew)
            | Phase::Down
            | Phase::Starting
            | Phase::Registered
            | Phase::Reporting
            | Phase::Resting => {}
        }
    }

    /// A new incarnation: its counter is on disk, and shared by all who run on one volume.
    pub fn begin(&self, world: &mut World, seat: Seat) {
        self.die(world, seat);
        if world.left.starts == 0 {
            return;
        }
        world.left.starts -= 1;
        let node = world.processes[seat].node;
        let same = world.processes.iter().filter(|process| process.node == node);
        let counter = same.map(|process| process.me.counter).max().unwrap_or_default() + 1;
        if world.processes.iter().filter(|other| other.node == node && other.is_alive()).count() > 0
        {
            world.saw(Seen::TwoRunOneDirectory);
        }
        let newest = world.log.len() - 1;
        let process = world.process_mut(seat);
        process.phase = Phase::Starting;
        process.me = Incarnation { counter, nonce: seat as u64 };
        process.at = newest;
        process.shard = Shard::new(SHARD, process.process());
        self.read_row(world, seat);
    }

    /// The process ends; what it asked for may still be committed.
    pub fn die(&self, world: &mut World, seat: Seat) {
        self.empty(world, seat);
        let newest = world.log.len() - 1;
        let process = world.process_mut(seat);
        let me = process.process();
        process.phase = Phase::Down;
        process.at = newest;
        process.right = None;
        process.call = None;
        for request in std::mem::take(&mut process.requests) {
            if let (Call::Register(registration), None) = (request.call, request.answer) {
                world.decide(Decision::Register(registration));
            }
        }
        world.parcels.retain(|parcel| parcel.to != me);
    }

    /// All that a host held is gone.
    fn empty(&self, world: &mut World, seat: Seat) {
        let process = world.process_mut(seat);
        process.host = None;
        process.frozen = None;
        process.received.clear();
        process.late = None;
        process.relearned = None;
        process.shard = Shard::new(SHARD, process.process());
    }
}
