//! Connections to peers, by node id.
//!
//! The address book follows a node to wherever it is heard of; a channel is one HTTP/2
//! connection for one purpose, so that a snapshot never delays a heartbeat. With TLS who
//! answers must hold the name of the node that is meant, or else the host of the address.
//! Nothing here knows what is said on a connection.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, io,
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, RwLock};
use shoal_core::{
    id::{NodeId, Timestamp},
    registry::Life,
};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint, Server, Uri};

use crate::{
    env::{self, clock},
    table::Table,
    tls::{self, Tls},
};

/// Largest message of a peer that is read: four full batches of the log, never a whole snapshot.
pub const MAX_MESSAGE: usize = 16 << 20;
/// Addresses remembered for one node: where it is, where it was, where others say it is.
const ADDRESSES: usize = 4;
/// A peer in the same cluster answers a SYN well within it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A machine that refuses is there: its process is expected back for so long, before a node is looked
/// for where it was earlier. Nobody may answer there at all, which costs a second each time.
const EXPECTED_BACK: Duration = Duration::from_secs(2);
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
/// A TLS handshake is two round trips and some milliseconds of two processors that may be busy.
const SHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// Handshakes of one port at once: whoever stalls in one must not keep others out.
const SHAKES: usize = 1_024;
/// Names that discovery tells for addresses: two of each node of the largest cluster.
const NAMES: usize = 2_048;

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
pub struct AddressBook(Arc<Book>);

#[derive(Debug, Default)]
struct Book {
    addresses: RwLock<BTreeMap<NodeId, Known>>,
    /// Told when another address is to be dialled first.
    learned: watch::Sender<()>,
    names: RwLock<BTreeMap<String, String>>,
}

#[derive(Debug, Default)]
struct Known {
    /// The one to dial now first.
    addresses: VecDeque<String>,
    /// Since when that one refuses.
    refuses: Option<Timestamp>,
}

impl Known {
    fn is_first(&self, address: &str) -> bool {
        self.addresses.front().is_some_and(|first| first == address)
    }

    fn turn(&mut self) {
        self.addresses.rotate_left(1);
        self.refuses = None;
    }
}

impl AddressBook {
    /// The node says so itself, or discovery or its registration does: dialled first.
    pub fn learn(&self, node: NodeId, address: &str) {
        self.remember(node, address, VecDeque::push_front);
    }

    /// Hearsay, as from a membership entry: dialled last.
    pub fn guess(&self, node: NodeId, address: &str) {
        if !self
            .0
            .addresses
            .read()
            .get(&node)
            .is_some_and(|known| known.addresses.iter().any(|a| a == address))
        {
            self.remember(node, address, VecDeque::push_back);
        }
    }

    fn remember(&self, node: NodeId, address: &str, put: fn(&mut VecDeque<String>, String)) {
        // Every call of a peer says its address: mostly the one that is known.
        if address.is_empty() || self.knows(node, |known| known.is_first(address)) {
            return;
        }
        let mut book = self.0.addresses.write();
        let known = book.entry(node).or_default();
        known.addresses.retain(|other| other != address);
        known.addresses.truncate(ADDRESSES - 1);
        put(&mut known.addresses, address.to_owned());
        if known.is_first(address) {
            known.refuses = None;
            drop(book);
            self.0.learned.send_replace(());
        }
    }

    /// Until the node is to be dialled at another address first.
    async fn moved(&self, node: NodeId, address: &str) {
        let mut learned = self.0.learned.subscribe();
        // Its sender is in the book and cannot end before this does.
        let _ = learned.wait_for(|()| !self.knows(node, |known| known.is_first(address))).await;
    }

    fn knows(&self, node: NodeId, judge: impl FnOnce(&Known) -> bool) -> bool {
        self.0.addresses.read().get(&node).is_some_and(judge)
    }

    /// Nobody answered there, or somebody else did: the next address gets its turn.
    pub fn failed(&self, node: NodeId, address: &str) {
        if let Some(known) = self.0.addresses.write().get_mut(&node)
            && known.is_first(address)
        {
            known.turn();
        }
    }

    /// A machine answered there, and nobody listens on it.
    pub fn refused(&self, node: NodeId, address: &str, now: Timestamp) {
        if let Some(known) = self.0.addresses.write().get_mut(&node)
            && known.is_first(address)
        {
            let since = *known.refuses.get_or_insert(now);
            if now.at_least_since(since) >= EXPECTED_BACK {
                known.turn();
            }
        }
    }

