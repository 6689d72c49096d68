//! Texts: settings, ids, headers, JSON, certificates.

use std::sync::OnceLock;

use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};
use shoal_operator::{
    build::{Cluster, identity::Identity, secret},
    crd::{ShardCluster, ShardClusterSpec},
    names::Names,
    pki::{self, Authority, Pair},
};
use shoal_worker::fuzzing;

use super::{
    Seed, numbered,
    registry::{CLUSTER, incarnation},
};
use crate::targets::parts::{self, IDENTITY};

pub fn of(target: &str) -> Option<Vec<Seed>> {
    let text = |all: &[&str]| all.iter().map(|text| text.as_bytes().to_vec()).collect();
    let seeds: Vec<Vec<u8>> = match target {
        "config" => text(&SETTINGS),
        "address" => text(&["node-0.peers:11000", "[::1]:11000", "127.0.0.1:1", "localhost:65535"]),
        "incarnation" => vec![incarnation(4).to_text().into_bytes()],
        "ids" => text(&["n7", "s42", "v9", "i10", "m3", "7", &CLUSTER.to_string()]),
        "grpc-timeout" => text(&["1S", "250m", "99999999H", "10u", "5n", "3M"]),
        "http-answer" => text(&[ANSWER]),
        "members" => text(&["node-0.peers:12000\nnode-1.peers:12000\n[::1]:12000\n"]),
        "operator-identity" => identity_file(),
        "identity" => identities(),
        "pod" => vec![pod()],
        "certificate" => vec![der(&keys().1.certificate)],
        "tls-files" | "credentials" => vec![tls_files(target)],
        "certificates" => vec![certificates()],
        "shard-cluster" => clusters(),
        "identity-map" => vec![identity_map()],
        "secret-pairs" => secrets(),
        "quantity" => text(&["1Gi", "1.5Gi", "1e9", "2E", "500m", "1024Mi", "0"]),
        "ordinal" => text(&["c-0", "c-12", "shoal-data-c-3", "c-999"]),
        _ => return None,
    };
    Some(numbered("real", seeds))
}

const SETTINGS: [&str; 5] = [
    "NODE_ADDRESS=127.0.0.1:11000\nJOIN_ADDRESS=\nSHARDS=1024\nLEASE=3\nWEIGHT=100\nMAX_PAYLOAD=4MiB",
    "NODE_ADDRESS=node-0.peers:11000\nPEER_ADDRESSES=node-0.peers:11000, node-1.peers:11000\n\
     TLS_MODE=disabled\nBIND_ADDRESS=[::]\nRAFT_ID=node-0\nLOG_FORMAT=json\nLOG_LEVEL=info,h2=warn",
    "POD_NAME=c-0\nPOD_NAMESPACE=shop\nPOD_UID=u-1\nPOD_IP=10.0.0.7\nREVISION=c-6f\n\
     DISCOVERY=kubernetes:app=c\nIDENTITY_FILE=/etc/shoal/identity.json\nTLS_CERT=/tls/tls.crt\n\
     TLS_KEY=/tls/tls.key\nTLS_CA=/tls/ca.crt\nTLS_CLIENTS=mutual\nZONE=a",
    "POD_NAME=c-1\nPOD_NAMESPACE=shop\nPOD_IP=fd00::7\nDISCOVERY=kubernetes:app=c\n\
     BOOTSTRAP_EXPECT=3\nTLS_MODE=disabled\nTERMINATION_LOG=\nSHUTDOWN_BUDGET=30",
    "NODE_ADDRESS=localhost:11000\nRAFT_ADDRESS=localhost:1\nADMIN_ADDRESS=localhost:2\n\
     HTTP_ADDRESS=localhost:3\nDISCOVERY=dns:peers:12000\nHOST_NAME=machine\nRAFT_DIR=/data\n\
     KUBE_CONFIG=/k\nMAX_PAYLOAD=64KiB",
];

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n\
    shoal_forward_calls_total{kind=\"local\"} 3\n\
    shoal_forward_calls_total{kind=\"forwarded\"} 9\n\
    shoal_forward_parked_calls 5\nprocess_cpu_seconds_total 1.25\n\
    process_resident_memory_bytes 1e7\n";

fn written(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn identity_file() -> Vec<Vec<u8>> {
    [Value::Null, json!(CLUSTER.to_string())]
        .map(|formed| {
            written(&json!({
                "crUID": "u-1", "founding": ["c-0", "c-1", "c-2"], "formedClusterID": formed,
            }))
        })
        .into()
}

/// As a directory that is empty, and as one that was in a cluster, holds them.
fn identities() -> Vec<Vec<u8>> {
    let member = |name: &str| json!({ "name": name, "nonce": "0f" });
    let empty = json!({
        "name": "node-0", "incarnation": 0, "nonce": "ff", "first_boot_unix_ms": 1_700_000_000_000_u64,
        "formed": false, "ever_left": false, "cluster": null, "renounced": null, "highest_epoch": 0,
    });
    let mut joined = empty.clone();
    joined["cluster"] = json!({
        "id": CLUSTER.to_string(), "node": 4, "founder": member("node-0"),
        "founded_on": [member("node-0"), member("node-1")],
    });
    joined["renounced"] = json!({ "nonce": "05", "replaced_by": "06" });
    joined["highest_epoch"] = json!(u64::MAX);
    [empty, joined]
        .map(|text| {
            let sealed = (IDENTITY.close)(&[written(&text)]);
            fuzzing::identity(&sealed).expect("an identity of today")
        })
        .into()
}

fn pod() -> Vec<u8> {
    written(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "c-0", "namespace": "shop", "uid": "u-2", "labels": { "app": "c" } },
        "spec": { "containers": [{ "name": "worker", "image": "i" }] },
        "status": { "phase": "Running", "podIP": "10.0.0.7" },
    }))
}

