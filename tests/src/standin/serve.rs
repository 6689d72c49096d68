//! The admin port of one pod: plain, or with the certificates of the cluster's Secret.

use std::{net::SocketAddr, sync::Arc};

use futures::{StreamExt as _, stream::BoxStream};
use k8s_openapi::api::core::v1::Secret;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use shoal_proto::shoal::admin::v1::admin_server::AdminServer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Server as Transport, server::Connected};

use super::admin::Server;

/// What the pods of an encrypted cluster mount: good for the pod of this name.
pub(super) fn acceptor(secret: &Secret, pod: &str) -> anyhow::Result<TlsAcceptor> {
    let data = secret.data.clone().unwrap_or_default();
    let part = |name: String| data.get(&name).map(|bytes| bytes.0.clone()).unwrap_or_default();
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&part("ca.crt".to_owned())) {
        roots.add(certificate?)?;
    }
    let chain = CertificateDer::pem_slice_iter(&part(format!("{pod}.crt")))
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&part(format!("{pod}.key")))?;
    let provider = Arc::new(ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves at this address until it is aborted.
pub(super) async fn serve(
    address: SocketAddr,
    server: Server,
    tls: Option<TlsAcceptor>,
) -> anyhow::Result<JoinHandle<()>> {
    let listener = TcpListenerStream::new(TcpListener::bind(address).await?);
    let router = Transport::builder().add_service(AdminServer::new(server));
    let incoming = connections(listener, tls);
    Ok(tokio::spawn(async move {
        // It ends with its pod.
        let _ = router.serve_with_incoming(incoming).await;
    }))
}

fn connections(
    listener: TcpListenerStream,
    tls: Option<TlsAcceptor>,
) -> BoxStream<'static, std::io::Result<Connection>> {
    let accepted = listener.filter_map(move |stream| {
        let tls = tls.clone();
        async move {
            let stream = stream.ok()?;
            let stream: Box<dyn Stream> = match tls {
                None => Box::new(stream),
                // Whoever has no certificate is not heard.
                Some(tls) => Box::new(tls.accept(stream).await.ok()?),
            };
            Some(Ok(Connection(stream)))
        }
    });
    accepted.boxed()
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl Stream for TcpStream {}
impl Stream for TlsStream<TcpStream> {}

struct Connection(Box<dyn Stream>);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

mod io {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::Connection;

    impl AsyncRead for Connection {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            Pin::new(&mut self.0).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Connection {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &[u8],
        ) -> Poll<std::io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(context, buffer)
        }

        fn poll_flush(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<std::io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<std::io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }
    }
}
