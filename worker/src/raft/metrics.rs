//! What Raft counts and measures on this node.

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

use super::{Handle, ProposeError};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

/// Bounded by the voters and learners of a log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfNode {
    node: String,
}

/// Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// One transaction of the log's file, fsync included.
    pub(super) write: Histogram,
    /// One entry applied to the registry.
    pub(super) apply: Histogram,
    /// From the proposal until it was applied here.
    propose: Histogram,
    proposals: Family<Outcome, Counter>,
    term: Gauge,
    leads: Gauge,
    leader_known: Gauge,
    voters: Gauge,
    learners: Gauge,
    last: Gauge,
    committed: Gauge,
    applied: Gauge,
    snapshot: Gauge,
    entries: Gauge,
    bytes: Gauge,
    behind: Family<OfNode, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let proposals = Family::default();
        for result in ["applied", "not_leader", "unavailable", "too_large", "fatal"] {
            drop(proposals.get_or_create(&Outcome { result }));
        }
        Self {
            // 0.1 ms, a disk without fsync, to 6.5 s, past every lease by default.
            write: Histogram::new(exponential_buckets(0.000_1, 2.0, 17)),
            apply: Histogram::new(exponential_buckets(0.000_01, 4.0, 9)),
            propose: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
            proposals,
            term: Gauge::default(),
            leads: Gauge::default(),
            leader_known: Gauge::default(),
            voters: Gauge::default(),
            learners: Gauge::default(),
            last: Gauge::default(),
            committed: Gauge::default(),
            applied: Gauge::default(),
            snapshot: Gauge::default(),
            entries: Gauge::default(),
            bytes: Gauge::default(),
            behind: Family::default(),
        }
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("raft");
        registry.register("term", "Term of Raft as this node knows it", self.term.clone());
        registry.register("leads", "1 while this node is the leader", self.leads.clone());
        let help = "1 while this node knows a leader";
        registry.register("leader_known", help, self.leader_known.clone());
        registry.register("voters", "Voters of the log", self.voters.clone());
        registry.register("learners", "Learners of the log", self.learners.clone());
        let help = "Index of the last entry in this node's log";
        registry.register("last_log_index", help, self.last.clone());
        let help = "Index of the last entry that this node knows to be committed";
        registry.register("commit_index", help, self.committed.clone());
        let help = "Index of the last entry applied here";
        registry.register("applied_index", help, self.applied.clone());
        let help = "Index of the last entry that the newest snapshot covers";
        registry.register("snapshot_index", help, self.snapshot.clone());
        registry.register("log_entries", "Entries in this node's log", self.entries.clone());
        let help = "Size of the entries in this node's log";
        registry.register_with_unit("log", help, Unit::Bytes, self.bytes.clone());
        let help = "Entries that a follower lacks, by node; only at the leader";
        registry.register("follower_lag_entries", help, self.behind.clone());
        let help = "Commands proposed here: result is applied, not_leader, unavailable (it may \
                    still be applied), too_large or fatal";
        registry.register("proposals", help, self.proposals.clone());
        let help = "From a proposal here until it was applied here";
        registry.register_with_unit("propose", help, Unit::Seconds, self.propose.clone());
        let help = "Time to apply one entry to the registry";
        registry.register_with_unit("apply", help, Unit::Seconds, self.apply.clone());
        let help = "Time of one write to the log's file, fsync included";
        registry.register_with_unit("fsync", help, Unit::Seconds, self.write.clone());
    }

    pub(super) fn proposed<T>(&self, result: &Result<T, ProposeError>, took: Duration) {
        let result = match result {
            Ok(_) => {
                self.propose.observe(took.as_secs_f64());
                "applied"
            }
            Err(ProposeError::NotLeader { .. }) => "not_leader",
            Err(ProposeError::Unavailable) => "unavailable",
            Err(ProposeError::TooLarge(_)) => "too_large",
            Err(ProposeError::Fatal(_)) => "fatal",
        };
        self.proposals.get_or_create(&Outcome { result }).inc();
    }

    /// Takes what is true now; called when somebody scrapes.
    pub fn show(&self, raft: &Handle) {
        let (seen, extent) = (raft.metrics(), raft.log_extent());
        let (leadership, members) = (*raft.leadership().borrow(), raft.membership());
        let index = |index: Option<u64>| index.unwrap_or(0) as i64;
        self.term.set(leadership.term as i64);
        self.leads.set(leadership.is_leader.into());
        self.leader_known.set(leadership.leader.is_some().into());
        self.voters.set(members.voters.len() as i64);
        self.learners.set(members.learners.len() as i64);
        self.last.set(index(seen.last_log_index));
        self.committed.set(index(seen.local_committed.map(|id| id.index)));
        self.applied.set(index(seen.last_applied.map(|id| id.index)));
        self.snapshot.set(index(seen.snapshot.map(|id| id.index)));
        self.entries.set(extent.entries as i64);
        self.bytes.set(extent.bytes as i64);
        self.behind.clear();
        for follower in raft.followers() {
            let node = follower.node.to_string();
            self.behind.get_or_create(&OfNode { node }).set(follower.behind as i64);
        }
    }
    /// A leader with one follower, so that its figures are shown.
    #[cfg(test)]
    pub fn pretend_to_lead(&self) {
        self.behind.get_or_create(&OfNode { node: "n3".to_owned() }).set(0);
    }
}
