//! One run: some machines, their network, their log, in steps of true time. Every random
//! choice comes from one seed; the order of events is that of their time and their making.

use std::{collections::BTreeMap, fmt};

use shoal_core::{
    id::{ClusterId, NodeId, Timestamp},
    registry::{Command, NodeInfo},
};

use crate::{
    calls::{Answered, Frame},
    clock::{MS, SECOND, True},
    coverage::Coverage,
    faults::{Fault, Trap, Undo},
    handover::{Packet, Task},
    log::{Author, Log, RAFT_TICK, What},
    mutant::Mutant,
    network::{Network, Weather},
    node::{Live, Node},
    oracle::Oracle,
    random::Random,
    requests::{Ask, Reply},
    trace::Trace,
    watch::Follow,
};

/// One machine: nodes come and go on it.
pub type Place = usize;

pub const SHARDS: u32 = 16;
/// How often a process looks at what has become due.
const POLL: True = 10 * MS;
/// How often the oracles look at everything at once, beside every event they judge.
const JUDGE: True = 50 * MS;

#[derive(Clone, Debug)]
pub enum Event {
    /// Of one run of one process.
    Own {
        place: Place,
        run: u64,
        due: Due,
    },
    Deliver {
        from: Place,
        to: Place,
        message: Message,
    },
    Commit,
    Raft,
    Fault(Fault),
    Undo(Undo),
    Start(Place),
    /// A client calls somebody.
    Client,
    /// The oracles look at everything at once.
    Judge,
}

#[derive(Clone, Debug)]
pub enum Due {
    Poll,
    /// The incarnation counter is on disk.
    Synced(u64),
    Task(Task),
    /// The pipe to a peer broke.
    Broken {
        peer: Place,
        generation: u64,
    },
    /// A process that was told to stop ends, and starts again after so long.
    Gone(True),
    /// A call's pause is over.
    Resend(u64),
    /// A handler reaches its next step.
    Handler(u64),
}

#[derive(Clone, Debug)]
pub enum Message {
    Learn { term: u64, leader: Place, committed: usize },
    Ask(Box<Ask>),
    Reply(Reply),
    Handover(Packet),
    Frame(Frame),
    Answered(Answered),
    Follow(Follow),
}

impl Message {
    /// Frames of calls travel in streams.
    fn is_streamed(&self) -> bool {
        match self {
            Self::Frame(_) | Self::Answered(_) => true,
            Self::Learn { .. }
            | Self::Ask(_)
            | Self::Reply(_)
            | Self::Handover(_)
            | Self::Follow(_) => false,
        }
    }
}

/// How a run is set up, all of it drawn from its seed or written by a scenario.
#[derive(Clone, Debug)]
pub struct Setup {
    pub seed: u64,
    pub nodes: usize,
    pub lease_ms: u32,
    pub max_voters: u32,
    pub max_learners: u32,
    pub weather: Weather,
    /// Mean pause between two calls of clients.
    pub call_every: True,
    /// Longest handler of one call in a hundred.
    pub longest_call: True,
    pub mutant: Option<Mutant>,
    pub verbose: bool,
}

impl Setup {
    pub fn calm(seed: u64, nodes: usize) -> Self {
        Self {
            seed,
            nodes,
            lease_ms: 3_000,
            max_voters: 5,
            max_learners: 16,
            weather: crate::network::CALM,
            call_every: 20 * MS,
            longest_call: 3_500 * MS,
            mutant: None,
            verbose: false,
        }
    }
}

pub struct World {
    pub setup: Setup,
    pub now: True,
    pub random: Random,
    pub network: Network,
    pub log: Log,
    pub nodes: Vec<Node>,
    pub oracle: Oracle,
    pub coverage: Coverage,
    pub trace: Trace,
    pub next_call: u64,
    pub clients: bool,
    pub traps: Vec<Trap>,
    /// Requests to the leader do not reach this place; its log does.
    pub deaf: Option<Place>,
    /// How long the cluster took to be whole again.
    pub converged_after: True,
    queue: BTreeMap<(True, u64), Event>,
    sequence: u64,
}

impl World {
    /// All machines run; the cluster is founded and formed, nobody has registered.
    pub fn new(setup: Setup) -> Self {
        let mut random = Random::new(setup.seed);
        let nodes = (0..setup.nodes).map(|place| Node::new(place, &mut random)).collect();
        let mut world = Self {
            now: 0,
            network: Network::new(setup.weather),
            log: Log::new(setup.nodes),
            nodes,
            oracle: Oracle::default(),
            coverage: Coverage::default(),
            trace: Trace::new(setup.verbose),
            next_call: 0,
            clients: true,
            traps: Vec::new(),
            deaf: None,
            converged_after: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            random,
            setup,
        };
        world.found();
        for place in 0..world.nodes.len() {
            let at = world.random.below(300 * MS);
            world.schedule(at, Event::Start(place));
        }
        world.schedule(RAFT_TICK, Event::Raft);
        world.schedule(SECOND, Event::Client);
        world.schedule(JUDGE, Event::Judge);
        world
    }

