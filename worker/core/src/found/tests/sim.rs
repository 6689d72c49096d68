//! A few machines over a simulated network, disks, clocks, and a Raft reduced to what
//! founding needs of it: one entry, its voters, and majorities. One seed, one run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::*;
use crate::id::Epoch;

pub const LEASE: Duration = Duration::from_secs(3);
/// Between two rounds of appends.
const APPEND_EVERY: u64 = 300;

/// SplitMix64: enough for fault schedules, the same on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }

    fn wide(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}

/// The log of one directory: synced at once, wiped by a leave.
#[derive(Clone, Default, Debug)]
struct Log {
    voters: Vec<u128>,
    formed: bool,
    committed: bool,
    /// Founder only: learners that answered an append.
    caught_up: BTreeSet<u128>,
    acks: BTreeSet<u128>,
}

#[derive(Clone, Debug)]
struct Disk {
    directory: Directory,
    log: Log,
}

pub struct Node {
    pub name: String,
    pub plan: Plan,
    pub confirm: bool,
    disk: Option<Disk>,
    pub machine: Option<Found>,
    /// A process of a name that has another directory elsewhere; gone when the faults end.
    zombie: bool,
    run: u64,
    wake: Option<u64>,
    writing: Option<Directory>,
    leaving: bool,
    /// Raft ran until this write.
    anew: bool,
    /// Raft runs.
    raft: bool,
    tokens: BTreeMap<Token, usize>,
    pub waiting: Option<String>,
    pub exits: Vec<Reason>,
    restart_at: Option<u64>,
}

#[derive(Clone, Debug)]
enum Packet {
    Question(usize, Question),
    Answer(String, Answer),
    RequestJoin(usize, ClusterId),
    Admitted(ClusterId, NodeId),
    /// From, with the sender's whole log.
    Append(usize, ClusterId, Log),
    Ack(ClusterId, u128, bool),
    Written(u64),
    Wake(u64),
    Appends(u64),
}

#[derive(Clone, Copy)]
pub struct Weather {
    pub loss: u64,
    pub duplicates: u64,
    pub delay_ms: u64,
    /// Percent of packets that take up to 5 s.
    pub stragglers: u64,
    pub write_ms: u64,
}

pub const CALM: Weather =
    Weather { loss: 0, duplicates: 0, delay_ms: 10, stragglers: 0, write_ms: 5 };
pub const STORM: Weather =
    Weather { loss: 15, duplicates: 15, delay_ms: 300, stragglers: 10, write_ms: 400 };

pub struct Sim {
    pub random: Random,
    pub now: u64,
    pub nodes: Vec<Node>,
    pub weather: Weather,
    /// One-way: packets from the first to the second are lost.
    pub cut: BTreeSet<(usize, usize)>,
    queue: BTreeMap<(u64, u64), (usize, Packet)>,
    sequence: u64,
    pub formed: BTreeSet<ClusterId>,
    pub founded: BTreeSet<ClusterId>,
    /// What the operator's identity file holds, for nodes whose founding it confirms.
    pub recorded: Option<ClusterId>,
    pub abandoning: Option<Mark>,
    /// What the last proposal of Formed was to start above.
    pub proposed_above: Epoch,
    /// What went wrong, if anything did.
    pub violation: Option<String>,
    pub mutant: Option<Mutant>,
    /// Holds back the change of voters.
    pub keep_one_voter: bool,
    admitted: u64,
    pub trace: Vec<String>,
}

pub fn name(i: usize) -> String {
    format!("n{i}")
}

pub fn set(size: usize) -> FoundingSet {
    FoundingSet::new((0..size).map(name)).unwrap()
}

pub fn address(i: usize) -> String {
    format!("a{i}")
}

