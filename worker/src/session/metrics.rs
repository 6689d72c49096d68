//! What the session of this process counts and measures.

use std::time::Duration;

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
use shoal_core::{
    id::Timestamp,
    session::holder::{Answer, Call},
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

/// Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(super) sent: Counter,
    answers: Family<Outcome, Counter>,
    round_trip: Histogram,
    pub(super) registrations: Counter,
    pub(super) self_fences: Counter,
    left: Gauge<f64, std::sync::atomic::AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let answers = Family::default();
        for result in ["granted", "refused", "not_leader", "failed"] {
            drop(answers.get_or_create(&Outcome { result }));
        }
        Self {
            sent: Counter::default(),
            answers,
            round_trip: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
            registrations: Counter::default(),
            self_fences: Counter::default(),
            left: Gauge::default(),
        }
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("session");
        let help = "What is left of this node's right to serve; 0 where there is none";
        registry.register_with_unit("right_left", help, Unit::Seconds, self.left.clone());
        registry.register("renewals_sent", "Renewals sent", self.sent.clone());
        let help = "Ends of renewals: result is granted, refused, not_leader or failed (no \
                    answer in time)";
        registry.register("renewals_ended", help, self.answers.clone());
        let help = "From a renewal until it was granted";
        let round_trip = self.round_trip.clone();
        registry.register_with_unit("renewal_round_trip", help, Unit::Seconds, round_trip);
        let help = "Incarnations registered by this process";
        registry.register("registrations", help, self.registrations.clone());
        let help = "Times that this node stopped serving because its right had ended";
        registry.register("self_fences", help, self.self_fences.clone());
    }

    pub(super) fn ended(&self, call: Call, answer: &Answer, took: Duration) {
        let result = match answer {
            Answer::Granted { .. } => "granted",
            Answer::Refused(_) => "refused",
            Answer::NotLeader { .. } => "not_leader",
            Answer::Failed => "failed",
        };
        let granted = matches!(answer, Answer::Granted { .. });
        match call {
            Call::Renew => {
                self.answers.get_or_create(&Outcome { result }).inc();
                if granted {
                    self.round_trip.observe(took.as_secs_f64());
                }
            }
            Call::Register if granted => {
                self.registrations.inc();
            }
            Call::Register | Call::CloseInPlace => {}
        }
    }

    /// Takes what is true now; called when somebody scrapes.
    pub fn show(&self, right: Timestamp, now: Timestamp) {
        self.left.set(right.at_least_since(now).as_secs_f64());
    }
}