    /// Somebody listens there.
    pub fn answered(&self, node: NodeId, address: &str) {
        if self.knows(node, |known| known.refuses.is_some() && known.is_first(address))
            && let Some(known) = self.0.addresses.write().get_mut(&node)
        {
            known.refuses = None;
        }
    }

    pub fn forget(&self, node: NodeId) {
        self.0.addresses.write().remove(&node);
    }

    /// Discovery knows which node is at an address: who answers there must hold that name.
    pub fn name(&self, address: &str, name: &str) {
        let known = |names: &BTreeMap<_, String>| names.get(address).is_some_and(|n| n == name);
        if known(&self.0.names.read()) {
            return;
        }
        let mut names = self.0.names.write();
        if names.len() >= NAMES {
            // Told again by the next look of discovery.
            names.clear();
        }
        names.insert(address.to_owned(), name.to_owned());
    }

    /// The name that who answers at an address must hold, where discovery knows it.
    pub fn named(&self, address: &str) -> Option<String> {
        self.0.names.read().get(address).cloned()
    }

    /// The address to dial now.
    pub fn address(&self, node: NodeId) -> Option<String> {
        self.0.addresses.read().get(&node).and_then(|known| known.addresses.front().cloned())
    }
}

/// One connection for each node and purpose, dialled when first used and for ever again.
#[derive(Clone)]
pub struct Channels {
    book: AddressBook,
    tls: Tls,
    table: Table,
    open: Arc<Mutex<BTreeMap<(NodeId, Purpose), Open>>>,
}

struct Open {
    address: String,
    channel: Channel,
}

impl Channels {
    /// Without TLS.
    pub fn new(book: AddressBook) -> Self {
        Self { book, tls: Tls::default(), table: Table::default(), open: Arc::default() }
    }

