//! One worker, two members that lead in turn, a network and three machines' clocks, in
//! steps of true time. The machines are the real ones; only a mutant bends what they see.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    id::{Incarnation, LogIndex, NodeId, Timestamp},
    registry::{Drain, Life, Node, NodeInfo},
    session::{
        expiry::{self, Expiry},
        fencing::{self, Fencing, NodeFact, View},
        holder::{self, Answer, Call, Holder, Refusal, RequestId},
        lease::Lease,
        register::{self, Ask, Standing, Verdict},
    },
};

/// True time of one step, in milliseconds.
pub const STEP: u64 = 10;
const WORKER: NodeId = NodeId(9);
const LEADER_TICK: u64 = 50;

/// A rule of the protocol left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    None,
    LeaseFromReceipt,
    SentOfAnotherRequest,
    LeaseOfTheAnswerIgnored,
    OneClockOnly,
    ExpiryMovedBack,
    NoWaitAfterElection,
}

#[derive(Clone, Debug)]
pub struct ClockPlan {
    /// Error of the crystal, in parts per million.
    pub raw_ppm: i64,
    /// From when on boottime is slewed by how much, in ms and parts per million.
    pub slews: Vec<(u64, i64)>,
}

#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub from: u64,
    pub until: u64,
    pub requests: bool,
    pub answers: bool,
}

/// The machine runs nothing; while suspended, its raw clock stands still too.
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    pub who: usize,
    pub from: u64,
    pub until: u64,
    pub suspended: bool,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub end: u64,
    pub lease: u32,
    pub lease_changes: Vec<(u64, u32)>,
    /// Worker, then the two members.
    pub clocks: [ClockPlan; 3],
    pub cuts: Vec<Cut>,
    pub pauses: Vec<Pause>,
    /// When the leader loses its leadership, and for how long there is none.
    pub elections: Vec<(u64, u64)>,
    /// When which member restarts, or is sent a snapshot.
    pub restarts: Vec<(u64, usize)>,
    /// Longest way of a message, in ms.
    pub delay: u64,
    /// Seed of the delays.
    pub noise: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// True times at which the worker could serve although it must not have.
    pub violation: Option<u64>,
    pub grants: u32,
    pub fences: u32,
    pub registers: u32,
    pub settled: u32,
    /// Steps in which some member held the worker's session for expired.
    pub expired: u32,
}

#[derive(Clone, Copy, Debug)]
enum Command {
    Renew(Incarnation),
    Register { incarnation: Incarnation, replaces: Incarnation, renewed: LogIndex },
    Fence { incarnation: Incarnation, renewed: LogIndex },
    Configure(Lease),
    Settle(LogIndex),
    Blank,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Refused,
    Renewed,
    LeaseChanged(Lease),
    Settled,
    Fenced,
    Nothing,
}

/// The registry, as far as one node's session goes.
#[derive(Clone, Copy, Debug)]
struct State {
    life: Life,
    incarnation: Incarnation,
    renewed: LogIndex,
    lease: Lease,
    previous: Option<(Lease, LogIndex)>,
}

impl State {
    fn new(lease: Lease) -> Self {
        let incarnation = Incarnation::default();
        Self { life: Life::Joining, incarnation, renewed: LogIndex(0), lease, previous: None }
    }

