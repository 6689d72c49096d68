//! Leaders come and go, and nobody healthy is fenced for it [L3].
//!
//! All machines are the real ones: two holders, the expiries, the fencing of each leader, the
//! registry. Nothing is lost and nobody pauses; but renewals of one node may take a tick, a leader may go at
//! any time, and the next may come at once or only after the sessions have long run out. Time is
//! counted from the beginning here, up to a last tick: the machines keep instants of their own.

use std::{
    fmt::{self, Write},
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use shoal_core::{
    id::{LogIndex, NodeId, Timestamp},
    registry::{Command, Life},
    session::{
        expiry::{self, Expiry},
        fencing::{self, Fencing, NodeFact, View},
        holder::{self, Answer, Call, Holder, OwnRow, RequestId},
        lease::Lease,
    },
};
use stateright::{Model, Property};

use crate::{
    clock::{Clocks, START},
    judge::Seen,
    leader::restored,
    mutant::Mutant,
    setup::Setup,
    table::{Table, first_incarnation, found},
};

const LEADER: NodeId = NodeId(1);
/// Ticks that may pass without a leader: a lease and a half.
const LONGEST_GAP: u32 = 12;
/// Ticks after which nothing more is looked at.
const LAST: u32 = 24;
const ELECTIONS: u8 = 1;
/// Renewals that may take a tick.
const SLOW: u8 = 2;

pub const SAFE: [&str; 2] =
    ["no session that is well is fenced", "a right ends before the session has expired"];

#[derive(Clone, Debug)]
pub struct Election {
    setup: &'static Setup,
    mutant: Option<Mutant>,
    clocks: Clocks,
    lease: Lease,
    seen: Arc<AtomicU64>,
    /// The fewest steps that led to a violation: a longer way is not worth telling.
    shortest: Arc<AtomicUsize>,
}

#[derive(Clone, Debug)]
pub struct State {
    now: u32,
    table: Arc<Table>,
    holders: Vec<Holder>,
    expiry: Expiry,
    leader: Option<Fencing>,
    /// Ticks since there was a leader.
    gap: u32,
    left: u8,
    slow: u8,
    letters: Vec<Letter>,
    fenced: bool,
    overlap: bool,
    /// Steps taken to get here.
    depth: usize,
}

/// A renewal on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letter {
    seat: usize,
    request: RequestId,
    age: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Tick,
    Deliver(usize),
    LoseLeader,
    Elect,
}

impl Election {
    pub fn new(setup: &'static Setup, mutant: Option<Mutant>) -> Self {
        let lease = Lease::from_millis(setup.lease_ms).unwrap_or_default();
        let clocks = Clocks::new(setup.tick, false);
        let shortest = Arc::new(AtomicUsize::new(usize::MAX));
        Self { setup, mutant, clocks, lease, seen: Arc::default(), shortest }
    }

    fn saw(&self, what: Seen) {
        self.seen.fetch_or(what.bit(), Ordering::Relaxed);
    }

    fn first(&self) -> State {
        let table = found(self.setup);
        let now = self.clocks.worker(START);
        let holders = (0..self.setup.seats.len()).map(|seat| {
            let (mut holder, _) = Holder::new(self.lease, now);
            let asked = holder.on(holder::Event::Incarnation(first_incarnation(seat)), now);
            for action in asked.actions {
                if let holder::Action::Send { request, .. } = action {
                    let answer = Answer::Granted { index: LogIndex(1), lease: self.lease };
                    let _ = holder.on(holder::Event::Answered { request, answer }, now);
                }
            }
            holder
        });
        let mut state = State {
            now: START,
            holders: holders.collect(),
            expiry: restored(&table, self.clocks.member(START)),
            table,
            leader: None,
            gap: 0,
            left: ELECTIONS,
            slow: SLOW,
            letters: Vec::new(),
            fenced: false,
            overlap: false,
            depth: 0,
        };
        self.elect(&mut state);
        state
    }

