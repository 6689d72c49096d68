//! What the host counts and measures.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use shoal_core::admit::Nack;

use super::shards::Owned;
use crate::call::{NACK_KINDS, nack_kind};

/// Upper ends in seconds: a pause is promised to stay below one, and capped at two.
const PAUSE_BUCKETS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5.];

/// Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Seconds from the first refusal of a moving shard until its row changed.
    pub pause: Histogram,
    pub moved_in: Counter,
    pub moved_out: Counter,
    pub aborted: Counter,
    pub admitted: Counter,
    refused: Family<Refused, Counter>,
    /// Calls that ran and whose answer was held back.
    pub withheld: Counter,
    /// Calls stopped at their deadline, the end of the right, or that of the shard.
    pub cancelled: Counter,
    shards: Family<Standing, Gauge>,
    running: Gauge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    kind: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Standing {
    state: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            pause: Histogram::new(PAUSE_BUCKETS),
            moved_in: Counter::default(),
            moved_out: Counter::default(),
            aborted: Counter::default(),
            admitted: Counter::default(),
            refused: Family::default(),
            withheld: Counter::default(),
            cancelled: Counter::default(),
            shards: Family::default(),
            running: Gauge::default(),
        };
        for kind in NACK_KINDS {
            drop(metrics.refused.get_or_create(&Refused { kind }));
        }
        metrics.show(Owned::default());
        metrics
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("host");
        let help = "Pause of a hand-over: the time in which a moving shard admitted nothing here";
        registry.register_with_unit("handover_pause", help, Unit::Seconds, self.pause.clone());
        let help = "Shards received by a move";
        registry.register("moves_in", help, self.moved_in.clone());
        let help = "Shards handed over by a move";
        registry.register("moves_out", help, self.moved_out.clone());
        let help = "Moves that this node gave up as the owner";
        registry.register("moves_aborted", help, self.aborted.clone());
        let help = "Calls run";
        registry.register("calls_admitted", help, self.admitted.clone());
        let help = "Calls refused before they ran: kind is not_owner (misrouted), moving, busy, \
                    stale_receiver or expired";
        registry.register("calls_refused", help, self.refused.clone());
        let help = "Calls that ran and whose answer was held back, for the right had ended";
        registry.register("calls_withheld", help, self.withheld.clone());
        let help = "Calls stopped while they ran";
        registry.register("calls_cancelled", help, self.cancelled.clone());
        let help = "Shards here: state is open, opening, leaving (handed over now) or receiving \
                    (not owned yet)";
        registry.register("shards", help, self.shards.clone());
        registry.register("calls_running", "Calls that run now", self.running.clone());
    }

    /// Takes what is true now; called when somebody scrapes.
    pub fn show(&self, owned: Owned) {
        let states = [
            ("open", owned.open),
            ("opening", owned.opening),
            ("leaving", owned.leaving),
            ("receiving", owned.receiving),
        ];
        for (state, count) in states {
            self.shards.get_or_create(&Standing { state }).set(count.into());
        }
        self.running.set(owned.calls.into());
    }

    pub(super) fn refuse(&self, nack: &Nack) {
        let kind = nack_kind(nack);
        self.refused.get_or_create(&Refused { kind }).inc();
    }
}
