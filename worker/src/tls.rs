//! TLS of every port and connection of this process, or its absence.
//!
//! A handle is disabled, or it holds certificate, key and authorities as they were last read;
//! [`Tls::follow`] reads them again when their files change. It says who is at the other end
//! ([`Caller`]), and does not know what is said.

pub(crate) mod material;
mod names;
mod settings;
mod stream;
#[cfg(test)]
mod tests;

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tracing::{info, warn};

use self::material::{Bytes, Material};
pub use self::{
    names::{Caller, Error, Names},
    settings::{Args, Clients, FileArgs, Files, Settings, settings},
    stream::Stream,
};
use crate::{
    config::{self, HostPort},
    env::net::TcpStream,
};

/// First byte of a handshake, which no HTTP/2 preface begins with.
pub const FIRST_BYTE: u8 = 0x16;
/// What every HTTP/2 client sends first.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Between two looks at the files: a new certificate is in use long before the old one ends.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// For an HTTP/2 client without TLS to send its request, whose answer the refusal becomes: a
/// connection that ends before one was sent tells many clients only that it was closed.
const ASKS_WITHIN: Duration = Duration::from_secs(1);
/// What an HTTP/2 client without TLS is told: no settings, then GOAWAY of the last stream 0
/// with INADEQUATE_SECURITY and a reason for its log.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const GOAWAY: [u8; 14] = [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xc];
/// The type of a frame that begins a request.
const HEADERS: u8 = 1;
const REASON: &str = "this port takes TLS only, with a certificate of its authority";

/// Cheap to clone. The default is disabled.
#[derive(Clone, Default)]
pub struct Tls(Option<Arc<Enabled>>);

struct Enabled {
    files: Files,
    /// The name that the certificate must hold.
    node: Option<String>,
    clients: Clients,
    material: ArcSwap<Material>,
}

impl Tls {
    /// Of a node: its certificate must hold the node's name. None: disabled.
    pub fn of_node(settings: Option<&Settings>, node: &str) -> Result<Self, config::Error> {
        let Some(Settings { files, clients }) = settings else { return Ok(Self(None)) };
        Self::open(files, Some(node), *clients)
    }

    /// Of a command, which only connects. None: disabled.
    pub fn of_client(files: Option<&Files>) -> Result<Self, config::Error> {
        files.map_or(Ok(Self(None)), |files| Self::open(files, None, Clients::Optional))
    }

    fn open(files: &Files, node: Option<&str>, clients: Clients) -> Result<Self, config::Error> {
        let material = Material::of(Bytes::read(files)?, files, node)?;
        Ok(Self(Some(Arc::new(Enabled {
            files: files.clone(),
            node: node.map(ToOwned::to_owned),
            clients,
            material: ArcSwap::from_pointee(material),
        }))))
    }

    pub fn is_enabled(&self) -> bool {
        self.0.is_some()
    }

    /// When the certificate in use ends, in unix seconds.
    pub fn not_after(&self) -> Option<i64> {
        self.0.as_ref().map(|tls| tls.material.load().names.not_after)
    }

    /// Reads the files again whenever they change, for ever. New handshakes use what is new;
    /// what cannot be used is told once, and the old goes on.
    pub async fn follow(&self) -> Infallible {
        self.look_every(LOOK_EVERY).await
    }

    async fn look_every(&self, pause: Duration) -> Infallible {
        let Some(tls) = &self.0 else { return std::future::pending().await };
        let mut refused = None;
        loop {
            tokio::time::sleep(pause).await;
            let enabled = tls.clone();
            // A file system may hang. Cancelled only with the runtime.
            let reading = crate::env::thread::blocking(move || Bytes::read(&enabled.files));
            let Ok(found) = reading.await else { continue };
            if found.as_ref().is_ok_and(|found| *found == tls.material.load().bytes) {
                refused = None;
            } else if refused.as_ref() != Some(&found) {
                refused = tls.take(found.clone()).err().map(|error| {
                    warn!(%error, "replaced certificates cannot be used, the old go on");
                    found
                });
            }
        }
    }

