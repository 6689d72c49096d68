//! What may happen in a state, and what comes of it: the model as the checker sees it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use shoal_core::{
    handoff::{self, Shard},
    id::Epoch,
    session::{
        lease::Lease,
        register::{Refusal, Verdict},
    },
};
use stateright::{Model, Property};

use crate::{
    clock::{Clocks, START},
    decision::Decision,
    judge::{Seen, Violation},
    leader::restored,
    mutant::Mutant,
    process::{Call, Phase, Process, Then},
    setup::Setup,
    table::{SHARD, first_incarnation, found},
    world::{Member, Seat, World},
};

/// One configuration, with all rules or without one.
#[derive(Clone, Debug)]
pub struct Protocol {
    pub setup: &'static Setup,
    pub mutant: Option<Mutant>,
    pub clocks: Clocks,
    /// The lease by which steady processes renew.
    pub always: Lease,
    /// What all steps taken so far showed. Kept beside the states: a step that is refused leads
    /// back to a known one.
    seen: Arc<AtomicU64>,
    /// The fewest steps that led to a violation: a longer way is not worth telling.
    shortest: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// True time passes.
    Tick,
    Renew(Seat),
    /// A Register is asked for at a member.
    Register(Seat, usize),
    /// A renewal or Register is committed, or refused.
    CommitRequest(Seat, usize),
    /// An answer arrives.
    Answer(Seat, usize),
    Decide(usize, Decision),
    Commit(Decision),
    /// A table follows by one change, or all the way.
    Learn(Seat),
    LearnAll(Seat),
    Apply(usize),
    RestartMember(usize),
    Admit(Seat),
    Acknowledge(Seat),
    Check(Seat),
    Write(Epoch),
    Deliver(usize),
    Break(Seat),
    LateRow(Seat),
    Forget(Seat),
    Crash(Seat),
    Reboot(Seat),
    Start(Seat),
    Stop(Seat),
}

impl Protocol {
    pub fn new(setup: &'static Setup, mutant: Option<Mutant>) -> Self {
        let one_clock = mutant == Some(Mutant::OneClockOnly);
        let always = Lease::from_millis(setup.lease_ms).unwrap_or_default();
        let (clocks, seen) = (Clocks::new(setup.tick, one_clock), Arc::default());
        let shortest = Arc::new(AtomicUsize::new(usize::MAX));
        Self { setup, mutant, clocks, always, seen, shortest }
    }

    /// Everybody registered at the first tick, and knows it.
    fn first(&self) -> World {
        let table = found(self.setup);
        let lease = table.registry.settings().lease_ms;
        let now = self.clocks.member(START);
        let member = Arc::new(Member { at: 0, expiry: restored(&table, now) });
        let members = vec![member; self.setup.members];
        let seats = self.setup.seats.iter().enumerate();
        let processes = seats.map(|(number, seat)| {
            let me = if seat.up { first_incarnation(number) } else { Default::default() };
            let mut process = Process {
                node: seat.node,
                machine: seat.machine,
                boot: 0,
                steady: seat.steady,
                phase: if seat.up { Phase::Registered } else { Phase::Down },
                me,
                at: 0,
                right: None,
                requests: Vec::new(),
                shard: Shard::new(SHARD, handoff::Process::new(seat.node, me)),
                host: None,
                frozen: None,
                received: Vec::new(),
                call: None,
                late: None,
                relearned: None,
            };
            if seat.up {
                process.right = Some(self.granted(START, START, lease));
            }
            Arc::new(process)
        });
        let processes = processes.collect();
        let mut world =
            World::new(self.clocks, table, members, processes, self.setup.budget, START);
        for seat in 0..world.processes.len() {
            self.read_row(&mut world, seat);
        }
        world
    }

    fn breaks(&self, world: &World, violation: Violation) -> bool {
        world.oracle.violation == Some(violation)
            && self.shortest.fetch_min(world.depth, Ordering::Relaxed) >= world.depth
    }

