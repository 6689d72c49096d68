//! The pod template. Nothing in it depends on `replicas`, nor on anything that reaches the
//! workers through Configure: such a change must not restart a pod.

use serde_json::{Map, Value, json};

use super::{ADMIN_PORT, Cluster, DATA_PORT, HTTP_PORT, RAFT_PORT, merge};
use crate::{
    crd::{StorageType, TlsClients, TlsMode},
    names::DATA_VOLUME,
};

/// The container of the worker; its name is part of the API.
pub const WORKER: &str = "worker";
/// The container of the user's app; its name is part of the API.
pub const APP: &str = "app";
/// Volumes of ours begin so, and no others do.
pub const VOLUME_PREFIX: &str = "shoal-";
/// What lies where in the container of the worker.
pub const MOUNTS: [(&str, &str); 4] = [
    (DATA_VOLUME, "/data"),
    ("shoal-identity", "/etc/shoal/identity"),
    (TLS_VOLUME, "/etc/shoal/tls"),
    ("shoal-tmp", "/tmp"),
];
const TLS_VOLUME: &str = "shoal-tls";

/// The pod's time to end beyond the drain: shards are gone by then, connections are not.
pub const GRACE_BEYOND_DRAIN_SECONDS: i32 = 30;
/// Not root, and no user of the image.
const USER: i64 = 65532;
/// Owner and group may read: 0440.
const SECRET_MODE: i32 = 0o440;

/// The pod template with the user's own put over it.
pub fn template(cluster: &Cluster<'_>) -> Value {
    let mut template = rendered(cluster);
    merge::merge(&mut template, &cluster.spec.pod_template.0);
    Value::Object(template)
}

fn rendered(cluster: &Cluster<'_>) -> Map<String, Value> {
    let spread = |key: &str| {
        json!({
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": { "matchLabels": cluster.names.selector() },
        })
    };
    let spec = json!({
        "serviceAccountName": cluster.names.worker_account(),
        "automountServiceAccountToken": true,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds":
            i64::from(cluster.spec.scale_down.drain_timeout_seconds + GRACE_BEYOND_DRAIN_SECONDS),
        "securityContext": {
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "topologySpreadConstraints": [
            spread("kubernetes.io/hostname"),
            spread("topology.kubernetes.io/zone"),
        ],
        "containers": [worker(cluster)],
        "volumes": volumes(cluster),
    });
    Map::from_iter([
        ("metadata".to_owned(), json!({ "labels": cluster.labels() })),
        ("spec".to_owned(), spec),
    ])
}

fn worker(cluster: &Cluster<'_>) -> Value {
    let port = |name: &str, number: i32| json!({ "name": name, "containerPort": number });
    let probe = |path: &str, period: i32, failures: i32| {
        json!({
            "httpGet": { "path": path, "port": "http" },
            "periodSeconds": period,
            "timeoutSeconds": 5,
            "failureThreshold": failures,
        })
    };
    let mounts: Vec<_> = MOUNTS
        .into_iter()
        .filter(|(volume, _)| *volume != TLS_VOLUME || encrypted(cluster))
        .map(|(volume, path)| {
            let read_only = path.starts_with("/etc/");
            let mut mount = json!({ "name": volume, "mountPath": path });
            if read_only {
                mount["readOnly"] = Value::Bool(true);
            }
            mount
        })
        .collect();
    json!({
        "name": WORKER,
        "image": cluster.spec.image,
        "command": ["/usr/local/bin/shoal"],
        "args": ["run"],
        "ports": [
            port("grpc", DATA_PORT),
            port("raft", RAFT_PORT),
            port("admin", ADMIN_PORT),
            port("http", HTTP_PORT),
        ],
        "env": environment(cluster),
        "resources": {
            "requests": { "cpu": "100m", "memory": "128Mi" },
            "limits": { "memory": "512Mi" },
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "readOnlyRootFilesystem": true,
            "runAsGroup": USER,
            "runAsNonRoot": true,
            "runAsUser": USER,
        },
        // Two minutes to read a large registry; then a loop that hangs is restarted in 30 s.
        "startupProbe": probe("/livez", 1, 120),
        "livenessProbe": probe("/livez", 10, 3),
        "readinessProbe": probe("/readyz", 2, 3),
        "volumeMounts": mounts,
    })
}

/// Whether nodes speak TLS to each other.
pub fn encrypted(cluster: &Cluster<'_>) -> bool {
    match cluster.spec.tls.mode {
        TlsMode::BuiltIn | TlsMode::CertManager => true,
        TlsMode::Disabled => false,
    }
}

fn environment(cluster: &Cluster<'_>) -> Vec<Value> {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let value = |name: &str, value: String| json!({ "name": name, "value": value });
    let clients = match cluster.spec.tls.clients {
        TlsClients::Optional => "optional",
        TlsClients::Required => "required",
        TlsClients::Mutual => "mutual",
    };
    let tls = encrypted(cluster);
    let mut all = vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_UID", "metadata.uid"),
        field("POD_IP", "status.podIP"),
        field("REVISION", "metadata.labels['controller-revision-hash']"),
        field("ZONE", "metadata.labels['topology.kubernetes.io/zone']"),
        value("RAFT_DIR", "/data/node".to_owned()),
        value("DISCOVERY", format!("kubernetes:{}", cluster.names.selector_text())),
        value("IDENTITY_FILE", "/etc/shoal/identity/identity.json".to_owned()),
        value("SHARDS", cluster.spec.shards.to_string()),
        value("TLS_MODE", if tls { "mutual" } else { "disabled" }.to_owned()),
        value("TLS_CLIENTS", clients.to_owned()),
    ];
    if cluster.spec.storage.kind == StorageType::Ephemeral {
        all.push(value("EPHEMERAL", "true".to_owned()));
    }
    if tls {
        all.extend([
            value("TLS_CERT", "/etc/shoal/tls/$(POD_NAME).crt".to_owned()),
            value("TLS_KEY", "/etc/shoal/tls/$(POD_NAME).key".to_owned()),
            value("TLS_CA", "/etc/shoal/tls/ca.crt".to_owned()),
        ]);
    }
    all
}

fn volumes(cluster: &Cluster<'_>) -> Vec<Value> {
    let identity = cluster.names.identity();
    let mut all = vec![
        json!({ "name": "shoal-identity", "configMap": { "name": identity } }),
        json!({ "name": "shoal-tmp", "emptyDir": {} }),
    ];
    if encrypted(cluster) {
        let secret = cluster.names.tls_secret();
        all.push(json!({
            "name": TLS_VOLUME,
            "secret": { "secretName": secret, "defaultMode": SECRET_MODE },
        }));
    }
    match cluster.spec.storage.kind {
        // The claim template of the StatefulSet provides it.
        StorageType::Persistent => {}
        StorageType::Ephemeral => {
            let limit = cluster.spec.storage.as_ephemeral().unwrap_or_default().size_limit;
            all.push(json!({ "name": DATA_VOLUME, "emptyDir": { "sizeLimit": limit } }));
        }
    }
    all
}
