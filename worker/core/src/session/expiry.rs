//! When each node's session has expired on this node's own clocks.
//!
//! Every member keeps it from what it applies, so that a new leader has it already. An
//! expiry is only the *time* of a fence: the compare on the last renewal index in the
//! Fence command is what makes a fence safe against a renewal ordered before it.

use std::collections::BTreeMap;

use crate::id::{LogIndex, NodeId, Timestamp};

use super::lease::Lease;

/// What was just applied here.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The process started on stored state, or installed a snapshot: the renewals in it are
    /// of unknown age, each counts as applied now under the longest lease that may rule.
    Restored {
        nodes: &'a [NodeId],
        lease: Lease,
        previous: Option<(Lease, LogIndex)>,
    },
    /// Renewals or a Register were accepted under `lease`.
    Renewed {
        nodes: &'a [NodeId],
        lease: Lease,
    },
    /// L changed at index `since`; rights of up to `previous` may still be held.
    LeaseChanged {
        previous: Lease,
        since: LogIndex,
    },
    LeaseSettled,
    Left {
        node: NodeId,
    },
}

#[derive(Clone, Debug, Default)]
pub struct Expiry {
    ends: BTreeMap<NodeId, Timestamp>,
    unsettled: Option<Unsettled>,
}

#[derive(Clone, Copy, Debug)]
struct Unsettled {
    since: LogIndex,
    due: Timestamp,
}

impl Expiry {
    pub fn on(&mut self, event: Event<'_>, now: Timestamp) {
        match event {
            Event::Restored { nodes, lease, previous } => {
                let longest = previous.map_or(lease, |(previous, _)| previous.max(lease));
                self.extend(nodes, longest, now);
                match previous {
                    Some((previous, since)) => self.unsettle(previous, since, now),
                    None => self.unsettled = None,
                }
            }
            Event::Renewed { nodes, lease } => self.extend(nodes, lease, now),
            Event::LeaseChanged { previous, since } => self.unsettle(previous, since, now),
            Event::LeaseSettled => self.unsettled = None,
            Event::Left { node } => {
                self.ends.remove(&node);
            }
        }
    }

    /// Instant before which the node may still hold a right; `None`: it never renewed.
    pub fn of(&self, node: NodeId) -> Option<Timestamp> {
        self.ends.get(&node).copied()
    }

    /// True once no right of the node can be left. A node never heard of has not expired.
    pub fn has_passed(&self, node: NodeId, now: Timestamp) -> bool {
        self.of(node).is_some_and(|end| now.surely_past(end))
    }

    /// The change of L that may be settled now: previous L has passed since it was applied.
    pub fn settle_due(&self, now: Timestamp) -> Option<LogIndex> {
        self.unsettled
            .filter(|unsettled| now.surely_past(unsettled.due))
            .map(|unsettled| unsettled.since)
    }

    /// Never moved back: a renewal under a smaller L does not shorten a right already granted.
    fn extend(&mut self, nodes: &[NodeId], lease: Lease, now: Timestamp) {
        let end = now.plus(lease.length());
        for node in nodes {
            let known = self.ends.entry(*node).or_insert(end);
            *known = known.max_each(end);
        }
    }

    fn unsettle(&mut self, previous: Lease, since: LogIndex, now: Timestamp) {
        let due = now.plus(previous.length());
        let due = self.unsettled.map_or(due, |earlier| earlier.due.max_each(due));
        self.unsettled = Some(Unsettled { since, due });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const N: NodeId = NodeId(7);

    fn at(millis: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_millis(millis))
    }

    fn lease(millis: u32) -> Lease {
        Lease::from_millis(millis).unwrap()
    }

    fn renewed(expiry: &mut Expiry, millis: u32, now: u64) {
        let nodes = [N];
        let lease = lease(millis);
        expiry.on(Event::Renewed { nodes: &nodes, lease }, at(now));
    }

    #[test]
    fn s9_a_renewal_under_a_smaller_lease_does_not_move_it_back() {
        let mut expiry = Expiry::default();
        renewed(&mut expiry, 10_000, 0);
        renewed(&mut expiry, 2_000, 1_000);
        assert!(!expiry.has_passed(N, at(9_999)));
        assert!(expiry.has_passed(N, at(10_000)));
        renewed(&mut expiry, 2_000, 9_000);
        assert!(!expiry.has_passed(N, at(10_999)));
    }

    #[test]
    fn a_snapshot_counts_as_an_apply_under_the_longest_unsettled_lease() {
        let mut expiry = Expiry::default();
        expiry.on(
            Event::Restored {
                nodes: &[N],
                lease: lease(2_000),
                previous: Some((lease(10_000), LogIndex(5))),
            },
            at(100),
        );
        assert!(!expiry.has_passed(N, at(10_099)));
        assert!(expiry.has_passed(N, at(10_100)));
        assert_eq!(expiry.settle_due(at(10_099)), None);
        assert_eq!(expiry.settle_due(at(10_100)), Some(LogIndex(5)));
    }

    #[test]
    fn a_second_change_waits_for_the_longer_of_both() {
        let mut expiry = Expiry::default();
        let changed = |previous, since| Event::LeaseChanged {
            previous: lease(previous),
            since: LogIndex(since),
        };
        expiry.on(changed(10_000, 3), at(0));
        expiry.on(changed(2_000, 4), at(1_000));
        assert_eq!(expiry.settle_due(at(9_999)), None);
        assert_eq!(expiry.settle_due(at(10_000)), Some(LogIndex(4)));
        expiry.on(Event::LeaseSettled, at(10_001));
        assert_eq!(expiry.settle_due(at(20_000)), None);
    }

    #[test]
    fn one_clock_alone_expires_nobody() {
        let mut expiry = Expiry::default();
        renewed(&mut expiry, 3_000, 0);
        let slewed = Timestamp::new(Duration::from_millis(3_249), Duration::from_millis(2_999));
        assert!(!expiry.has_passed(N, slewed));
        assert!(!expiry.has_passed(NodeId(8), slewed), "a node that never renewed");
    }
}