    fn tick(&self, world: &mut World) {
        world.now += 1;
        let now = self.clocks.worker(world.now);
        let longest = self.setup.lease_ms.max(self.setup.other_lease_ms.unwrap_or_default());
        let ticks = longest / self.setup.tick.as_millis() as u32;
        let oldest = world.now - ticks - 1;
        let mut ended = false;
        for seat in 0..world.processes.len() {
            if world.processes[seat].right.is_none() && world.processes[seat].requests.is_empty() {
                continue;
            }
            let process = world.process_mut(seat);
            if process.right.is_some_and(|right| now.maybe_past(right)) {
                process.right = None;
                ended = true;
            }
            // An older answer grants nothing: such a renewal is forgotten, a Register never.
            process.requests.retain(|request| request.sent > oldest || request.call != Call::Renew);
            for request in &mut process.requests {
                request.sent = request.sent.max(oldest);
            }
        }
        if ended {
            world.saw(Seen::RightEnded);
        }
    }

    pub fn learn(&self, world: &mut World, seat: Seat, all: bool) {
        let before = self.row_of(world, seat);
        let version = |world: &World, at: usize| world.log[at].registry.map_version();
        let last = world.log.len() - 1;
        let mut at = if all { last } else { world.processes[seat].at + 1 };
        while at < last && version(world, at + 1) == version(world, at) {
            at += 1;
        }
        world.process_mut(seat).at = at;
        if world.left.late > 0 && before.changed < world.log[at].row().changed {
            world.process_mut(seat).late = Some(before);
        }
        self.read_table(world, seat);
    }

    fn crash(&self, world: &mut World, seat: Seat, reboot: bool) {
        world.left.crashes -= 1;
        let process = world.processes[seat].process();
        let truth = world.truth().row();
        let target = truth.target() == Some((process.node, process.incarnation));
        if target && world.released.iter().any(|release| release.key.epoch == truth.epoch) {
            world.saw(Seen::CrashAfterRelease);
        }
        self.die(world, seat);
        if reboot {
            world.left.reboots -= 1;
            world.process_mut(seat).boot += 1;
        }
    }

    fn of_a_process(&self, world: &World, seat: Seat, steps: &mut Vec<Step>) {
        let process = &world.processes[seat];
        let left = &world.left;
        let few = process.requests.len() < self.setup.requests;
        let fresh = process.requests.iter().all(|request| request.sent != world.now);
        let running = process.is_alive() && !process.steady;
        let may = [
            (process.may_renew() && few && fresh && left.renewals > 0, Step::Renew(seat)),
            (process.at + 1 < world.log.len() && process.is_alive(), Step::Learn(seat)),
            (process.at + 2 < world.log.len() && process.is_alive(), Step::LearnAll(seat)),
            (left.calls > 0 && self.admits(world, seat).is_some(), Step::Admit(seat)),
            (process.call.is_some(), Step::Acknowledge(seat)),
            (left.effects > 0 && self.may_acknowledge(world, seat), Step::Check(seat)),
            (left.breaks > 0 && self.moves_away(world, seat).is_some(), Step::Break(seat)),
            (left.late > 0 && process.late.is_some(), Step::LateRow(seat)),
            (left.crashes > 0 && running, Step::Crash(seat)),
            (left.crashes > 0 && left.reboots > 0 && running, Step::Reboot(seat)),
            (left.stops > 0 && running && process.phase == Phase::Registered, Step::Stop(seat)),
            (left.starts > 0 && self.may_start(process), Step::Start(seat)),
            (self.forgets(process), Step::Forget(seat)),
        ];
        steps.extend(may.into_iter().filter(|(may, _)| *may).map(|(_, step)| step));
        for (number, request) in process.requests.iter().enumerate() {
            // The mutant that answers early may lose the entry, and that is all it does here.
            steps.push(match request.answer {
                Some(_) => Step::Answer(seat, number),
                None => Step::CommitRequest(seat, number),
            });
        }
        self.registers(world, seat, steps);
    }

