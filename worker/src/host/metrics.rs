//! What the host counts and measures.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use shoal_core::admit::Nack;

/// Upper ends in seconds: a pause is promised to stay below one.
const PAUSE_BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5];

/// Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Seconds from the first refusal of a moving shard until its row changed.
    pub pause: Histogram,
    pub moved_in: Counter,
    pub moved_out: Counter,
    pub aborted: Counter,
    pub admitted: Counter,
    pub refused: Family<Refused, Counter>,
    /// Calls that ran and whose answer was held back.
    pub withheld: Counter,
    /// Calls stopped at their deadline, the end of the right, or that of the shard.
    pub cancelled: Counter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Refused {
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Kind {
    NotOwner,
    Moving,
    Busy,
    StaleReceiver,
    Expired,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            pause: Histogram::new(PAUSE_BUCKETS),
            moved_in: Counter::default(),
            moved_out: Counter::default(),
            aborted: Counter::default(),
            admitted: Counter::default(),
            refused: Family::default(),
            withheld: Counter::default(),
            cancelled: Counter::default(),
        }
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("host");
        registry.register(
            "handover_pause_seconds",
            "From the first refused call of a moving shard until its row changed",
            self.pause.clone(),
        );
        registry.register("moves_in", "Shards received by a move", self.moved_in.clone());
        registry.register("moves_out", "Shards handed over by a move", self.moved_out.clone());
        registry.register("moves_aborted", "Moves given up as owner", self.aborted.clone());
        registry.register("calls_admitted", "Calls run", self.admitted.clone());
        registry.register("calls_refused", "Calls refused before running", self.refused.clone());
        registry.register("calls_withheld", "Calls run without an answer", self.withheld.clone());
        registry.register("calls_cancelled", "Calls stopped while running", self.cancelled.clone());
    }

    pub(super) fn refuse(&self, nack: &Nack) {
        let kind = match nack {
            Nack::NotOwner { .. } => Kind::NotOwner,
            Nack::Moving { .. } => Kind::Moving,
            Nack::Busy { .. } => Kind::Busy,
            Nack::StaleReceiver => Kind::StaleReceiver,
            Nack::Expired => Kind::Expired,
        };
        self.refused.get_or_create(&Refused { kind }).inc();
    }
}
