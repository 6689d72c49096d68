//! Workers without an operator: pods of plain StatefulSets, which find each other by the pods of a
//! selector, or by the name of a headless Service.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use shoal_operator::build::access;
use shoal_tests::kube::{Namespace, Tier, within};

use crate::stage::{PATIENCE, Stage};

/// The first three found the cluster, the fourth finds it.
const PODS: u32 = 4;
const FOUNDERS: u32 = 3;

#[test]
fn pods_without_an_operator_find_each_other_by_a_selector_and_by_a_name() {
    let stage = Stage::of(Tier::Node);
    let namespace = stage.namespace("bare");
    let image = &stage.images.worker.name;
    for manifest in account(&namespace) {
        namespace.apply(&manifest.to_string()).unwrap();
    }
    let named = "by-name";
    let host = |pod: &str| format!("{pod}.{named}.{}.svc.cluster.local", &*namespace);
    let founders: Vec<_> =
        (0..FOUNDERS).map(|at| format!("{}:11000", host(&format!("{named}-{at}")))).collect();
    let by_name = [
        field("RAFT_ID", "metadata.name"),
        value("NODE_ADDRESS", &format!("{}:11000", host("$(RAFT_ID)"))),
        value("DISCOVERY", &format!("dns:{named}.{}.svc.cluster.local", &*namespace)),
        value("PEER_ADDRESSES", &founders.join(",")),
    ];
    let selected = "by-selector";
    let by_selector = [
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_UID", "metadata.uid"),
        field("POD_IP", "status.podIP"),
        value("DISCOVERY", &format!("kubernetes:app={selected}")),
        value("BOOTSTRAP_EXPECT", &FOUNDERS.to_string()),
    ];
    for (name, settings) in [(named, &by_name[..]), (selected, &by_selector[..])] {
        for manifest in [service(name), set(name, image, settings)] {
            namespace.apply(&manifest.to_string()).unwrap();
        }
    }
    for name in [named, selected] {
        within(PATIENCE, || are_one(&namespace, name)).unwrap();
        let shoal = |pod: u32, words: &[&str]| {
            let pod = format!("{name}-{pod}");
            namespace.kubectl(&[&["exec", &pod, "--", "shoal"], words].concat()).unwrap()
        };
        assert_eq!(shoal(0, &["call", "incr", "visits"]).trim(), "1");
        assert_eq!(shoal(PODS - 1, &["call", "incr", "visits"]).trim(), "2", "another cluster");
    }
}

/// All are up in one cluster, by the word of the one that founded nothing.
fn are_one(namespace: &Namespace<'_>, name: &str) -> anyhow::Result<()> {
    let pod = format!("{name}-{}", PODS - 1);
    let told = namespace.kubectl(&["exec", &pod, "--", "shoal", "nodes", "-o", "json"])?;
    let told: Value = serde_json::from_str(&told)?;
    let nodes = told.as_array().or_else(|| told["nodes"].as_array()).context("it says no nodes")?;
    let up = nodes.iter().filter(|node| node["life"] == "up").count();
    ensure!(up == PODS as usize, "{told}");
    Ok(())
}

/// May see the pods of its namespace, as the account that the operator makes for workers.
fn account(namespace: &Namespace<'_>) -> [Value; 3] {
    let metadata = json!({ "name": "bare" });
    let role = "rbac.authorization.k8s.io";
    [
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata }),
        json!({
            "apiVersion": format!("{role}/v1"), "kind": "Role", "metadata": metadata,
            "rules": access::worker_rules(),
        }),
        json!({
            "apiVersion": format!("{role}/v1"), "kind": "RoleBinding", "metadata": metadata,
            "roleRef": { "apiGroup": role, "kind": "Role", "name": "bare" },
            "subjects": [{ "kind": "ServiceAccount", "name": "bare", "namespace": &**namespace }],
        }),
    ]
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": {
            "clusterIP": "None", "publishNotReadyAddresses": true, "selector": { "app": name },
            "ports": [{ "name": "grpc", "port": 11000 }],
        },
    })
}

fn value(name: &str, value: &str) -> Value {
    json!({ "name": name, "value": value })
}

fn field(name: &str, path: &str) -> Value {
    json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } })
}

fn set(name: &str, image: &str, settings: &[Value]) -> Value {
    let common = [("RAFT_DIR", "/data/node"), ("TLS_MODE", "disabled"), ("SHARDS", "64")];
    let common = common.map(|(name, text)| value(name, text));
    let env = [settings, &common].concat();
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": name },
        "spec": {
            "replicas": PODS, "serviceName": name, "podManagementPolicy": "Parallel",
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": {
                    "serviceAccountName": "bare",
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
                        "fsGroup": 65532, "seccompProfile": { "type": "RuntimeDefault" },
                    },
                    "containers": [{
                        "name": "worker", "image": image, "args": ["run"], "env": env,
                        "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
                        "readinessProbe": { "httpGet": { "path": "/readyz", "port": 14000 } },
                        "securityContext": {
                            "allowPrivilegeEscalation": false,
                            "readOnlyRootFilesystem": true,
                            "capabilities": { "drop": ["ALL"] },
                        },
                    }],
                    "volumes": [{ "name": "data", "emptyDir": {} }],
                },
            },
        },
    })
}
