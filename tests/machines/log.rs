//! One ordered log for all: who leads it, what is committed, and who has learned so much.
//!
//! Not Raft: an entry is committed once its leader reaches a majority of the voters. What a
//! leader left behind uncommitted survives it or not, as chance has it, as it does under Raft.

use std::{collections::BTreeSet, fmt};

use shoal_core::{
    id::{LogIndex, NodeId},
    registry::{Command, Event as Applied, Refused, Registry},
};

use crate::{
    clock::{MS, True},
    network::CALM,
    world::{Event, Message, Place, World},
};

/// Every second index is an entry of the log: one mutant makes two entries of one.
pub const STRIDE: u64 = 2;
/// A leader without a majority for so long is replaced, if another can be.
const LOSE_AFTER: True = 600 * MS;
/// A leader that was replaced and hears nobody finds out by itself within this.
const PROBE: True = 1_200 * MS;
pub const RAFT_TICK: True = 50 * MS;

#[derive(Clone, Debug)]
pub enum What {
    Command(Box<Command>),
    Members { voters: BTreeSet<NodeId>, learners: BTreeSet<NodeId> },
}

/// Who proposed an entry, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Author {
    pub place: Place,
    pub run: u64,
    pub ticket: u64,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub term: u64,
    pub what: What,
    pub author: Author,
    /// Not committed before.
    due: True,
}

pub struct Log {
    pub entries: Vec<Entry>,
    pub committed: usize,
    /// The registry after so many entries.
    pub history: Vec<Registry>,
    /// What became of the entries that carry a command.
    pub outcomes: Vec<Option<Result<Applied, Refused>>>,
    pub term: u64,
    /// Who really leads; a process may believe something else.
    pub leader: Option<Place>,
    pub voters: BTreeSet<NodeId>,
    pub learners: BTreeSet<NodeId>,
    /// Position of the last change of the members.
    pub members_at: usize,
    /// How much of the log each place holds.
    pub held: Vec<usize>,
    quorum_at: True,
    elect_at: True,
    deposed_at: True,
    /// No election before: an unlucky one.
    pub no_election_until: True,
    /// What committing takes beyond the usual.
    pub extra_delay: True,
}

pub fn index(position: usize) -> LogIndex {
    LogIndex(STRIDE * (position as u64 + 1))
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { term, leader, committed, voters, held, entries, .. } = self;
        let all = entries.len();
        write!(f, "term {term} of {leader:?}, {committed} of {all}, {voters:?} hold {held:?}")
    }
}

impl Log {
    pub fn new(places: usize) -> Self {
        Self {
            entries: Vec::new(),
            committed: 0,
            history: vec![Registry::new()],
            outcomes: Vec::new(),
            term: 0,
            leader: None,
            voters: BTreeSet::new(),
            learners: BTreeSet::new(),
            members_at: 0,
            held: vec![0; places],
            quorum_at: 0,
            elect_at: 0,
            deposed_at: 0,
            no_election_until: 0,
            extra_delay: 0,
        }
    }

    pub fn truth(&self) -> &Registry {
        self.history.last().expect("the empty one at least")
    }

    pub fn is_member(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.learners.contains(&id)
    }

    /// Of nobody any more: an election follows.
    fn depose(&mut self, now: True, gap: True) {
        if self.leader.take().is_some() {
            self.deposed_at = now;
            self.elect_at = now + gap;
        }
    }
}

impl World {
    pub fn truth(&self) -> &Registry {
        self.log.truth()
    }

    /// Runs, is not stopped, and answers.
    pub fn awake(&self, place: Place) -> bool {
        self.nodes[place].live.is_some() && !self.is_paused(place)
    }

    fn places_of_voters(&self) -> Vec<Place> {
        (0..self.nodes.len())
            .filter(|place| {
                self.nodes[*place].disk.node.is_some_and(|id| self.log.voters.contains(&id))
            })
            .collect()
    }

    fn reached(&self, from: Place) -> Vec<Place> {
        let voters = self.places_of_voters();
        let votes = |to: &Place| self.awake(*to) && !self.nodes[*to].disk.restored;
        let reached =
            voters.into_iter().filter(|to| votes(to) && self.network.both_ways(from, *to));
        reached.collect()
    }

