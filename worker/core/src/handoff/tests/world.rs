//! One shard, three nodes, a leader, the rows of a small registry and a network that loses,
//! repeats and reorders. Checks after every step that at most one node admits and that what
//! was acknowledged is still there.
//!
//! The registry here is a model of four commands on one row; the real one has its own tests.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use crate::{
    admit::{
        DEFAULT_DEADLINE, Header,
        owner::{Facts, Queue, Recheck, Verdict, admit, recheck},
    },
    handoff::{
        Action, Leader, Local, Message, Process, Report, Shard, State, Step, Whole,
        leader::{Action as Proposal, Event as LeaderEvent},
        shard::Event,
    },
    id::{Epoch, Incarnation, LogIndex, MapVersion, MoveId, NodeId, ShardId, Timestamp},
    registry::{Holding, MoveRef, ShardRow},
};

pub const SHARD: ShardId = ShardId(5);
pub const NODES: usize = 3;

/// Faults planted in the shell or in the registry that the checks must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    StateDroppedAtReleased,
    CommitIgnoresIncarnation,
    OpenedWithoutVia,
    AbortNotKeyed,
    TargetDropsByTimer,
    LateAnswerLearned,
}

pub type Checked = Result<(), String>;

/// The state of the shard: how many increments, counted since which empty opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counter {
    pub lineage: u64,
    pub count: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Begin(Process),
    Commit(MoveRef),
    Abort(MoveRef),
    Fence(Process),
    Register(Process),
    Assign(Process),
}

#[derive(Clone, Debug)]
pub enum Packet {
    Message { from: Process, to: Process, message: Message },
    Part { to: Process, key: MoveRef, place: u64, part: Counter },
    Report(Report),
}

#[derive(Clone, Copy, Debug)]
enum Work {
    Prepare(MoveRef),
    Export(MoveRef, Process),
    Freeze(MoveRef, Process),
    Open(Epoch, State),
    Close,
}

/// What went over the wire for one move, seen from either end.
#[derive(Clone, Copy, Debug, Default)]
struct Transfer {
    parts: u64,
    state: Counter,
    whole: Whole,
    age: Duration,
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

#[derive(Debug, Default)]
pub struct Host {
    pub open: Option<Counter>,
    pub frozen: Option<Counter>,
    pub calls: Vec<Epoch>,
    pub cancelled: usize,
    pub opened: u32,
    draining: Option<MoveRef>,
    received: BTreeMap<MoveId, Transfer>,
    sent: BTreeMap<MoveId, Transfer>,
    work: VecDeque<Work>,
}

#[derive(Debug)]
pub struct Node {
    pub process: Process,
    pub alive: bool,
    /// The right to serve; a fence of a living node waits until it is gone.
    pub right: bool,
    pub shard: Shard,
    pub host: Host,
    row: Option<ShardRow>,
    /// Index under which the machine was shown a row last.
    shown: LogIndex,
    wake_at: Option<Timestamp>,
}

impl Node {
    fn new(process: Process) -> Self {
        Self {
            process,
            alive: true,
            right: true,
            shard: Shard::new(SHARD, process),
            host: Host::default(),
            row: None,
            shown: LogIndex(0),
            wake_at: None,
        }
    }
}

/// What happened in a run: a walk that moved nothing proves nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Coverage {
    pub commits: u32,
    pub aborts_after_release: u32,
    pub fences_during_move: u32,
    pub opened_received: u32,
    pub reopened_frozen: u32,
    pub acknowledged: u32,
    pub stale_commands: u32,
}

pub struct World {
    pub now: Timestamp,
    pub nodes: Vec<Node>,
    pub rows: Vec<ShardRow>,
    pub net: Vec<Packet>,
    /// Proposed, neither applied nor lost yet.
    pub pending: Vec<Command>,
    pub leader: Leader,
    pub acked: u64,
    pub coverage: Coverage,
    /// Nodes whose host does nothing, and nodes whose table stands still.
    pub idle_hosts: BTreeSet<usize>,
    pub lagging: BTreeSet<usize>,
    pub hold_commands: bool,
    mutant: Option<Mutant>,
    index: u64,
    up: BTreeMap<NodeId, Incarnation>,
    lineages: BTreeMap<Epoch, u64>,
    asked_to_abort: BTreeSet<MoveId>,
    leader_wakes_at: Option<Timestamp>,
    released: BTreeSet<MoveId>,
}

