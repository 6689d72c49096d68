//! The StatefulSet: the operator restarts pods itself and in its own order, so `OnDelete`; all of
//! them may start at once, so `Parallel`; volumes go only after their node left the registry, so
//! `whenScaled: Retain` whatever the user's retention is.

use std::hash::Hasher as _;

use serde_json::{Value, json};
use twox_hash::XxHash64;

use super::{Cluster, pod};
use crate::{
    crd::{Retain, annotation},
    names::DATA_VOLUME,
};

/// Revisions kept for people to look at; the operator reads none but the newest.
const REVISIONS_KEPT: i32 = 3;

/// The StatefulSet with this many pods. Always all of it: a field left out of one apply would be
/// given up, and `replicas` would fall to its default.
pub fn stateful_set(cluster: &Cluster<'_>, replicas: i32) -> Value {
    let template = pod::template(cluster);
    let mut metadata = json!(cluster.metadata(cluster.names.set()));
    metadata["annotations"] = json!({ annotation::TEMPLATE_HASH: hash(&template) });
    let mut spec = json!({
        "replicas": replicas,
        "serviceName": cluster.names.peers(),
        "podManagementPolicy": "Parallel",
        "updateStrategy": { "type": "OnDelete" },
        "revisionHistoryLimit": REVISIONS_KEPT,
        "selector": { "matchLabels": cluster.names.selector() },
        "template": template,
    });
    if let Some(storage) = cluster.spec.storage.as_persistent() {
        let when_deleted = match storage.retention.when_deleted {
            Retain::Delete => "Delete",
            Retain::Retain => "Retain",
        };
        spec["persistentVolumeClaimRetentionPolicy"] =
            json!({ "whenScaled": "Retain", "whenDeleted": when_deleted });
        let size = cluster.volume_size.as_ref().unwrap_or(&storage.size);
        let mut claim = json!({
            "metadata": {
                "name": DATA_VOLUME,
                "labels": cluster.names.selector(),
                "annotations": { annotation::OWNER_UID: cluster.uid },
            },
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": { "requests": { "storage": size } },
            },
        });
        if let Some(class) = &storage.storage_class_name {
            claim["spec"]["storageClassName"] = json!(class);
        }
        spec["volumeClaimTemplates"] = json!([claim]);
    }
    json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": spec })
}

/// Hash of a pod template as rendered. What the API server adds to it is not in it, so the same
/// template has the same hash under every version of Kubernetes.
pub fn hash(template: &Value) -> String {
    let mut hasher = XxHash64::with_seed(0);
    // Object keys are sorted.
    hasher.write(template.to_string().as_bytes());
    format!("{:016x}", hasher.finish())
}