    fn facts(state: &State) -> Vec<NodeFact> {
        let nodes = state.table.registry.nodes();
        let facts = nodes.map(|(id, node)| NodeFact {
            id,
            incarnation: node.incarnation,
            life: node.life,
            drain: node.drain,
            voter: false,
            renewed: node.renewed,
        });
        facts.collect()
    }

    fn view<'a>(&self, nodes: &'a [NodeFact], expiry: &'a Expiry) -> View<'a> {
        View { lease: self.lease, nodes, expiry, has_session: true }
    }

    /// The entry is committed and applied at once, by everybody.
    fn commit(&self, state: &mut State, command: &Command) {
        let index = state.table.next_index(false);
        let mut registry = state.table.registry.clone();
        let (_, changes) = registry.apply(index, command);
        let now = self.clocks.member(state.now);
        let event = expiry::Event::Renewed { nodes: &changes.renewed, lease: self.lease };
        state.expiry.on(event, now);
        state.table = Table::new(registry, &changes);
        if let Some(leader) = &mut state.leader {
            let _ = leader.on(fencing::Event::Applied, now);
        }
    }

    fn elect(&self, state: &mut State) {
        if state.gap > 8 {
            self.saw(Seen::LongGap);
        }
        state.gap = 0;
        self.commit(state, &Command::Blank);
        let facts = Self::facts(state);
        let view = self.view(&facts, &state.expiry);
        let (index, now) = (state.table.registry.applied(), self.clocks.member(state.now));
        state.leader = Some(Fencing::new(LEADER, index, view, now));
    }

    fn tick(&self, state: &mut State) {
        state.now += 1;
        state.slow -= state.letters.len() as u8;
        state.letters.iter_mut().for_each(|letter| letter.age += 1);
        match state.leader {
            Some(_) => self.lead(state),
            None => state.gap += 1,
        }
        let now = self.clocks.worker(state.now);
        for seat in 0..state.holders.len() {
            let health = holder::Event::Health { oldest_tick: now, probe_pending_since: None };
            self.tell(state, seat, health);
            let id = self.setup.seats[seat].node;
            let row = state.table.registry.node(id).map(|node| OwnRow {
                incarnation: node.incarnation,
                life: node.life,
                drain: node.drain,
                marked: node.marked,
            });
            let index = state.table.registry.applied();
            self.tell(state, seat, holder::Event::Table { index, row });
            self.tell(state, seat, holder::Event::Wake { jitter: 0.0 });
        }
        self.judge(state, now);
    }

    fn judge(&self, state: &mut State, now: Timestamp) {
        let member = self.clocks.member(state.now);
        let seats = self.setup.seats.iter().zip(&state.holders);
        let mut held = seats.filter(|(seat, holder)| {
            holder.may_serve(now) && state.expiry.has_passed(seat.node, member)
        });
        state.overlap |= held.next().is_some();
    }

    fn lead(&self, state: &mut State) {
        let now = self.clocks.member(state.now);
        let facts = Self::facts(state);
        let view = self.view(&facts, &state.expiry);
        let Some(leader) = &mut state.leader else { return };
        let actions = leader.on(fencing::Event::Tick { inbox_empty: true, view }, now).actions;
        for fact in facts.iter().filter(|fact| fact.life == Life::Up) {
            let end = leader.end_of(fact.id, &state.expiry);
            if state.expiry.has_passed(fact.id, now) {
                self.saw(Seen::FloorHolds);
                // The mutant goes by the expiries alone.
                state.fenced |= self.mutant == Some(Mutant::NoWaitAfterElection)
                    || end.is_none_or(|end| now.surely_past(end));
            }
        }
        for action in actions {
            match action {
                fencing::Action::ProposeFence { .. } => state.fenced = true,
                fencing::Action::ProposeBlank => self.commit(state, &Command::Blank),
                fencing::Action::ProposeSettle { .. }
                | fencing::Action::TransferLeadership { .. } => {}
            }
        }
    }

