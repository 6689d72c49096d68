//! Decides which nodes vote, which hold a copy of the log, and who should lead.
//!
//! Runs on the leader alone and wants one change at a time: an odd number of voters by the
//! number of nodes, spread over zones, none of them gone for good. It remembers since when
//! each member is healthy and forgets that with the leadership. It does not talk to Raft:
//! `control` applies a change by compare-and-set on the membership the decision was made on.

mod report;
mod spare;
mod transfer;
mod voters;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    id::{LogIndex, NodeId, Timestamp},
    registry::{Drain, Life, Node, Settings},
};

pub use report::{Finding, Why};
pub use spare::{may_take_vote_along, spares};
pub use transfer::Transfer;

/// A learner is promoted after being healthy for this long.
const PROMOTE_AFTER: Duration = Duration::from_secs(10);
/// A voter silent for this long loses its vote; a restart is shorter.
const SILENT_AFTER: Duration = Duration::from_secs(60);
/// A member this many entries behind, or more, has not caught up.
const CAUGHT_UP_WITHIN: u64 = 1_000;
/// A member not heard for this long is not healthy: ten heartbeats or more.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// More voters make every write slower and survive no likelier loss.
const MOST_VOTERS: usize = 7;
/// Voters are promoted in pairs, so fewer learners than two could never become voters.
const FEWEST_LEARNERS: usize = 2;

/// What the leader knows.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    pub me: NodeId,
    /// When this leadership began.
    pub leader_since: Timestamp,
    /// Size of the founding set, until the cluster is formed.
    pub founding: Option<usize>,
    pub settings: &'a Settings,
    /// Every node ever admitted.
    pub nodes: BTreeMap<NodeId, &'a Node>,
    pub membership: &'a Membership,
    /// Index of the leader's last entry.
    pub last: LogIndex,
    /// What was heard of each member but the leader in this leadership.
    pub contacts: BTreeMap<NodeId, Contact>,
}

/// Who takes part in the log, as Raft has it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Membership {
    pub voters: BTreeSet<NodeId>,
    /// While joint: the voters it moves to.
    pub next_voters: Option<BTreeSet<NodeId>>,
    pub learners: BTreeSet<NodeId>,
    /// The entry that says so is committed.
    pub committed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact {
    /// When it last answered.
    pub heard: Timestamp,
    /// The last entry it is known to hold.
    pub matched: LogIndex,
}

/// The one thing to do now, and what stands in the way of the rest.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Decision {
    pub change: Option<Change>,
    pub report: Vec<Finding>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Move to exactly these members, in one joint change.
    Membership { voters: BTreeSet<NodeId>, learners: BTreeSet<NodeId>, why: Why },
    /// The leader leaves, for good or for a restart, and first gives its office away.
    TransferLeadership { to: NodeId },
}

/// The memory of one leadership.
#[derive(Clone, Debug, Default)]
pub struct Autopilot {
    leader_since: Timestamp,
    members: BTreeMap<NodeId, Memory>,
}

#[derive(Clone, Copy, Debug)]
struct Memory {
    member_since: Timestamp,
    healthy_since: Option<Timestamp>,
}

impl Autopilot {
    /// Decides; to be asked again after every change and at least each second.
    pub fn next(&mut self, input: &Input<'_>, now: Timestamp) -> Decision {
        self.observe(input, now);
        let view = View { input, now, members: &self.members };
        let mut report = Vec::new();
        let change = view.decide(&mut report);
        Decision { change, report }
    }

    fn observe(&mut self, input: &Input<'_>, now: Timestamp) {
        if self.leader_since != input.leader_since {
            *self = Self { leader_since: input.leader_since, members: BTreeMap::new() };
        }
        let membership = input.membership;
        let ids = || membership.voters.union(&membership.learners);
        self.members.retain(|id, _| ids().any(|member| member == id));
        for &id in ids() {
            let fresh = Memory { member_since: now, healthy_since: None };
            self.members.entry(id).or_insert(fresh);
        }
        let caught_up: BTreeSet<NodeId> = {
            let view = View { input, now, members: &self.members };
            ids().copied().filter(|&id| view.caught_up(id)).collect()
        };
        for (id, memory) in &mut self.members {
            let since = memory.healthy_since.unwrap_or(now);
            memory.healthy_since = caught_up.contains(id).then_some(since);
        }
    }
}

/// The input seen from one instant.
#[derive(Clone, Copy)]
struct View<'a> {
    input: &'a Input<'a>,
    now: Timestamp,
    members: &'a BTreeMap<NodeId, Memory>,
}

