//! The Secrets of TLS; `pki` issues what is in them.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};

use super::Cluster;
use crate::pki::Pair;

/// Keys of the Secrets.
pub const CA_CERTIFICATE: &str = "ca.crt";
pub const CERTIFICATE: &str = "tls.crt";
pub const KEY: &str = "tls.key";

/// The CA with its key. No pod mounts it.
pub fn authority(cluster: &Cluster<'_>, authority: &Pair) -> Secret {
    let data = [(CERTIFICATE, &authority.certificate), (KEY, &authority.key)];
    secret(cluster, cluster.names.ca_secret(), data.map(|(key, text)| (key.to_owned(), text)))
}

/// The nodes' certificates by pod name, which every pod of the cluster mounts.
pub fn nodes(cluster: &Cluster<'_>, ca: &str, nodes: &BTreeMap<String, Pair>) -> Secret {
    let ca = ca.to_owned();
    let pairs = nodes.iter().flat_map(|(pod, pair)| {
        [(certificate_of(pod), &pair.certificate), (key_of(pod), &pair.key)]
    });
    let data: Vec<_> = pairs.chain([(CA_CERTIFICATE.to_owned(), &ca)]).collect();
    secret(cluster, cluster.names.tls_secret(), data)
}

/// The operator's own certificate for this cluster.
pub fn operator(cluster: &Cluster<'_>, ca: &str, pair: &Pair) -> Secret {
    let ca = ca.to_owned();
    let data = [(CA_CERTIFICATE, &ca), (CERTIFICATE, &pair.certificate), (KEY, &pair.key)];
    secret(
        cluster,
        cluster.names.operator_tls_secret(),
        data.map(|(key, text)| (key.to_owned(), text)),
    )
}

/// A certificate and its key under these names.
pub fn read_pair(secret: &Secret, certificate: &str, key: &str) -> Option<Pair> {
    let text = |name: &str| {
        let bytes = &secret.data.as_ref()?.get(name)?.0;
        String::from_utf8(bytes.clone()).ok()
    };
    Some(Pair { certificate: text(certificate)?, key: text(key)? })
}

/// The pairs of the nodes' Secret by pod name; what is incomplete is left out.
pub fn read_nodes(secret: &Secret) -> BTreeMap<String, Pair> {
    let names = secret.data.iter().flatten().filter_map(|(name, _)| name.strip_suffix(".key"));
    names
        .filter_map(|pod| {
            let pair = read_pair(secret, &certificate_of(pod), &key_of(pod))?;
            Some((pod.to_owned(), pair))
        })
        .collect()
}

fn certificate_of(pod: &str) -> String {
    format!("{pod}.crt")
}

fn key_of(pod: &str) -> String {
    format!("{pod}.key")
}

fn secret<'t>(
    cluster: &Cluster<'_>,
    name: String,
    data: impl IntoIterator<Item = (String, &'t String)>,
) -> Secret {
    let data = data.into_iter().map(|(key, text)| (key, ByteString(text.clone().into_bytes())));
    Secret {
        metadata: cluster.metadata(name),
        type_: Some("Opaque".to_owned()),
        data: Some(data.collect()),
        ..Secret::default()
    }
}
