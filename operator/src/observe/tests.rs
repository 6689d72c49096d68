//! What an identity and a status say of a cluster together.

use serde_json::json;

use super::*;
use crate::crd::{ShardClusterStatus, tests::stored};

fn identity(uid: &str, recorded: Option<&str>) -> Identity {
    Identity {
        cr_uid: uid.to_owned(),
        formed_cluster_id: recorded.map(str::to_owned),
        ..Identity::default()
    }
}

#[test]
fn a_cluster_was_formed_only_if_the_status_names_the_recorded_one() {
    let mut cluster = stored(&json!({}));
    let mut formed = |shown: Option<&str>, identity: Option<&Identity>| {
        let cluster_id = shown.map(str::to_owned);
        cluster.status = Some(ShardClusterStatus { cluster_id, ..ShardClusterStatus::default() });
        was_formed(&cluster, identity)
    };
    let (ours, none) = (identity("u-1", Some("x")), identity("u-1", None));
    assert!(formed(Some("x"), Some(&ours)));
    assert!(!formed(None, Some(&ours)), "its founding may have died");
    assert!(!formed(Some("w"), Some(&ours)), "the status is of one that was given up");
    assert!(!formed(Some("w"), Some(&none)));
    // Somebody deleted it.
    assert!(formed(Some("x"), None) && !formed(None, None));
    // Restored from a copy, or left by a ShardCluster that is no more.
    assert!(formed(None, Some(&identity("u-0", Some("x")))));
    assert!(!formed(None, Some(&identity("u-0", None))));
}

#[test]
fn a_mark_has_an_age_where_its_time_can_be_read() {
    let now: Timestamp = "2026-01-01T00:01:01Z".parse().unwrap();
    let mut identity = identity("u-1", Some("x"));
    assert_eq!(mark(&identity, now), None);
    identity.abandoning = Some("x".to_owned());
    for (since, age) in [
        (Some("2026-01-01T00:00:00Z"), Some(Duration::from_secs(61))),
        // The clock of whoever wrote it is ahead.
        (Some("2026-01-01T00:02:00Z"), Some(Duration::ZERO)),
        (Some("yesterday"), None),
        (None, None),
    ] {
        identity.abandoning_since = since.map(str::to_owned);
        let mark = mark(&identity, now).unwrap();
        assert_eq!((mark.since.as_str(), mark.age), (since.unwrap_or_default(), age));
    }
}
