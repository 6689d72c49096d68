//! What a node did too often lately: was fenced, took its shards again.
//!
//! Every member keeps it from what it applies. It holds a flapping node back from being a
//! target and a crash loop from keeping its shards; it never ends a session.

use std::{collections::BTreeMap, time::Duration};

use crate::id::{NodeId, Timestamp};

use super::lease::Lease;

/// Fences within this window count.
const FENCE_WINDOW: Duration = Duration::from_secs(600);
/// No node is held back longer than this after its last fence.
const LONGEST_HOLD: Duration = Duration::from_secs(300);
/// 2^8 · 2 s, the shortest lease, is past `LONGEST_HOLD`: more fences change nothing.
const FENCES_KEPT: usize = 8;
/// A node may take its shards again twice within this window, not three times.
pub const REOWN_WINDOW: Duration = Duration::from_secs(60);
pub const REOWNS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Fenced {
        node: NodeId,
    },
    /// A Register with proof gave it its shards again.
    Reowned {
        node: NodeId,
    },
    Left {
        node: NodeId,
    },
}

#[derive(Clone, Debug, Default)]
pub struct Repeats {
    fences: BTreeMap<NodeId, Vec<Timestamp>>,
    reowns: BTreeMap<NodeId, Vec<Timestamp>>,
}

impl Repeats {
    pub fn on(&mut self, event: Event, now: Timestamp) {
        match event {
            Event::Fenced { node } => {
                note(self.fences.entry(node).or_default(), FENCES_KEPT, now);
            }
            Event::Reowned { node } => note(self.reowns.entry(node).or_default(), REOWNS, now),
            Event::Left { node } => {
                self.fences.remove(&node);
                self.reowns.remove(&node);
            }
        }
    }

    /// True while the node must not become a target: min(2^k · L, 5 min) after the last of
    /// k fences in 10 minutes.
    pub fn holds_back(&self, node: NodeId, lease: Lease, now: Timestamp) -> bool {
        let fences = self.fences.get(&node).map_or(&[][..], Vec::as_slice);
        let Some(last) = fences.last() else {
            return false;
        };
        let hold = lease.length() * (1 << count(fences, FENCE_WINDOW, now));
        !now.surely_past(last.plus(hold.min(LONGEST_HOLD)))
    }

    /// False when it took its shards again twice in the last minute: they go elsewhere.
    pub fn may_reown(&self, node: NodeId, now: Timestamp) -> bool {
        self.reowns.get(&node).is_none_or(|reowns| count(reowns, REOWN_WINDOW, now) < REOWNS)
    }
}

fn note(instants: &mut Vec<Timestamp>, kept: usize, now: Timestamp) {
    if instants.len() == kept {
        instants.remove(0);
    }
    instants.push(now);
}

fn count(instants: &[Timestamp], window: Duration, now: Timestamp) -> usize {
    instants.iter().filter(|instant| now.at_least_since(**instant) < window).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: NodeId = NodeId(3);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_secs(seconds))
    }

    #[test]
    fn each_fence_doubles_the_hold_up_to_five_minutes() {
        let lease = Lease::from_millis(3_000).unwrap();
        let mut repeats = Repeats::default();
        assert!(!repeats.holds_back(N, lease, at(0)));
        let mut held = Vec::new();
        for fence in 1..=20 {
            let now = at(fence);
            repeats.on(Event::Fenced { node: N }, now);
            let end = (0..1_000)
                .find(|second| {
                    !repeats.holds_back(N, lease, now.plus(Duration::from_secs(*second)))
                })
                .unwrap();
            held.push(end);
        }
        assert_eq!(&held[..7], [6, 12, 24, 48, 96, 192, 300]);
        assert!(held[7..].iter().all(|seconds| *seconds == 300));
        assert!(!repeats.holds_back(NodeId(4), lease, at(20)));
    }

    #[test]
    fn old_fences_are_forgiven() {
        let lease = Lease::from_millis(3_000).unwrap();
        let mut repeats = Repeats::default();
        for second in [0, 1, 2, 700] {
            repeats.on(Event::Fenced { node: N }, at(second));
        }
        assert!(repeats.holds_back(N, lease, at(705)));
        assert!(!repeats.holds_back(N, lease, at(706)));
    }

    #[test]
    fn the_third_time_in_a_minute_it_gets_nothing_back() {
        let mut repeats = Repeats::default();
        repeats.on(Event::Reowned { node: N }, at(0));
        assert!(repeats.may_reown(N, at(30)));
        repeats.on(Event::Reowned { node: N }, at(30));
        assert!(!repeats.may_reown(N, at(59)));
        assert!(repeats.may_reown(N, at(60)));
    }
}
