//! A connection to one worker, encrypted unless the cluster is not.
//!
//! The name in the certificate must be the pod's; its address says nothing about who answers.

use std::{sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::{ANSWER, CONNECT, Place};

/// A stream of a machine that is gone ends after it.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A Secret of certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{part} cannot be read: {why}")]
    Pem { part: &'static str, why: String },
    #[error("certificate and key cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

/// What the operator shows of itself, and whom it believes.
#[derive(Clone)]
pub struct Credentials(Arc<ClientConfig>);

impl Credentials {
    pub fn new(ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<Self, Error> {
        let pem = |part| {
            move |why: rustls::pki_types::pem::Error| Error::Pem { part, why: why.to_string() }
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca) {
            roots.add(certificate.map_err(pem("ca.crt"))?)?;
        }
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(pem("tls.crt"))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(pem("tls.key"))?;
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let mut config = builder
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

pub(super) async fn open(
    place: &Place,
    credentials: Option<&Credentials>,
) -> Result<Channel, String> {
    let uri = format!("http://{}", place.address);
    let endpoint = Endpoint::from_shared(uri).map_err(|error| error.to_string())?;
    let endpoint = endpoint.connect_timeout(CONNECT).timeout(ANSWER);
    let endpoint = endpoint.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(ANSWER);
    let tls = credentials.map(|credentials| TlsConnector::from(credentials.0.clone()));
    let connect = service_fn({
        let (pod, address) = (place.pod.clone(), place.address.clone());
        move |_: Uri| connect(pod.clone(), address.clone(), tls.clone())
    });
    let channel = tokio::time::timeout(CONNECT, endpoint.connect_with_connector(connect));
    let channel = channel.await.map_err(|_| "no connection in time".to_owned())?;
    channel.map_err(|error| chain(&error))
}

/// Encrypted or not, a connection for HTTP/2.
trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(
    pod: String,
    address: String,
    tls: Option<TlsConnector>,
) -> Result<TokioIo<Box<dyn Stream>>, std::io::Error> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok(TokioIo::new(Box::new(tcp))) };
    let name = ServerName::try_from(pod).map_err(std::io::Error::other)?;
    let stream: Box<dyn Stream> = Box::new(tls.connect(name, tcp).await?);
    Ok(TokioIo::new(stream))
}

/// The error with what it came from: the outermost alone says "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}
