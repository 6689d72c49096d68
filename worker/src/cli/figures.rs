//! Rates of nodes, from two looks at their metrics.

use std::{collections::BTreeMap, time::Duration};

use shoal_proto::shoal::admin::v1 as pb;
use tokio::time::Instant;

use super::http;

/// A node that takes longer has no figures in this round.
const PATIENCE: Duration = Duration::from_millis(800);

/// What a node's page says of a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Look {
    local: f64,
    forwarded: f64,
    failed: f64,
    parked: f64,
    cpu: f64,
    memory: f64,
}

/// What happened on a node between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Calls that entered there, per second.
    pub calls: f64,
    pub forwarded_percent: f64,
    /// Calls it answered UNAVAILABLE or UNKNOWN, per second.
    pub failed: f64,
    /// Calls that wait there now.
    pub parked: f64,
    pub cpu_percent: f64,
    pub memory_bytes: f64,
}

/// Remembers the last look at each node.
#[derive(Default)]
pub struct Figures {
    looks: BTreeMap<u64, (Instant, Look)>,
}

impl Figures {
    /// Rates since the last call, of the nodes that answered both times.
    pub async fn look(&mut self, nodes: &[pb::Node]) -> BTreeMap<u64, Rates> {
        let asked = nodes.iter().filter(|node| node.life != "left").map(|node| async {
            let page = http::get(&node.http_address, "/metrics", PATIENCE).await.ok()?;
            Some((node.id, Instant::now(), Look::read(&page.1)))
        });
        let answers = futures::future::join_all(asked).await;
        let mut rates = BTreeMap::new();
        let before = std::mem::take(&mut self.looks);
        for (node, at, look) in answers.into_iter().flatten() {
            if let Some((then, last)) = before.get(&node) {
                rates.insert(node, look.since(last, at.duration_since(*then)));
            }
            self.looks.insert(node, (at, look));
        }
        rates
    }
}

impl Look {
    pub(crate) fn read(page: &str) -> Self {
        let sum = |name: &str| {
            let samples = page.lines().filter_map(|line| line.strip_prefix(name));
            samples.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
        };
        Self {
            local: sum("shoal_forward_calls_total{kind=\"local\"}"),
            forwarded: sum("shoal_forward_calls_total{kind=\"forwarded\"}"),
            failed: sum("shoal_forward_unavailable_total")
                + sum("shoal_forward_outcome_unknown_total"),
            parked: sum("shoal_forward_parked_calls"),
            cpu: sum("process_cpu_seconds_total"),
            memory: sum("process_resident_memory_bytes"),
        }
    }

    fn since(&self, last: &Self, span: Duration) -> Rates {
        let span = span.as_secs_f64().max(f64::MIN_POSITIVE);
        // A process that started anew counts from nothing.
        let per_second = |now: f64, then: f64| if now < then { now } else { now - then } / span;
        let local = per_second(self.local, last.local);
        let forwarded = per_second(self.forwarded, last.forwarded);
        let calls = local + forwarded;
        Rates {
            calls,
            forwarded_percent: if calls > 0.0 { forwarded * 100.0 / calls } else { 0.0 },
            failed: per_second(self.failed, last.failed),
            parked: self.parked,
            cpu_percent: per_second(self.cpu, last.cpu) * 100.0,
            memory_bytes: self.memory,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{host::right::Right, table::Table, telemetry::Telemetry};

    #[test]
    fn every_figure_is_on_the_page_that_nodes_serve() {
        let telemetry = Telemetry::default();
        telemetry.forward.local.inc_by(3);
        telemetry.forward.forwarded.inc_by(9);
        telemetry.forward.unknown.inc();
        telemetry.forward.unavailable.inc();
        telemetry.forward.parked_now.set(5);
        let page = telemetry.page(&Table::default(), &Right::new().unwrap()).unwrap();
        let look = Look::read(&page);
        assert_eq!((look.local, look.forwarded, look.failed, look.parked), (3.0, 9.0, 2.0, 5.0));
        assert!(look.cpu > 0.0 && look.memory > 0.0);
    }

    #[test]
    fn rates_are_differences_and_a_new_process_counts_from_nothing() {
        let last = Look { local: 10.0, forwarded: 10.0, ..Look::default() };
        let now = Look { local: 20.0, forwarded: 40.0, failed: 2.0, ..Look::default() };
        let rates = now.since(&last, Duration::from_secs(2));
        assert_eq!((rates.calls, rates.forwarded_percent, rates.failed), (20.0, 75.0, 1.0));
        let fresh = Look { local: 4.0, ..Look::default() };
        assert_eq!(fresh.since(&last, Duration::from_secs(2)).calls, 2.0);
    }
}