    /// Over TLS, if it is enabled, to the nodes that `table` and discovery know by name.
    pub fn secured(self, tls: Tls, table: Table) -> Self {
        Self { tls, table, ..self }
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
        // Nodes that left are forgotten by the book alone.
        open.retain(|(other, _), _| self.book.address(*other).is_some());
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
            .connect_timeout(CONNECT_TIMEOUT + SHAKE_TIMEOUT)
            .http2_keep_alive_interval(PROBE_AFTER)
            .keep_alive_timeout(PROBE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        let dialer = Dialer { address: address.to_owned(), node, channels: self.clone() };
        let connect = move |_: Uri| {
            let dialer = dialer.clone();
            async move { dialer.connect().await.map(TokioIo::new) }
        };
        Ok(endpoint.connect_with_connector_lazy(tower::service_fn(connect)))
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

/// Connections of a listener as a tonic server takes them, each with its `tls::Caller`. Ends
/// only with the server: a shortage of descriptors is waited out.
pub fn incoming(
    listener: env::net::TcpListener,
    tls: Tls,
) -> impl Stream<Item = io::Result<tls::Stream>> {
    let accepted = futures::stream::unfold(listener, async |listener| {
        loop {
            match env::net::accept(&listener).await {
                Ok(accepted) => return Some((accepted, listener)),
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    let shaken = move |(socket, from)| {
        let tls = tls.clone();
        async move {
            match in_time(SHAKE_TIMEOUT, tls.accept_peer(socket)).await {
                Ok(stream) => Some(Ok(stream)),
                Err(error) => {
                    tracing::info!(%from, %error, "a connection is refused");
                    None
                }
            }
        }
    };
    accepted.map(shaken).buffer_unordered(SHAKES).filter_map(std::future::ready)
}

async fn in_time<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(late()))
}

/// Connects through `env::net`, which sets the socket's options and can be simulated.
#[derive(Clone)]
struct Dialer {
    address: String,
    node: Option<NodeId>,
    channels: Channels,
}

impl Dialer {
    async fn connect(&self) -> io::Result<tls::Stream> {
        let opening = async {
            let socket = in_time(CONNECT_TIMEOUT, env::net::connect(&self.address)).await?;
            in_time(SHAKE_TIMEOUT, self.channels.tls.connect(socket, &self.name())).await
        };
        let Some(node) = self.node else { return opening.await };
        let book = &self.channels.book;
        let opened = tokio::select! {
            biased;
            // Nobody may answer any more where it was: whoever waits asks again where it is.
            () = book.moved(node, &self.address) => {
                return Err(io::Error::other("the node is known to be elsewhere"));
            }
            opened = opening => opened,
        };
        match &opened {
            Ok(_) => book.answered(node, &self.address),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                book.refused(node, &self.address, clock::now());
            }
            Err(_) => book.failed(node, &self.address),
        }
        opened
    }

    /// The name that who answers must hold, as far as it is known by now.
    fn name(&self) -> String {
        let routes = self.channels.table.routes();
        let of_row = self.node.and_then(|node| routes.peer(node)).map(|peer| peer.name.clone());
        let at_address = || {
            let living = routes.peers().filter(|(_, peer)| peer.life != Life::Left);
            let here = living.filter(|(_, peer)| {
                [&peer.addresses.raft, &peer.addresses.admin, &peer.addresses.data]
                    .contains(&&self.address)
            });
            here.last().map(|(_, peer)| peer.name.clone())
        };
        of_row
            .or_else(|| self.channels.book.named(&self.address))
            .or_else(at_address)
            .unwrap_or_else(|| tls::host(&self.address))
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

    /// A process that is killed and started again refuses for a moment; where it was before its last
    /// move nobody answers.
    #[test]
    fn an_address_that_refuses_keeps_its_turn_for_a_while() {
        let at = |ms| Timestamp::default().plus(Duration::from_millis(ms));
        let book = AddressBook::default();
        book.learn(N, "old:1");
        book.learn(N, "new:1");
        book.refused(N, "new:1", at(0));
        book.refused(N, "new:1", at(1_999));
        assert_eq!(book.address(N).as_deref(), Some("new:1"));
        book.answered(N, "new:1");
        book.refused(N, "new:1", at(2_500));
        assert_eq!(book.address(N).as_deref(), Some("new:1"), "it had answered meanwhile");
        book.refused(N, "new:1", at(4_500));
        assert_eq!(book.address(N).as_deref(), Some("old:1"), "it may have been wrong");
        book.failed(N, "old:1");
        book.refused(N, "new:1", at(5_000));
        assert_eq!(book.address(N).as_deref(), Some("new:1"), "its next turn is a whole one");
        book.learn(N, "third:1");
        book.refused(N, "third:1", at(9_000));
        assert_eq!(book.address(N).as_deref(), Some("third:1"), "it is none of the others' time");
    }

    #[test]
    fn the_book_stays_small() {
        let book = AddressBook::default();
        for port in 0..100 {
            book.learn(N, &format!("a:{port}"));
        }
        assert_eq!(book.0.addresses.read()[&N].addresses.len(), ADDRESSES);
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

    /// Its pod came back under another address, and nobody answers at the old one.
    #[tokio::test]
    async fn a_dial_ends_once_the_node_is_known_elsewhere() {
        let silent = tokio::net::TcpSocket::new_v4().unwrap();
        silent.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        // Nothing accepts: what comes beyond the backlog stays without an answer.
        let silent = silent.listen(1).unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let mut waiting = Vec::new();
        let silence = Duration::from_millis(100);
        while let Ok(connected) = tokio::time::timeout(silence, env::net::connect(&address)).await {
            waiting.push(connected.unwrap());
        }
        let book = AddressBook::default();
        book.learn(N, &address);
        let dialer = Dialer { address, node: Some(N), channels: Channels::new(book.clone()) };
        let (opened, ()) = tokio::join!(dialer.connect(), async { book.learn(N, "new:1") });
        assert_eq!(opened.err().unwrap().kind(), io::ErrorKind::Other);
        assert_eq!(book.address(N).as_deref(), Some("new:1"), "it has kept its turn");
    }

    #[tokio::test]
    async fn channels_to_a_node_that_left_end_when_the_next_one_is_dialled() {
        let book = AddressBook::default();
        let channels = Channels::new(book.clone());
        book.learn(N, "127.0.0.1:1");
        book.learn(NodeId(4), "127.0.0.1:2");
        channels.channel(N, Purpose::Raft).unwrap();
        channels.channel(N, Purpose::Session).unwrap();
        channels.channel(NodeId(4), Purpose::Raft).unwrap();
        book.forget(N);
        assert_eq!(channels.channel(N, Purpose::Raft).unwrap_err(), Error::Unknown(N));
        channels.channel(NodeId(4), Purpose::Session).unwrap();
        let open: Vec<_> = channels.open.lock().keys().map(|(node, _)| *node).collect();
        assert_eq!(open, [NodeId(4), NodeId(4)]);
    }
}