    /// To a node: `name` is the one its certificate must hold. Whoever serves there must speak
    /// first, as servers of HTTP/2 do.
    pub async fn connect(&self, socket: TcpStream, name: &str) -> io::Result<Stream> {
        let Some(tls) = &self.0 else { return Ok(Stream::plain(socket, Caller::Trusted)) };
        let name = ServerName::try_from(name.to_owned()).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name of a server"))
        })?;
        let connector = TlsConnector::from(tls.material.load().client.clone());
        shake(&connector, name, socket).await.map_err(|error| io::Error::other(Failed(error)))
    }

    /// On a port of nodes and administrators: TLS with a certificate, or nothing.
    pub async fn accept_peer(&self, mut socket: TcpStream) -> io::Result<Stream> {
        let Some(tls) = &self.0 else { return Ok(Stream::plain(socket, Caller::Trusted)) };
        let mut first = [0];
        if socket.peek(&mut first).await? == 1 && first[0] != FIRST_BYTE {
            return Err(refuse_plain(&mut socket).await);
        }
        let acceptor = TlsAcceptor::from(tls.material.load().peers.clone());
        let stream = acceptor.accept(socket).await?;
        let caller = caller(stream.get_ref().1.peer_certificates());
        Ok(Stream::secure(stream, caller?))
    }

    /// On the data port, once the client has begun a handshake.
    pub async fn accept_client(&self, socket: TcpStream) -> io::Result<Stream> {
        let Some(tls) = &self.0 else { return Err(io::Error::other("TLS is disabled here")) };
        let acceptor = TlsAcceptor::from(tls.material.load().data.clone());
        let stream = acceptor.accept(socket).await?;
        let caller = caller(stream.get_ref().1.peer_certificates());
        Ok(Stream::secure(stream, caller?))
    }

    /// On the data port, where the client speaks HTTP/2 at once.
    pub fn plain(&self, socket: TcpStream) -> Stream {
        Stream::plain(socket, if self.is_enabled() { Caller::Plain } else { Caller::Trusted })
    }

    /// Why a client may not call as it came; none if it may.
    pub fn demands(&self, caller: &Caller) -> Option<&'static str> {
        let clients = self.0.as_ref().map_or(Clients::Optional, |tls| tls.clients);
        match (clients, caller) {
            (Clients::Required | Clients::Mutual, Caller::Plain) => {
                Some("this port takes TLS only: connect with TLS")
            }
            (Clients::Mutual, Caller::Nameless) => {
                Some("this port takes clients with a certificate of its TLS_CA only: present one")
            }
            (Clients::Optional | Clients::Required | Clients::Mutual, _) => None,
        }
    }
}

impl Enabled {
    fn take(&self, found: Result<Bytes, config::Error>) -> Result<(), config::Error> {
        let material = Material::of(found?, &self.files, self.node.as_deref())?;
        let names = &material.names;
        info!(
            serial = names.serial, not_after = names.not_after, %names,
            "new connections use the certificates that were replaced"
        );
        self.material.store(Arc::new(material));
        Ok(())
    }
}

fn caller(certificates: Option<&[CertificateDer<'_>]>) -> io::Result<Caller> {
    let Some(leaf) = certificates.and_then(|chain| chain.first()) else {
        return Ok(Caller::Nameless);
    };
    let names = Names::of(leaf).map_err(io::Error::other)?;
    Ok(Caller::Certified(Arc::new(names)))
}

async fn refuse_plain(socket: &mut TcpStream) -> io::Error {
    let length = (8 + REASON.len()) as u8;
    let said = [&[0, 0, length][..], &GOAWAY, REASON.as_bytes()].concat();
    // Whoever is there learns it, or does not.
    let _ = socket.write_all(&SETTINGS).await;
    let _ = tokio::time::timeout(ASKS_WITHIN, request(socket)).await;
    let _ = socket.write_all(&said).await;
    let _ = socket.shutdown().await;
    // What it sends is read, or the kernel would take back what it was told.
    let mut rest = [0; 1_024];
    while socket.read(&mut rest).await.is_ok_and(|length| length > 0) {}
    io::Error::new(io::ErrorKind::InvalidData, "it does not speak TLS")
}

/// Returns once the client has sent a request, or what is no HTTP/2.
async fn request(socket: &mut TcpStream) -> io::Result<()> {
    let mut preface = [0; PREFACE.len()];
    for at in 0..preface.len() {
        preface[at] = socket.read_u8().await?;
        if preface[at] != PREFACE[at] {
            return Ok(());
        }
    }
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await?;
        if head[3] == HEADERS {
            return Ok(());
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        tokio::io::copy(&mut socket.take(length.into()), &mut tokio::io::sink()).await?;
    }
}

async fn shake(
    connector: &TlsConnector,
    name: ServerName<'static>,
    socket: TcpStream,
) -> io::Result<Stream> {
    let mut stream = connector.connect(name, socket).await?;
    // In TLS 1.3 a certificate is refused after the handshake. A server of HTTP/2 speaks first:
    // once it does, it has taken this one.
    if stream.fill_buf().await?.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let caller = caller(stream.get_ref().1.peer_certificates())?;
    Ok(Stream::secure(stream, caller))
}

/// The other end hung up in the handshake, or the two do not trust each other.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(io::Error);

/// Where TLS is why something failed: what it said.
pub fn failure(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut inner = causes.filter_map(|error| error.downcast_ref::<io::Error>()?.get_ref());
    inner.find_map(|inner| inner.is::<Failed>().then(|| inner.to_string()))
}

/// The name that a server at this address must hold where its own is not known.
pub fn host(address: &str) -> String {
    address.parse().map_or_else(|_| address.to_owned(), |address: HostPort| address.host)
}
