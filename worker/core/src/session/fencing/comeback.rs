//! Whether a whole cluster is just coming back, so that shards wait for their owners.
//!
//! After a power cycle the first nodes up would otherwise receive everything and hand most
//! of it back seconds later. Decided once per term, from who renewed since the election.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    id::{Incarnation, LogIndex, NodeId, Timestamp},
    registry::Life,
};

use super::{FLOOR_SHARE, View};

/// Shards without an owner wait this long at most.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Back enough: nine of ten.
const BACK_PERCENT: usize = 90;

#[derive(Clone, Debug)]
pub(super) struct Comeback {
    /// Who was expected at the election: nodes that were up, closed to come back, or fenced
    /// only now, by a leader that waited for them as this one does. Those fenced long ago are
    /// not, or a cluster that lost half its nodes for good would wait after each election.
    expected: BTreeMap<NodeId, Incarnation>,
    elected_at: Timestamp,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Too early to tell: a healthy cluster renews within L / 2 of an election.
    Listening,
    Waiting,
    Over,
}

impl Comeback {
    pub(super) fn new(view: View<'_>, now: Timestamp) -> Self {
        let expected = view.nodes.iter().filter(|node| match node.life {
            Life::Up => true,
            Life::Closed => node.drain.is_restart(),
            Life::Fenced => {
                let end = view.expiry.of(node.id);
                end.is_some_and(|end| now.at_least_since(end) < LONGEST_WAIT)
            }
            Life::Joining | Life::Left => false,
        });
        Self {
            expected: expected.map(|node| (node.id, node.incarnation)).collect(),
            elected_at: now,
            phase: Phase::Listening,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    pub(super) fn look(&mut self, elected: LogIndex, view: View<'_>, now: Timestamp) {
        if self.is_over() {
            return;
        }
        let since = now.at_least_since(self.elected_at);
        let early = since < view.lease.length() / FLOOR_SHARE;
        let (mut all, mut back, mut kept) = (0, 0, 0);
        for node in view.nodes {
            let Some(before) = self.expected.get(&node.id) else { continue };
            // As one whose new directory took its name: it never comes back.
            if node.life == Life::Left {
                continue;
            }
            all += 1;
            let renewed = node.renewed > elected;
            back += usize::from(renewed);
            kept += usize::from(renewed && node.incarnation == *before);
        }
        self.phase = match self.phase {
            Phase::Listening if early && 2 * back >= all => Phase::Over,
            // Who comes back without proof may register from this moment on, and all of them do: a
            // look that is a little late must not take them for sessions that went on.
            Phase::Listening if !early && 2 * kept >= all => Phase::Over,
            Phase::Listening if !early => Phase::Waiting,
            Phase::Waiting if 100 * back >= BACK_PERCENT * all || since >= LONGEST_WAIT => {
                Phase::Over
            }
            Phase::Listening | Phase::Waiting | Phase::Over => self.phase,
        };
    }
}