impl Sim {
    pub fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        Self {
            random: Random(seed),
            now: 0,
            nodes: Vec::new(),
            weather: CALM,
            cut: BTreeSet::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            formed: BTreeSet::new(),
            founded: BTreeSet::new(),
            recorded: None,
            abandoning: None,
            proposed_above: Epoch::default(),
            violation: None,
            mutant,
            keep_one_voter: false,
            admitted: 0,
            trace: Vec::new(),
        }
    }

    /// A founding set of `size`, none started.
    pub fn of(size: usize, seed: u64, mutant: Option<Mutant>) -> Self {
        let mut sim = Self::new(seed, mutant);
        (0..size).for_each(|i| {
            sim.add(name(i), Plan::Found(set(size)));
        });
        sim
    }

    pub fn add(&mut self, name: String, plan: Plan) -> usize {
        self.nodes.push(Node {
            name,
            plan,
            confirm: false,
            disk: None,
            machine: None,
            zombie: false,
            run: 0,
            wake: None,
            writing: None,
            leaving: false,
            anew: false,
            raft: false,
            tokens: BTreeMap::new(),
            waiting: None,
            exits: Vec::new(),
            restart_at: None,
        });
        self.nodes.len() - 1
    }

    fn at(&self) -> Timestamp {
        let span = Duration::from_millis(self.now);
        Timestamp::new(span, span)
    }

    pub fn start(&mut self, i: usize) {
        let boot = 1_000_000 + self.now;
        self.start_at_boot(i, boot);
    }

    /// Starts with this reading of the wall clock, should the directory be empty.
    pub fn start_at_boot(&mut self, i: usize, boot_ms: u64) {
        if self.nodes[i].machine.is_some() || self.nodes[i].zombie {
            return;
        }
        let nonce = self.random.wide();
        let first = self.random.next();
        let at = self.at();
        let mutant = self.mutant;
        let node = &mut self.nodes[i];
        let disk = node.disk.get_or_insert_with(|| Disk {
            directory: Directory::empty(nonce, boot_ms),
            log: Log::default(),
        });
        if disk.directory.joined.is_none() {
            disk.log = Log::default();
        }
        let config = Config {
            name: node.name.clone(),
            node_name: node.name.clone(),
            address: address(i),
            plan: node.plan.clone(),
            recorded: self.recorded.filter(|_| node.confirm),
            abandoning: self.abandoning.clone().filter(|_| node.confirm),
            lease: LEASE,
            confirm_required: node.confirm,
        };
        let mut machine = Found::new(config, disk.directory.clone(), first, at);
        machine.mutant = mutant;
        node.machine = Some(machine);
        node.run += 1;
        node.restart_at = None;
        let (run, log) = (node.run, disk.log.clone());
        self.trace(format!("{} starts", self.nodes[i].name));
        self.event(i, Event::Started { formed_in_log: log.formed });
        if log.committed {
            self.event(i, Event::FormedCommitted);
        }
        if !log.voters.is_empty() {
            self.event(i, Event::MembershipCommitted { voters: log.voters });
        }
        for other in 0..self.nodes.len() {
            self.event(i, Event::AddressLearned { address: address(other) });
        }
        self.later(0, i, Packet::Appends(run));
    }

    /// The empty directory of a node that was in another cluster before.
    pub fn begin_above(&mut self, i: usize, highest_epoch: Epoch) {
        let directory = Directory::empty(self.random.wide(), 1_000_000);
        let directory = Directory { highest_epoch, ..directory };
        self.nodes[i].disk = Some(Disk { directory, log: Log::default() });
    }

    pub fn crash(&mut self, i: usize) {
        let lucky = self.random.percent(50);
        let node = &mut self.nodes[i];
        if node.machine.take().is_none() {
            return;
        }
        node.run += 1;
        node.tokens.clear();
        node.leaving = false;
        node.anew = false;
        node.raft = false;
        // A write without its sync may or may not have reached the disk.
        if let (Some(next), Some(disk), true) = (node.writing.take(), &mut node.disk, lucky) {
            disk.directory = next;
        }
        if node.zombie {
            node.disk = None;
        }
        self.trace(format!("{} crashes", self.nodes[i].name));
    }

    pub fn lose_disk(&mut self, i: usize) {
        self.crash(i);
        self.nodes[i].disk = None;
        self.trace(format!("{} loses its disk", self.nodes[i].name));
    }

    /// Only a running process can survive its directory: the
    /// name gets a new, empty one elsewhere while the old process runs on.
    pub fn replace(&mut self, i: usize) -> usize {
        let node = &mut self.nodes[i];
        let (name, plan, confirm) = (node.name.clone(), node.plan.clone(), node.confirm);
        node.zombie = true;
        self.trace(format!("{name} is replaced"));
        let new = self.add(name, plan);
        self.nodes[new].confirm = confirm;
        for other in 0..new {
            self.event(other, Event::AddressLearned { address: address(new) });
        }
        new
    }

    pub fn end_zombies(&mut self) {
        for i in 0..self.nodes.len() {
            if self.nodes[i].zombie {
                self.crash(i);
            }
        }
    }

    pub fn directory(&self, i: usize) -> Option<&Directory> {
        self.nodes[i].disk.as_ref().map(|disk| &disk.directory)
    }

    pub fn is_zombie(&self, i: usize) -> bool {
        self.nodes[i].zombie
    }

    /// The operator records the cluster of the first node that has one, once, and confirms the
    /// recorded one to all.
    pub fn operate(&mut self) {
        let joined = (0..self.nodes.len())
            .filter(|i| self.nodes[*i].machine.is_some() && !self.nodes[*i].zombie)
            .find_map(|i| self.directory(i)?.cluster());
        self.recorded = self.recorded.or(joined);
        if let Some(cluster) = self.recorded {
            let here =
                |sim: &Self, i| sim.directory(i).and_then(Directory::cluster) == Some(cluster);
            for i in (0..self.nodes.len()).filter(|i| here(self, *i)).collect::<Vec<_>>() {
                self.event(i, Event::Confirmed { cluster });
            }
        }
    }

    /// The node reads the identity file anew.
    pub fn read_record(&mut self, i: usize) {
        if let Plan::Found(founding) = self.nodes[i].plan.clone() {
            let (recorded, abandoning) = (self.recorded, self.abandoning.clone());
            self.event(i, Event::Told { founding, recorded, abandoning });
        }
    }

    /// A join is on its way to the disk.
    pub fn joins(&self, i: usize) -> bool {
        self.nodes[i].writing.as_ref().is_some_and(|next| next.joined.is_some())
    }

    /// What the node answers an operator: that it keeps to this mark, and holds no cluster.
    pub fn gives_up(&self, i: usize, mark: &Mark) -> bool {
        self.nodes[i].machine.as_ref().is_some_and(|machine| {
            machine.refuses() == Some(mark) && machine.directory().joined.is_none()
        })
    }

    pub fn formed_in(&self, i: usize) -> Option<ClusterId> {
        let disk = self.nodes[i].disk.as_ref()?;
        disk.directory.cluster().filter(|_| disk.log.committed)
    }

    /// The first `size` nodes are all in one formed cluster.
    pub fn formed_by(&self, size: usize) -> bool {
        let first = self.formed_in(0);
        first.is_some() && (1..size).all(|i| self.formed_in(i) == first)
    }

    pub fn waiting(&self, i: usize) -> &str {
        self.nodes[i].waiting.as_deref().unwrap_or_default()
    }

    pub fn holds_formed(&self, i: usize) -> bool {
        self.nodes[i].disk.as_ref().is_some_and(|disk| disk.log.formed || disk.directory.formed)
    }

    pub fn isolate(&mut self, i: usize) {
        for other in 0..self.nodes.len() {
            self.cut.insert((i, other));
            self.cut.insert((other, i));
        }
    }

    pub fn event(&mut self, i: usize, event: Event) {
        let at = self.at();
        let Some(machine) = &mut self.nodes[i].machine else {
            return;
        };
        let output = machine.on(event, at);
        let run = self.nodes[i].run;
        for action in output.actions {
            self.perform(i, action);
        }
        if let Some(wake) = output.wake_at {
            let wake = wake.raw.as_millis() as u64;
            if self.nodes[i].wake.is_none_or(|planned| planned > wake || planned <= self.now) {
                self.nodes[i].wake = Some(wake);
                self.schedule(wake, i, Packet::Wake(run));
            }
        }
    }

    fn perform(&mut self, i: usize, action: Action) {
        match action {
            Action::Ask { address, question } => {
                let to = address[1..].parse().unwrap();
                self.send(i, to, Packet::Question(i, question));
            }
            Action::Reply { token, answer } => {
                if let Some(to) = self.nodes[i].tokens.remove(&token) {
                    self.send(i, to, Packet::Answer(address(i), answer));
                }
            }
            Action::Drop { token } => {
                self.nodes[i].tokens.remove(&token);
            }
            Action::Persist(next) => self.write(i, next),
            Action::Renounce(next) => self.stop_and_write(i, next, false),
            Action::Leave(next) => self.stop_and_write(i, next, true),
            Action::Initialize { cluster } => {
                self.nodes[i].raft = true;
                if self.founded.insert(cluster) {
                    self.trace(format!("{} founds {cluster}", self.nodes[i].name));
                }
                let disk = self.nodes[i].disk.as_mut().unwrap();
                if disk.log.voters.is_empty() {
                    disk.log.voters = vec![disk.directory.nonce];
                }
                let voters = disk.log.voters.clone();
                self.event(i, Event::MembershipCommitted { voters });
            }
            Action::Start { .. } => self.nodes[i].raft = true,
            Action::RequestJoin { cluster, address } => {
                let to = address[1..].parse().unwrap();
                self.send(i, to, Packet::RequestJoin(i, cluster));
            }
            Action::ProposeFormed { cluster, highest_epoch } => {
                self.proposed_above = highest_epoch;
                let log = &mut self.nodes[i].disk.as_mut().unwrap().log;
                if !log.formed {
                    log.formed = true;
                    log.acks.clear();
                    self.trace(format!("{} proposes that {cluster} is formed", self.nodes[i].name));
                    self.event(i, Event::FormedInLog);
                }
            }
            Action::Exit(reason) => {
                self.trace(format!("{} exits: {reason}", self.nodes[i].name));
                self.nodes[i].exits.push(reason);
                self.crash(i);
                self.nodes[i].restart_at = Some(self.now + 1_000);
            }
            Action::Waiting(text) => self.nodes[i].waiting = text,
        }
    }

    fn stop_and_write(&mut self, i: usize, next: Directory, leaving: bool) {
        self.nodes[i].anew = std::mem::take(&mut self.nodes[i].raft);
        if self.nodes[i].disk.as_ref().unwrap().log.formed {
            return self.begin_anew(i);
        }
        let verb = if leaving { "leaves" } else { "renounces" };
        self.trace(format!("{} {verb}", self.nodes[i].name));
        self.nodes[i].leaving = leaving;
        self.write(i, next);
    }

    fn write(&mut self, i: usize, next: Directory) {
        let took = 1 + self.random.below(self.weather.write_ms);
        let run = self.nodes[i].run;
        self.nodes[i].writing = Some(next);
        self.later(took, i, Packet::Written(run));
    }

    fn written(&mut self, i: usize) {
        let Some(next) = self.nodes[i].writing.take() else {
            return;
        };
        let leaving = std::mem::take(&mut self.nodes[i].leaving);
        let disk = self.nodes[i].disk.as_mut().unwrap();
        if leaving {
            disk.log = Log::default();
        }
        let intends = next.formed && !disk.directory.formed && next.founded().is_some();
        let founds = next.founded().is_some() && disk.directory.joined.is_none();
        disk.directory = next;
        let machine = self.nodes[i].machine.as_ref();
        if founds && machine.is_some_and(|machine| machine.config.recorded.is_some()) {
            let text = format!("{} founds beside the recorded cluster", name(i));
            self.violation.get_or_insert(text);
        }
        if founds {
            self.check_none_formed(i);
        }
        if intends {
            self.check_all_joined(i);
        }
        // The machine may go on as well: it must be as safe as a new one.
        if std::mem::take(&mut self.nodes[i].anew) && self.random.percent(50) {
            return self.begin_anew(i);
        }
        self.event(i, Event::Persisted);
    }

    /// Another machine takes over, from what is on disk.
    fn begin_anew(&mut self, i: usize) {
        self.crash(i);
        self.start(i);
    }

    fn check_none_formed(&mut self, founder: usize) {
        let formed = (0..self.nodes.len()).find(|i| *i != founder && self.holds_formed(*i));
        if let Some(formed) = formed.filter(|i| !self.nodes[*i].zombie) {
            let text = format!("{} founds beside {}", name(founder), name(formed));
            self.violation.get_or_insert(text);
        }
    }

    /// Whoever has its directory still must hold, on disk, the cluster about to form.
    fn check_all_joined(&mut self, founder: usize) {
        let joined = self.directory(founder).unwrap().joined.clone().unwrap();
        for member in &joined.on {
            let astray = (0..self.nodes.len()).any(|i| {
                self.directory(i)
                    .is_some_and(|d| d.nonce == member.nonce && d.cluster() != Some(joined.cluster))
            });
            if astray {
                let text = format!("{} forms without {} having joined", name(founder), member.name);
                self.violation.get_or_insert(text);
            }
        }
    }

    fn nonce(&self, i: usize) -> u128 {
        self.directory(i).map_or(0, |directory| directory.nonce)
    }

    fn send(&mut self, from: usize, to: usize, packet: Packet) {
        let copies = 1 + u64::from(self.random.percent(self.weather.duplicates));
        for _ in 0..copies {
            let lost = self.random.percent(self.weather.loss) || self.cut.contains(&(from, to));
            let straggles = self.random.percent(self.weather.stragglers);
            let longest = if straggles { 5_000 } else { self.weather.delay_ms };
            let delay = 1 + self.random.below(longest);
            if !lost {
                self.later(delay, to, packet.clone());
            }
        }
    }

    fn later(&mut self, delay: u64, to: usize, packet: Packet) {
        self.schedule(self.now + delay, to, packet);
    }

    fn schedule(&mut self, at: u64, to: usize, packet: Packet) {
        self.sequence += 1;
        self.queue.insert((at.max(self.now), self.sequence), (to, packet));
    }

    /// Runs until the condition holds; false when the time is over.
    pub fn run(&mut self, span_ms: u64, until: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + span_ms;
        loop {
            if until(self) {
                return true;
            }
            let Some((&(at, sequence), _)) = self.queue.first_key_value() else {
                return false;
            };
            if at > end {
                self.now = end;
                return false;
            }
            let (to, packet) = self.queue.remove(&(at, sequence)).unwrap();
            self.now = at;
            self.deliver(to, packet);
            for i in 0..self.nodes.len() {
                if self.nodes[i].restart_at.is_some_and(|due| due <= self.now) {
                    self.start(i);
                }
            }
            self.note_formed(to);
        }
    }

    pub fn pass(&mut self, span_ms: u64) {
        self.run(span_ms, |_| false);
    }

    fn note_formed(&mut self, i: usize) {
        if let Some(cluster) = self.formed_in(i)
            && self.formed.insert(cluster)
            && self.formed.len() > 1
        {
            let text = format!("two clusters formed: {:?}", self.formed);
            self.violation.get_or_insert(text);
        }
    }

    fn deliver(&mut self, to: usize, packet: Packet) {
        let current = self.nodes[to].run;
        if self.nodes[to].machine.is_none() {
            return;
        }
        match packet {
            Packet::Question(from, question) => {
                self.sequence += 1;
                let token = Token(self.sequence);
                self.nodes[to].tokens.insert(token, from);
                self.event(to, Event::Question { token, question });
            }
            Packet::Answer(from, answer) => self.event(to, Event::Answer { from, answer }),
            Packet::Written(run) if run == current => self.written(to),
            Packet::Wake(run) if run == current => {
                if self.nodes[to].wake.is_some_and(|wake| wake <= self.now) {
                    self.nodes[to].wake = None;
                    let random = self.random.wide();
                    self.event(to, Event::Tick { random });
                }
            }
            Packet::Appends(run) if run == current => {
                self.broadcast(to);
                self.later(APPEND_EVERY, to, Packet::Appends(run));
            }
            Packet::Written(_) | Packet::Wake(_) | Packet::Appends(_) => {}
            Packet::RequestJoin(from, cluster) => self.admit(to, from, cluster),
            Packet::Admitted(cluster, node) => self.event(to, Event::Admitted { cluster, node }),
            Packet::Append(from, cluster, log) => self.append(to, from, cluster, log),
            Packet::Ack(cluster, nonce, formed) => self.ack(to, cluster, nonce, formed),
        }
    }

    /// Runs Raft for this cluster: what Raft goes by is what the machine shows.
    fn in_cluster(&self, i: usize, cluster: ClusterId) -> bool {
        let machine = self.nodes[i].machine.as_ref();
        self.nodes[i].raft && machine.is_some_and(|m| m.directory().cluster() == Some(cluster))
    }

    /// Once all have caught up they become voters at once, where more than one are to vote.
    fn promote(&mut self, i: usize) {
        let Some(disk) = &mut self.nodes[i].disk else {
            return;
        };
        let Some(joined) = disk.directory.founded() else {
            return;
        };
        let complete = disk.log.caught_up.len() + 1 == joined.on.len();
        if complete && disk.log.voters.len() == 1 && joined.on.len() >= 3 {
            disk.log.voters = joined.on.iter().map(|member| member.nonce).collect();
            disk.log.acks.clear();
        }
    }

    /// The founder replicates; a follower only once Formed is in its log.
    fn broadcast(&mut self, i: usize) {
        if !self.keep_one_voter {
            self.promote(i);
        }
        let Some(disk) = &self.nodes[i].disk else {
            return;
        };
        let (log, directory) = (&disk.log, &disk.directory);
        let founds = directory.founded().is_some();
        let Some(cluster) = directory.cluster().filter(|_| founds || log.formed) else {
            return;
        };
        if !self.nodes[i].raft {
            return;
        }
        let packet = Packet::Append(i, cluster, log.clone());
        self.count_ack(i, cluster, self.nonce(i));
        for other in (0..self.nodes.len()).filter(|other| *other != i) {
            self.send(i, other, packet.clone());
        }
    }

    fn append(&mut self, to: usize, from: usize, cluster: ClusterId, theirs: Log) {
        if !self.in_cluster(to, cluster) {
            return;
        }
        let log = &mut self.nodes[to].disk.as_mut().unwrap().log;
        let news = theirs.formed && !log.formed;
        let commits = theirs.committed && !log.committed;
        if news || !log.formed || theirs.committed {
            log.voters = theirs.voters;
        }
        log.formed |= theirs.formed;
        log.committed |= theirs.committed;
        if news {
            self.event(to, Event::FormedInLog);
        }
        if commits {
            self.event(to, Event::FormedCommitted);
        }
        let ack = Packet::Ack(cluster, self.nonce(to), theirs.formed);
        self.send(to, from, ack);
    }

    fn ack(&mut self, i: usize, cluster: ClusterId, nonce: u128, formed: bool) {
        let holds = self.nodes[i].disk.as_ref().is_some_and(|disk| disk.log.formed);
        if self.in_cluster(i, cluster) && holds == formed {
            self.count_ack(i, cluster, nonce);
        }
    }

    fn count_ack(&mut self, i: usize, cluster: ClusterId, nonce: u128) {
        let log = &mut self.nodes[i].disk.as_mut().unwrap().log;
        if !log.voters.contains(&nonce) {
            log.caught_up.insert(nonce);
            return self.replace_lost_voter(i, cluster, nonce);
        }
        log.acks.insert(nonce);
        if log.acks.len() <= log.voters.len() / 2 {
            return;
        }
        if log.formed && !log.committed {
            log.committed = true;
            self.trace(format!("{} commits that {cluster} is formed", self.nodes[i].name));
            self.event(i, Event::FormedCommitted);
        } else if !log.formed {
            let voters = log.voters.clone();
            self.event(i, Event::MembershipCommitted { voters });
        }
    }

    /// The voters within reach, if they are a majority: then an entry commits at once.
    fn quorum(&self, i: usize, cluster: ClusterId) -> Option<Vec<usize>> {
        let voters = &self.nodes[i].disk.as_ref()?.log.voters;
        let reach = |n: usize| !self.cut.contains(&(i, n)) && !self.cut.contains(&(n, i));
        let reached: Vec<usize> = (0..self.nodes.len())
            .filter(|n| self.in_cluster(*n, cluster) && reach(*n))
            .filter(|n| voters.contains(&self.nonce(*n)))
            .collect();
        (reached.len() > voters.len() / 2).then_some(reached)
    }

    fn admit(&mut self, i: usize, from: usize, cluster: ClusterId) {
        let leads = self.directory(i).is_some_and(|directory| directory.founded().is_some());
        let committed = self.nodes[i].disk.as_ref().is_some_and(|disk| disk.log.committed);
        let may = self.in_cluster(i, cluster) && (leads || committed);
        if may && self.quorum(i, cluster).is_some() {
            self.admitted += 1;
            let node = NodeId(1 + self.admitted);
            self.send(i, from, Packet::Admitted(cluster, node));
        }
    }

    /// Once formed, a directory that is gone gives its vote to one that has caught up.
    fn replace_lost_voter(&mut self, i: usize, cluster: ClusterId, nonce: u128) {
        let log = &self.nodes[i].disk.as_ref().unwrap().log;
        let there = |voter: &u128| {
            (0..self.nodes.len()).any(|n| self.nonce(n) == *voter && !self.nodes[n].zombie)
        };
        let Some(at) = log.voters.iter().position(|voter| !there(voter)) else {
            return;
        };
        let (committed, mut voters) = (log.committed, log.voters.clone());
        let Some(reached) = self.quorum(i, cluster).filter(|_| committed) else {
            return;
        };
        voters[at] = nonce;
        for n in reached {
            let log = &mut self.nodes[n].disk.as_mut().unwrap().log;
            log.voters.clone_from(&voters);
            log.formed = true;
            log.committed = true;
            self.event(n, Event::FormedCommitted);
        }
    }

    fn trace(&mut self, line: String) {
        self.trace.push(format!("{:>7} {line}", self.now));
    }
}