    fn has_majority(&self, from: Place) -> bool {
        self.awake(from) && self.reached(from).len() > self.log.voters.len() / 2
    }

    /// Appends what a process that believes to lead proposes; a deposed one appends nothing.
    pub fn append(&mut self, author: Author, term: u64, what: What) {
        self.trace
            .note(self.now, format_args!("{} proposes in term {term}: {what:?}", author.place));
        if self.log.leader != Some(author.place) || self.log.term != term {
            self.saw("entry of a deposed leader lost");
            return;
        }
        let latest = self.log.entries.last().map_or(0, |entry| entry.due);
        let work = self.network.weather.work;
        let takes =
            500 + self.random.below(self.network.weather.delay + work) + self.log.extra_delay;
        let due = latest.max(self.now + takes);
        self.log.entries.push(Entry { term, what, author, due });
        self.schedule(due, Event::Commit);
    }

    pub fn commit(&mut self) {
        let Some(leader) = self.log.leader else { return };
        if !self.has_majority(leader) {
            return;
        }
        let before = self.log.committed;
        while let Some(entry) = self.log.entries.get(self.log.committed).cloned() {
            // What an older leader left is committed with an entry of the new term, not before.
            let newest = self.log.entries.last().is_some_and(|last| last.term == self.log.term);
            if entry.due > self.now || !newest || !self.next_agree(leader, &entry.what) {
                break;
            }
            for place in self.reached(leader) {
                self.log.held[place] = self.log.committed + 1;
            }
            self.commit_one(&entry);
        }
        let votes = self.nodes[leader].disk.node.is_some_and(|id| self.log.voters.contains(&id));
        if !votes {
            // It led until the members changed, of whom it is none.
            self.log.depose(self.now, 200 * MS);
        }
        if self.log.committed > before {
            for place in self.reached(leader) {
                self.log.held[place] = self.log.committed;
            }
            self.spread(leader);
        }
    }

    /// Other members need a majority of their own voters, too. Where the disks of those are
    /// gone the change is taken back, by hand in a real cluster: Raft is not what is tested.
    fn next_agree(&mut self, leader: Place, what: &What) -> bool {
        let What::Members { voters, .. } = what else { return true };
        let there = voters.iter().filter(|id| self.place_of(**id).is_some()).count();
        if there <= voters.len() / 2 {
            self.log.entries[self.log.committed].what = What::Command(Box::new(Command::Blank));
            return false;
        }
        let now = std::mem::replace(&mut self.log.voters, voters.clone());
        let agree = self.reached(leader).len() > voters.len() / 2;
        self.log.voters = now;
        agree
    }

    fn commit_one(&mut self, entry: &Entry) {
        let position = self.log.committed;
        self.log.committed += 1;
        if entry.term < self.log.term {
            self.saw("entry of a deposed leader committed");
        }
        let mut after = self.truth().clone();
        let outcome = match &entry.what {
            What::Command(command) => Some(self.apply_to(&mut after, position, command)),
            What::Members { voters, learners } => {
                after.advance(index(position));
                self.log.voters.clone_from(voters);
                self.log.learners.clone_from(learners);
                self.log.members_at = self.log.committed;
                None
            }
        };
        self.trace.note(self.now, format_args!("commits {} {:?}", index(position), outcome));
        self.log.history.push(after);
        self.log.outcomes.push(outcome.clone());
        self.judge_entry(entry, outcome);
    }

    /// The leader tells everybody how far the log is committed.
    fn spread(&mut self, leader: Place) {
        let learn =
            || Message::Learn { term: self.log.term, leader, committed: self.log.committed };
        let message = learn();
        for to in 0..self.nodes.len() {
            self.send(leader, to, message.clone());
        }
    }

    pub fn raft_tick(&mut self) {
        self.schedule(self.now + RAFT_TICK, Event::Raft);
        match self.log.leader {
            Some(leader) if self.has_majority(leader) => {
                self.log.quorum_at = self.now;
                self.commit();
                if (self.now / RAFT_TICK).is_multiple_of(2) {
                    self.spread(leader);
                }
            }
            Some(leader) => {
                let gone = self.nodes[leader].live.is_none();
                if gone || self.now > self.log.quorum_at + LOSE_AFTER {
                    let gap = self.random.between(150, 900) * MS;
                    self.trace.note(self.now, format_args!("{leader} leads no more"));
                    self.log.depose(self.now, gap);
                }
            }
            None => self.try_election(),
        }
    }