    fn apply(&mut self, index: LogIndex, command: Command) -> Effect {
        let up = self.life == Life::Up;
        match command {
            Command::Renew(incarnation) if up && incarnation == self.incarnation => {
                self.renewed = index;
                Effect::Renewed
            }
            Command::Register { incarnation, replaces, renewed }
                if replaces == self.incarnation && (!up || renewed == self.renewed) =>
            {
                (self.life, self.incarnation, self.renewed) = (Life::Up, incarnation, index);
                Effect::Renewed
            }
            Command::Fence { incarnation, renewed }
                if up && (incarnation, renewed) == (self.incarnation, self.renewed) =>
            {
                self.life = Life::Fenced;
                Effect::Fenced
            }
            Command::Configure(lease) => {
                let unsettled = self.previous.map_or(self.lease, |(lease, _)| lease);
                let previous = unsettled.max(self.lease);
                self.previous = Some((previous, index));
                self.lease = lease;
                Effect::LeaseChanged(previous)
            }
            Command::Settle(since) if self.previous.is_some_and(|(_, index)| index == since) => {
                self.previous = None;
                Effect::Settled
            }
            Command::Blank => Effect::Nothing,
            Command::Renew(_)
            | Command::Register { .. }
            | Command::Fence { .. }
            | Command::Settle(_) => Effect::Refused,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    term: u64,
    command: Command,
    committed_at: u64,
}

#[derive(Clone, Copy, Debug)]
enum Message {
    Ask { to: usize, request: RequestId, call: Call, incarnation: Incarnation },
    Reply { request: RequestId, answer: Answer },
}

#[derive(Debug)]
struct Member {
    id: NodeId,
    state: State,
    applied: usize,
    lag: u64,
    expiry: Expiry,
    fencing: Option<Fencing>,
    term: u64,
    inbox: Vec<(RequestId, Call, Incarnation)>,
    proposed: BTreeMap<usize, RequestId>,
}

pub struct World {
    plan: Plan,
    mutant: Mutant,
    now: u64,
    clocks: [Timestamp; 3],
    truth: State,
    committed: usize,
    log: Vec<Entry>,
    term: u64,
    leader: Option<usize>,
    members: [Member; 2],
    network: Vec<(u64, Message)>,
    holder: Holder,
    sent: BTreeMap<RequestId, Timestamp>,
    /// Of the mutants that miscount the right.
    bent_right: Option<Timestamp>,
    /// The entry that granted the right now held.
    granted_at: LogIndex,
    outcome: Outcome,
    noise: u64,
}

fn lease(millis: u32) -> Lease {
    Lease::from_millis(millis).unwrap()
}

impl World {
    pub fn run(plan: Plan, mutant: Mutant) -> Outcome {
        let mut world = Self::new(plan, mutant);
        while world.now < world.plan.end && world.outcome.violation.is_none() {
            world.step();
        }
        world.outcome
    }

    fn new(plan: Plan, mutant: Mutant) -> Self {
        let state = State::new(lease(plan.lease));
        let member = |id| Member {
            id: NodeId(id),
            state,
            applied: 0,
            lag: 0,
            expiry: Expiry::default(),
            fencing: None,
            term: 0,
            inbox: Vec::new(),
            proposed: BTreeMap::new(),
        };
        let (holder, _) = Holder::new(state.lease, Timestamp::default());
        let mut world = Self {
            mutant,
            now: 0,
            clocks: [Timestamp::default(); 3],
            truth: state,
            committed: 0,
            log: Vec::new(),
            term: 0,
            leader: None,
            members: [member(1), member(2)],
            network: Vec::new(),
            holder,
            sent: BTreeMap::new(),
            bent_right: None,
            granted_at: LogIndex(0),
            outcome: Outcome::default(),
            noise: plan.noise,
            plan,
        };
        world.elect(0);
        world.tell(holder::Event::Incarnation(Incarnation { counter: 1, nonce: 1 }));
        world
    }

    fn step(&mut self) {
        self.now += STEP;
        self.advance_clocks();
        self.change_leader();
        self.commit();
        for member in 0..2 {
            self.restart_if_planned(member);
            if !self.is_paused(member + 1) {
                self.apply(member);
                self.lead(member);
            }
        }
        self.deliver();
        if !self.is_paused(0) {
            let now = self.clock(0);
            self.tell(holder::Event::Health { oldest_tick: now, probe_pending_since: None });
            let jitter = self.draw(1_000) as f64 / 1_000.0;
            self.tell(holder::Event::Wake { jitter });
        }
        self.judge();
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.noise = self
            .noise
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.noise >> 33) % below.max(1)
    }

    fn is_paused(&self, who: usize) -> bool {
        self.pause(who).is_some()
    }

    fn pause(&self, who: usize) -> Option<Pause> {
        let holds =
            |pause: &&Pause| pause.who == who && (pause.from..pause.until).contains(&self.now);
        self.plan.pauses.iter().find(holds).copied()
    }

    fn advance_clocks(&mut self) {
        for who in 0..3 {
            let plan = &self.plan.clocks[who];
            let slew =
                plan.slews.iter().rev().find(|(from, _)| *from <= self.now).map_or(0, |s| s.1);
            let raw = STEP as i64 * (1_000_000 + plan.raw_ppm);
            let boottime = raw * (1_000_000 + slew) / 1_000_000;
            let suspended = self.pause(who).is_some_and(|pause| pause.suspended);
            let clock = &mut self.clocks[who];
            clock.boottime += Duration::from_nanos(boottime as u64);
            if !suspended {
                clock.raw += Duration::from_nanos(raw as u64);
            }
        }
    }

    /// What the machine `who` reads.
    fn clock(&self, who: usize) -> Timestamp {
        let clock = self.clocks[who];
        match self.mutant {
            Mutant::OneClockOnly => Timestamp::new(clock.boottime, clock.boottime),
            Mutant::None
            | Mutant::LeaseFromReceipt
            | Mutant::SentOfAnotherRequest
            | Mutant::LeaseOfTheAnswerIgnored
            | Mutant::ExpiryMovedBack
            | Mutant::NoWaitAfterElection => clock,
        }
    }
}

/// Members: the log, elections, applies, fences.
impl World {
    fn elect(&mut self, member: usize) {
        self.term += 1;
        self.leader = Some(member);
        // what the old leader did not commit is gone
        self.log.truncate(self.committed);
        self.members[member].term = self.term;
        self.members[member].fencing = None;
        self.members[member].inbox.clear();
        self.members[member].proposed.clear();
        self.propose(member, Command::Blank);
    }

