//! Certificate, key and authorities from their files to what handshakes use, or an error that
//! names the setting and the file.

use std::{path::Path, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier as _},
    crypto::{CryptoProvider, ring},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, UnixTime,
    pem::{self, PemObject as _},
};

use super::{Files, Names};
use crate::{
    config::{Error, invalid},
    env::{clock, disk},
};

/// Application protocol of every port.
const H2: &[u8] = b"h2";
/// Largest file that is read: hundreds of certificates.
const MAX_FILE: u64 = 1 << 20;

/// The three files as they are on disk.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Bytes {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

impl Bytes {
    pub fn read(files: &Files) -> Result<Self, Error> {
        Ok(Self {
            cert: read("TLS_CERT", &files.cert)?,
            key: read("TLS_KEY", &files.key)?,
            ca: read("TLS_CA", &files.ca)?,
        })
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    const REMEDY: &str = "name a PEM file that this process may read";
    let bad = |problem: String| invalid(setting, path.display(), problem, REMEDY);
    match disk::length(path).map_err(|error| bad(error.to_string()))? {
        None => Err(bad("there is no such file".to_owned())),
        Some(length) if length > MAX_FILE => Err(bad(format!("it has {length} bytes"))),
        Some(_) => match disk::read(path) {
            Ok(bytes) => Ok(bytes.unwrap_or_default()),
            Err(error) => Err(bad(error.to_string())),
        },
    }
}

/// What handshakes use until the files change.
pub(super) struct Material {
    /// What it was made of.
    pub bytes: Bytes,
    /// Of the own certificate.
    pub names: Arc<Names>,
    /// For whom this process connects to.
    pub client: Arc<ClientConfig>,
    /// For ports of nodes and administrators: TLS 1.3, with a certificate.
    pub peers: Arc<ServerConfig>,
    /// For the data port, where a certificate is looked at if there is one.
    pub data: Arc<ServerConfig>,
}

impl Material {
    /// `node`: the name that the certificate must hold, where it is shown to others.
    pub fn of(bytes: Bytes, files: &Files, node: Option<&str>) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let chain = certificates("TLS_CERT", &files.cert, &bytes.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&bytes.key).map_err(|error| {
            invalid("TLS_KEY", files.key.display(), said(&error), "name a private key in PEM")
        })?;
        let mut roots = RootCertStore::empty();
        for root in certificates("TLS_CA", &files.ca, &bytes.ca)? {
            roots.add(root).map_err(|error| bad_ca(&files.ca, &error))?;
        }
        let roots = Arc::new(roots);
        let names = Names::of(&chain[0]).map_err(|error| bad_certificate(files, &error))?;
        if let Some(name) = node {
            judge(&names, &chain, name, files, &roots, &provider)?;
        }
        let keyless = |error: rustls::Error| match error {
            rustls::Error::InconsistentKeys(_) => invalid(
                "TLS_KEY",
                files.key.display(),
                format!("it is not the key of TLS_CERT {}", files.cert.display()),
                "give certificate and key of one pair",
            ),
            other => bad_certificate(files, &other),
        };
        let verifier = |optional: bool| {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
            let verifier = if optional { verifier.allow_unauthenticated() } else { verifier };
            verifier.build().map_err(|error| bad_ca(&files.ca, &error))
        };
        let server = |optional, versions| {
            let mut config = ServerConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(versions)
                .map_err(|error| bad_certificate(files, &error))?
                .with_client_cert_verifier(verifier(optional)?)
                .with_single_cert(chain.clone(), key.clone_key())
                .map_err(keyless)?;
            config.alpn_protocols = vec![H2.to_vec()];
            // Each connection shows its certificate anew, so that none outlives its authority.
            config.send_tls13_tickets = 0;
            config.session_storage = Arc::new(NoServerSessionStorage {});
            Ok::<_, Error>(Arc::new(config))
        };
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| bad_certificate(files, &error))?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(keyless)?;
        client.alpn_protocols = vec![H2.to_vec()];
        client.resumption = Resumption::disabled();
        Ok(Self {
            bytes,
            names: Arc::new(names),
            client: Arc::new(client),
            peers: server(false, &[&rustls::version::TLS13])?,
            data: server(true, rustls::ALL_VERSIONS)?,
        })
    }
}

/// As `Material::of`, of bytes that lie in no file.
#[cfg(feature = "fuzzing")]
pub(crate) fn usable(cert: &[u8], key: &[u8], ca: &[u8]) -> Result<(), Error> {
    let bytes = Bytes { cert: cert.to_vec(), key: key.to_vec(), ca: ca.to_vec() };
    let files = Files { cert: "cert".into(), key: "key".into(), ca: "ca".into() };
    Material::of(bytes, &files, None).map(|_| ())
}

/// Peers would refuse what this refuses: the name, the authority, the dates, the use.
fn judge(
    names: &Names,
    chain: &[CertificateDer<'static>],
    node: &str,
    files: &Files,
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<(), Error> {
    let bad = |problem: String, remedy| invalid("TLS_CERT", files.cert.display(), problem, remedy);
    if !names.hold(node) {
        return Err(bad(
            format!("it names {names}, not RAFT_ID {node}"),
            "give the certificate of this node, with its RAFT_ID among the DNS names",
        ));
    }
    let untrusted = |error: &rustls::Error| {
        bad(
            format!("TLS_CA {} does not vouch for it: {error}", files.ca.display()),
            "give a certificate of that authority, valid now, for servers and clients",
        )
    };
    let name = ServerName::try_from(node.to_owned())
        .map_err(|_| bad(format!("RAFT_ID {node} is no DNS name"), "set RAFT_ID to one that is"))?;
    let now = UnixTime::since_unix_epoch(Duration::from_millis(clock::unix_ms()));
    let (leaf, between) = (&chain[0], &chain[1..]);
    WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| bad_ca(&files.ca, &error))?
        .verify_server_cert(leaf, between, &name, &[], now)
        .map_err(|error| untrusted(&error))?;
    WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| bad_ca(&files.ca, &error))?
        .verify_client_cert(leaf, between, now)
        .map_err(|error| untrusted(&error))?;
    Ok(())
}

fn certificates(
    setting: &'static str,
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, Error> {
    const REMEDY: &str = "name a PEM file with at least one certificate";
    let bad = |problem: String| invalid(setting, path.display(), problem, REMEDY);
    let found: Vec<_> = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| bad(said(&error)))?;
    if found.is_empty() { Err(bad("it holds no certificate".to_owned())) } else { Ok(found) }
}

fn said(error: &pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => "it holds no private key".to_owned(),
        other => format!("it is not PEM: {other}"),
    }
}

fn bad_certificate(files: &Files, error: &dyn std::fmt::Display) -> Error {
    invalid("TLS_CERT", files.cert.display(), error, "give another certificate, in PEM")
}

fn bad_ca(path: &Path, error: &dyn std::fmt::Display) -> Error {
    invalid("TLS_CA", path.display(), error, "give certificates of authorities, in PEM")
}
