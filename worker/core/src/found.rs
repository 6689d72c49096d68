//! Who founds the cluster, who joins it, and when it is formed; one machine per node.
//!
//! Every member of the founding set runs this machine until Formed is committed. It asks,
//! answers, and changes its directory, and shows no change that is not yet on disk. The
//! rules themselves are in `rules`. It keeps no Raft log and opens no socket: it says
//! when to initialise, start, propose and leave, and is told what became of it.
//!
//! Safe while not all directories of the set are lost at once; sets of one or two need
//! the old process of a name dead before that name gets a new directory.

mod directory;
mod message;
mod mutant;
mod rules;
mod talk;
mod waiting;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

pub use directory::{
    Directory, Error, FOUNDING_SIZES, FoundingSet, Joined, Mark, Member, Renounced,
};
pub use message::{
    Action, Answer, Content, Event, Formed, JoinedState, Output, Peer, PeerState, Question, Reason,
    Token,
};
use mutant::Mutant;
use rules::{Scene, Seen, Step, View};
use talk::Contact;

use crate::id::{ClusterId, NodeId, Timestamp};

/// Pause between an answer and the next question to the same address: founding needs about
/// four rounds and should end within two seconds of the last start.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// Between two requests to be admitted, or two proposals of Formed.
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// Past the lease, for rights given under a founding that was left: covers clock error.
const PAUSE_BEYOND_LEASE: Duration = Duration::from_secs(1);
/// The founder is the first node of its cluster.
const FOUNDER: NodeId = NodeId(1);

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Plan {
    /// Found or join with this set; a set of the own name alone founds alone.
    Found(FoundingSet),
    /// Ask the learned addresses for a formed cluster.
    Join,
    /// Found and join nothing before the operator has said who founds.
    Wait,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// This node's name as founding sets spell it.
    pub name: String,
    /// Its name in the registry: a greeting may mean it by either.
    pub node_name: String,
    /// Where this node answers questions.
    pub address: String,
    pub plan: Plan,
    /// What the operator has recorded as the one cluster of this node: no other is founded,
    /// joined or entered.
    pub recorded: Option<ClusterId>,
    /// While the operator's mark stands an empty directory founds and joins nothing, and one that
    /// waits to be admitted to the marked cluster gives that up.
    pub abandoning: Option<Mark>,
    pub lease: Duration,
    /// Formed waits until the operator has recorded the cluster id.
    pub confirm_required: bool,
}

/// Whom to ask, of all the nodes that discovery knows by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asks {
    Always,
    /// A few of many.
    Also,
    Not,
}

#[derive(Debug)]
enum Pending {
    Change(Directory),
    Leave(Directory),
}

#[derive(Debug)]
pub struct Found {
    config: Config,
    /// In force: that of the founding joined, else that of the settings.
    set: Option<FoundingSet>,
    directory: Directory,
    pending: Option<Pending>,
    held: Vec<(Token, Question)>,
    contacts: BTreeMap<String, Contact>,
    view: View,
    /// Founding sets that others refused ours for, by their address.
    differing: BTreeMap<String, Vec<String>>,
    next_number: u64,
    log: Formed,
    voters: Vec<u128>,
    confirmed: Option<ClusterId>,
    foreign: bool,
    silent: Vec<Peer>,
    listen_until: Timestamp,
    retry_at: Timestamp,
    greet_at: Timestamp,
    propose_at: Option<Timestamp>,
    /// Raft was told to run and not to stop since.
    running: bool,
    waiting: Option<String>,
    mutant: Option<Mutant>,
}

impl Found {
    /// `first_number` is random: no answer to an earlier run of this process may match.
    pub fn new(config: Config, directory: Directory, first_number: u64, now: Timestamp) -> Self {
        let mut machine = Self {
            set: None,
            listen_until: now.plus(config.lease),
            retry_at: now,
            greet_at: now,
            config,
            directory,
            pending: None,
            held: Vec::new(),
            contacts: BTreeMap::new(),
            view: View::new(),
            differing: BTreeMap::new(),
            next_number: first_number,
            log: Formed::No,
            voters: Vec::new(),
            confirmed: None,
            foreign: false,
            silent: Vec::new(),
            propose_at: None,
            running: false,
            waiting: None,
            mutant: None,
        };
        machine.choose_set();
        machine
    }

