//! The objects as they are applied: against committed copies, and under changes of the spec.

use std::{fs, path::PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    build::identity::Identity,
    crd::{ShardCluster, State, tests::stored},
    validate::{Existing, validate},
};

/// Everything of a cluster that does not hold secrets, in the order in which it is applied.
fn documents(shard_cluster: &ShardCluster) -> Vec<Value> {
    let valid = validate(shard_cluster, &Existing::default()).expect("valid");
    let seen = &valid.cluster;
    let identity = Identity::of_first(seen, seen.spec.replicas);
    let all = valid.children();
    let mut documents = vec![
        json!(all.service_account),
        json!(all.role),
        json!(all.role_binding),
        json!(identity.config_map(seen, None)),
        json!(all.peers),
        json!(all.clients),
    ];
    documents.extend(all.budget.map(|budget| json!(budget)));
    documents.extend(all.network_policy.map(|policy| json!(policy)));
    documents.push(valid.stateful_set(seen.spec.wanted()));
    documents
}

/// Compares with the committed copy. A changed template restarts every pod of every user at the
/// upgrade of the operator: new copies are for new features only, behind a setting.
fn golden(name: &str, spec: &Value) {
    let yaml = documents(&stored(spec))
        .iter()
        .map(|document| serde_saphyr::to_string(document).expect("yaml"))
        .collect::<Vec<_>>()
        .join("---\n");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.yaml"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &yaml).expect("written");
    }
    let known = fs::read_to_string(&path).expect("a committed copy");
    assert_eq!(known, yaml, "{} differs: UPDATE_DOCS=1 writes it", path.display());
}

#[test]
fn what_is_applied_is_what_was_reviewed() {
    golden("defaults", &json!({}));
    golden(
        "ephemeral-plain",
        &json!({
            "replicas": 5,
            "shards": 64,
            "storage": { "type": "Ephemeral" },
            "tls": { "mode": "Disabled" },
            "networkPolicy": { "mode": "Disabled" },
        }),
    );
    golden(
        "own-template",
        &json!({
            "replicas": 1,
            "storage": { "persistent": { "size": "4Gi", "storageClassName": "fast", "retention": { "whenDeleted": "Delete" } } },
            "tls": { "clients": "Required" },
            "scaleDown": { "drainTimeoutSeconds": 60 },
            "networkPolicy": { "clients": [{ "podSelector": { "matchLabels": { "app": "shop" } } }] },
            "podTemplate": {
                "metadata": { "labels": { "team": "shop" } },
                "spec": {
                    "serviceAccountName": "shop",
                    "priorityClassName": "high",
                    "topologySpreadConstraints": [],
                    "volumes": [{ "name": "scratch", "emptyDir": {} }],
                    "containers": [
                        {
                            "name": "worker",
                            "env": [{ "name": "LOG_LEVEL", "value": "debug" }],
                            "resources": { "limits": { "memory": null, "cpu": "2" } },
                            "volumeMounts": [{ "name": "scratch", "mountPath": "/scratch" }],
                        },
                        { "name": "log", "image": "log:1" },
                    ],
                },
            },
        }),
    );
}

#[test]
fn everything_is_owned_labelled_and_found_by_three_labels() {
    let names = Names::of(&stored(&json!({}))).selector();
    for document in documents(&stored(&json!({}))) {
        let metadata = &document["metadata"];
        let kind = document["kind"].as_str().expect("a kind");
        assert_eq!(metadata["namespace"], "shop", "{kind}");
        assert_eq!(metadata["ownerReferences"][0]["uid"], "u-1", "{kind}");
        assert_eq!(metadata["ownerReferences"][0]["apiVersion"], "shoal.dev/v1alpha1", "{kind}");
        assert_eq!(metadata["labels"]["app.kubernetes.io/managed-by"], "shoal-operator", "{kind}");
        let selectors =
            ["/spec/selector", "/spec/selector/matchLabels", "/spec/podSelector/matchLabels"];
        let labels =
            selectors.iter().filter_map(|path| document.pointer(path)).filter_map(Value::as_object);
        for selector in labels.filter(|selector| !selector.contains_key("matchLabels")) {
            assert_eq!(json!(selector), json!(names), "{kind}");
        }
    }
}

