//! The parts of a pod template that are the operator's own.

use serde_json::{Map, Value};

use super::Problem;
use crate::{
    build::{
        merge::key_of,
        pod::{APP, MOUNTS, VOLUME_PREFIX, WORKER},
    },
    crd::condition::Stalled,
};

/// What a worker reads from its environment and the operator decides.
pub const RESERVED_ENV: [&str; 27] = [
    "ADMIN_ADDRESS",
    "BIND_ADDRESS",
    "BOOTSTRAP_EXPECT",
    "DISCOVERY",
    "EPHEMERAL",
    "HTTP_ADDRESS",
    "IDENTITY_FILE",
    "JOIN_ADDRESS",
    "LEASE",
    "NODE_ADDRESS",
    "PEER_ADDRESSES",
    "POD_IP",
    "POD_NAME",
    "POD_NAMESPACE",
    "POD_UID",
    "RAFT_ADDRESS",
    "RAFT_DIR",
    "RAFT_ID",
    "REVISION",
    "SHARDS",
    "TERMINATION_LOG",
    "TLS_CA",
    "TLS_CERT",
    "TLS_CLIENTS",
    "TLS_KEY",
    "TLS_MODE",
    "ZONE",
];

/// Fields of the pod, with what to do instead.
const POD_FIELDS: [(&str, &str); 6] = [
    ("hostname", "the StatefulSet sets it"),
    ("subdomain", "the StatefulSet sets it"),
    ("restartPolicy", "a worker that ends must be restarted"),
    ("terminationGracePeriodSeconds", "set spec.scaleDown.drainTimeoutSeconds"),
    ("automountServiceAccountToken", "workers find each other through the API server"),
    ("serviceAccount", "use serviceAccountName"),
];

/// Fields of the container of the worker, with what to do instead.
const WORKER_FIELDS: [(&str, &str); 10] = [
    ("image", "set spec.image"),
    ("command", "the operator sets it"),
    ("args", "settings go into env"),
    ("ports", "the worker's ports are fixed"),
    ("startupProbe", "the operator sets it"),
    ("livenessProbe", "the operator sets it"),
    ("readinessProbe", "the operator sets it"),
    ("lifecycle", "the worker drains by itself when its pod is deleted"),
    ("terminationMessagePath", "the operator reads the worker's last words there"),
    ("terminationMessagePolicy", "the operator reads the worker's last words there"),
];

/// Prefixes of labels that selectors and the operator go by.
const RESERVED_LABELS: [&str; 2] = ["app.kubernetes.io/", "shoal.dev/"];

/// Everything in the template that is refused.
pub(super) fn problems(template: &Map<String, Value>) -> Vec<Problem> {
    let mut found = Vec::new();
    let root = "spec.podTemplate";
    let labels = template.get("metadata").and_then(|metadata| metadata.get("labels"));
    for label in labels.and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name) {
        if RESERVED_LABELS.iter().any(|prefix| label.starts_with(prefix)) {
            refuse(&mut found, format!("{root}.metadata.labels[{label}]"), "the operator sets it");
        }
    }
    let Some(spec) = template.get("spec").and_then(Value::as_object) else { return found };
    let root = format!("{root}.spec");
    forbid(&mut found, &root, spec, &POD_FIELDS);
    for (path, volume) in items(spec, &root, "volumes") {
        if text(volume, "name").starts_with(VOLUME_PREFIX) {
            refuse(
                &mut found,
                format!("{path}.name"),
                "names that begin with shoal- are the operator's",
            );
        }
    }
    for list in ["containers", "initContainers"] {
        for (path, container) in items(spec, &root, list) {
            check_container(&mut found, &path, container);
        }
    }
    found.extend(repeated(&root, spec));
    found
}

fn check_container(found: &mut Vec<Problem>, path: &str, container: &Map<String, Value>) {
    let name = text(container, "name");
    for (path, mount) in items(container, path, "volumeMounts") {
        if text(mount, "name").starts_with(VOLUME_PREFIX) {
            refuse(
                found,
                format!("{path}.name"),
                "volumes that begin with shoal- are the worker's",
            );
        }
        if name == WORKER && covers_ours(text(mount, "mountPath")) {
            refuse(found, format!("{path}.mountPath"), "the worker keeps its own files there");
        }
    }
    if name == WORKER {
        forbid(found, path, container, &WORKER_FIELDS);
        for (path, variable) in items(container, path, "env") {
            if RESERVED_ENV.contains(&text(variable, "name")) {
                refuse(found, path, "the operator sets this variable");
            }
        }
    }
    let stop = container.get("lifecycle").and_then(|lifecycle| lifecycle.get("preStop"));
    if name == APP && stop.is_some() {
        let reason = "the app must serve until the worker has handed over its shards";
        refuse(found, format!("{path}.lifecycle.preStop"), reason);
    }
}

/// Whether a mount at this path hides a mount of ours or lies within one that is not free.
fn covers_ours(path: &str) -> bool {
    let path = path.trim_end_matches('/');
    MOUNTS.iter().any(|(_, ours)| {
        let above = path.is_empty() || *ours == path || within(ours, path);
        // Below /tmp anything may lie.
        above || (*ours != "/tmp" && within(path, ours))
    })
}

fn within(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// Items of one list that carry the same key: merged they would become one.
fn repeated(root: &str, spec: &Map<String, Value>) -> Vec<Problem> {
    let mut found = Vec::new();
    for (field, value) in spec {
        let Some(key) = key_of(field) else { continue };
        let all = value.as_array().map(Vec::as_slice).unwrap_or_default();
        for (index, item) in all.iter().enumerate() {
            let path = format!("{root}.{field}[{index}]");
            let same =
                |earlier: &Value| item.get(key).is_some() && earlier.get(key) == item.get(key);
            if all.iter().take(index).any(same) {
                refuse(&mut found, format!("{path}.{key}"), "is given twice");
            }
            if let Some(inner) = item.as_object() {
                found.extend(repeated(&path, inner));
            }
        }
    }
    found
}

fn forbid(
    found: &mut Vec<Problem>,
    path: &str,
    object: &Map<String, Value>,
    fields: &[(&str, &str)],
) {
    for (field, instead) in fields.iter().filter(|(field, _)| object.contains_key(*field)) {
        refuse(found, format!("{path}.{field}"), instead);
    }
}

fn refuse(found: &mut Vec<Problem>, path: String, why: &str) {
    let message = format!("cannot be set in a pod template: {why}");
    found.push(Problem { path, reason: Stalled::InvalidPodTemplate, message });
}

/// The objects of a list, with their paths. What is no object is left to the API server.
fn items<'v>(
    object: &'v Map<String, Value>,
    path: &str,
    list: &str,
) -> Vec<(String, &'v Map<String, Value>)> {
    let all = object.get(list).and_then(Value::as_array).into_iter().flatten().enumerate();
    all.filter_map(|(index, item)| Some((format!("{path}.{list}[{index}]"), item.as_object()?)))
        .collect()
}

fn text<'v>(object: &'v Map<String, Value>, field: &str) -> &'v str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}
