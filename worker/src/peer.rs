//! Connections to peers, by node id.
//!
//! The address book follows a node to wherever it is heard of; a channel is one HTTP/2
//! connection for one purpose, so that a snapshot never delays a heartbeat. Nothing here
//! knows what is said on a connection.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, RwLock};
use shoal_core::id::NodeId;
use tonic::transport::{Channel, Endpoint, Server, Uri};

use crate::env;

/// Largest message of a peer that is read: four full batches of the log, never a whole snapshot.
pub const MAX_MESSAGE: usize = 16 << 20;
/// Addresses remembered for one node: where it is, where it was, where others say it is.
const ADDRESSES: usize = 4;
/// A peer in the same cluster answers a SYN well within it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Silence after which a connection is probed, and how long the probe may take: together less
/// than a lease, so that a half-open connection costs nobody its session.
const PROBE_AFTER: Duration = Duration::from_secs(1);
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after a failed accept: descriptors come back as calls end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Flow control: one batch of the log in flight on a stream, several on a connection.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Calls and streams of one connection; a peer needs a handful.
const STREAMS: u32 = 1_024;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("no address of node {0} is known yet")]
    Unknown(NodeId),
    #[error("{address:?} is not an address: expected host:port")]
    Address { address: String },
}

/// What a connection is for; each has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Entries of the log.
    Raft,
    /// Heartbeats, votes, transfers of leadership.
    Heartbeat,
    Snapshot,
    Session,
    Handover,
    Map,
}

/// Where each node was last heard of. Cheap to clone, shared by all.
///
/// Several addresses are kept in turn: one that fails goes to the back, so that a stale
/// answer can never lock a node out.
#[derive(Clone, Debug, Default)]
pub struct AddressBook(Arc<RwLock<BTreeMap<NodeId, VecDeque<String>>>>);

impl AddressBook {
    /// The node says so itself, or discovery or its registration does: dialled first.
    pub fn learn(&self, node: NodeId, address: &str) {
        self.remember(node, address, VecDeque::push_front);
    }

    /// Hearsay, as from a membership entry: dialled last.
    pub fn guess(&self, node: NodeId, address: &str) {
        if !self.0.read().get(&node).is_some_and(|known| known.iter().any(|a| a == address)) {
            self.remember(node, address, VecDeque::push_back);
        }
    }

    fn remember(&self, node: NodeId, address: &str, put: fn(&mut VecDeque<String>, String)) {
        // Every call of a peer says its address: mostly the one that is known.
        let is_first = |known: &VecDeque<String>| known.front().is_some_and(|a| a == address);
        if address.is_empty() || self.0.read().get(&node).is_some_and(is_first) {
            return;
        }
        let mut book = self.0.write();
        let known = book.entry(node).or_default();
        known.retain(|other| other != address);
        known.truncate(ADDRESSES - 1);
        put(known, address.to_owned());
    }

    /// Nobody answered there, or somebody else did: the next address gets its turn.
    pub fn failed(&self, node: NodeId, address: &str) {
        if let Some(known) = self.0.write().get_mut(&node)
            && known.front().is_some_and(|first| first == address)
        {
            known.rotate_left(1);
        }
    }

    pub fn forget(&self, node: NodeId) {
        self.0.write().remove(&node);
    }

    /// The address to dial now.
    pub fn address(&self, node: NodeId) -> Option<String> {
        self.0.read().get(&node).and_then(|known| known.front().cloned())
    }
}

/// One connection for each node and purpose, dialled when first used and for ever again.
#[derive(Clone)]
pub struct Channels {
    book: AddressBook,
    open: Arc<Mutex<BTreeMap<(NodeId, Purpose), Open>>>,
}

struct Open {
    address: String,
    channel: Channel,
}

impl Channels {
    pub fn new(book: AddressBook) -> Self {
        Self { book, open: Arc::default() }
    }

    pub fn book(&self) -> &AddressBook {
        &self.book
    }

    /// The connection to `node` for `purpose`; a new one once its address changed.
    pub fn channel(&self, node: NodeId, purpose: Purpose) -> Result<Channel, Error> {
        let address = self.book.address(node).ok_or(Error::Unknown(node))?;
        let mut open = self.open.lock();
        if let Some(known) = open.get(&(node, purpose))
            && known.address == address
        {
            return Ok(known.channel.clone());
        }
        let channel = self.connect(&address, Some(node))?;
        open.insert((node, purpose), Open { address, channel: channel.clone() });
        Ok(channel)
    }

