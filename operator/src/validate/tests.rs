//! Each refusal with its path, and what passes.

mod effects;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::{
    build::pod,
    crd::{PodTemplate, State, StorageType, tests::stored},
};

fn paths(spec: Value, reason: Stalled) -> Vec<String> {
    let cluster = stored(&spec);
    let problems = validate(&cluster, &Existing::default()).err().unwrap_or_default();
    assert!(problems.iter().all(|problem| problem.reason == reason), "{problems:?}");
    problems.into_iter().map(|problem| problem.path).collect()
}

#[test]
fn what_has_no_behaviour_yet_is_refused() {
    for (spec, path) in [
        (json!({"app": {"protocol": "Sidecar", "port": 9000}}), "spec.app"),
        (
            json!({"tls": {"mode": "CertManager", "certManager": {"issuerRef": {"name": "i"}}}}),
            "spec.tls.mode",
        ),
        (json!({"disruption": {"nodeTaints": "Drain"}}), "spec.disruption.nodeTaints"),
    ] {
        assert_eq!(paths(spec, Stalled::NotSupported), [path]);
    }
    let refound = json!({"type": "Ephemeral", "ephemeral": {"onRegistryLoss": "Refound"}});
    for spec in [json!({}), json!({ "storage": refound })] {
        assert!(validate(&stored(&spec), &Existing::default()).is_ok(), "{spec}");
    }
}