    /// The leader is gone and the next is found after `gap`.
    pub fn election(&mut self, gap: True) {
        if let Some(leader) = self.log.leader {
            self.trace.note(self.now, format_args!("{leader} is deposed for {gap}"));
            self.log.no_election_until = self.now + gap;
            self.log.depose(self.now, gap);
        }
    }

    fn try_election(&mut self) {
        if self.now < self.log.elect_at.max(self.log.no_election_until) {
            return;
        }
        let may = |place: &Place| {
            self.has_majority(*place) && self.log.held[*place] >= self.log.committed
        };
        let candidates: Vec<_> = self.places_of_voters().into_iter().filter(may).collect();
        let Some(next) = self.random.pick(&candidates) else { return };
        // A part of what was left behind is on the voters that elected the next leader.
        let left = self.log.entries.len() - self.log.committed;
        let kept = self.random.below(left as u64 + 1) as usize;
        self.elect(next, kept);
    }

    fn elect(&mut self, place: Place, kept: usize) {
        self.log.entries.truncate(self.log.committed + kept);
        self.log.term += 1;
        self.log.leader = Some(place);
        self.log.quorum_at = self.now;
        self.log.held[place] = self.log.held[place].max(self.log.committed);
        let term = self.log.term;
        self.trace.note(self.now, format_args!("{place} leads term {term}, keeps {kept}"));
        self.saw("election");
        self.stop_leading(place);
        let run = self.live(place).run;
        self.live_mut(place).belief = Some((term, place));
        let author = Author { place, run, ticket: 0 };
        self.append(author, term, What::Command(Box::new(Command::Blank)));
        let blank = self.log.entries.len();
        self.live_mut(place).leads = Some((term, blank));
        for entry in &mut self.log.entries[self.log.committed..] {
            entry.due = entry.due.min(self.now + CALM.delay);
        }
    }

    pub fn transfer(&mut self, from: Place, to: NodeId) {
        let Some(place) = self.place_of(to) else { return };
        let may = self.log.leader == Some(from)
            && self.awake(place)
            && self.log.voters.contains(&to)
            && self.network.both_ways(from, place)
            && self.has_majority(place)
            && self.log.held[place] >= self.log.committed;
        if may && place != from {
            self.saw("leadership transferred");
            self.log.deposed_at = self.now;
            let left = self.log.entries.len() - self.log.committed;
            self.elect(place, left);
        }
    }

    /// A process that was replaced learns it from the next leader, or by hearing nobody.
    pub fn doubts_itself(&mut self, place: Place, term: u64) -> bool {
        let deposed = self.log.term != term || self.log.leader != Some(place);
        deposed && self.now > self.log.deposed_at + PROBE && self.random.percent(20)
    }

    pub fn learn(&mut self, place: Place, term: u64, leader: Place, committed: usize) {
        let live = self.live_mut(place);
        if live.belief.is_none_or(|(known, _)| known <= term) {
            live.belief = Some((term, leader));
        }
        if live.leads.is_some_and(|(leads, _)| leads < term) {
            self.stop_leading(place);
        }
        let live = self.live_mut(place);
        live.committed = live.committed.max(committed);
        self.log.held[place] = self.log.held[place].max(committed);
        self.apply_known(place);
    }
}

impl Log {
    /// The first entries, committed before the run begins.
    pub fn found(&mut self, commands: Vec<Command>) {
        for command in commands {
            let mut after = self.truth().clone();
            let (outcome, _) = after.apply(index(self.committed), &command);
            outcome.expect("a sound founding");
            self.push_committed(What::Command(Box::new(command)), after);
        }
    }

    pub fn found_members(&mut self, what: What) {
        let mut after = self.truth().clone();
        after.advance(index(self.committed));
        if let What::Members { voters, learners } = &what {
            self.voters.clone_from(voters);
            self.learners.clone_from(learners);
        }
        self.push_committed(what, after);
        self.members_at = self.committed;
    }

    fn push_committed(&mut self, what: What, after: Registry) {
        let author = Author { place: 0, run: 0, ticket: 0 };
        self.entries.push(Entry { term: 0, what, author, due: 0 });
        self.history.push(after);
        self.outcomes.push(None);
        self.committed += 1;
    }
}
