//! What the leader's judgement of all sessions takes, each tick.

use std::time::{Duration, Instant};

use anyhow::ensure;
use shoal_core::{
    id::{Incarnation, LogIndex, NodeId, Timestamp},
    registry::{Drain, Life},
    session::{
        expiry::{self, Expiry},
        fencing::{Action, Event, Fencing, NodeFact, TICK, View},
        lease::Lease,
    },
};

use super::{growth, sizes};
use crate::figure::{Row, Target};

/// Name of its file, title, and what runs.
pub const TOLD: (&str, &str, &str) = (
    "scale-fencing",
    "Scale: who is fenced",
    "One tick of the leader's machine that judges every session, with nothing proposed applied between two ticks; a tick is due each 50 ms.",
);

const ME: NodeId = NodeId(1);
const ELECTED: LogIndex = LogIndex(1_000_000);
const TICKS: u64 = 40;

#[derive(Clone, Copy, Debug)]
enum Sessions {
    /// Everybody renews.
    Live,
    /// Nobody was heard since the election and every session has run out.
    Gone,
    /// One in five is silent, and the window of fences is spent.
    FifthSilent,
    /// All have run out but the leader's own.
    Alone,
}

const ALL: [(Sessions, &str); 4] = [
    (Sessions::Live, "everybody renews"),
    (Sessions::Gone, "every session has run out, nobody is heard"),
    (Sessions::FifthSilent, "a fifth of the sessions has run out"),
    (Sessions::Alone, "every session but the leader's own has run out"),
];

pub fn run(small: bool) -> anyhow::Result<Vec<Row>> {
    let sizes = sizes(small);
    let nodes: Vec<f64> = sizes.iter().map(|size| f64::from(size.nodes)).collect();
    let mut rows = Vec::new();
    for (sessions, what) in ALL {
        let mut medians = Vec::new();
        for size in sizes {
            let samples = sessions.ticks(u64::from(size.nodes))?;
            let nodes_told = crate::figure::number(f64::from(size.nodes));
            let row = Row::worst(format!("{nodes_told} nodes: {what}"), &samples, "µs");
            medians.push(row.spread.as_ref().map_or(0.0, |spread| spread.median));
            let row = row.target(Target::AtMost(TICK.as_secs_f64() * 1e6));
            let last = medians.len() > 1 && medians.len() == sizes.len();
            let grew = || format!("its median {}", growth(&medians, &nodes, "nodes"));
            rows.push(if last { row.note(grew()) } else { row });
        }
    }
    Ok(rows)
}

impl Sessions {
    fn renews(self, node: u64) -> bool {
        match self {
            Self::Live => true,
            Self::Gone => false,
            Self::FifthSilent => !node.is_multiple_of(5),
            Self::Alone => node == ME.0,
        }
    }

    /// Microseconds of each tick, from when the sessions that do not renew have run out.
    fn ticks(self, count: u64) -> anyhow::Result<Vec<f64>> {
        let lease = Lease::default();
        let mut expiry = Expiry::default();
        let fact = |id| NodeFact {
            id: NodeId(id),
            incarnation: Incarnation { counter: 1, nonce: id },
            life: Life::Up,
            drain: Drain::None,
            voter: id <= 5,
            renewed: LogIndex(id),
        };
        let mut nodes: Vec<NodeFact> = (1..=count).map(fact).collect();
        let all: Vec<NodeId> = nodes.iter().map(|node| node.id).collect();
        let at = |span: Duration| Timestamp::default().plus(span);
        let start = at(Duration::ZERO);
        expiry.on(expiry::Event::Restored { nodes: &all, lease, previous: None }, start);
        let view = View { lease, nodes: &nodes, expiry: &expiry, has_session: true };
        let mut fencing = Fencing::new(ME, ELECTED, view, start);
        let silent = lease.length() + TICK;
        let (mut samples, mut fenced, mut index) = (Vec::new(), 0, ELECTED.0);
        let mut now = Duration::ZERO;
        while (samples.len() as u64) < TICKS {
            now += TICK;
            index += 1;
            for node in nodes.iter_mut().filter(|node| self.renews(node.id.0)) {
                node.renewed = LogIndex(index);
                expiry.on(expiry::Event::Renewed { nodes: &[node.id], lease }, at(now));
            }
            let view = View { lease, nodes: &nodes, expiry: &expiry, has_session: true };
            let applied = fencing.on(Event::Applied, at(now));
            ensure!(applied.actions.is_empty(), "an entry asks for something");
            let began = Instant::now();
            let output = fencing.on(Event::Tick { inbox_empty: true, view }, at(now));
            let took = began.elapsed().as_secs_f64() * 1e6;
            let is_fence = |action: &&Action| matches!(action, Action::ProposeFence { .. });
            fenced += output.actions.iter().filter(is_fence).count();
            if now > silent {
                samples.push(took);
            }
        }
        let expected = matches!(self, Self::FifthSilent | Self::Alone);
        ensure!((fenced > 0) == expected, "{self:?}: {fenced} fences");
        Ok(samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_tick_is_taken_at_the_smallest_size() {
        let rows = run(true).unwrap();
        assert_eq!(rows.len(), ALL.len());
        assert!(rows.iter().all(|row| row.value.is_some_and(|us| us > 0.0)), "{rows:?}");
    }

    /// Twenty times the nodes take some twenty times as long, four hundred times if each of
    /// them looks at all others. The least of all ticks was disturbed by nobody.
    #[test]
    fn what_a_tick_takes_grows_as_the_nodes_do() {
        for (sessions, what) in ALL {
            let least = |nodes| sessions.ticks(nodes).unwrap().into_iter().fold(f64::MAX, f64::min);
            let (few, many) = (least(100), least(2_000));
            assert!(many < 100.0 * few, "{what}: {few} µs of 100 nodes, {many} µs of 2,000");
        }
    }
}