    fn found(&mut self) {
        let cluster = ClusterId(7);
        let (founder, directory) = (self.info(0), self.nodes[0].disk.directory);
        let lease_ms = self.setup.lease_ms;
        let found = Command::Found { cluster, founder, directory, shard_count: SHARDS, lease_ms };
        let join = |place: Place| Command::Join {
            info: self.info(place),
            directory: self.nodes[place].disk.directory,
            replaces: vec![],
        };
        let mut commands = vec![found];
        commands.extend((1..self.nodes.len()).map(join));
        let configure = shoal_core::registry::Configure {
            max_voters: Some(self.setup.max_voters),
            max_learners: Some(self.setup.max_learners),
            cooldown_ms: Some(500),
            ..Default::default()
        };
        commands.push(Command::Configure(configure));
        commands
            .push(Command::Form { unix_seconds: 1_000, highest_epoch_found: Default::default() });
        self.log.found(commands);
        let rows: Vec<_> = self.truth().shards().map(|(id, row)| (id, *row)).collect();
        for (shard, row) in rows {
            self.oracle.row_changed(shard, None, &row);
        }
        let directories: Vec<_> = self.nodes.iter().map(|node| node.disk.directory).collect();
        for (place, directory) in directories.into_iter().enumerate() {
            let known = self.truth().nodes().find(|(_, node)| node.directory == directory);
            let id = known.map(|(id, _)| id);
            self.nodes[place].disk.node = id;
        }
        let all: Vec<NodeId> = self.truth().nodes().map(|(id, _)| id).collect();
        let count = match (self.setup.max_voters, all.len()) {
            (1, _) | (_, 1 | 2) => 1,
            (3, _) | (_, 3 | 4) => 3,
            _ => 5,
        };
        let (voters, learners) = all.split_at(count);
        let learners = learners.iter().take(self.setup.max_learners.max(2) as usize);
        let what = What::Members {
            voters: voters.iter().copied().collect(),
            learners: learners.copied().collect(),
        };
        self.log.found_members(what);
        let held = self.log.committed;
        self.log.held.fill(held);
    }

    pub fn info(&self, place: Place) -> NodeInfo {
        NodeInfo {
            name: format!("w{}", self.nodes[place].disk.made_on),
            weight: 1,
            feature_level: 1,
            revision: "r1".to_owned(),
            ..NodeInfo::default()
        }
    }

    pub fn schedule(&mut self, at: True, event: Event) {
        self.sequence += 1;
        self.queue.insert((at.max(self.now), self.sequence), event);
    }

    pub fn own(&mut self, place: Place, after: True, due: Due) {
        let Some(live) = &self.nodes[place].live else { return };
        let run = live.run;
        self.schedule(self.now + after, Event::Own { place, run, due });
    }

    /// True when at least one copy will arrive.
    pub fn send(&mut self, from: Place, to: Place, message: Message) -> bool {
        if self.deaf == Some(to) && from != to && matches!(message, Message::Ask(_)) {
            return false;
        }
        let (random, now) = (&mut self.random, self.now);
        let arrivals = if message.is_streamed() {
            [self.network.frame(random, from, to, now), None]
        } else {
            self.network.datagram(random, from, to, now)
        };
        let arrivals = match message {
            Message::Handover(_) => self.network.in_order(from, to, arrivals),
            _ => arrivals,
        };
        if arrivals[1].is_some() {
            self.saw("message repeated");
        }
        if arrivals[0].is_none() {
            self.saw("message lost");
        }
        for at in arrivals.into_iter().flatten() {
            self.schedule(at, Event::Deliver { from, to, message: message.clone() });
        }
        arrivals[0].is_some()
    }

    pub fn clock(&mut self, place: Place) -> Timestamp {
        let read = self.nodes[place].clock.read(self.now);
        match self.setup.mutant {
            Some(Mutant::OneClockOnly) => Timestamp::new(read.boottime, read.boottime),
            Some(_) | None => read,
        }
    }

    pub fn is_paused(&self, place: Place) -> bool {
        self.nodes[place].paused_until > self.now
    }

    pub fn live(&self, place: Place) -> &Live {
        self.nodes[place].live.as_ref().expect("its process runs")
    }

