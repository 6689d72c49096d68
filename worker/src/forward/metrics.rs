//! Figures of the data path: plain atomics on the way of a call, families when scraped.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use shoal_core::admit::Nack;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

type ByKind = Family<Kind, Counter>;

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
    pub park_seconds: Histogram,
    pub pipes_opened: Counter,
    pub pipes_failed: Counter,
    pub connections: Gauge,
    calls: ByKind,
    nacks: ByKind,
}

impl Default for Metrics {
    fn default() -> Self {
        // A counter shares its number with its clones: the hot path looks no family up.
        let calls = ByKind::default();
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
            park_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            pipes_opened: Counter::default(),
            pipes_failed: Counter::default(),
            connections: Gauge::default(),
            nacks: ByKind::default(),
        }
    }
}

impl Metrics {
    /// Counts a refusal, of this node's own owner or of a peer.
    pub fn nacked(&self, nack: &Nack) {
        let kind = match nack {
            Nack::NotOwner { .. } => "not_owner",
            Nack::Moving { .. } => "moving",
            Nack::Busy { .. } => "busy",
            Nack::StaleReceiver => "stale_receiver",
            Nack::Expired => "expired",
        };
        self.nacks.get_or_create(&Kind { kind }).inc();
    }

    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("forward");
        registry.register("calls", "calls that entered here", self.calls.clone());
        let nacks = self.nacks.clone();
        registry.register("nacks", "refusals of calls that entered here", nacks);
        registry.register("resends", "calls sent again", self.resends.clone());
        let unknown = self.unknown.clone();
        registry.register("unknown", "calls answered with an unknown outcome", unknown);
        let unavailable = self.unavailable.clone();
        registry.register("unavailable", "calls answered as not executed", unavailable);
        registry.register("parked", "calls that were parked", self.parked.clone());
        registry.register("parked_now", "calls that are parked", self.parked_now.clone());
        registry.register("parked_bytes", "bytes that are parked", self.parked_bytes.clone());
        registry.register("park_seconds", "time that calls were parked", self.park_seconds.clone());
        registry.register("pipes_opened", "pipes opened to peers", self.pipes_opened.clone());
        let failed = self.pipes_failed.clone();
        registry.register("pipes_failed", "attempts to open a pipe that failed", failed);
        registry.register("connections", "connections open", self.connections.clone());
    }
}
