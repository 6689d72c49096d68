//! openraft's settings, all derived from the lease.

use std::{sync::Arc, time::Duration};

use openraft::{SnapshotPolicy, StepDownPolicy};
use shoal_core::session::lease::Elections;

use super::{Error, retention};

/// Entries in one message at most; the log store bounds their bytes.
const ENTRIES_PER_MESSAGE: u64 = 300;
/// A follower further behind gets a snapshot; above the distance of two snapshots, so that
/// one snapshot is always enough.
const LAG_FOR_SNAPSHOT: u64 = 2 * retention::ENTRIES;
/// Entries purged together: a purge for each entry would be a transaction for each.
const PURGE_BATCH: u64 = 1_024;
/// The time Raft gives a whole snapshot; `network` watches its progress more closely.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests and events that wait for Raft's one task.
const QUEUE: u64 = 4_096;

pub fn raft(elections: Elections, may_campaign: bool) -> Result<Arc<openraft::Config>, Error> {
    let millis = |span: Duration| span.as_millis() as u64;
    let (min, max) = (millis(elections.min), millis(elections.max));
    let heartbeat = millis(elections.heartbeat);
    let config = openraft::Config {
        cluster_name: "shoal".to_owned(),
        election_timeout_min: min,
        election_timeout_max: max,
        heartbeat_interval: heartbeat,
        install_snapshot_timeout: millis(SNAPSHOT_TIMEOUT),
        max_payload_entries: ENTRIES_PER_MESSAGE,
        replication_lag_threshold: LAG_FOR_SNAPSHOT,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(retention::ENTRIES),
        max_in_snapshot_log_to_keep: retention::ENTRIES,
        purge_batch_size: PURGE_BATCH,
        api_channel_size: Some(QUEUE),
        notification_channel_size: Some(QUEUE),
        enable_elect: may_campaign,
        enable_pre_vote: Some(true),
        // A leader that lost its quorum keeps quiet in turns, so that its heartbeats cannot
        // hold back those who could elect another.
        quorum_loss_probe_interval: Some(2 * max),
        // A restarted leader asks for votes like everybody else.
        enable_leader_restore: Some(false),
        // Two heartbeats tell the others that the change is committed.
        removed_leader_step_down: StepDownPolicy::After(2 * heartbeat),
        ..openraft::Config::default()
    };
    config.validate().map(Arc::new).map_err(|error| Error::Start(error.to_string()))
}

#[cfg(test)]
mod tests {
    use shoal_core::{registry::LEASES_MS, session::lease::Lease};

    use super::*;

    #[test]
    fn each_lease_that_is_allowed_gives_settings_that_are() {
        for millis in LEASES_MS.step_by(250) {
            let lease = Lease::from_millis(millis).unwrap();
            let config = raft(lease.elections(), true).unwrap();
            assert_eq!(config.enable_pre_vote, Some(true));
            assert_eq!(config.enable_leader_restore, Some(false));
        }
    }
}