    fn change_leader(&mut self) {
        for (at, gap) in self.plan.elections.clone() {
            if at / STEP == self.now / STEP {
                self.leader = None;
            }
            if (at + gap) / STEP == self.now / STEP {
                let member = usize::from(self.members[0].term == self.term);
                self.elect(member);
            }
        }
    }

    fn propose(&mut self, member: usize, command: Command) -> Option<usize> {
        if self.leader != Some(member) || self.members[member].term != self.term {
            return None; // deposed without knowing it: nothing of this is ever committed
        }
        let earliest = self.log.last().map_or(0, |entry| entry.committed_at);
        let committed_at = earliest.max(self.now + STEP + self.draw(60));
        self.log.push(Entry { term: self.term, command, committed_at });
        Some(self.log.len() - 1)
    }

    fn commit(&mut self) {
        // without a leader nothing is known to be committed
        while self.leader.is_some()
            && self.log.get(self.committed).is_some_and(|entry| entry.committed_at <= self.now)
        {
            let command = self.log[self.committed].command;
            self.committed += 1;
            let was = self.truth;
            match self.truth.apply(LogIndex(self.committed as u64), command) {
                Effect::Fenced => {
                    self.outcome.fences += 1;
                    if self.serves() && self.holder.incarnation() == was.incarnation {
                        self.outcome.violation = Some(self.now);
                    }
                }
                Effect::Settled => self.outcome.settled += 1,
                Effect::Refused | Effect::Renewed | Effect::LeaseChanged(_) | Effect::Nothing => {}
            }
        }
    }

    fn apply(&mut self, member: usize) {
        let leads = self.leader == Some(member);
        self.members[member].lag = if leads { 0 } else { self.draw(300) };
        while self.members[member].applied < self.committed {
            let position = self.members[member].applied;
            let entry = self.log[position];
            if entry.committed_at + self.members[member].lag > self.now {
                break;
            }
            self.members[member].applied += 1;
            self.apply_entry(member, position, entry);
        }
    }