    /// The directory as it is on disk.
    pub fn directory(&self) -> &Directory {
        match &self.pending {
            Some(Pending::Change(next)) if self.mutant == Some(Mutant::JoinBeforePersist) => next,
            Some(Pending::Change(_) | Pending::Leave(_)) | None => &self.directory,
        }
    }

    /// The founder's name was seen under another nonce, and nobody shows Formed: then this
    /// node runs no Raft, and so takes nothing from the old founder [S4].
    fn doubts(&self) -> bool {
        let founder = self.directory.joined.as_ref().map(|j| j.founder.nonce);
        let dead = self.directory.renounced.map(|renounced| renounced.dead);
        let forming = |seen: &Seen| {
            let theirs = seen.state.joined.as_ref().map(|joined| joined.cluster);
            seen.state.formed >= Formed::InLog && theirs == self.directory.cluster()
        };
        self.formed() == Formed::No
            && dead.is_some()
            && dead == founder
            && !self.view.values().any(forming)
    }

    pub fn formed(&self) -> Formed {
        let recorded = if self.directory.formed { Formed::InLog } else { Formed::No };
        self.log.max(recorded)
    }

    pub fn on(&mut self, event: Event, now: Timestamp) -> Output {
        let mut actions = Vec::new();
        let mut wake_at = Some(now);
        match event {
            Event::Started { formed_in_log } => {
                if formed_in_log {
                    self.log = Formed::InLog;
                }
                actions.extend(self.enter());
            }
            Event::Tick { random } => {
                self.ask(now, &mut actions);
                self.decide(random, now, &mut actions);
                actions.extend(self.enter());
                self.retry(now, &mut actions);
                wake_at = self.next_tick(now);
            }
            Event::Question { token, question } => {
                self.question(token, question, now, &mut actions)
            }
            Event::Answer { from, answer } => self.answer(&from, answer, now, &mut actions),
            Event::Persisted => self.persisted(now, &mut actions),
            Event::Admitted { cluster, node } => self.admitted(cluster, node, &mut actions),
            Event::MembershipCommitted { voters } => self.voters = voters,
            Event::FormedInLog => self.log = self.log.max(Formed::InLog),
            Event::FormedCommitted => self.log = Formed::Committed,
            Event::Confirmed { cluster } => self.confirmed = Some(cluster),
            Event::Told { founding, recorded, abandoning } => {
                self.config.abandoning = abandoning;
                self.told(founding, recorded);
            }
            Event::AddressLearned { address } => self.contact(&address, true, now),
            Event::AddressHeard { address } => self.contact(&address, false, now),
            Event::AddressGone { address } => self.forget(&address),
            Event::Silent { nodes } => self.silent = nodes,
        }
        self.report(now, &mut actions);
        Output { actions, wake_at }
    }