    pub fn live_mut(&mut self, place: Place) -> &mut Live {
        self.nodes[place].live.as_mut().expect("its process runs")
    }

    /// Where the node's process runs, or would.
    pub fn place_of(&self, id: NodeId) -> Option<Place> {
        self.nodes.iter().position(|node| node.disk.node == Some(id))
    }

    pub fn saw(&mut self, what: &'static str) {
        self.coverage.saw(what);
    }

    pub fn note(&mut self, what: fmt::Arguments<'_>) {
        self.trace.note(self.now, what);
    }

    /// Runs until true time `end`, or until something is wrong.
    pub fn run_to(&mut self, end: True) {
        self.run_while(end, |_| true);
    }

    /// Runs while `go` holds, at most until `end`; false when time was up.
    pub fn run_while(&mut self, end: True, go: impl Fn(&Self) -> bool) -> bool {
        while self.oracle.violation.is_none() {
            if !go(self) {
                return true;
            }
            let Some((&(at, sequence), _)) = self.queue.first_key_value() else { break };
            if at > end {
                break;
            }
            let event = self.queue.remove(&(at, sequence)).expect("the first one");
            self.now = at;
            self.trace.add(at);
            self.handle(event);
        }
        if self.oracle.violation.is_none() {
            self.now = self.now.max(end);
        }
        false
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Own { place, run, due } => {
                if self.nodes[place].live.as_ref().is_some_and(|live| live.run == run) {
                    if self.is_paused(place) {
                        return self.defer(place, Event::Own { place, run, due });
                    }
                    self.own_event(place, due);
                }
            }
            Event::Deliver { from, to, message } => {
                if self.is_paused(to) {
                    return self.defer(to, Event::Deliver { from, to, message });
                }
                self.deliver(from, to, message);
            }
            Event::Commit => self.commit(),
            Event::Raft => self.raft_tick(),
            Event::Fault(fault) => self.strike(fault),
            Event::Undo(undo) => self.undo(undo),
            Event::Start(place) => self.start(place),
            Event::Judge => {
                self.schedule(self.now + JUDGE, Event::Judge);
                self.judge_instant();
            }
            Event::Client => {
                if self.clients {
                    let mean = self.setup.call_every;
                    let next = self.now + self.random.between(mean / 2, mean * 3 / 2);
                    self.schedule(next, Event::Client);
                    self.client_call();
                }
            }
        }
    }

    /// What reaches a stopped process waits for it; connections are read in any order.
    fn defer(&mut self, place: Place, event: Event) {
        let streamed = matches!(&event, Event::Deliver { message, .. } if message.is_streamed());
        let jitter = if streamed { self.random.below(20 * MS) } else { 0 };
        self.schedule(self.nodes[place].paused_until + jitter, event);
    }

    fn own_event(&mut self, place: Place, due: Due) {
        match due {
            Due::Poll => {
                self.own(place, POLL, Due::Poll);
                self.poll(place);
            }
            Due::Synced(counter) => self.synced(place, counter),
            Due::Task(task) => self.task(place, task),
            Due::Broken { peer, generation } => self.pipe_broke(place, peer, generation),
            Due::Gone(pause) => {
                self.close_pipes_to(place);
                self.crash(place);
                self.schedule(self.now + pause, Event::Start(place));
            }
            Due::Resend(call) => self.resend(place, call),
            Due::Handler(call) => self.handler(place, call),
        }
    }

    fn deliver(&mut self, from: Place, to: Place, message: Message) {
        if self.nodes[to].live.is_none() {
            return self.undeliverable(from, message);
        }
        match message {
            Message::Learn { term, leader, committed } => self.learn(to, term, leader, committed),
            Message::Ask(ask) => self.asked(to, *ask),
            Message::Reply(reply) => self.replied(to, reply),
            Message::Handover(packet) => self.handover(to, packet),
            Message::Frame(frame) => self.frame(to, frame),
            Message::Answered(answered) => self.answered(to, answered),
            Message::Follow(follow) => self.follow(from, to, follow),
        }
    }

    /// Nobody listens there: a connection is refused or reset.
    fn undeliverable(&mut self, from: Place, message: Message) {
        match message {
            Message::Frame(frame) => self.reset_pipe(from, &frame),
            Message::Learn { .. }
            | Message::Ask(_)
            | Message::Reply(_)
            | Message::Handover(_)
            | Message::Answered(_)
            | Message::Follow(_) => {}
        }
    }

    pub fn author(&self, place: Place, ticket: u64) -> Author {
        Author { place, run: self.live(place).run, ticket }
    }
}