    fn apply_entry(&mut self, member: usize, position: usize, entry: Entry) {
        let now = self.clock(member + 1);
        let index = LogIndex(position as u64 + 1);
        let replica = &mut self.members[member];
        let effect = replica.state.apply(index, entry.command);
        let nodes = [WORKER];
        match effect {
            Effect::Renewed => {
                if self.mutant == Mutant::ExpiryMovedBack {
                    replica.expiry = Expiry::default();
                }
                let lease = replica.state.lease;
                replica.expiry.on(expiry::Event::Renewed { nodes: &nodes, lease }, now);
            }
            Effect::LeaseChanged(previous) => {
                replica.expiry.on(expiry::Event::LeaseChanged { previous, since: index }, now);
            }
            Effect::Settled => replica.expiry.on(expiry::Event::LeaseSettled, now),
            Effect::Refused | Effect::Fenced | Effect::Nothing => {}
        }
        if entry.term != replica.term {
            return;
        }
        match &mut replica.fencing {
            Some(fencing) => {
                let _ = fencing.on(fencing::Event::Applied, now);
            }
            None => {
                let facts = facts(replica);
                let view = view(replica, &facts);
                replica.fencing = Some(Fencing::new(replica.id, index, view, now));
            }
        }
        if let Some(request) = self.members[member].proposed.remove(&position) {
            let lease = self.members[member].state.lease;
            let answer = match effect {
                Effect::Renewed => Answer::Granted { index, lease },
                Effect::Refused => Answer::Refused(Refusal::Stale),
                Effect::LeaseChanged(_) | Effect::Settled | Effect::Fenced | Effect::Nothing => {
                    return;
                }
            };
            self.reply(request, answer);
        }
    }

    fn lead(&mut self, member: usize) {
        if self.members[member].fencing.is_none() {
            return;
        }
        if self.leader.is_some() && self.members[member].term != self.term && self.draw(100) == 0 {
            self.members[member].fencing = None; // it learned of the newer term
            return;
        }
        for (at, millis) in self.plan.lease_changes.clone() {
            if at / STEP == self.now / STEP {
                self.propose(member, Command::Configure(lease(millis)));
            }
        }
        if !self.now.is_multiple_of(LEADER_TICK) {
            return;
        }
        let inbox = std::mem::take(&mut self.members[member].inbox);
        let inbox_empty = inbox.is_empty();
        for (request, call, incarnation) in inbox {
            self.ask(member, request, call, incarnation);
        }
        self.fence(member, inbox_empty);
    }

    fn ask(&mut self, member: usize, request: RequestId, call: Call, incarnation: Incarnation) {
        let command = match call {
            Call::Renew => Command::Renew(incarnation),
            Call::Register => match self.judge_register(member, incarnation) {
                Ok(command) => command,
                Err(refusal) => return self.reply(request, Answer::Refused(refusal)),
            },
            Call::CloseInPlace => return,
        };
        if let Some(position) = self.propose(member, command) {
            self.members[member].proposed.insert(position, request);
            if call == Call::Register {
                self.outcome.registers += 1;
            }
        }
    }

    fn judge_register(&self, member: usize, incarnation: Incarnation) -> Result<Command, Refusal> {
        let replica = &self.members[member];
        let row = Node {
            info: NodeInfo::default(),
            directory: 0,
            incarnation: replica.state.incarnation,
            lock: None,
            life: replica.state.life,
            drain: Drain::None,
            marked: false,
            renewed: replica.state.renewed,
            changed: LogIndex(0),
        };
        let fencing = replica.fencing.as_ref().expect("it leads");
        let expires = fencing.end_of(WORKER, &replica.expiry);
        let ask = Ask { incarnation, lock: None, lock_is_local: false };
        let standing = Standing { expires, may_reown: true };
        match register::judge(&row, ask, standing, self.clock(member + 1)) {
            Verdict::Propose { replaces, renewed, .. } => {
                Ok(Command::Register { incarnation, replaces, renewed })
            }
            Verdict::Wait { .. } => Err(Refusal::Retry),
            Verdict::Refuse(register::Refusal::AlreadyRegistered) => {
                Err(Refusal::AlreadyRegistered)
            }
            Verdict::Refuse(_) => Err(Refusal::Identity),
        }
    }

