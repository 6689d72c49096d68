//! A certificate authority for each cluster: pairs of certificate and key as PEM text.
//!
//! Pure but for the randomness of keys: the time is told, and nothing is stored here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;
use x509_parser::{pem::Pem, prelude::X509Certificate};

use crate::names::Names;

const DAY: i64 = 24 * 60 * 60;
/// The CA outlives what it signs by far; its rotation needs two to be trusted for a while.
const AUTHORITY_SECONDS: i64 = 10 * 365 * DAY;
const LEAF_SECONDS: i64 = 365 * DAY;
/// Certificates count from before they are issued: clocks of machines differ.
const BACKDATE_SECONDS: i64 = 60 * 60;
/// Renewed when this part of the time is left: four months of a year.
const RENEW_AT_PART: i64 = 3;
/// Half of the time for it is over: nobody renews this one.
const OVERDUE_AT_PART: i64 = 2 * RENEW_AT_PART;
/// The name by which workers know the operator.
pub const OPERATOR_NAME: &str = "operator.shoal.internal";
/// Nodes get certificates ahead of their pods, in steps of this many: a pod that starts finds its
/// own in the Secret, whose copy at the kubelet may be a minute old.
const NODES_AHEAD: u32 = 8;
/// Most bytes that a Secret may hold.
const SECRET_BYTES: usize = 1 << 20;

/// Reasons why a certificate could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key, a name or a signature was refused.
    #[error("certificate of {subject}")]
    Issue { subject: String, source: rcgen::Error },
    /// The time is outside the years 0 to 9999.
    #[error("time of the certificate of {subject}")]
    Time { subject: String, source: time::error::ComponentRange },
    /// A stored text is no certificate.
    #[error("certificate is not readable: {0}")]
    Read(String),
}

/// A certificate and its key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for Pair {
    /// Without the key.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Pair")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// What is to be done about a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Good,
    /// Renew: a third of its time or less is left.
    Expiring,
    /// Issue anew: another authority signed it.
    Foreign,
}

/// Who may sign.
pub struct Authority<'a> {
    certificate: &'a str,
    issuer: Issuer<'static, KeyPair>,
}

/// A new authority for a cluster. `now` is in Unix seconds.
pub fn new_authority(cluster: &str, now: i64) -> Result<Pair, Error> {
    let subject = format!("{cluster} CA");
    let mut params = params(&subject, now, AUTHORITY_SECONDS)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let issue = || {
        let key = KeyPair::generate()?;
        Ok(Pair { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
    };
    issue().map_err(|source| Error::Issue { subject, source })
}

impl<'a> Authority<'a> {
    /// The authority as it was stored.
    pub fn of(pair: &'a Pair) -> Result<Self, Error> {
        let read = || Issuer::from_ca_cert_pem(&pair.certificate, KeyPair::from_pem(&pair.key)?);
        let issuer =
            read().map_err(|source| Error::Issue { subject: "the CA".to_owned(), source })?;
        Ok(Self { certificate: &pair.certificate, issuer })
    }

    /// The certificate of a node, good as a server and as a client, for a year from `now`.
    pub fn node(&self, names: &Names, namespace: &str, pod: &str, now: i64) -> Result<Pair, Error> {
        let mut params = params(pod, now, LEAF_SECONDS)?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let names = node_names(names, namespace, pod);
        self.issue(params, pod, &names, &addresses)
    }

    /// The operator's certificate, good as a client, for a year from `now`.
    pub fn operator(&self, now: i64) -> Result<Pair, Error> {
        let mut params = params(OPERATOR_NAME, now, LEAF_SECONDS)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params, OPERATOR_NAME, &[OPERATOR_NAME.to_owned()], &[])
    }

    /// What is to be done about a certificate that should be ours.
    pub fn standing(&self, certificate: &str, now: i64) -> Result<Standing, Error> {
        let (ours, theirs) = (pem(self.certificate)?, pem(certificate)?);
        let (ours, theirs) = (parse(&ours)?, parse(&theirs)?);
        if theirs.verify_signature(Some(ours.public_key())).is_err() {
            return Ok(Standing::Foreign);
        }
        Ok(match is_left(&theirs, now, RENEW_AT_PART) {
            true => Standing::Expiring,
            false => Standing::Good,
        })
    }

    fn issue(
        &self,
        mut params: CertificateParams,
        subject: &str,
        names: &[String],
        addresses: &[IpAddr],
    ) -> Result<Pair, Error> {
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let mut issue = || {
            for name in names {
                params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
            }
            params.subject_alt_names.extend(addresses.iter().map(|ip| SanType::IpAddress(*ip)));
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &self.issuer)?.pem();
            Ok(Pair { certificate, key: key.serialize_pem() })
        };
        issue().map_err(|source| Error::Issue { subject: subject.to_owned(), source })
    }
}

/// The end of a certificate in Unix seconds, where it should have been renewed long ago.
pub fn overdue(certificate: &str, now: i64) -> Result<Option<i64>, Error> {
    let pem = pem(certificate)?;
    let certificate = parse(&pem)?;
    let end = certificate.validity().not_after.timestamp();
    Ok(is_left(&certificate, now, OVERDUE_AT_PART).then_some(end))
}

/// How many nodes should have certificates while this many pods are wanted.
pub fn nodes_to_certify(replicas: u32) -> u32 {
    (replicas + 1).next_multiple_of(NODES_AHEAD)
}

/// Most nodes whose certificates fit one Secret, given the length of the names in them.
pub fn most_nodes(names: &Names, namespace: &str) -> usize {
    // Measured: a certificate without names, a key and the keys of the Secret take less. A name
    // costs two bytes more than its letters, and PEM a third more and a line end in 64.
    const FIXED: usize = 960;
    let all = node_names(names, namespace, &names.pod(1000));
    let letters: usize = all.iter().map(|name| name.len() + 2).sum();
    SECRET_BYTES / (FIXED + letters * 4 / 3 + letters / 48 + 4 * names.cluster().len())
}

fn node_names(names: &Names, namespace: &str, pod: &str) -> [String; 6] {
    let cluster = names.cluster();
    [
        pod.to_owned(),
        format!("{pod}.{}.{namespace}.svc", names.peers()),
        format!("{cluster}.{namespace}.svc"),
        format!("{cluster}.{namespace}.svc.cluster.local"),
        cluster.to_owned(),
        "localhost".to_owned(),
    ]
}

fn params(subject: &str, now: i64, seconds: i64) -> Result<CertificateParams, Error> {
    let at = |unix| {
        OffsetDateTime::from_unix_timestamp(unix)
            .map_err(|source| Error::Time { subject: subject.to_owned(), source })
    };
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, subject);
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.not_before = at(now - BACKDATE_SECONDS)?;
    params.not_after = at(now + seconds)?;
    Ok(params)
}

fn pem(text: &str) -> Result<Pem, Error> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes())
        .map_err(|e| Error::Read(e.to_string()))?;
    Ok(pem)
}

fn parse(pem: &Pem) -> Result<X509Certificate<'_>, Error> {
    pem.parse_x509().map_err(|e| Error::Read(e.to_string()))
}

/// At most this part of a certificate's time is left.
fn is_left(certificate: &X509Certificate<'_>, now: i64, part: i64) -> bool {
    let validity = certificate.validity();
    let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    until - now <= (until - from) / part
}

#[cfg(test)]
mod tests;