fn incarnation(counter: u64) -> Incarnation {
    Incarnation { counter, nonce: counter }
}

impl World {
    /// Three nodes up, the shard unassigned.
    pub fn new(mutant: Option<Mutant>) -> Self {
        let nodes: Vec<_> = (1..=NODES as u64)
            .map(|id| Node::new(Process::new(NodeId(id), incarnation(1))))
            .collect();
        let up = nodes.iter().map(|node| (node.process.node, incarnation(1))).collect();
        let row = ShardRow { epoch: Epoch(1), holding: Holding::Unassigned, changed: LogIndex(1) };
        Self {
            now: Timestamp::default().plus(Duration::from_secs(100)),
            nodes,
            rows: vec![row],
            net: Vec::new(),
            pending: Vec::new(),
            leader: Leader::default(),
            acked: 0,
            coverage: Coverage::default(),
            idle_hosts: BTreeSet::new(),
            lagging: BTreeSet::new(),
            hold_commands: false,
            mutant,
            index: 1,
            up,
            lineages: BTreeMap::from([(Epoch(1), 1)]),
            asked_to_abort: BTreeSet::new(),
            leader_wakes_at: None,
            released: BTreeSet::new(),
        }
    }

    pub fn row(&self) -> ShardRow {
        *self.rows.last().expect("a row")
    }

    /// The key of the move under way.
    pub fn moving(&self) -> Option<MoveRef> {
        match self.row().holding {
            Holding::Moving { id, .. } => {
                Some(MoveRef { shard: SHARD, epoch: self.row().epoch, id })
            }
            Holding::Owned { .. } | Holding::Unassigned => None,
        }
    }

    pub fn owner(&self) -> Option<usize> {
        let (id, incarnation) = self.row().owner()?;
        self.nodes.iter().position(|node| node.process == Process::new(id, incarnation))
    }

    pub fn target(&self) -> Option<usize> {
        let Holding::Moving { target, target_incarnation, .. } = self.row().holding else {
            return None;
        };
        let target = Process::new(target, target_incarnation);
        self.nodes.iter().position(|node| node.process == target)
    }

    // --- the registry ---

    pub fn apply(&mut self, command: Command) -> Checked {
        // Wide steps leave room for the indices that one of the planted faults makes up.
        self.index += 1_000;
        let row = self.row();
        match command {
            Command::Begin(target) => {
                if let Holding::Owned { node, incarnation, via } = row.holding
                    && self.is_up(target)
                    && node != target.node
                {
                    let holding = Holding::Moving {
                        node,
                        incarnation,
                        via,
                        target: target.node,
                        target_incarnation: target.incarnation,
                        id: MoveId(self.index),
                    };
                    self.change(row.epoch, holding)?;
                }
            }
            Command::Commit(key) => self.commit(key)?,
            Command::Abort(key) => {
                let keyed = self.moving() == Some(key);
                let loose = self.mutant == Some(Mutant::AbortNotKeyed)
                    && self.moving().is_some_and(|moving| moving.epoch == key.epoch);
                self.coverage.stale_commands += u32::from(!keyed);
                if keyed || loose {
                    self.end_move(false)?;
                }
            }
            Command::Fence(process) => self.end_session(process)?,
            Command::Register(process) => {
                self.up.entry(process.node).or_insert(process.incarnation);
            }
            Command::Assign(to) => {
                if row.holding == Holding::Unassigned && self.is_up(to) {
                    let holding =
                        Holding::Owned { node: to.node, incarnation: to.incarnation, via: None };
                    self.change(row.epoch, holding)?;
                }
            }
        }
        self.check()
    }

    fn is_up(&self, process: Process) -> bool {
        self.up.get(&process.node) == Some(&process.incarnation)
    }