    /// A connection of its own to an address whose node is not known yet.
    pub fn dial(&self, address: &str) -> Result<Channel, Error> {
        self.connect(address, None)
    }

    /// Somebody else answered in `node`'s place: try another address next time.
    pub fn wrong_node(&self, node: NodeId, purpose: Purpose) {
        if let Some(open) = self.open.lock().remove(&(node, purpose)) {
            self.book.failed(node, &open.address);
        }
    }

    fn connect(&self, address: &str, node: Option<NodeId>) -> Result<Channel, Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| Error::Address { address: address.to_owned() })?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(PROBE_AFTER)
            .keep_alive_timeout(PROBE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        let dialer = Dialer { address: address.to_owned(), node, book: self.book.clone() };
        Ok(endpoint.connect_with_connector_lazy(dialer))
    }
}

impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channels").field("book", &self.book).finish_non_exhaustive()
    }
}

/// A server for peers with the same limits and probes as the channels that dial it.
pub fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(PROBE_AFTER))
        .http2_keepalive_timeout(Some(PROBE_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
}

/// Connections of a listener as a tonic server takes them. Ends only with the server: a
/// shortage of descriptors is waited out.
pub fn incoming(
    listener: env::net::TcpListener,
) -> impl Stream<Item = io::Result<env::net::TcpStream>> {
    futures::stream::unfold(listener, async |listener| {
        loop {
            match env::net::accept(&listener).await {
                Ok((stream, _)) => return Some((Ok(stream), listener)),
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

/// Connects through `env::net`, which sets the socket's options and can be simulated.
#[derive(Clone)]
struct Dialer {
    address: String,
    node: Option<NodeId>,
    book: AddressBook,
}

impl tower_service::Service<Uri> for Dialer {
    type Response = TokioIo<env::net::TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move {
            let connecting = env::net::connect(&dialer.address);
            let connected = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(connected) => connected,
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
            };
            if let (Err(_), Some(node)) = (&connected, dialer.node) {
                dialer.book.failed(node, &dialer.address);
            }
            connected.map(TokioIo::new)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: NodeId = NodeId(3);

    #[test]
    fn the_latest_word_is_dialled_first_and_a_guess_last() {
        let book = AddressBook::default();
        assert_eq!(book.address(N), None);
        book.guess(N, "a:1");
        assert_eq!(book.address(N).as_deref(), Some("a:1"));
        book.learn(N, "b:1");
        book.guess(N, "c:1");
        assert_eq!(book.address(N).as_deref(), Some("b:1"));
        book.learn(N, "a:1");
        assert_eq!(book.address(N).as_deref(), Some("a:1"));
    }

    #[test]
    fn a_failed_address_waits_for_its_next_turn() {
        let book = AddressBook::default();
        for address in ["c:1", "b:1", "a:1"] {
            book.learn(N, address);
        }
        let mut dialled = Vec::new();
        for _ in 0..4 {
            let address = book.address(N).unwrap();
            book.failed(N, &address);
            // A late report about an address that already had its turn changes nothing.
            book.failed(N, &address);
            dialled.push(address);
        }
        assert_eq!(dialled, ["a:1", "b:1", "c:1", "a:1"]);
    }

    #[test]
    fn the_book_stays_small() {
        let book = AddressBook::default();
        for port in 0..100 {
            book.learn(N, &format!("a:{port}"));
        }
        assert_eq!(book.0.read()[&N].len(), ADDRESSES);
        assert_eq!(book.address(N).as_deref(), Some("a:99"));
    }

    #[tokio::test]
    async fn a_channel_follows_the_address() {
        let book = AddressBook::default();
        let channels = Channels::new(book.clone());
        assert_eq!(channels.channel(N, Purpose::Raft).unwrap_err(), Error::Unknown(N));
        book.learn(N, "127.0.0.1:1");
        channels.channel(N, Purpose::Raft).unwrap();
        assert_eq!(channels.open.lock()[&(N, Purpose::Raft)].address, "127.0.0.1:1");
        book.learn(N, "127.0.0.1:2");
        channels.channel(N, Purpose::Raft).unwrap();
        assert_eq!(channels.open.lock()[&(N, Purpose::Raft)].address, "127.0.0.1:2");
        channels.wrong_node(N, Purpose::Raft);
        assert_eq!(book.address(N).as_deref(), Some("127.0.0.1:1"));
    }
}