/// An authority and the certificate of a node. Keys cannot be drawn from a seed, so that they
/// differ from run to run.
fn keys() -> &'static (Pair, Pair) {
    static KEYS: OnceLock<(Pair, Pair)> = OnceLock::new();
    KEYS.get_or_init(|| {
        const NOW: i64 = 1_800_000_000;
        let authority = pki::new_authority("c", NOW).expect("an authority");
        let names = Names::of(&cluster());
        let node = Authority::of(&authority)
            .and_then(|authority| authority.node(&names, "shop", "c-0", NOW));
        let node = node.expect("a certificate");
        (authority, node)
    })
}

fn cluster() -> ShardCluster {
    let mut cluster =
        ShardCluster::new("c", ShardClusterSpec::of_image("registry.example/shoal:1"));
    cluster.metadata.namespace = Some("shop".to_owned());
    cluster.metadata.uid = Some("u-1".to_owned());
    cluster
}

fn der(pem: &str) -> Vec<u8> {
    let item = CertificateDer::from_pem_slice(pem.as_bytes());
    item.expect("the PEM of a certificate").to_vec()
}

fn tls_files(target: &str) -> Vec<u8> {
    let (authority, node) = keys();
    let files = match target {
        "credentials" => [&authority.certificate, &node.certificate, &node.key],
        _ => [&node.certificate, &node.key, &authority.certificate],
    };
    parts::join(&files.map(|file| file.clone().into_bytes()))
}

fn certificates() -> Vec<u8> {
    let (authority, node) = keys();
    let texts = [&authority.certificate, &authority.key, &node.certificate];
    parts::join(&texts.map(|text| text.clone().into_bytes()))
}

fn clusters() -> Vec<Vec<u8>> {
    let plain = serde_json::to_value(cluster()).expect("a ShardCluster is JSON");
    let with = |change: &dyn Fn(&mut Value)| {
        let mut changed = plain.clone();
        change(&mut changed);
        written(&changed)
    };
    vec![
        written(&plain),
        with(&|cluster| cluster["spec"] = json!({ "image": "i" })),
        with(&|cluster| {
            cluster["spec"]["storage"] =
                json!({ "type": "Ephemeral", "ephemeral": { "sizeLimit": "64Mi" } });
            cluster["spec"]["state"] = json!("Stopped");
        }),
        with(&|cluster| {
            cluster["spec"]["tls"] = json!({ "mode": "Disabled" });
            cluster["spec"]["storage"] = json!({ "persistent": { "size": "2Gi" } });
            cluster["spec"]["replicas"] = json!(1000);
        }),
        with(&|cluster| cluster["spec"]["podTemplate"] = template()),
        with(&|cluster| {
            cluster["spec"]["app"] = json!({ "protocol": "Sidecar", "port": 9000 });
            cluster["spec"]["disruption"] = json!({ "nodeTaints": "Drain" });
        }),
    ]
}

fn template() -> Value {
    json!({
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
                    "volumeMounts": [{ "name": "scratch", "mountPath": "/tmp/scratch" }],
                },
                { "name": "app", "image": "i", "env": [{ "name": "SHARDS" }] },
            ],
        },
    })
}

fn identity_map() -> Vec<u8> {
    let cluster = cluster();
    let cluster = Cluster::of(&cluster).expect("it is stored");
    let map = Identity::of_first(&cluster, 3).config_map(&cluster, Some("7"));
    serde_json::to_vec(&map).expect("a ConfigMap is JSON")
}

fn secrets() -> Vec<Vec<u8>> {
    let cluster = cluster();
    let cluster = Cluster::of(&cluster).expect("it is stored");
    let (authority, node) = keys();
    let nodes = [("c-0".to_owned(), node.clone())].into();
    [
        secret::authority(&cluster, authority),
        secret::nodes(&cluster, &authority.certificate, &nodes),
    ]
    .map(|secret| serde_json::to_vec(&secret).expect("a Secret is JSON"))
    .into()
}
