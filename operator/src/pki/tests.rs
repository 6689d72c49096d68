//! What is issued is read back, and refused where it must be.

use std::collections::BTreeMap;

use x509_parser::prelude::GeneralName;

use super::*;
use crate::{
    build,
    crd::{ShardCluster, ShardClusterSpec},
};

/// The first of January 2030.
const NOW: i64 = 1_893_456_000;

fn demo() -> Names {
    Names::of(&ShardCluster::new("demo", ShardClusterSpec::of_image("x")))
}

fn authority() -> Pair {
    new_authority("demo", NOW).expect("an authority")
}

fn names(certificate: &str) -> Vec<String> {
    let pem = pem(certificate).expect("PEM");
    let certificate = parse(&pem).expect("X.509");
    let names = certificate.subject_alternative_name().expect("readable").expect("present");
    names
        .value
        .general_names
        .iter()
        .map(|name| match name {
            GeneralName::DNSName(name) => (*name).to_owned(),
            GeneralName::IPAddress(octets) => format!("{octets:?}"),
            other => panic!("{other} was not asked for"),
        })
        .collect()
}

#[test]
fn a_node_is_known_by_its_names() {
    let authority = authority();
    let node = Authority::of(&authority).expect("read").node(&demo(), "shop", "demo-2", NOW);
    let node = node.expect("issued");
    assert_eq!(
        names(&node.certificate),
        [
            "demo-2",
            "demo-2.demo-peers.shop.svc",
            "demo.shop.svc",
            "demo.shop.svc.cluster.local",
            "demo",
            "localhost",
            "[127, 0, 0, 1]",
            "[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]",
        ]
    );
    let pem = pem(&node.certificate).expect("PEM");
    let certificate = parse(&pem).expect("X.509");
    let usage = certificate.extended_key_usage().expect("readable").expect("present").value;
    assert!(usage.server_auth && usage.client_auth && !certificate.is_ca());
    assert!(certificate.validity().not_before.timestamp() < NOW);
    assert_eq!(certificate.validity().not_after.timestamp(), NOW + LEAF_SECONDS);
}

#[test]
fn the_operator_is_a_client_only() {
    let authority = authority();
    let pair = Authority::of(&authority).expect("read").operator(NOW).expect("issued");
    assert_eq!(names(&pair.certificate), [OPERATOR_NAME]);
    let pem = pem(&pair.certificate).expect("PEM");
    let certificate = parse(&pem).expect("X.509");
    let usage = certificate.extended_key_usage().expect("readable").expect("present").value;
    assert!(usage.client_auth && !usage.server_auth);
}

#[test]
fn tls_accepts_what_is_issued() {
    use rustls::{RootCertStore, server::WebPkiClientVerifier};
    use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject as _};

    let authority = authority();
    let node = Authority::of(&authority).expect("read").node(&demo(), "shop", "demo-0", NOW);
    let der = |pair: &Pair| {
        CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("a certificate")
    };
    let mut roots = RootCertStore::empty();
    roots.add(der(&authority)).expect("a root");
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
    let at =
        |unix: i64| UnixTime::since_unix_epoch(std::time::Duration::from_secs(unix.unsigned_abs()));
    let check = |time| {
        let verifier = verifier.as_ref().expect("a verifier");
        verifier.verify_client_cert(&der(node.as_ref().expect("issued")), &[], at(time))
    };
    check(NOW).expect("in time");
    assert!(check(NOW + LEAF_SECONDS + 1).is_err(), "after its end");
    let other = new_authority("demo", NOW).expect("another");
    let stranger = Authority::of(&other).expect("read").node(&demo(), "shop", "demo-0", NOW);
    let stranger = der(&stranger.expect("issued"));
    let verifier = verifier.as_ref().expect("a verifier");
    assert!(verifier.verify_client_cert(&stranger, &[], at(NOW)).is_err(), "of another authority");
}

#[test]
fn a_third_before_the_end_it_is_renewed() {
    let (ours, theirs) = (authority(), authority());
    let authority = Authority::of(&ours).expect("read");
    let node = authority.node(&demo(), "shop", "demo-0", NOW).expect("issued").certificate;
    let renew_at = NOW + LEAF_SECONDS - (LEAF_SECONDS + BACKDATE_SECONDS) / 3;
    for (now, standing) in [
        (NOW, Standing::Good),
        (renew_at - 1, Standing::Good),
        (renew_at, Standing::Expiring),
        (NOW + 2 * LEAF_SECONDS, Standing::Expiring),
    ] {
        assert_eq!(authority.standing(&node, now).expect("read"), standing, "{}", now - NOW);
    }
    let other = Authority::of(&theirs).expect("read");
    assert_eq!(other.standing(&node, NOW).expect("read"), Standing::Foreign);
    // Who was not renewed half of that time later is told of.
    let end = NOW + LEAF_SECONDS;
    let overdue_at = end - (LEAF_SECONDS + BACKDATE_SECONDS) / 6;
    for (now, told) in [(renew_at, None), (overdue_at - 1, None), (overdue_at, Some(end))] {
        assert_eq!(overdue(&node, now).expect("read"), told, "{}", now - NOW);
    }
    assert!(overdue("no certificate", NOW).is_err());
}

#[test]
fn as_many_nodes_as_said_fit_a_secret() {
    let (short, long) = ("a", "a".repeat(40));
    for (cluster, namespace) in [(short, "b".to_owned()), (&long, "b".repeat(63))] {
        let ca = new_authority(cluster, NOW).expect("an authority");
        let authority = Authority::of(&ca).expect("read");
        let mut stored = ShardCluster::new(cluster, ShardClusterSpec::of_image("x"));
        stored.metadata.namespace = Some(namespace.clone());
        stored.metadata.uid = Some("u".to_owned());
        let seen = build::Cluster::of(&stored).expect("stored");
        let pod = seen.names.pod(1000);
        let pair = authority.node(&seen.names, &namespace, &pod, NOW).expect("issued");
        let secret =
            build::secret::nodes(&seen, &ca.certificate, &BTreeMap::from([(pod, pair.clone())]));
        let bytes = |secret: &k8s_openapi::api::core::v1::Secret| -> usize {
            secret.data.iter().flatten().map(|(name, value)| name.len() + value.0.len()).sum()
        };
        let one = bytes(&secret) - ca.certificate.len() - "ca.crt".len();
        let most = most_nodes(&seen.names, &namespace);
        assert!(most * one + 2048 < SECRET_BYTES, "{most} nodes of {one} bytes");
        assert!(most * one > SECRET_BYTES * 3 / 4, "{most} nodes of {one} bytes are too few");
        assert_eq!(build::secret::read_nodes(&secret).values().collect::<Vec<_>>(), [&pair]);
    }
}

#[test]
fn certificates_are_ahead_of_their_pods() {
    for (replicas, nodes) in [(0, 8), (3, 8), (7, 8), (8, 16), (1000, 1008)] {
        assert_eq!(nodes_to_certify(replicas), nodes);
    }
}
