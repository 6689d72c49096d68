//! What the leader counts: sessions it ended, moves, and time without an owner.
//!
//! Counted by the node that leads at that moment: the sum over all nodes is the cluster's.

use std::{collections::BTreeMap, sync::atomic::AtomicU64};

use prometheus_client::{
    metrics::{
        counter::Counter,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry as Names, Unit},
};
use shoal_core::{
    id::{LogIndex, NodeId, ShardId, Timestamp},
    registry::{Holding, Registry, ShardRow},
};

type Seconds = Counter<f64, AtomicU64>;

/// Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(super) fenced: Counter,
    started: Counter,
    committed: Counter,
    aborted: Counter,
    duration: Histogram,
    /// Time in which some shard had no owner, and the same summed over the shards.
    ownerless: Seconds,
    ownerless_shards: Seconds,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            fenced: Counter::default(),
            started: Counter::default(),
            committed: Counter::default(),
            aborted: Counter::default(),
            // 4 ms, two commits, to 65 s.
            duration: Histogram::new(exponential_buckets(0.004, 2.0, 15)),
            ownerless: Seconds::default(),
            ownerless_shards: Seconds::default(),
        }
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Names) {
        let registry = registry.sub_registry_with_prefix("control");
        let help = "Sessions ended by this node as the leader because they were not renewed";
        registry.register("sessions_fenced", help, self.fenced.clone());
        let help = "Moves begun while this node led";
        registry.register("moves_started", help, self.started.clone());
        let help = "Moves committed while this node led";
        registry.register("moves_committed", help, self.committed.clone());
        let help = "Moves given up while this node led";
        registry.register("moves_aborted", help, self.aborted.clone());
        let help = "From the beginning of a move until its commit, while this node led";
        registry.register_with_unit("move", help, Unit::Seconds, self.duration.clone());
        let help = "Time in which at least one shard of the formed cluster had no owner, while \
                    this node led";
        registry.register_with_unit("without_owner", help, Unit::Seconds, self.ownerless.clone());
        let help = "The same summed over the shards: ten shards without an owner for one second \
                    count ten";
        let counter = self.ownerless_shards.clone();
        registry.register_with_unit("without_owner_shard", help, Unit::Seconds, counter);
    }
}

/// What a leader needs to count by; made anew with each term.
#[derive(Default)]
pub(super) struct Counting {
    moving: BTreeMap<ShardId, (LogIndex, Option<Timestamp>)>,
    looked: Option<Timestamp>,
}

impl Counting {
    /// Moves that are under way already were begun under another leader.
    pub fn new<'a>(rows: impl Iterator<Item = (ShardId, &'a ShardRow)>) -> Self {
        let moving = rows.filter_map(|(shard, row)| match row.holding {
            Holding::Moving { id, .. } => Some((shard, (LogIndex(id.0), None))),
            Holding::Owned { .. } | Holding::Unassigned => None,
        });
        Self { moving: moving.collect(), looked: None }
    }

    pub fn row(&mut self, metrics: &Metrics, shard: ShardId, row: &ShardRow, at: Timestamp) {
        let now = match row.holding {
            Holding::Moving { id, .. } => Some(LogIndex(id.0)),
            Holding::Owned { .. } | Holding::Unassigned => None,
        };
        let before = self.moving.get(&shard).copied();
        if before.map(|(id, _)| id) == now {
            return;
        }
        if let Some((id, began)) = before {
            self.moving.remove(&shard);
            let arrived =
                matches!(row.holding, Holding::Owned { via: Some(via), .. } if via.0 == id.0);
            if arrived {
                metrics.committed.inc();
                if let Some(began) = began {
                    metrics.duration.observe(at.at_least_since(began).as_secs_f64());
                }
            } else {
                metrics.aborted.inc();
            }
        }
        if let Some(id) = now {
            metrics.started.inc();
            self.moving.insert(shard, (id, Some(at)));
        }
    }

    /// Adds the time since the last look, by what was true then.
    pub fn tick(&mut self, metrics: &Metrics, registry: &Registry, now: Timestamp) {
        let before = self.looked.replace(now);
        let Some(before) = before.filter(|_| registry.formed()) else { return };
        let owned: u32 = registry.nodes().map(|(id, _): (NodeId, _)| registry.held(id).owned).sum();
        let without = registry.settings().shard_count.saturating_sub(owned);
        if without > 0 {
            let span = now.at_least_since(before).as_secs_f64();
            metrics.ownerless.inc_by(span);
            metrics.ownerless_shards.inc_by(span * f64::from(without));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shoal_core::id::{Epoch, Incarnation, MoveId};

    use super::*;

    const SHARD: ShardId = ShardId(3);

    fn row(holding: Holding) -> ShardRow {
        ShardRow { holding, epoch: Epoch(1), changed: LogIndex::default() }
    }

    fn moving(id: u64) -> ShardRow {
        row(Holding::Moving {
            node: NodeId(1),
            incarnation: Incarnation::default(),
            target: NodeId(2),
            target_incarnation: Incarnation::default(),
            id: MoveId(id),
            via: None,
        })
    }

    fn owned(via: Option<u64>) -> ShardRow {
        let (node, incarnation) = (NodeId(1), Incarnation::default());
        row(Holding::Owned { node, incarnation, via: via.map(MoveId) })
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_secs(seconds))
    }

    /// How many moves were timed, and their seconds together.
    fn durations(metrics: &Metrics) -> (String, String) {
        let (mut names, mut page) = (Names::default(), String::new());
        metrics.register(&mut names);
        prometheus_client::encoding::text::encode(&mut page, &names).unwrap();
        let value = |name: &str| page.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let value = |name| value(name).to_owned();
        (value("control_move_seconds_count "), value("control_move_seconds_sum "))
    }

    fn counts(metrics: &Metrics) -> [u64; 3] {
        [metrics.started.get(), metrics.committed.get(), metrics.aborted.get()]
    }

    #[test]
    fn moves_are_counted_by_how_they_end() {
        let metrics = Metrics::default();
        let mut counting = Counting::default();
        for (second, row, expected) in [
            (1, moving(10), [1, 0, 0]),
            (2, moving(10), [1, 0, 0]),
            (5, owned(Some(10)), [1, 1, 0]),
            (6, owned(Some(10)), [1, 1, 0]),
            (7, moving(11), [2, 1, 0]),
            (8, owned(Some(10)), [2, 1, 1]),
            (9, moving(12), [3, 1, 1]),
            (10, row(Holding::Unassigned), [3, 1, 2]),
            (11, owned(None), [3, 1, 2]),
        ] {
            counting.row(&metrics, SHARD, &row, at(second));
            assert_eq!(counts(&metrics), expected, "at {second}");
        }
        assert_eq!(durations(&metrics), ("1".to_owned(), "4.0".to_owned()));
    }

    #[test]
    fn a_move_begun_under_another_leader_ends_without_a_duration() {
        let metrics = Metrics::default();
        let begun = moving(10);
        let mut counting = Counting::new([(SHARD, &begun)].into_iter());
        counting.row(&metrics, SHARD, &begun, at(1));
        counting.row(&metrics, SHARD, &owned(Some(10)), at(2));
        assert_eq!(counts(&metrics), [0, 1, 0]);
        assert_eq!(durations(&metrics).0, "0");
    }
}