#[test]
fn the_operators_part_of_the_template_is_refused_with_its_path() {
    let worker = |part: Value| {
        let mut container = json!({"name": "worker"});
        for (field, value) in part.as_object().expect("an object") {
            container[field] = value.clone();
        }
        json!({"spec": {"containers": [{"name": "log"}, container]}})
    };
    let at = "spec.podTemplate.spec.containers[1]";
    let mut cases: Vec<(Value, String)> = [
        "image",
        "command",
        "args",
        "ports",
        "startupProbe",
        "livenessProbe",
        "readinessProbe",
        "lifecycle",
        "terminationMessagePath",
        "terminationMessagePolicy",
    ]
    .into_iter()
    .flat_map(|field| {
        [json!("x"), Value::Null]
            .map(|value| (worker(json!({field: value})), format!("{at}.{field}")))
    })
    .collect();
    for field in ["hostname", "subdomain", "restartPolicy", "terminationGracePeriodSeconds"] {
        cases.push((json!({"spec": {field: "x"}}), format!("spec.podTemplate.spec.{field}")));
    }
    for label in ["app.kubernetes.io/name", "app.kubernetes.io/mine", "shoal.dev/x"] {
        let path = format!("spec.podTemplate.metadata.labels[{label}]");
        cases.push((json!({"metadata": {"labels": {label: "x"}}}), path));
    }
    for mount in ["/data", "/data/", "/data/node", "/etc", "/etc/shoal/tls/x", "/", "/tmp"] {
        let part = json!({"volumeMounts": [{"name": "v", "mountPath": mount}]});
        cases.push((worker(part), format!("{at}.volumeMounts[0].mountPath")));
    }
    let pod = "spec.podTemplate.spec";
    for (template, path) in [
        (worker(json!({"env": [{"name": "A"}, {"name": "RAFT_ID"}]})), format!("{at}.env[1]")),
        (json!({"spec": {"volumes": [{"name": "shoal-x"}]}}), format!("{pod}.volumes[0].name")),
        (
            json!({"spec": {"initContainers": [{"name": "i", "volumeMounts": [{"name": "shoal-data", "mountPath": "/x"}]}]}}),
            format!("{pod}.initContainers[0].volumeMounts[0].name"),
        ),
        (
            json!({"spec": {"containers": [{"name": "app", "lifecycle": {"preStop": {}}}]}}),
            format!("{pod}.containers[0].lifecycle.preStop"),
        ),
        (
            json!({"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}),
            format!("{pod}.containers[1].name"),
        ),
        (worker(json!({"env": [{"name": "A"}, {"name": "A"}]})), format!("{at}.env[1].name")),
    ] {
        cases.push((template, path));
    }
    for (template, path) in cases {
        let found = paths(json!({"podTemplate": template.clone()}), Stalled::InvalidPodTemplate);
        assert_eq!(found, [path], "{template}");
    }
}

#[test]
fn the_rest_of_the_template_is_the_users() {
    let template = json!({
        "metadata": { "labels": { "team": "a" }, "annotations": { "x": "y" } },
        "spec": {
            "serviceAccountName": "mine",
            "tolerations": [{ "key": "k" }],
            "volumes": [{ "name": "scratch", "emptyDir": {} }],
            "initContainers": [{ "name": "first", "image": "i" }],
            "containers": [
                {
                    "name": "worker",
                    "resources": { "limits": { "memory": null } },
                    "env": [{ "name": "WEIGHT", "value": "50" }],
                    "volumeMounts": [
                        { "name": "scratch", "mountPath": "/tmp/scratch" },
                        { "name": "scratch", "mountPath": "/database" },
                    ],
                },
                { "name": "app", "lifecycle": { "postStart": {} }, "env": [{ "name": "SHARDS" }] },
            ],
        },
    });
    assert!(paths(json!({"podTemplate": template}), Stalled::InvalidPodTemplate).is_empty());
    // Misspelt ones are for the API server to name.
    for template in
        [json!({"containers": []}), json!({"spec": {"tolerationz": 1}}), json!({"spec": 1})]
    {
        assert!(paths(json!({"podTemplate": template}), Stalled::InvalidPodTemplate).is_empty());
    }
}

#[test]
fn whatever_the_operator_renders_is_reserved() {
    let shard_cluster = stored(&json!({}));
    let seen = Cluster::of(&shard_cluster).expect("stored");
    let template = pod::template(&seen);
    let names = |path: &str| -> BTreeSet<String> {
        let items = template.pointer(path).and_then(Value::as_array).expect(path);
        items.iter().map(|item| item["name"].as_str().expect("a name").to_owned()).collect()
    };
    for name in names("/spec/containers/0/env") {
        assert!(template::RESERVED_ENV.contains(&name.as_str()), "{name}");
    }
    assert!(names("/spec/volumes").iter().all(|name| name.starts_with(pod::VOLUME_PREFIX)));
    // Handed in by a user, our own rendering is refused field by field.
    let rendered = template.as_object().expect("an object").clone();
    let mut copy = shard_cluster.clone();
    copy.spec.pod_template = PodTemplate(rendered);
    let problems = validate(&copy, &Existing::default()).expect_err("all of it is ours");
    for field in ["args", "command", "env[0]", "image", "ports", "volumeMounts[0].name"] {
        let path = format!("spec.podTemplate.spec.containers[0].{field}");
        assert!(problems.iter().any(|problem| problem.path == path), "{path}");
    }
}

#[test]
fn volumes_keep_the_size_they_have() {
    let shard_cluster = stored(&json!({"storage": {"persistent": {"size": "2Gi"}}}));
    let size = |existing: Option<&str>| {
        let existing = Existing { volume_size: existing.map(str::to_owned) };
        let valid = validate(&shard_cluster, &existing).expect("valid");
        let claim = valid.stateful_set(1).pointer("/spec/volumeClaimTemplates/0/spec").cloned();
        let size = claim.expect("a claim")["resources"]["requests"]["storage"].clone();
        let withheld: Vec<_> = valid.withheld.iter().map(|problem| problem.path.clone()).collect();
        (size.as_str().expect("text").to_owned(), withheld)
    };
    let path = "spec.storage.persistent.size".to_owned();
    assert_eq!(size(None), ("2Gi".to_owned(), vec![]));
    assert_eq!(size(Some("2048Mi")), ("2048Mi".to_owned(), vec![]));
    assert_eq!(size(Some("1Gi")), ("1Gi".to_owned(), vec![path]));
}

#[test]
fn certificates_must_fit_their_secret() {
    let many = |mode: &str| json!({"replicas": 1000, "tls": {"mode": mode}});
    assert_eq!(paths(many("BuiltIn"), Stalled::InvalidSpec), ["spec.replicas"]);
    assert!(paths(many("Disabled"), Stalled::InvalidSpec).is_empty());
}

#[test]
fn stopped_is_no_replicas() {
    let mut shard_cluster = stored(&json!({"state": "Stopped", "storage": {"type": "Ephemeral"}}));
    assert_eq!(shard_cluster.spec.wanted(), 0);
    assert_eq!(shard_cluster.spec.storage.kind, StorageType::Ephemeral);
    shard_cluster.spec.state = State::Paused;
    assert_eq!(shard_cluster.spec.wanted(), 3);
}
