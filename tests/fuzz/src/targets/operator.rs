//! What the operator reads: the spec, what it stored itself and others may have changed.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::Value;
use shoal_operator::{
    build::{identity::Identity, secret},
    crd::ShardCluster,
    names::Names,
    pki::{self, Authority},
    validate::{Existing, quantity, validate},
    worker_client::Credentials,
};

use super::{
    Shape::{Bytes as Blind, Json},
    Target,
    parts::{SEVERAL, split},
    told,
};

pub fn targets() -> Vec<Target> {
    vec![
        Target::judged("shard-cluster", "operator: crd, validate, build", Json, shard_cluster)
            .memory(256, 1 << 20),
        Target::judged("identity-map", "operator: build::identity", Json, identity_map)
            .memory(64, 0),
        Target::judged("secret-pairs", "operator: build::secret", Json, secret_pairs).memory(64, 0),
        Target::judged("certificates", "operator: pki", Blind, certificates)
            .parts(SEVERAL)
            .memory(64, 0),
        Target::judged("credentials", "operator: worker_client", Blind, credentials)
            .parts(SEVERAL)
            .memory(64, 1 << 20),
        Target::judged("quantity", "operator: validate::quantity", Blind, |bytes| {
            let text = std::str::from_utf8(bytes).map_err(told)?;
            quantity::bytes(text).map(|_| ()).ok_or_else(|| "no quantity".to_owned())
        }),
        Target::judged("ordinal", "operator: names", Blind, ordinal),
    ]
}

/// Whatever spec the API server lets through: it is refused with its paths, or everything that
/// it asks for can be built.
/// The API server judges what it is given by the schema, so that nobody reads the parser's words:
/// those repeat what was given, with all its lines.
fn parsed<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|_| "it is not of this kind".to_owned())
}

fn shard_cluster(bytes: &[u8]) -> Result<(), String> {
    let cluster: ShardCluster = parsed(bytes)?;
    let existing = [None, Some("1Gi".to_owned())].map(|volume_size| Existing { volume_size });
    for existing in existing {
        let valid = validate(&cluster, &existing).map_err(|problems| {
            assert!(!problems.is_empty(), "a refusal has a reason");
            problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        })?;
        let children = valid.children();
        let set = valid.stateful_set(cluster.spec.wanted());
        assert_eq!(set, valid.stateful_set(cluster.spec.wanted()), "the same spec, the same set");
        assert!(set.pointer("/spec/template").is_some_and(Value::is_object));
        assert!(children.peers.metadata.name.is_some_and(|name| !name.is_empty()));
    }
    Ok(())
}

fn identity_map(bytes: &[u8]) -> Result<(), String> {
    let map: ConfigMap = parsed(bytes)?;
    let read = Identity::read(&map).map_err(told)?;
    let text = serde_json::to_string(&read).map_err(told)?;
    assert_eq!(serde_json::from_str::<Identity>(&text).ok(), Some(read));
    Ok(())
}

fn secret_pairs(bytes: &[u8]) -> Result<(), String> {
    let stored: Secret = parsed(bytes)?;
    let pair = secret::read_pair(&stored, secret::CERTIFICATE, secret::KEY);
    let nodes = secret::read_nodes(&stored);
    if pair.is_none() && nodes.is_empty() { Err("no pair".to_owned()) } else { Ok(()) }
}

/// Two certificates: whether one should be renewed, and whether the other signed it.
fn certificates(bytes: &[u8]) -> Result<(), String> {
    const NOW: i64 = 1_800_000_000;
    let texts = split(bytes).ok_or("no certificates")?;
    let text = |at: usize| {
        String::from_utf8_lossy(texts.get(at).map(Vec::as_slice).unwrap_or_default()).into_owned()
    };
    let pair = pki::Pair { certificate: text(0), key: text(1) };
    let judged = pki::overdue(&text(2), NOW).map(|_| ()).map_err(told);
    let authority = Authority::of(&pair).map_err(told)?;
    authority.standing(&text(2), NOW).map_err(told)?;
    judged
}

fn credentials(bytes: &[u8]) -> Result<(), String> {
    let texts = split(bytes).ok_or("no three files")?;
    let text = |at: usize| texts.get(at).map(Vec::as_slice).unwrap_or_default();
    Credentials::new(text(0), text(1), text(2)).map(|_| ()).map_err(told)
}

/// The number at the end of the name of a pod.
fn ordinal(bytes: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(told)?;
    let spec = shoal_operator::crd::ShardClusterSpec::of_image("i");
    let names = Names::of(&ShardCluster::new("c", spec));
    let ordinal = names.ordinal(text).or_else(|| names.ordinal_of_claim(text));
    let ordinal = ordinal.ok_or("no pod of this cluster")?;
    assert!(text == names.pod(ordinal) || text == names.claim(ordinal), "{text:?}");
    Ok(())
}
