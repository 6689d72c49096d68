//! How a test reaches a port: without TLS, or over TLS of its own making, as a client that
//! shares no code with the nodes.

use std::{io, sync::Arc};

use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{net::TcpStream, runtime};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::authority::{Authority, Issued};

#[derive(Clone)]
pub struct Door {
    address: String,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Door {
    pub fn plain(address: &str) -> Self {
        Self { address: address.to_owned(), tls: None }
    }

    /// To a server that must hold `name` by `authority`, with a certificate or without.
    pub fn secure(
        address: &str,
        name: &str,
        authority: &Authority,
        certificate: Option<&Issued>,
    ) -> Self {
        let pem = authority.pem();
        let mut roots = RootCertStore::empty();
        roots.add(certificate_of(&pem)).expect("an authority");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("usual versions")
            .with_root_certificates(roots);
        let mut config = match certificate {
            None => config.with_no_client_auth(),
            Some(issued) => {
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("a key");
                config
                    .with_client_auth_cert(vec![certificate_of(&issued.certificate)], key)
                    .expect("a pair")
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        Self { address: address.to_owned(), tls: Some((Arc::new(config), name)) }
    }

    pub fn channel(&self) -> Channel {
        let endpoint =
            Endpoint::from_shared(format!("http://{}", self.address)).expect("an address");
        let door = self.clone();
        let connect = move |_: Uri| {
            let door = door.clone();
            async move { door.open().await.map(TokioIo::new) }
        };
        endpoint.connect_with_connector_lazy(tower::service_fn(connect))
    }

    pub async fn open(&self) -> io::Result<Either<TcpStream, TlsStream<TcpStream>>> {
        match self.tls.clone() {
            None => connect(&self.address).await.map(Either::Left),
            Some((config, name)) => shake(&self.address, config, name).await.map(Either::Right),
        }
    }

    /// The certificate that the server shows now, DER.
    pub fn shown(&self) -> io::Result<Vec<u8>> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (config, name) = self.tls.clone().expect("a door with TLS");
            let stream = shake(&self.address, config, name).await?;
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            Ok(shown.expect("a server shows one").to_vec())
        })
    }
}

/// As `Door::shown` tells it.
pub fn certificate_of(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

async fn connect(address: &str) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

async fn shake(
    address: &str,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> io::Result<TlsStream<TcpStream>> {
    TlsConnector::from(config).connect(name, connect(address).await?).await
}
