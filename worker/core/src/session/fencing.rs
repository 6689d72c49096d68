//! Whom the leader fences, and when it distrusts itself instead.
//!
//! One machine per term: made when the leader's own blank entry is applied, dropped with
//! its leadership. It proposes nothing itself and knows no shard. What makes a fence safe
//! is the compare in the command; what this machine adds is that a slow election, a
//! stalled disk or a leader that hears nobody does not end healthy sessions.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    id::{Incarnation, LogIndex, NodeId, Timestamp},
    registry::{Drain, Life},
};

use super::{Output, expiry::Expiry, lease::Lease};

mod comeback;
mod quota;

use comeback::Comeback;
use quota::{Leave, Quota};

/// The tick of the leader; also how often renewals are proposed at most.
pub const TICK: Duration = Duration::from_millis(50);
/// A leader that heard from no quorum, or did not tick, for L / 3 is deaf.
const DEAF_SHARE: u32 = 3;
/// A deaf or new leader gives every session L / 2 to be heard again.
const FLOOR_SHARE: u32 = 2;
/// Proposals without effect yet are repeated after L / 4, as renewals are.
const REPEAT_SHARE: u32 = 4;

/// What fencing must know of a node's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeFact {
    pub id: NodeId,
    pub incarnation: Incarnation,
    pub life: Life,
    pub drain: Drain,
    pub voter: bool,
    pub renewed: LogIndex,
}

impl NodeFact {
    fn is_up(&self) -> bool {
        self.life == Life::Up
    }
}

/// The registry and the expiries as applied on the leader now.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub lease: Lease,
    pub nodes: &'a [NodeFact],
    pub expiry: &'a Expiry,
    /// The leader's own process holds a session.
    pub has_session: bool,
}

#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// An entry that this leader proposed in this term was applied.
    Applied,
    /// One round of the leader's loop; `inbox_empty`: no renewal waited when it began.
    Tick { inbox_empty: bool, view: View<'a> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    ProposeFence {
        node: NodeId,
        incarnation: Incarnation,
        renewed: LogIndex,
    },
    /// An empty entry, only to learn whether a quorum is still there.
    ProposeBlank,
    ProposeSettle {
        since: LogIndex,
    },
    TransferLeadership {
        to: NodeId,
    },
}

#[derive(Clone, Debug)]
pub struct Fencing {
    me: NodeId,
    lease: Lease,
    /// Index of the own blank entry: renewals above it were heard in this term.
    elected: LogIndex,
    since: Timestamp,
    /// Before this instant nobody is fenced.
    floor: Timestamp,
    contact: Timestamp,
    last_tick: Timestamp,
    repeats: Repeats,
    quota: Quota,
    comeback: Comeback,
}

/// Who is there beside a node that may have to be fenced.
struct Others {
    live: Vec<NodeId>,
    successor: Option<NodeId>,
}

impl Others {
    /// A leader that hears nobody alive is the one that is cut off; itself counts as heard.
    fn live_beside(&self, fenced: NodeId) -> bool {
        self.live.iter().any(|id| *id != fenced)
    }
}

/// When each proposal was last made: one is in flight, or lost.
#[derive(Clone, Debug, Default)]
struct Repeats {
    fences: BTreeMap<NodeId, Timestamp>,
    blank: Option<Timestamp>,
    settle: Option<Timestamp>,
    transfer: Option<Timestamp>,
}

impl Fencing {
    /// The leader's own blank entry of its term was applied at `index`.
    pub fn new(me: NodeId, index: LogIndex, view: View<'_>, now: Timestamp) -> Self {
        Self {
            me,
            lease: view.lease,
            elected: index,
            since: now,
            floor: now.plus(view.lease.length() / FLOOR_SHARE),
            contact: now,
            last_tick: now,
            repeats: Repeats::default(),
            quota: Quota::default(),
            comeback: Comeback::new(view, now),
        }
    }