#[test]
fn pods_pass_the_restricted_profile() {
    for spec in [json!({}), json!({"storage": {"type": "Ephemeral"}, "tls": {"mode": "Disabled"}})]
    {
        let shard_cluster = stored(&spec);
        let template = pod::template(&Cluster::of(&shard_cluster).expect("stored"));
        assert_eq!(template["spec"]["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        for container in template["spec"]["containers"].as_array().expect("containers") {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false);
            assert_eq!(context["runAsNonRoot"], true);
            assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
        }
        for volume in template["spec"]["volumes"].as_array().expect("volumes") {
            let kinds = ["configMap", "emptyDir", "secret"];
            assert!(kinds.iter().any(|kind| volume.get(kind).is_some()), "{volume}");
        }
    }
}

#[test]
fn the_budget_is_there_when_it_can_help() {
    for (spec, wanted) in [
        (json!({"replicas": 0}), false),
        (json!({"replicas": 1}), false),
        (json!({"replicas": 2}), true),
        (json!({"replicas": 3, "state": "Paused"}), true),
        (json!({"replicas": 3, "state": "Stopped"}), false),
    ] {
        let shard_cluster = stored(&spec);
        let children = Cluster::of(&shard_cluster).expect("stored").children();
        assert_eq!(children.budget.is_some(), wanted, "{spec}");
    }
}

#[test]
fn who_founds_is_read_back() {
    let shard_cluster = stored(&json!({}));
    let seen = Cluster::of(&shard_cluster).expect("stored");
    for (replicas, founding) in [
        (1, vec!["demo-0"]),
        (2, vec!["demo-0", "demo-1"]),
        (7, vec!["demo-0", "demo-1", "demo-2"]),
    ] {
        let mut identity = Identity::of_first(&seen, replicas);
        assert_eq!(identity.founding, founding);
        let map = identity.config_map(&seen, None);
        let text = &map.data.as_ref().expect("data")["identity.json"];
        assert!(!text.contains("formedClusterID"), "{text}");
        identity.formed_cluster_id = Some("c-1".to_owned());
        let map = identity.config_map(&seen, Some("7"));
        assert_eq!(map.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(Identity::read(&map).expect("ours"), identity);
    }
    assert!(Identity::read(&k8s_openapi::api::core::v1::ConfigMap::default()).is_err());
}

proptest! {
    /// What is scaled, stopped or configured must restart no pod.
    #[test]
    fn the_template_does_not_depend_on_what_needs_no_roll(
        replicas in 0..=900_i32,
        voters in prop::sample::select(vec![1, 3, 5, 7]),
        lease in 2..=60_i32,
        moves in 1..=4096_i32,
        timing in (1..=100_i32, 1..=100_i32, 10..=86400_i32),
        state in prop::sample::select(vec![State::Running, State::Paused, State::Stopped]),
        ephemeral in any::<bool>(),
        first in 0..=1000_i32,
    ) {
        let storage = json!({"storage": {"type": if ephemeral { "Ephemeral" } else { "Persistent" }}});
        let plain = stored(&storage);
        let mut changed = plain.clone();
        changed.spec.replicas = replicas;
        changed.spec.max_voters = voters;
        changed.spec.session.lease_seconds = lease;
        changed.spec.rebalance.max_moves = moves;
        changed.spec.rebalance.max_moves_per_node = moves;
        changed.spec.scale_down.max_parallel = timing.0;
        changed.spec.update.max_unavailable = timing.1;
        changed.spec.update.progress_deadline_seconds = timing.2;
        changed.spec.state = state;
        let set = |shard_cluster: &ShardCluster, replicas| {
            validate(shard_cluster, &Existing::default()).map(|valid| valid.stateful_set(replicas))
        };
        let (before, after) = (set(&plain, 3).expect("valid"), set(&changed, first).expect("valid"));
        prop_assert_eq!(&before["spec"]["template"], &after["spec"]["template"]);
        prop_assert_eq!(&before["metadata"]["annotations"], &after["metadata"]["annotations"]);
        prop_assert_eq!(&after["spec"]["replicas"], &json!(first));
    }

    /// Whatever a user writes, rendering ends and a second merge changes nothing.
    #[test]
    fn any_template_is_rendered(text in "[a-z]{0,8}", number in any::<i64>()) {
        for value in [json!(text), json!(number), json!([text]), json!([{ "name": text }]), json!(null)] {
            for field in ["containers", "volumes", "env", "nodeSelector", "tolerationz"] {
                let over = json!({"spec": {field: value}});
                let shard_cluster = stored(&json!({"podTemplate": over}));
                let seen = Cluster::of(&shard_cluster).expect("stored");
                let once = pod::template(&seen);
                let mut twice = once.as_object().expect("an object").clone();
                let unkeyed = value.as_array().is_some_and(|items| items.iter().any(|i| !i.is_object()));
                merge::merge(&mut twice, &seen.spec.pod_template.0);
                prop_assert!(unkeyed || Value::Object(twice) == once, "{over}");
            }
        }
    }
}