    fn scene(&self, now: Timestamp) -> Scene<'_> {
        let alone = self.set.as_ref().is_some_and(|set| set.names().len() == 1);
        Scene {
            name: &self.config.name,
            set: self.set.as_ref(),
            directory: &self.directory,
            formed: self.formed(),
            view: &self.view,
            voters: &self.voters,
            listened: !alone || now.surely_past(self.listen_until),
            confirmed: !self.config.confirm_required
                || (self.confirmed.is_some() && self.confirmed == self.directory.cluster()),
            waits: self.config.plan == Plan::Wait,
            recorded: self.config.recorded,
            abandons: self.config.abandoning.as_ref().map(|mark| mark.cluster),
            foreign: self.foreign,
            mutant: self.mutant,
        }
    }

    /// The settings of founding are ignored once the directory has an identity.
    fn choose_set(&mut self) {
        let joined = self.directory.joined.iter();
        let on: Vec<String> = joined.flat_map(|j| &j.on).map(|m| m.name.clone()).collect();
        self.set = match (FoundingSet::new(on), &self.config.plan) {
            (Ok(set), _) => Some(set),
            (Err(_), Plan::Found(set)) => Some(set.clone()),
            (Err(_), Plan::Join | Plan::Wait) => None,
        };
    }

    /// Who was to join only, having been a member, founds nothing for any word of the operator.
    fn told(&mut self, founding: FoundingSet, recorded: Option<ClusterId>) {
        match &self.config.plan {
            Plan::Found(_) | Plan::Wait => self.config.plan = Plan::Found(founding),
            Plan::Join => {}
        }
        self.config.recorded = recorded;
        self.choose_set();
        if let (None, Some(set)) = (&self.directory.joined, &self.set) {
            // Whoever stands in no set any more decides nothing.
            self.view.retain(|name, _| set.contains(name));
        }
    }

    /// The operator has recorded another cluster than the one of this directory.
    pub fn strays(&self) -> bool {
        let recorded = self.config.recorded;
        self.directory.cluster().is_some_and(|own| recorded.is_some_and(|known| known != own))
    }

    /// The mark that this node keeps to: not before what it had decided is on disk, for that may be
    /// to join the very cluster [S20].
    pub fn refuses(&self) -> Option<&Mark> {
        self.config.abandoning.as_ref().filter(|_| self.pending.is_none())
    }

    /// Whether the answer of the node of this name can help; an empty directory whose cluster is
    /// recorded asks any node for it, for those of the founding set may all be gone.
    pub fn asks(&self, name: &str) -> Asks {
        let empty = self.directory.joined.is_none();
        if self.set.as_ref().is_some_and(|set| set.contains(name)) {
            Asks::Always
        } else if empty && (self.config.recorded.is_some() || self.config.plan == Plan::Join) {
            Asks::Also
        } else {
            Asks::Not
        }
    }

    /// Raft is to run, once there is a node to run it as and nothing speaks against it.
    fn enter(&mut self) -> Option<Action> {
        if self.running || self.pending.is_some() || self.doubts() || self.strays() {
            return None;
        }
        let joined = self.directory.joined.as_ref()?;
        let cluster = joined.cluster;
        let founds = self.directory.founded().is_some() && self.formed() == Formed::No;
        let action = match joined.node {
            Some(_) if founds => Action::Initialize { cluster },
            Some(node) => Action::Start { cluster, node },
            None => return None,
        };
        self.running = true;
        Some(action)
    }

    fn decide(&mut self, random: u128, now: Timestamp, actions: &mut Vec<Action>) {
        if self.pending.is_some() {
            return;
        }
        let Some(step) = self.scene(now).next() else {
            return;
        };
        let own = Member { name: self.config.name.clone(), nonce: self.directory.nonce };
        let next = match step {
            Step::Found { on } => self.directory.with_joined(Joined {
                cluster: ClusterId(random),
                founder: own,
                on,
                node: Some(FOUNDER),
            }),
            Step::Join(joined) => self.directory.with_joined(joined),
            Step::Renounce(renounced) => return self.renounce(renounced, actions),
            Step::Form { pause, highest_epoch } => {
                let pause = if pause { self.pause() } else { Duration::ZERO };
                self.propose_at = Some(now.plus(pause));
                self.directory.with_formed(highest_epoch)
            }
            Step::Record => self.directory.with_formed(self.directory.highest_epoch),
            Step::Leave => {
                let next = self.directory.left(random);
                self.running = false;
                actions.push(Action::Leave(next.clone()));
                self.pending = Some(Pending::Leave(next));
                return;
            }
        };
        self.persist(next, actions);
    }

    fn renounce(&mut self, renounced: Renounced, actions: &mut Vec<Action>) {
        let next = self.directory.renouncing(renounced);
        if self.directory.joined.is_none() {
            return self.persist(next, actions);
        }
        self.running = false;
        actions.push(Action::Renounce(next.clone()));
        self.pending = Some(Pending::Change(next));
    }

    fn pause(&self) -> Duration {
        self.config.lease + PAUSE_BEYOND_LEASE
    }

    fn persist(&mut self, next: Directory, actions: &mut Vec<Action>) {
        actions.push(Action::Persist(next.clone()));
        self.pending = Some(Pending::Change(next));
    }

    /// What is repeated until it is done: to be admitted, and to form.
    fn retry(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if self.pending.is_some() || !now.surely_past(self.retry_at) {
            return;
        }
        let Some(joined) = &self.directory.joined else {
            return;
        };
        let cluster = joined.cluster;
        if self.directory.founded().is_some() {
            // After a restart nobody remembers whether a directory had left: pause.
            let pause = now.plus(self.pause());
            let proposing = self.directory.formed && self.log != Formed::Committed;
            if proposing && now.surely_past(*self.propose_at.get_or_insert(pause)) {
                let highest_epoch = self.directory.highest_epoch;
                actions.push(Action::ProposeFormed { cluster, highest_epoch });
                self.retry_at = now.plus(RETRY_EVERY);
            }
        } else if joined.node.is_none()
            && let Some(address) = self.admitting_address(joined)
        {
            actions.push(Action::RequestJoin { cluster, address });
            self.retry_at = now.plus(RETRY_EVERY);
        }
    }

    fn admitting_address(&self, joined: &Joined) -> Option<String> {
        let admits = |seen: &&Seen| {
            let theirs = seen.state.joined.as_ref();
            let founder = seen.state.member == joined.founder;
            theirs.is_some_and(|theirs| theirs.cluster == joined.cluster)
                && (founder || seen.state.formed == Formed::Committed)
        };
        let seen = self.view.values().find(admits)?;
        Some(seen.address.clone())
    }

    fn admitted(&mut self, cluster: ClusterId, node: NodeId, actions: &mut Vec<Action>) {
        let joined = self.directory.joined.clone();
        if let Some(joined) = joined.filter(|j| j.node.is_none() && j.cluster == cluster)
            && self.pending.is_none()
        {
            let next = self.directory.with_joined(Joined { node: Some(node), ..joined });
            self.persist(next, actions);
        }
    }

    fn persisted(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let before = std::mem::replace(
            &mut self.directory,
            match self.pending.take() {
                None => return,
                Some(Pending::Change(next)) => next,
                Some(Pending::Leave(next)) => {
                    self.log = Formed::No;
                    self.voters.clear();
                    self.foreign = false;
                    self.propose_at = None;
                    next
                }
            },
        );
        let after = &self.directory;
        let same_self = before.nonce == after.nonce
            && before.cluster() == after.cluster()
            && before.renounced == after.renounced;
        if !same_self {
            // What was heard before a change of the own state decides nothing after it.
            let forget = self.mutant != Some(Mutant::OldAnswersCount);
            self.view.retain(|_, _| !forget);
            for contact in self.contacts.values_mut() {
                contact.asked = None;
                contact.next_at = now;
            }
        }
        self.choose_set();
        actions.extend(self.enter());
        self.release(now, actions);
    }

    fn next_tick(&self, now: Timestamp) -> Option<Timestamp> {
        match self.formed() {
            Formed::No | Formed::InLog => Some(now.plus(ASK_EVERY / 2)),
            Formed::Committed if !self.directory.formed => Some(now.plus(ASK_EVERY)),
            Formed::Committed if self.silent.is_empty() => None,
            Formed::Committed => Some(self.greet_at),
        }
    }

    fn report(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let waiting = self.waiting_for(now);
        if waiting != self.waiting {
            self.waiting.clone_from(&waiting);
            actions.push(Action::Waiting(waiting));
        }
    }
}