    fn tell(&self, state: &mut State, seat: usize, event: holder::Event) {
        let now = self.clocks.worker(state.now);
        for action in state.holders[seat].on(event, now).actions {
            match action {
                holder::Action::Send { request, call: Call::Renew, .. } => {
                    state.letters.push(Letter { seat, request, age: 0 });
                    if self.setup.seats[seat].prompt {
                        self.deliver(state, state.letters.len() - 1);
                    }
                }
                holder::Action::StopServing => self.saw(Seen::RightEnded),
                holder::Action::ServeUntil { .. } => self.saw(Seen::Granted),
                holder::Action::Send { .. }
                | holder::Action::NewIncarnation
                | holder::Action::CloseAll(_)
                | holder::Action::Leave
                | holder::Action::Stay
                | holder::Action::ChangeSource
                | holder::Action::Exit(_) => {}
            }
        }
    }

    /// A renewal is committed and answered, or finds no leader.
    fn deliver(&self, state: &mut State, number: usize) {
        let Letter { seat, request, .. } = state.letters.remove(number);
        let answer = if state.leader.is_some() {
            let session = (self.setup.seats[seat].node, first_incarnation(seat));
            self.commit(state, &Command::Renew { sessions: vec![session] });
            Answer::Granted { index: state.table.registry.applied(), lease: self.lease }
        } else {
            Answer::Failed
        };
        self.tell(state, seat, holder::Event::Answered { request, answer });
    }
}

impl Model for Election {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![self.first()]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let waits = state.letters.iter().any(|letter| letter.age > 0)
            || state.letters.len() > usize::from(state.slow);
        let over =
            state.now >= START + LAST || (state.leader.is_none() && state.gap >= LONGEST_GAP);
        if !waits && !over {
            steps.push(Step::Tick);
        }
        steps.extend((0..state.letters.len()).map(Step::Deliver));
        match state.leader {
            Some(_) if state.left > 0 => steps.push(Step::LoseLeader),
            Some(_) => {}
            None => steps.push(Step::Elect),
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        state.depth += 1;
        match step {
            Step::Tick => self.tick(&mut state),
            Step::Deliver(number) => self.deliver(&mut state, number),
            Step::LoseLeader => {
                state.left -= 1;
                state.leader = None;
            }
            Step::Elect => self.elect(&mut state),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(SAFE[0], |model: &Self, state| !model.breaks(state, state.fenced)),
            Property::always(SAFE[1], |model: &Self, state| !model.breaks(state, state.overlap)),
            Property::sometimes("a right is granted", |model: &Self, _| model.has(Seen::Granted)),
            Property::sometimes("a right ends", |model: &Self, _| model.has(Seen::RightEnded)),
            Property::sometimes("no leader for more than a lease", |model: &Self, _| {
                model.has(Seen::LongGap)
            }),
            Property::sometimes("only the floor keeps a leader from a fence", |model: &Self, _| {
                model.has(Seen::FloorHolds)
            }),
        ]
    }
}

impl Election {
    fn breaks(&self, state: &State, broken: bool) -> bool {
        broken && self.shortest.fetch_min(state.depth, Ordering::Relaxed) >= state.depth
    }

    fn has(&self, what: Seen) -> bool {
        self.seen.load(Ordering::Relaxed) & what.bit() != 0
    }
}

/// The machines show all that they hold to whoever debugs them, and nothing else.
struct Shown<'a, H>(&'a mut H);

impl<H: Hasher> fmt::Write for Shown<'_, H> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.now, self.gap, self.left, self.slow, self.fenced, self.overlap).hash(state);
        (self.table.digest(), self.table.registry.applied()).hash(state);
        let (holders, expiry, leader) = (&self.holders, &self.expiry, &self.leader);
        let mut shown = Shown(state);
        let written = write!(shown, "{holders:?} {expiry:?} {leader:?} {:?}", self.letters);
        written.expect("a hasher takes any text");
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}
