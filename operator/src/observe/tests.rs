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

#[test]
fn what_is_wrong_with_a_pod_is_named_by_what_is_known_of_it() {
    let pod = |status: serde_json::Value| -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "x-1" }, "status": status })).unwrap()
    };
    let of = |field: &str, state: serde_json::Value, last: serde_json::Value| {
        pod(json!({ field: [{
            "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 1,
            "state": state, "lastState": last,
        }] }))
    };
    let ended = |code: i32| json!({ "terminated": { "exitCode": code } });
    let waits = |reason: &str| json!({ "waiting": { "reason": reason, "message": "so" } });
    let other = |words: &str| Some(Trouble::Other(words.to_owned()));
    let (workers, first) = ("containerStatuses", "initContainerStatuses");
    let creating = waits("ContainerCreating");
    let condition =
        |name: &str| json!([{ "type": name, "status": "False", "message": "no place" }]);
    let unready = pod(json!({ "conditions": condition("PodReadyToStartContainers") }));
    let (young, old) = (Duration::from_secs(1), rollout::NOT_RUNNING);
    let cases = [
        (pod(json!({ "conditions": condition("PodScheduled") })), young, other("no place")),
        (of(workers, creating.clone(), json!({})), old, None),
        (of(workers, waits("Odd"), json!({})), young, other("container c: Odd so")),
        (
            of(workers, waits("ErrImagePull"), json!({})),
            young,
            Some(Trouble::Image("container c: ErrImagePull so".to_owned())),
        ),
        (
            of(first, waits("CrashLoopBackOff"), ended(64)),
            young,
            other("container c: ended with exit code 64, CrashLoopBackOff so"),
        ),
        (of(first, ended(1), json!({})), young, other("container c: ended with exit code 1")),
        (of(first, ended(0), json!({})), young, None),
        (unready.clone(), young, None),
        (
            unready,
            old,
            other(
                "a volume of it or its network is not ready: `kubectl describe pod x-1` says why",
            ),
        ),
    ];
    for (pod, age, wanted) in cases {
        assert_eq!(trouble(&pod, None, age), wanted, "{:?}", pod.status);
    }
}
