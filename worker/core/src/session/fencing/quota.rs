//! How many nodes one leader may fence: at most a minority per L, then it doubts itself.
//!
//! A leader that hears Raft but no renewals would otherwise end every session of a healthy
//! cluster. Fences by proof and Register of the same directory are not counted here.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    id::{NodeId, Timestamp},
    session::lease::Lease,
};

/// A window that fills within this many L of another full one is too much for one leader.
const SUSPICIOUS_LEASES: u32 = 10;
/// What a leader that nobody can replace waits before its second full window, in L.
const SOLE_VOTER_LEASES: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    Granted,
    /// Not now; asked again at the next tick.
    Refused,
    /// Another voter shall judge first.
    HandOver,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Quota {
    window: Option<Window>,
    /// When the last full window was opened.
    full: Option<Timestamp>,
    /// Set once per series of full windows: when the hand-over, or the wait in its place, ends.
    doubt: Option<Timestamp>,
}

#[derive(Clone, Debug)]
struct Window {
    opened: Timestamp,
    limit: usize,
    fenced: BTreeSet<NodeId>,
}

impl Quota {
    /// Asks to fence `node`, one of `up` nodes; a leave granted is counted.
    pub(super) fn take(
        &mut self,
        node: NodeId,
        up: usize,
        replaceable: bool,
        lease: Lease,
        now: Timestamp,
    ) -> Leave {
        self.forget(lease, now);
        let fresh = Window {
            opened: now,
            limit: (up.div_ceil(2).saturating_sub(1)).max(1),
            fenced: BTreeSet::new(),
        };
        let window = self.window.get_or_insert(fresh);
        if window.fenced.contains(&node) {
            return Leave::Granted;
        }
        if window.fenced.len() == window.limit {
            return Leave::Refused;
        }
        if window.fenced.len() + 1 == window.limit {
            if self.full.is_some() {
                let wait = if replaceable { 1 } else { SOLE_VOTER_LEASES };
                match self.doubt {
                    None => {
                        self.doubt = Some(now.plus(span(lease, wait)));
                        return if replaceable { Leave::HandOver } else { Leave::Refused };
                    }
                    Some(end) if !now.surely_past(end) => return Leave::Refused,
                    Some(_) => {}
                }
            }
            self.full = Some(window.opened);
        }
        window.fenced.insert(node);
        Leave::Granted
    }

    fn forget(&mut self, lease: Lease, now: Timestamp) {
        let older = |instant: Timestamp, leases| now.at_least_since(instant) >= span(lease, leases);
        self.window.take_if(|window| older(window.opened, 1));
        if self.full.take_if(|full| older(*full, SUSPICIOUS_LEASES)).is_some() {
            self.doubt = None;
        }
    }
}

fn span(lease: Lease, leases: u32) -> Duration {
    lease.length() * leases
}
