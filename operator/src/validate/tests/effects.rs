//! No leaf of the spec is taken and ignored: each changes what is rendered, what is asked of the
//! rules, or what is refused.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::*;
use crate::{
    crd::{definition, tests::stored},
    desired::desired,
};

/// Refused as a whole, so that what is in them changes nothing further.
const REFUSED: [&str; 2] = ["app.", "tls.certManager."];

/// All that a spec leads to.
fn effect(spec: &Value) -> String {
    let cluster = stored(spec);
    match validate(&cluster, &Existing::default()) {
        Ok(valid) => {
            let set = valid.stateful_set(cluster.spec.wanted());
            format!("{:?}\n{:?}\n{set}", desired(&cluster), valid.children())
        }
        Err(problems) => format!("{problems:?}"),
    }
}

fn leaves(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    match schema.get("properties").and_then(Value::as_object) {
        Some(fields) => {
            for (name, field) in fields {
                leaves(field, &format!("{path}.{name}"), found);
            }
        }
        None => {
            found.insert(path.trim_start_matches('.').to_owned());
        }
    }
}

/// A spec in which nothing but this leaf is not its default.
fn alone(path: &str, value: Value) -> Value {
    path.rsplit('.').fold(value, |inner, name| json!({ name: inner }))
}

#[test]
fn every_leaf_of_the_spec_has_an_effect() {
    let ephemeral = |part: Value| json!({ "storage": { "type": "Ephemeral", "ephemeral": part } });
    let case = |path: &'static str, value: Value| (path, json!({}), alone(path, value));
    let cases = [
        case("app.protocol", json!("Sidecar")),
        case("disruption.nodeTaints", json!("Drain")),
        case("image", json!("registry.example/shoal:0.2.0")),
        case("maxVoters", json!(7)),
        case("networkPolicy.clients", json!([{ "podSelector": {} }])),
        case("networkPolicy.mode", json!("Disabled")),
        case("podTemplate", json!({ "spec": { "priorityClassName": "high" } })),
        case("rebalance.cooldownSeconds", json!(11)),
        case("rebalance.maxMoves", json!(17)),
        case("rebalance.maxMovesPerNode", json!(5)),
        case("rebalance.mode", json!("Paused")),
        case("replicas", json!(5)),
        case("scaleDown.drainTimeoutSeconds", json!(601)),
        case("scaleDown.maxParallel", json!(2)),
        case("scaleDown.onTimeout", json!("Remove")),
        case("session.leaseSeconds", json!(4)),
        case("shards", json!(2048)),
        case("state", json!("Stopped")),
        (
            "storage.ephemeral.onRegistryLoss",
            ephemeral(json!({})),
            ephemeral(json!({ "onRegistryLoss": "Refound" })),
        ),
        (
            "storage.ephemeral.sizeLimit",
            ephemeral(json!({})),
            ephemeral(json!({ "sizeLimit": "2Gi" })),
        ),
        case("storage.persistent.onVolumeLost", json!("Replace")),
        case("storage.persistent.retention.whenDeleted", json!("Delete")),
        case("storage.persistent.retention.whenScaled", json!("Retain")),
        case("storage.persistent.size", json!("2Gi")),
        case("storage.persistent.storageClassName", json!("fast")),
        case("storage.type", json!("Ephemeral")),
        case("tls.clients", json!("Required")),
        case("tls.mode", json!("Disabled")),
        case("update.maxUnavailable", json!(2)),
        case("update.mode", json!("Paused")),
        case("update.progressDeadlineSeconds", json!(601)),
    ];
    for (path, before, after) in &cases {
        assert_ne!(effect(before), effect(after), "{path} is ignored");
    }
    let definition = serde_json::to_value(definition::definition().unwrap()).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut known = BTreeSet::new();
    leaves(&schema["properties"]["spec"], "", &mut known);
    known.retain(|path| !REFUSED.iter().any(|part| path.starts_with(part)));
    let tried = cases.iter().map(|(path, ..)| (*path).to_owned());
    let tried = tried.filter(|path| !REFUSED.iter().any(|part| path.starts_with(part))).collect();
    assert_eq!(known, tried, "a leaf of the schema that is not tried here");
}
