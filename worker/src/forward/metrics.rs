//! Figures of the data path: plain atomics on the way of a call, families when scraped.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use shoal_core::admit::Nack;

use crate::call::{NACK_KINDS, nack_kind};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

type ByKind = Family<Kind, Counter>;

/// Who found no room, in the order of [`super::budget::Stage`].
const FULL_KINDS: [&str; 3] = ["entry", "pipe", "answer"];

pub struct Metrics {
    /// Calls that entered here, by where they were sent first.
    pub local: Counter,
    pub forwarded: Counter,
    pub resends: Counter,
    /// Calls answered with an unknown outcome.
    pub unknown: Counter,
    pub unavailable: Counter,
    /// Calls that were parked, those that are, what they hold, how long they stayed.
    pub parked: Counter,
    pub parked_now: Gauge,
    pub parked_bytes: Gauge,
    pub park_time: Histogram,
    pub pipes_opened: Counter,
    pub pipes_failed: Counter,
    pub connections: Gauge,
    /// Bytes that calls under way take, may take, and how often there was no room.
    pub memory: Gauge,
    pub memory_limit: Gauge,
    pub no_memory: [Counter; 3],
    calls: ByKind,
    nacks: ByKind,
    no_memory_kinds: ByKind,
}

impl Default for Metrics {
    fn default() -> Self {
        // A counter shares its number with its clones: the hot path looks no family up.
        let (calls, nacks, full) = (ByKind::default(), ByKind::default(), ByKind::default());
        for kind in NACK_KINDS {
            drop(nacks.get_or_create(&Kind { kind }));
        }
        Self {
            local: calls.get_or_create_owned(&Kind { kind: "local" }),
            forwarded: calls.get_or_create_owned(&Kind { kind: "forwarded" }),
            calls,
            resends: Counter::default(),
            unknown: Counter::default(),
            unavailable: Counter::default(),
            parked: Counter::default(),
            parked_now: Gauge::default(),
            parked_bytes: Gauge::default(),
            // 1 ms to 8 s: from one commit to a lease and some.
            park_time: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            pipes_opened: Counter::default(),
            pipes_failed: Counter::default(),
            connections: Gauge::default(),
            memory: Gauge::default(),
            memory_limit: Gauge::default(),
            no_memory: FULL_KINDS.map(|kind| full.get_or_create_owned(&Kind { kind })),
            nacks,
            no_memory_kinds: full,
        }
    }
}

impl Metrics {
    /// Counts a refusal, of this node's own owner or of a peer.
    pub fn nacked(&self, nack: &Nack) {
        let kind = nack_kind(nack);
        self.nacks.get_or_create(&Kind { kind }).inc();
    }

    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("forward");
        let help = "Calls that entered here by where their owner was at first: kind is local or \
                    forwarded; the forwarded share is their quotient";
        registry.register("calls", help, self.calls.clone());
        let help = "Refusals of calls that entered here: kind is not_owner (misrouted), moving, \
                    busy, stale_receiver or expired";
        registry.register("nacks", help, self.nacks.clone());
        let help = "Times that a call which provably had not run was sent again";
        registry.register("resends", help, self.resends.clone());
        let help = "Calls answered UNKNOWN: they may have run";
        registry.register("outcome_unknown", help, self.unknown.clone());
        let help = "Calls answered UNAVAILABLE: they did not run";
        registry.register("unavailable", help, self.unavailable.clone());
        let help = "Calls that waited here for their shard's next owner";
        registry.register("parked", help, self.parked.clone());
        let help = "Calls that wait here for their shard's next owner now";
        registry.register("parked_calls", help, self.parked_now.clone());
        let help = "Memory held by the calls that wait now";
        registry.register_with_unit("parked", help, Unit::Bytes, self.parked_bytes.clone());
        let help = "How long a call waited for its shard's next owner";
        registry.register_with_unit("park", help, Unit::Seconds, self.park_time.clone());
        let help = "Pipes opened to other nodes";
        registry.register("pipes_opened", help, self.pipes_opened.clone());
        let help = "Attempts to open a pipe that failed";
        registry.register("pipes_failed", help, self.pipes_failed.clone());
        let help = "Connections open on the data port, pipes of other nodes included";
        registry.register("connections", help, self.connections.clone());
        let help = "Memory taken by calls under way: requests, and answers until they are sent";
        registry.register_with_unit("memory", help, Unit::Bytes, self.memory.clone());
        let help = "Memory that calls under way may take: CALL_MEMORY; new calls are refused \
                    from half of it on";
        registry.register_with_unit("memory_limit", help, Unit::Bytes, self.memory_limit.clone());
        let help = "Times that there was no memory left: kind is entry (a client's call was \
                    refused), pipe (a peer's call was) or answer (a call ran and its answer was \
                    given up)";
        registry.register("memory_refusals", help, self.no_memory_kinds.clone());
    }
}