    fn fence(&mut self, member: usize, inbox_empty: bool) {
        let now = self.clock(member + 1);
        let replica = &mut self.members[member];
        let State { lease, .. } = replica.state;
        replica.expiry.on(expiry::Event::Renewed { nodes: &[replica.id], lease }, now);
        let facts = facts(replica);
        let mut fencing = replica.fencing.take().expect("it leads");
        let view = view(replica, &facts);
        let actions = fencing.on(fencing::Event::Tick { inbox_empty, view }, now).actions;
        let eager = self.mutant == Mutant::NoWaitAfterElection
            && replica.state.life == Life::Up
            && replica.expiry.has_passed(WORKER, now);
        let State { incarnation, renewed, .. } = replica.state;
        replica.fencing = Some(fencing);
        if eager {
            self.propose(member, Command::Fence { incarnation, renewed });
        }
        for action in actions {
            match action {
                fencing::Action::ProposeFence { node, incarnation, renewed } if node == WORKER => {
                    self.propose(member, Command::Fence { incarnation, renewed });
                }
                fencing::Action::ProposeBlank => {
                    self.propose(member, Command::Blank);
                }
                fencing::Action::ProposeSettle { since } => {
                    self.propose(member, Command::Settle(since));
                }
                fencing::Action::ProposeFence { .. }
                | fencing::Action::TransferLeadership { .. } => {}
            }
        }
    }

    fn restart_if_planned(&mut self, member: usize) {
        let due = |(at, who): &(u64, usize)| *who == member && at / STEP == self.now / STEP;
        if !self.plan.restarts.iter().any(due) {
            return;
        }
        let now = self.clock(member + 1);
        let replica = &mut self.members[member];
        let State { lease, previous, .. } = replica.state;
        replica.expiry = Expiry::default();
        replica.expiry.on(expiry::Event::Restored { nodes: &[WORKER], lease, previous }, now);
        if self.leader != Some(member) {
            replica.fencing = None;
        }
    }
}

/// The worker, and the leader's own node, which renews in the same process.
fn facts(replica: &Member) -> [NodeFact; 2] {
    let State { life, incarnation, renewed, .. } = replica.state;
    let fact = |id, life, incarnation, renewed| NodeFact {
        id,
        incarnation,
        life,
        drain: Drain::None,
        voter: false,
        renewed,
    };
    [
        fact(WORKER, life, incarnation, renewed),
        fact(replica.id, Life::Up, Incarnation::default(), LogIndex(u64::MAX)),
    ]
}

fn view<'a>(replica: &'a Member, nodes: &'a [NodeFact]) -> View<'a> {
    View { lease: replica.state.lease, nodes, expiry: &replica.expiry, has_session: true }
}

/// The worker and its network.
impl World {
    fn reply(&mut self, request: RequestId, answer: Answer) {
        let at = self.now + STEP + self.draw(self.plan.delay);
        self.network.push((at, Message::Reply { request, answer }));
    }

    fn deliver(&mut self) {
        let now = self.now;
        let mut due = Vec::new();
        self.network.retain(|(at, message)| {
            if *at <= now {
                due.push(*message);
            }
            *at > now
        });
        let cut = |wanted: fn(&Cut) -> bool| {
            self.plan.cuts.iter().any(|cut| wanted(cut) && (cut.from..cut.until).contains(&now))
        };
        let (no_requests, no_answers) = (cut(|cut| cut.requests), cut(|cut| cut.answers));
        for message in due {
            match message {
                Message::Ask { .. } if no_requests => {}
                Message::Reply { .. } if no_answers => {}
                Message::Ask { to, .. } if self.is_paused(to + 1) => {
                    self.network.push((now, message))
                }
                Message::Reply { .. } if self.is_paused(0) => self.network.push((now, message)),
                Message::Ask { to, request, call, incarnation } => {
                    if self.members[to].fencing.is_some() {
                        self.members[to].inbox.push((request, call, incarnation));
                    } else {
                        self.reply(request, Answer::NotLeader { hint: None });
                    }
                }
                Message::Reply { request, answer } => self.receive(request, answer),
            }
        }
    }