    fn may_start(&self, process: &Process) -> bool {
        match process.phase {
            Phase::Down | Phase::Resting => !process.steady,
            Phase::Starting | Phase::Registered | Phase::Closing(_) | Phase::Reporting => false,
        }
    }

    fn forgets(&self, process: &Process) -> bool {
        self.mutant == Some(Mutant::TargetDropsByTimer) && !process.received.is_empty()
    }

    fn registers(&self, world: &World, seat: Seat, steps: &mut Vec<Step>) {
        let process = &world.processes[seat];
        let asked = process.requests.iter().any(|request| request.call != Call::Renew);
        if process.phase != Phase::Starting || asked {
            return;
        }
        for member in 0..world.members.len() {
            let refused = match self.judge_register(world, seat, member) {
                Verdict::Propose { .. } => false,
                Verdict::Refuse(refusal) => refusal != Refusal::AlreadyRegistered,
                Verdict::Wait { .. } => false,
            };
            if !refused {
                steps.push(Step::Register(seat, member));
            }
        }
    }

    fn of_the_members(&self, world: &World, steps: &mut Vec<Step>) {
        let room = world.pending.len() < self.setup.pending;
        for number in 0..world.members.len() {
            if world.members[number].at + 1 < world.log.len() {
                steps.push(Step::Apply(number));
            }
            if world.left.restarts > 0 {
                steps.push(Step::RestartMember(number));
            }
            if room {
                let mut decisions = Vec::new();
                self.decisions(world, number, &mut decisions);
                decisions.retain(|decision| decision.may_wait_beside(&world.pending));
                steps.extend(decisions.into_iter().map(|decision| Step::Decide(number, decision)));
            }
        }
        let mut pending = world.pending.clone();
        pending.dedup();
        // One that is lost is one never made: deciding alone changes nothing.
        steps.extend(pending.iter().map(|decision| Step::Commit(*decision)));
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![self.first()]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        // Nothing that follows a violation is of interest.
        if world.oracle.violation.is_some() {
            return;
        }
        steps.push(Step::Tick);
        (0..world.processes.len()).for_each(|seat| self.of_a_process(world, seat, steps));
        self.of_the_members(world, steps);
        steps.extend((0..world.parcels.len()).map(Step::Deliver));
        let mut writes = world.writes.clone();
        writes.dedup();
        steps.extend(writes.into_iter().map(Step::Write));
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        let mut world = last.clone();
        match step {
            Step::Tick => self.tick(&mut world),
            Step::Renew(seat) => self.renew(&mut world, seat),
            Step::Register(seat, member) => self.register(&mut world, seat, member),
            Step::CommitRequest(seat, number) => self.commit_request(&mut world, seat, number),
            Step::Answer(seat, number) => self.answered(&mut world, seat, number),
            Step::Decide(number, decision) => self.decide(&mut world, number, decision),
            Step::Commit(decision) => {
                world.take(decision);
                self.commit(&mut world, decision);
            }
            Step::Learn(seat) => self.learn(&mut world, seat, false),
            Step::LearnAll(seat) => self.learn(&mut world, seat, true),
            Step::Apply(number) => self.member_applies(&mut world, number),
            Step::RestartMember(number) => self.restart_member(&mut world, number),
            Step::Admit(seat) => self.admit(&mut world, seat),
            Step::Acknowledge(seat) => self.acknowledge(&mut world, seat),
            Step::Check(seat) => self.check(&mut world, seat),
            Step::Write(epoch) => self.write(&mut world, epoch),
            Step::Deliver(number) => self.deliver(&mut world, number),
            Step::Break(seat) => self.break_transfer(&mut world, seat),
            Step::LateRow(seat) => self.late_row(&mut world, seat),
            Step::Forget(seat) => self.forget_received(&mut world, seat),
            Step::Crash(seat) => self.crash(&mut world, seat, false),
            Step::Reboot(seat) => self.crash(&mut world, seat, true),
            Step::Start(seat) => self.begin(&mut world, seat),
            Step::Stop(seat) => {
                world.left.stops -= 1;
                self.close(&mut world, seat, Then::Exit);
                self.go_on(&mut world, seat);
            }
        }
        world.depth += 1;
        self.judge_instant(&mut world);
        world.trim();
        self.seen.fetch_or(world.take_seen(), Ordering::Relaxed);
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = SAFE.map(|(name, holds)| Property::always(name, holds)).to_vec();
        let reached = REACHED.iter().filter(|(seen, _, _)| self.setup.reached.contains(seen));
        properties.extend(reached.map(|(_, name, seen)| Property::sometimes(name, *seen)));
        properties
    }
}