    fn commit(&mut self, key: MoveRef) -> Checked {
        let row = self.row();
        let Holding::Moving { target, target_incarnation, id, .. } = row.holding else {
            self.coverage.stale_commands += 1;
            return Ok(());
        };
        let mut to = Process::new(target, target_incarnation);
        if self.mutant == Some(Mutant::CommitIgnoresIncarnation)
            && let Some(present) = self.up.get(&target)
        {
            to.incarnation = *present;
        }
        if id != key.id || row.epoch != key.epoch || !self.is_up(to) {
            self.coverage.stale_commands += 1;
            return Ok(());
        }
        self.coverage.commits += 1;
        let epoch = row.epoch.next();
        self.lineages.insert(epoch, self.lineages[&row.epoch]);
        let holding = Holding::Owned { node: to.node, incarnation: to.incarnation, via: Some(id) };
        self.change(epoch, holding)
    }

    fn end_move(&mut self, by_fence: bool) -> Checked {
        let row = self.row();
        let Holding::Moving { node, incarnation, via, id, .. } = row.holding else {
            return Ok(());
        };
        if !by_fence && !self.asked_to_abort.contains(&id) {
            return Err(format!("{id} was ended by an abort of another move"));
        }
        self.coverage.aborts_after_release += u32::from(self.released.contains(&id));
        self.change(row.epoch, Holding::Owned { node, incarnation, via })
    }

    fn end_session(&mut self, process: Process) -> Checked {
        if !self.is_up(process) {
            return Ok(());
        }
        self.up.remove(&process.node);
        let row = self.row();
        self.coverage.fences_during_move += u32::from(self.moving().is_some());
        if row.owner() == Some((process.node, process.incarnation)) {
            let epoch = row.epoch.next();
            self.lineages.insert(epoch, self.index);
            self.acked = 0;
            self.change(epoch, Holding::Unassigned)?;
        } else if let Holding::Moving { target, target_incarnation, .. } = row.holding
            && process == Process::new(target, target_incarnation)
            && self.mutant != Some(Mutant::CommitIgnoresIncarnation)
        {
            self.end_move(true)?;
        }
        self.tell_leader(LeaderEvent::Lost(process));
        Ok(())
    }

    fn change(&mut self, epoch: Epoch, holding: Holding) -> Checked {
        let row = ShardRow { epoch, holding, changed: LogIndex(self.index) };
        if row.epoch < self.row().epoch {
            return Err("an epoch fell".into());
        }
        self.rows.push(row);
        self.tell_leader(LeaderEvent::Row { shard: SHARD, row });
        Ok(())
    }

    // --- the leader ---

    pub fn tell_leader(&mut self, event: LeaderEvent) {
        let output = self.leader.on(event, self.now);
        self.leader_wakes_at = output.wake_at;
        for action in output.actions {
            match action {
                Proposal::Commit(key) => self.pending.push(Command::Commit(key)),
                Proposal::Abort { key, .. } => self.abort(key),
            }
        }
    }

    pub fn abort(&mut self, key: MoveRef) {
        self.asked_to_abort.insert(key.id);
        self.pending.push(Command::Abort(key));
    }

    pub fn new_leader(&mut self) {
        self.leader = Leader::rebuild([(SHARD, self.row())], self.now);
        self.tell_leader(LeaderEvent::Tick);
    }

    // --- the network ---

    pub fn deliver(&mut self, packet: Packet) -> Checked {
        match packet {
            Packet::Message { from, to, message } => {
                let place = self.place(to.node);
                self.event(place, Event::Message { from, message })
            }
            Packet::Part { to, key, place, part } => {
                let node = self.place(to.node);
                let received = self.nodes[node].host.received.get_mut(&key.id);
                match received {
                    Some(transfer) if transfer.parts == place => {
                        transfer.add(part);
                        let stored = transfer.whole;
                        self.event(node, Event::Host { key, step: Step::Stored(stored) })
                    }
                    Some(_) | None => Ok(()),
                }
            }
            Packet::Report(report) => {
                self.tell_leader(LeaderEvent::Report(report));
                Ok(())
            }
        }
    }

    fn place(&self, id: NodeId) -> usize {
        self.nodes.iter().position(|node| node.process.node == id).expect("a known node")
    }