    fn receive(&mut self, request: RequestId, answer: Answer) {
        let now = self.clock(0);
        let Answer::Granted { index, mut lease } = answer else {
            self.tell(holder::Event::Answered { request, answer });
            return;
        };
        if self.mutant == Mutant::LeaseOfTheAnswerIgnored {
            lease = Lease::from_millis(self.plan.lease).unwrap();
        }
        let before = self.holder.right();
        self.tell(holder::Event::Answered { request, answer: Answer::Granted { index, lease } });
        self.tell(holder::Event::Table { index, row: None });
        if self.holder.right() == before {
            return;
        }
        self.outcome.grants += 1;
        self.granted_at = index;
        let last_sent = self.sent.values().next_back().copied().unwrap_or(now);
        self.bent_right = match self.mutant {
            Mutant::LeaseFromReceipt => Some(lease.right(now)),
            Mutant::SentOfAnotherRequest => Some(lease.right(last_sent)),
            Mutant::None
            | Mutant::LeaseOfTheAnswerIgnored
            | Mutant::OneClockOnly
            | Mutant::ExpiryMovedBack
            | Mutant::NoWaitAfterElection => self.holder.right(),
        };
    }

    fn tell(&mut self, event: holder::Event) {
        let now = self.clock(0);
        for action in self.holder.on(event, now).actions {
            match action {
                holder::Action::Send { request, call, incarnation, .. } => {
                    self.sent.insert(request, now);
                    let to = self.leader.unwrap_or(0);
                    let at = self.now + STEP + self.draw(self.plan.delay);
                    self.network.push((at, Message::Ask { to, request, call, incarnation }));
                }
                holder::Action::CloseAll(incarnation) => {
                    self.bent_right = None;
                    self.tell(holder::Event::AllClosed(incarnation));
                }
                holder::Action::NewIncarnation => {
                    let counter = self.holder.incarnation().counter + 1;
                    self.tell(holder::Event::Incarnation(Incarnation { counter, nonce: counter }));
                }
                holder::Action::ServeUntil { .. }
                | holder::Action::StopServing
                | holder::Action::Leave
                | holder::Action::Stay
                | holder::Action::ChangeSource => {}
                holder::Action::Exit(why) => panic!("the worker ends itself: {why:?}"),
            }
        }
    }

    /// Whether an acknowledgement given now would pass the worker's last check.
    fn serves(&self) -> bool {
        let now = self.clock(0);
        match self.mutant {
            Mutant::LeaseFromReceipt | Mutant::SentOfAnotherRequest => {
                self.bent_right.is_some_and(|right| !now.maybe_past(right))
            }
            Mutant::None
            | Mutant::LeaseOfTheAnswerIgnored
            | Mutant::OneClockOnly
            | Mutant::ExpiryMovedBack
            | Mutant::NoWaitAfterElection => self.holder.may_serve(now),
        }
    }

    /// No member that knows of the renewal may hold the session for expired before the
    /// worker does, whether it fences or not.
    fn judge(&mut self) {
        let expired = (0..2).any(|member| {
            let replica = &self.members[member];
            replica.applied as u64 >= self.granted_at.0
                && replica.expiry.has_passed(WORKER, self.clock(member + 1))
        });
        if expired {
            self.outcome.expired += 1;
            if self.serves() {
                self.outcome.violation = Some(self.now);
            }
        }
    }
}