type Holds = fn(&Protocol, &World) -> bool;

macro_rules! never {
    ($($violation:ident: $name:literal,)*) => {
        /// What must hold in every state.
        pub const SAFE: [(&str, Holds); 9] = [$((
            $name,
            |model, world| !model.breaks(world, Violation::$violation),
        ),)*];
    };
}

never! {
    TwoOwners: "at most one process passes the check before an acknowledgement",
    LateAcknowledgement: "no acknowledgement after one by a newer owner",
    RightOutlives: "no member that is up to date holds a session for expired that has a right",
    NotTheOwner: "whoever passes the check is the owner in the committed log",
    Unsound: "epochs never fall and the registry is sound",
    StateLost: "what was acknowledged is in the state, and nothing else",
    OpenedWithoutVia: "received state is opened only for the move that brought the shard",
    StaleWrite: "the store takes no write older than one that it took",
    ForeignAbort: "an abort ends the move that it names",
}

macro_rules! sometimes {
    ($($seen:ident: $name:literal,)*) => {
        const REACHED: &[(Seen, &str, Holds)] = &[$((
            Seen::$seen,
            $name,
            |model, _| model.seen.load(Ordering::Relaxed) & Seen::$seen.bit() != 0,
        ),)*];
    };
}

sometimes! {
    Fence: "a session is fenced",
    FenceRefused: "a fence is refused, for a renewal came first",
    RenewalRefused: "a renewal is refused",
    Granted: "a right is granted",
    RightEnded: "a right ends",
    Commit: "a move is committed",
    CommitRefused: "a commit is refused",
    Abort: "a move is aborted",
    AbortRefused: "an abort is refused",
    BeginRefused: "a move is refused",
    Reopened: "an owner reopens from its frozen state",
    OpenedReceived: "a target opens with what it received",
    Discarded: "a target drops what it received",
    FirstOwnerAcks: "the first owner acknowledges",
    SecondOwnerAcks: "a second owner acknowledges",
    Withheld: "an answer is withheld",
    StaleWriteRefused: "the store refuses a stale write",
    Registered: "a process registers without its shard",
    RegisterRefused: "a Register is refused",
    RegisterWaits: "a Register waits for the old session",
    Reowned: "a process takes its shard again with proof",
    DeathReported: "a death is reported",
    DeathRefused: "a late report of a death is refused",
    ClosedInPlace: "a process closes in place",
    Closed: "a drained node is closed",
    CloseRefused: "a close is refused, for the node owns the shard",
    Cancelled: "a drain is cancelled",
    Marked: "a node is marked",
    Left: "a node leaves for ever",
    LeaseChanged: "the lease is changed",
    Settled: "the former lease is settled",
    LateRowShown: "a row is shown late",
    CrashAfterRelease: "the target dies between the release and the commit",
    StaleLeaderDecides: "a leader decides by a table that lags",
    MemberRestarts: "a member forgets its expiries",
    TwoRunOneDirectory: "two processes run on one directory",
}