    // --- the nodes ---

    pub fn event(&mut self, place: usize, event: Event) -> Checked {
        let node = &mut self.nodes[place];
        if !node.alive {
            return Ok(());
        }
        let output = node.shard.on(event, self.now);
        node.wake_at = output.wake_at;
        for action in output.actions {
            self.perform(place, action);
        }
        self.check()
    }

    fn perform(&mut self, place: usize, action: Action) {
        let node = &mut self.nodes[place];
        let host = &mut node.host;
        match action {
            Action::Send { to, message } => {
                self.net.push(Packet::Message { from: node.process, to, message });
            }
            Action::Report(report) => {
                if report.news == crate::handoff::News::Released {
                    self.released.insert(report.key.id);
                    if self.mutant == Some(Mutant::StateDroppedAtReleased) {
                        host.frozen = None;
                    }
                }
                self.net.push(Packet::Report(report));
            }
            Action::Prepare(key) => {
                host.received.insert(key.id, Transfer::default());
                host.work.push_back(Work::Prepare(key));
            }
            Action::Export { key, to } => host.work.push_back(Work::Export(key, to)),
            Action::Drain(key) => host.draining = Some(key),
            Action::CancelCalls(_) => {
                host.cancelled += host.calls.len();
                host.calls.clear();
            }
            Action::Freeze { key, to } => host.work.push_back(Work::Freeze(key, to)),
            Action::StopTransfer(key) => {
                host.sent.remove(&key.id);
            }
            Action::Resume(_) => host.draining = None,
            Action::Open { epoch, with } => host.work.push_back(Work::Open(epoch, with)),
            Action::Close => host.work.push_back(Work::Close),
            Action::Discard(key) => {
                host.received.remove(&key.id);
            }
        }
    }

    /// One piece of the host's work.
    pub fn work(&mut self, place: usize) -> Checked {
        let host = &mut self.nodes[place].host;
        if let Some(key) = host.draining
            && host.calls.is_empty()
        {
            host.draining = None;
            return self.event(place, Event::Host { key, step: Step::Idle });
        }
        let Some(work) = host.work.pop_front() else { return Ok(()) };
        match work {
            Work::Prepare(key) => self.event(place, Event::Host { key, step: Step::Prepared }),
            Work::Export(key, to) => {
                let step = match self.send_part(place, key, to) {
                    Some(part) => Step::Round { sent: part.count, remainder: 0 },
                    None => Step::Broken,
                };
                self.event(place, Event::Host { key, step })
            }
            Work::Freeze(key, to) => {
                if !host.calls.is_empty() {
                    return Err("frozen while calls run".into());
                }
                let step = match self.send_part(place, key, to) {
                    Some(_) => Step::RestSent(self.nodes[place].host.sent[&key.id].whole),
                    None => Step::Broken,
                };
                let host = &mut self.nodes[place].host;
                host.frozen = host.open.take();
                self.event(place, Event::Host { key, step })
            }
            Work::Open(epoch, with) => self.open(place, epoch, with),
            Work::Close => {
                host.open = None;
                host.frozen = None;
                host.draining = None;
                host.calls.clear();
                host.sent.clear();
                Ok(())
            }
        }
    }

    /// Sends what has changed since the last part.
    fn send_part(&mut self, place: usize, key: MoveRef, to: Process) -> Option<Counter> {
        let host = &mut self.nodes[place].host;
        let state = host.open?;
        let transfer = host.sent.entry(key.id).or_default();
        let part = Counter { lineage: state.lineage, count: state.count - transfer.state.count };
        self.net.push(Packet::Part { to, key, place: transfer.parts, part });
        transfer.add(part);
        Some(part)
    }

    fn open(&mut self, place: usize, epoch: Epoch, with: State) -> Checked {
        let empty = Counter { lineage: self.lineages[&epoch], count: 0 };
        let host = &mut self.nodes[place].host;
        let state = match with {
            State::Empty => empty,
            State::Frozen => {
                self.coverage.reopened_frozen += 1;
                // A freeze that could not begin left the state where it was.
                host.frozen.take().or(host.open).unwrap_or(empty)
            }
            State::Received(id) => {
                self.coverage.opened_received += 1;
                host.received.remove(&id).map_or(empty, |transfer| transfer.state)
            }
        };
        host.open = Some(state);
        host.opened += 1;
        self.event(place, Event::Opened(epoch))
    }