impl View<'_> {
    fn decide(&self, report: &mut Vec<Finding>) -> Option<Change> {
        let membership = self.input.membership;
        if !membership.committed {
            report.push(Finding::ChangeInFlight);
            return None;
        }
        if let Some(voters) = membership.next_voters.clone() {
            let demoted = membership.voters.difference(&voters);
            let learners = (membership.learners.iter())
                .chain(demoted.filter(|id| !self.forgotten(**id)))
                .copied()
                .collect();
            return Some(Change::Membership { voters, learners, why: Why::FinishJoint });
        }
        self.change_learners().or_else(|| self.change_voters(report))
    }

    /// Nodes that may hold the log and do not vote: those that hold it already, then those
    /// that run, up to the limit. A silent one gives way to one that runs.
    fn change_learners(&self) -> Option<Change> {
        let membership = self.input.membership;
        let mut waiting: Vec<(u8, NodeId)> = (self.input.nodes.iter())
            .filter(|(id, _)| !membership.voters.contains(id) && !self.forgotten(**id))
            .filter_map(|(&id, node)| {
                let class = match (membership.learners.contains(&id), node.life) {
                    (true, _) if self.silent(id) => 2,
                    (true, _) => 0,
                    (false, Life::Up) => 1,
                    (false, Life::Joining) => 3,
                    (false, Life::Closed | Life::Fenced | Life::Left) => return None,
                };
                Some((class, id))
            })
            .collect();
        let limit = (self.input.settings.max_learners as usize).max(FEWEST_LEARNERS);
        let mut learners = BTreeSet::new();
        while learners.len() < limit && !waiting.is_empty() {
            let crowd = |id| {
                let holders = membership.voters.union(&learners);
                self.crowd(id, holders)
            };
            let key = |&(class, id): &(u8, NodeId)| (class, crowd(id), id);
            let best = (0..waiting.len()).min_by_key(|&i| key(&waiting[i]))?;
            learners.insert(waiting.swap_remove(best).1);
        }
        let why = Why::Learners {
            added: learners.difference(&membership.learners).copied().collect(),
            removed: membership.learners.difference(&learners).copied().collect(),
        };
        let voters = membership.voters.clone();
        (learners != membership.learners).then_some(Change::Membership { voters, learners, why })
    }

    fn node(&self, id: NodeId) -> Option<&Node> {
        self.input.nodes.get(&id).copied()
    }

    /// Needs the log no more. A leaver reads in it what to hand over and when it is done, a
    /// marked one that it must close.
    fn forgotten(&self, id: NodeId) -> bool {
        self.node(id)
            .is_none_or(|node| node.life == Life::Left || node.marked && node.life != Life::Up)
    }

    /// Leaves for good, or did: should not vote.
    fn gone(&self, id: NodeId) -> bool {
        self.node(id).is_none_or(|node| {
            node.life == Life::Left || node.marked || node.drain == Drain::Removal
        })
    }

    /// Runs and means to stay. Before the cluster is formed nobody has a session.
    fn stays(&self, id: NodeId) -> bool {
        let runs = |life| match life {
            Life::Up => true,
            Life::Joining => self.input.founding.is_some(),
            Life::Closed | Life::Fenced | Life::Left => false,
        };
        !self.gone(id)
            && self.node(id).is_some_and(|node| node.drain == Drain::None && runs(node.life))
    }

    fn answers(&self, id: NodeId) -> bool {
        let heard = |contact: &Contact| self.now.at_most_since(contact.heard) <= HEARD_WITHIN;
        id == self.input.me || self.input.contacts.get(&id).is_some_and(heard)
    }

    fn caught_up(&self, id: NodeId) -> bool {
        self.answers(id) && self.behind(id) < CAUGHT_UP_WITHIN
    }

    fn behind(&self, id: NodeId) -> u64 {
        let matched = self.input.contacts.get(&id).map_or(0, |contact| contact.matched.0);
        if id == self.input.me { 0 } else { self.input.last.0.saturating_sub(matched) }
    }

    /// May be trusted with a vote. Before the cluster is formed there is no time to wait:
    /// until the founding set votes, one lost disk loses the cluster.
    fn proven(&self, id: NodeId) -> bool {
        let memory = self.members.get(&id);
        let healthy_since = memory.and_then(|memory| memory.healthy_since);
        self.input.founding.is_some() && self.caught_up(id)
            || healthy_since.is_some_and(|since| self.now.at_least_since(since) >= PROMOTE_AFTER)
    }

    fn silent_for(&self, id: NodeId) -> Duration {
        let since = self.members.get(&id).map_or(self.now, |memory| memory.member_since);
        let heard = self.input.contacts.get(&id).map_or(since, |contact| contact.heard);
        if id == self.input.me {
            Duration::ZERO
        } else {
            self.now.at_least_since(heard.max_each(since))
        }
    }

    fn silent(&self, id: NodeId) -> bool {
        self.silent_for(id) >= SILENT_AFTER
    }

    /// Too early to judge anybody: followers may still be finding this leader. A founder that
    /// gathers its first voters takes no vote away.
    fn settling(&self) -> bool {
        let lease = Duration::from_millis(u64::from(self.input.settings.lease_ms));
        let age = self.now.at_least_since(self.input.leader_since);
        self.input.founding.is_none() && age < lease
    }

    /// How many of `others` are in the node's zone; a node of no zone is in nobody's way.
    fn crowd<'n>(&self, id: NodeId, others: impl IntoIterator<Item = &'n NodeId>) -> usize {
        let zone = self.zone(id);
        others
            .into_iter()
            .filter(|&&other| other != id && zone.is_some() && self.zone(other) == zone)
            .count()
    }

    fn zone(&self, id: NodeId) -> Option<&str> {
        self.node(id).map(|node| node.info.zone.as_str()).filter(|zone| !zone.is_empty())
    }
}