    pub fn on(&mut self, event: Event<'_>, now: Timestamp) -> Output<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Applied => {
                self.raise_floor_after_gap(self.contact, now);
                self.contact = now;
            }
            Event::Tick { inbox_empty, view } => {
                self.lease = view.lease;
                self.raise_floor_after_gap(self.last_tick, now);
                self.last_tick = now;
                self.comeback.look(self.elected, view, now);
                self.keep_contact(&mut actions, now);
                self.settle(view, &mut actions, now);
                if !view.has_session && self.had_time_to_register(now) {
                    self.leave_to(self.live_voter(view, now), &mut actions, now);
                }
                if inbox_empty && !self.is_deaf(now) {
                    self.fence(view, &mut actions, now);
                }
            }
        }
        Output::sleeping(actions, Some(TICK), now)
    }

    /// End of the node's session with the floors of this term: for fences and Register alike.
    pub fn end_of(&self, node: NodeId, expiry: &Expiry) -> Option<Timestamp> {
        expiry.of(node).map(|end| end.max_each(self.floor))
    }

    /// False while a restarted cluster waits for the owners of its shards. As of the last tick.
    pub fn may_assign_orphans(&self) -> bool {
        self.comeback.is_over()
    }

    fn is_deaf(&self, now: Timestamp) -> bool {
        now.at_most_since(self.contact) > self.lease.length() / DEAF_SHARE
    }

    /// A node that has just founded or restarted registers within a lease of its election.
    fn had_time_to_register(&self, now: Timestamp) -> bool {
        now.at_least_since(self.since) >= self.lease.length()
    }

    /// After a gap the sessions may have renewed without this leader having heard it.
    fn raise_floor_after_gap(&mut self, last: Timestamp, now: Timestamp) {
        if now.at_most_since(last) > self.lease.length() / DEAF_SHARE {
            let floor = now.plus(self.lease.length() / FLOOR_SHARE);
            self.floor = self.floor.max_each(floor);
        }
    }

    /// Renewals prove contact by themselves; without any, an empty entry does.
    fn keep_contact(&mut self, actions: &mut Vec<Action>, now: Timestamp) {
        let repeat = self.lease.length() / REPEAT_SHARE;
        if now.at_most_since(self.contact) >= repeat && is_due(self.repeats.blank, repeat, now) {
            self.repeats.blank = Some(now);
            actions.push(Action::ProposeBlank);
        }
    }

    fn settle(&mut self, view: View<'_>, actions: &mut Vec<Action>, now: Timestamp) {
        let repeat = self.lease.length() / REPEAT_SHARE;
        let Some(since) = view.expiry.settle_due(now) else {
            self.repeats.settle = None;
            return;
        };
        if is_due(self.repeats.settle, repeat, now) {
            self.repeats.settle = Some(now);
            actions.push(Action::ProposeSettle { since });
        }
    }

    fn fence(&mut self, view: View<'_>, actions: &mut Vec<Action>, now: Timestamp) {
        let repeat = self.lease.length() / REPEAT_SHARE;
        self.repeats.fences.retain(|_, proposed| now.at_least_since(*proposed) < repeat);
        let up = view.nodes.iter().filter(|node| node.is_up()).count();
        // Looked for once, and only where a session has run out: after a restart all have.
        let mut others = None;
        for node in view.nodes.iter().filter(|node| node.is_up()) {
            let over = self.end_of(node.id, view.expiry).is_some_and(|end| now.surely_past(end));
            if !over || self.repeats.fences.contains_key(&node.id) {
                continue;
            }
            let others = others.get_or_insert_with(|| Others {
                live: self.some_live(view, now),
                successor: self.successor(view),
            });
            if !others.live_beside(node.id) {
                continue;
            }
            let replaceable = others.successor.is_some();
            match self.quota.take(node.id, up, replaceable, self.lease, now) {
                Leave::Granted => {
                    self.repeats.fences.insert(node.id, now);
                    actions.push(Action::ProposeFence {
                        node: node.id,
                        incarnation: node.incarnation,
                        renewed: node.renewed,
                    });
                }
                Leave::Refused => return,
                Leave::HandOver => return self.leave_to(others.successor, actions, now),
            }
        }
    }

    /// Two at most: one of them is not the node that is asked about.
    fn some_live(&self, view: View<'_>, now: Timestamp) -> Vec<NodeId> {
        let live = view.nodes.iter().filter(|node| self.is_live(node, view, now));
        live.map(|node| node.id).take(2).collect()
    }

    /// Heard in this term, and its session has not run out by any clock.
    fn is_live(&self, node: &NodeFact, view: View<'_>, now: Timestamp) -> bool {
        let holds = || view.expiry.of(node.id).is_some_and(|end| !now.maybe_past(end));
        node.is_up() && node.renewed > self.elected && holds()
    }

    fn live_voter(&self, view: View<'_>, now: Timestamp) -> Option<NodeId> {
        view.nodes
            .iter()
            .filter(|node| node.voter && node.id != self.me && self.is_live(node, view, now))
            .max_by_key(|node| node.renewed)
            .map(|node| node.id)
    }

    /// Who may hear better than a leader that would fence a second time: any other voter
    /// that is still up, live or not, since this leader's ears are what is in doubt.
    fn successor(&self, view: View<'_>) -> Option<NodeId> {
        view.nodes
            .iter()
            .filter(|node| node.voter && node.id != self.me && node.is_up())
            .max_by_key(|node| node.renewed)
            .map(|node| node.id)
    }

    fn leave_to(&mut self, to: Option<NodeId>, actions: &mut Vec<Action>, now: Timestamp) {
        let Some(to) = to else { return };
        if is_due(self.repeats.transfer, self.lease.length(), now) {
            self.repeats.transfer = Some(now);
            actions.push(Action::TransferLeadership { to });
        }
    }
}

fn is_due(last: Option<Timestamp>, repeat: Duration, now: Timestamp) -> bool {
    last.is_none_or(|last| now.at_least_since(last) >= repeat)
}

#[cfg(test)]
mod tests;