    /// The node's table takes over a later row, all between may be skipped.
    pub fn learn(&mut self, place: usize, row: ShardRow) -> Checked {
        let node = &mut self.nodes[place];
        if !node.alive || node.row.is_some_and(|known| known.changed >= row.changed) {
            return Ok(());
        }
        node.row = Some(row);
        let mut shown = row;
        if self.mutant == Some(Mutant::LateAnswerLearned) {
            shown.changed = row.changed.max(LogIndex(node.shown.0 + 1));
        }
        if self.mutant == Some(Mutant::OpenedWithoutVia)
            && let Holding::Owned { via, .. } = &mut shown.holding
            && let Some(received) = node.host.received.keys().next_back()
        {
            *via = Some(*received);
        }
        self.show(place, shown)
    }

    /// An answer that was sent long ago reaches the machine; the table itself never goes back.
    pub fn learn_late(&mut self, place: usize, mut row: ShardRow) -> Checked {
        let node = &mut self.nodes[place];
        if node.row.is_none_or(|known| known.changed < row.changed) {
            return Ok(());
        }
        if self.mutant == Some(Mutant::LateAnswerLearned) {
            node.row = Some(row);
            row.changed = LogIndex(node.shown.0 + 1);
        }
        self.show(place, row)
    }

    fn show(&mut self, place: usize, row: ShardRow) -> Checked {
        let node = &mut self.nodes[place];
        node.shown = node.shown.max(row.changed);
        self.event(place, Event::Row(row))
    }

    pub fn crash(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        *node = Node { alive: false, right: false, ..Node::new(node.process) };
    }

    /// Ends the session; a living node must have lost its right before.
    pub fn fence(&mut self, place: usize) -> Checked {
        if self.nodes[place].alive && self.nodes[place].right {
            return Ok(());
        }
        self.apply(Command::Fence(self.nodes[place].process))
    }

    /// A dead or fenced node comes back under a new incarnation.
    pub fn register(&mut self, place: usize) -> Checked {
        let old = self.nodes[place].process;
        if self.nodes[place].alive && self.is_up(old) {
            self.nodes[place].right = true;
            return Ok(());
        }
        self.fence(place)?;
        let process = Process::new(old.node, incarnation(old.incarnation.counter + 1));
        self.nodes[place] = Node::new(process);
        self.apply(Command::Register(process))
    }

    pub fn tick(&mut self, span: Duration) -> Checked {
        self.now = self.now.plus(span);
        let due = |wake_at: Option<Timestamp>, now: Timestamp| {
            wake_at.is_some_and(|wake_at| now.maybe_past(wake_at))
        };
        for place in 0..NODES {
            for transfer in self.nodes[place].host.received.values_mut() {
                transfer.age += span;
            }
            if self.mutant == Some(Mutant::TargetDropsByTimer) {
                let kept = |_: &MoveId, transfer: &mut Transfer| transfer.age.as_secs() < 5;
                self.nodes[place].host.received.retain(kept);
            }
            if due(self.nodes[place].wake_at, self.now) {
                self.event(place, Event::Tick)?;
            }
        }
        if due(self.leader_wakes_at, self.now) {
            self.tell_leader(LeaderEvent::Tick);
        }
        Ok(())
    }

    // --- calls ---

    fn right_until(&self, node: &Node) -> Timestamp {
        if node.right { self.now.plus(Duration::from_secs(1)) } else { self.now }
    }

    pub fn verdict(&self, place: usize) -> Verdict {
        let node = &self.nodes[place];
        let epoch = node.row.map_or(Epoch(1), |row| row.epoch);
        let budget = DEFAULT_DEADLINE;
        let facts = Facts {
            me: node.process,
            row: node.row,
            applied: LogIndex(self.index),
            map_version: MapVersion(self.index),
            local: node.shard.local(),
            right: self.right_until(node),
            now: self.now,
            header: Header { epoch, map_version: MapVersion(0), budget },
            waited: Duration::ZERO,
            queue: Queue { calls: 0, max_calls: 1 },
        };
        admit(&facts).verdict
    }

    pub fn admits(&self, place: usize) -> bool {
        self.nodes[place].alive && matches!(self.verdict(place), Verdict::Admit { .. })
    }

    pub fn call(&mut self, place: usize) -> bool {
        let node = &self.nodes[place];
        let Local::Open { epoch } = node.shard.local() else { return false };
        if !self.admits(place) {
            return false;
        }
        self.nodes[place].host.calls.push(epoch);
        true
    }

    /// The effect, the check and the acknowledgement of one admitted call.
    pub fn finish(&mut self, place: usize) -> Result<bool, String> {
        let Some(admitted) = self.nodes[place].host.calls.pop() else { return Ok(false) };
        let node = &self.nodes[place];
        let facts = Recheck {
            me: node.process,
            admitted,
            row: node.row,
            local: node.shard.local(),
            right: self.right_until(node),
            now: self.now,
        };
        let acknowledged = recheck(&facts).is_ok();
        if let Some(state) = &mut self.nodes[place].host.open {
            state.count += 1;
        }
        if acknowledged {
            if self.owner() != Some(place) || self.row().epoch != admitted {
                return Err(format!("node {place} acknowledged what it does not own"));
            }
            self.acked += 1;
            self.coverage.acknowledged += 1;
        }
        self.check()?;
        Ok(acknowledged)
    }

    // --- the checks ---

    pub fn check(&self) -> Checked {
        for place in (0..NODES).filter(|place| self.admits(*place)) {
            let node = &self.nodes[place];
            let row = self.row();
            if row.owner() != Some((node.process.node, node.process.incarnation)) {
                return Err(format!("node {place} admits, the owner is {:?}", row.owner()));
            }
            let Some(state) = node.host.open else {
                return Err(format!("node {place} admits and its host is closed"));
            };
            if state.lineage != self.lineages[&row.epoch] {
                return Err(format!("node {place} serves state of before a failover: {state:?}"));
            }
            if state.count < self.acked {
                return Err(format!("{} acknowledged, node {place} has {state:?}", self.acked));
            }
        }
        Ok(())
    }

    // --- smooth running ---

    /// One round without faults: everything under way arrives, in order.
    pub fn round(&mut self) -> Checked {
        for packet in std::mem::take(&mut self.net) {
            self.deliver(packet)?;
        }
        if !self.hold_commands {
            for command in std::mem::take(&mut self.pending) {
                self.apply(command)?;
            }
        }
        for place in 0..NODES {
            if !self.lagging.contains(&place) {
                self.learn(place, self.row())?;
            }
            if !self.idle_hosts.contains(&place) {
                self.work(place)?;
            }
        }
        self.tick(Duration::from_millis(20))
    }

    pub fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Checked {
        // A minute: beyond every patience of a machine but that of the leader.
        for _ in 0..3_000 {
            if done(self) {
                return Ok(());
            }
            self.round()?;
        }
        Err(format!("{what} did not come true; row {:?}", self.row()))
    }

    /// The faults end: everyone registers and somebody serves; then a move goes through.
    pub fn heal(&mut self) -> Checked {
        self.hold_commands = false;
        self.lagging.clear();
        for place in 0..NODES {
            self.register(place)?;
            while !self.nodes[place].host.calls.is_empty() {
                self.finish(place)?;
            }
        }
        self.run_until("being under way", |world| world.pending.is_empty())?;
        if self.row().holding == Holding::Unassigned {
            self.apply(Command::Assign(self.nodes[0].process))?;
        }
        self.run_until("an owner at rest", |world| {
            world.moving().is_none() && world.owner().is_some_and(|owner| world.admits(owner))
        })?;
        let from = self.owner().expect("an owner");
        let to = (from + 1) % NODES;
        self.apply(Command::Begin(self.nodes[to].process))?;
        self.run_until("the move", |world| world.owner() == Some(to) && world.admits(to))
    }
}
