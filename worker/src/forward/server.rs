//! The data port: accepts connections, hands each request to the part that answers it.
//!
//! hyper's HTTP/2 server with an accept loop of its own, for the limits and the graceful
//! leave that a ready-made one does not offer. [`super::drain`] says when it may end.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use shoal_proto::shoal::v1::{WhereIsPeerRequest, WhereIsPeerResponse};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep, timeout},
};
use tonic::Status;
use tracing::{debug, warn};

use super::{
    Node,
    drain::{HANDSHAKES as TCP_HANDSHAKES, Leave},
    grpc::{self, Body},
    ingress::Ingress,
    owing::Owing,
    pipe::{PATH as PIPE, Receiver},
    watch::Watch,
};
use crate::{
    env::net::{self, TcpListener, TcpStream},
    tls::{self, Caller, PREFACE},
};

/// Flow-control windows: one largest payload per stream, four per connection. Fixed, since
/// an adaptive window starts at 64 KiB.
pub(super) const STREAM_WINDOW: u32 = 4 << 20;
pub(super) const CONNECTION_WINDOW: u32 = 16 << 20;
/// Longest HTTP/2 frame taken: a whole batch of a pipe in one write.
pub(super) const MAX_FRAME: u32 = 256 << 10;
/// Calls of one connection at once; clients queue beyond it.
const MAX_STREAMS: u32 = 2_048;
/// Connections at once; others wait in the backlog of the kernel.
const MAX_CONNECTIONS: usize = 4_096;
/// A connection says that it speaks HTTP/2 within this, or is closed.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A silent client is asked after this, and given up after as much again.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Pause after a failed accept: the process is out of descriptors, not of clients.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Answered to anyone: who asks may not know yet what is demanded here.
const WHERE: &str = "/shoal.v1.Shoal/WhereIsPeer";
/// The request of WhereIsPeer holds nothing.
const MAX_QUESTION: usize = 1_024;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
}

pub struct Config {
    /// What BIND_ADDRESS resolved to.
    pub listen: Vec<SocketAddr>,
    /// Told to whoever asks where this node's peers reach it.
    pub raft_address: String,
    /// A leaver in a pod keeps listening: the Service sends clients for some time more.
    pub in_pod: bool,
}

struct Shared {
    node: Arc<Node>,
    ingress: Arc<Ingress>,
    receiver: Arc<Receiver>,
    raft_address: String,
    in_pod: bool,
    leave: Leave,
    room: Arc<Semaphore>,
}

/// The listening side; `Handle` ends it.
pub struct DataPort {
    shared: Arc<Shared>,
    listeners: Vec<TcpListener>,
}

impl DataPort {
    pub fn bind(config: Config, node: Arc<Node>, ingress: Arc<Ingress>) -> Result<Self, Error> {
        let listen = |address: &SocketAddr| {
            net::listen(*address).map_err(|source| Error::Listen { address: *address, source })
        };
        let listeners = config.listen.iter().map(listen).collect::<Result<_, _>>()?;
        let shared = Shared {
            receiver: Arc::new(Receiver::new(node.clone())),
            node,
            ingress,
            raft_address: config.raft_address,
            in_pod: config.in_pod,
            leave: Leave::new(),
            room: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        };
        Ok(Self { shared: Arc::new(shared), listeners })
    }

    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(TcpListener::local_addr).collect()
    }

    /// Ends the port gracefully.
    pub fn leave(&self) -> Leave {
        self.shared.leave.clone()
    }

    /// Serves until it has left; dropped, it cuts every connection.
    pub async fn run(self) {
        let Self { shared, listeners } = self;
        let mut accepting = tokio::task::JoinSet::new();
        for listener in listeners {
            accepting.spawn(accept(shared.clone(), listener));
        }
        tokio::select! {
            () = shared.ingress.run() => {}
            () = shared.leave.left() => {}
        }
        accepting.shutdown().await;
    }
}

/// Accepts until the leave is over, or begins where nobody must be kept waiting.
async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let mut connections = tokio::task::JoinSet::new();
    let closing = async {
        if shared.in_pod { std::future::pending().await } else { shared.leave.closing().await }
    };
    let mut closing = std::pin::pin!(closing);
    loop {
        let accepted = async {
            let room = shared.room.clone().acquire_owned().await;
            (room, net::accept(&listener).await)
        };
        tokio::select! {
            biased;
            () = &mut closing => break,
            (room, accepted) = accepted => match (room, accepted) {
                (Ok(room), Ok((socket, from))) => {
                    connections.spawn(connection(shared.clone(), socket, from, room));
                }
                (_, Err(error)) => {
                    warn!(%error, "accepting a connection failed");
                    sleep(ACCEPT_PAUSE).await;
                }
                (Err(_), _) => break,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    net::close(listener, TCP_HANDSHAKES, |socket, from| {
        if let Ok(room) = shared.room.clone().try_acquire_owned() {
            connections.spawn(connection(shared.clone(), socket, from, room));
        }
    })
    .await;
    while connections.join_next().await.is_some() {}
}

async fn connection(
    shared: Arc<Shared>,
    socket: TcpStream,
    from: SocketAddr,
    _room: OwnedSemaphorePermit,
) {
    let activity = shared.leave.activity();
    let _open = activity.connection(&shared.node.metrics.connections);
    let stream = match timeout(HANDSHAKE, open(&shared, socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%from, %error, "closing a connection"),
        Err(_) => return debug!(%from, "closing a connection that says nothing"),
    };
    let owing = Arc::new(Owing::default());
    tokio::select! {
        ended = serve(&shared, stream, owing.clone()) => if let Err(error) = ended {
            debug!(%from, %error, "connection ended");
        },
        () = owing.overdue(shared.node.taken_within) => {
            warn!(%from, "closing the connection of a client that does not take its answers");
        }
    }
}

async fn serve(shared: &Arc<Shared>, stream: tls::Stream, owing: Arc<Owing>) -> hyper::Result<()> {
    let from = Origin { caller: stream.caller().clone(), owing };
    let (drain, draining) = watch::channel(false);
    let service = service_fn(|request| {
        let (shared, from, draining) = (shared.clone(), from.clone(), draining.clone());
        async move {
            Ok::<_, std::convert::Infallible>(dispatch(&shared, request, from, draining).await)
        }
    });
    let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    server
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .auto_date_header(false);
    let mut served = std::pin::pin!(server.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = served.as_mut() => return ended,
        () = shared.leave.end_of_connection(Instant::now()) => {}
    }
    drain.send_replace(true);
    served.as_mut().graceful_shutdown();
    served.await
}

/// HTTP/2 at once, or over TLS: the first bytes tell.
async fn open(shared: &Shared, socket: TcpStream) -> io::Result<tls::Stream> {
    match begins(&socket).await {
        Some(Begins::Http2) => Ok(shared.node.tls.plain(socket)),
        Some(Begins::Tls) => shared.node.tls.accept_client(socket).await,
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "it does not speak HTTP/2")),
    }
}

enum Begins {
    Http2,
    Tls,
}

/// Looks at the first bytes without taking them. None: something else, or the end.
async fn begins(socket: &TcpStream) -> Option<Begins> {
    /// Between two looks at a client that sends its first bytes one by one.
    const LOOK_AGAIN: Duration = Duration::from_millis(10);
    let mut seen = [0; PREFACE.len()];
    loop {
        match socket.peek(&mut seen).await {
            Ok(length) if length > 0 && seen[0] == tls::FIRST_BYTE => return Some(Begins::Tls),
            Ok(length) if length == PREFACE.len() => {
                return (seen == *PREFACE).then_some(Begins::Http2);
            }
            Ok(length) if length > 0 && seen[..length] == PREFACE[..length] => {
                sleep(LOOK_AGAIN).await;
            }
            Ok(_) | Err(_) => return None,
        }
    }
}

/// The connection that a request came on.
#[derive(Clone)]
struct Origin {
    caller: Caller,
    owing: Arc<Owing>,
}

async fn dispatch(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    from: Origin,
    draining: watch::Receiver<bool>,
) -> Response<Body> {
    let path = request.uri().path();
    if let Some(demand) = shared.node.tls.demands(&from.caller).filter(|_| path != WHERE) {
        return Status::unauthenticated(demand).into_http();
    }
    match path {
        "/shoal.v1.Shoal/Call" => {
            let _call = shared.leave.activity().call();
            let (parts, body) = request.into_parts();
            shared.ingress.serve(&parts.headers, body, &from.owing).await
        }
        PIPE => shared.receiver.open(request, from.caller, draining),
        "/shoal.v1.Shoal/WatchRoutes" => {
            grpc::respond(Body::Watch(Box::new(Watch::new(shared.node.clone(), draining))))
        }
        WHERE => where_is_peer(shared, request.into_body()).await,
        path => Status::unimplemented(format!("no method {path} on this port")).into_http(),
    }
}

async fn where_is_peer(shared: &Shared, mut body: Incoming) -> Response<Body> {
    let question = grpc::read::<WhereIsPeerRequest>(&mut body, MAX_QUESTION, |_| Ok(()));
    if let Err(status) = question.await {
        return status.into_http();
    }
    let cluster = *shared.node.table.routes().cluster();
    let answer = WhereIsPeerResponse {
        raft_address: shared.raft_address.clone(),
        cluster_id: match cluster.id {
            none if none == Default::default() => String::new(),
            id => id.to_string(),
        },
        formed: cluster.formed.is_some(),
    };
    grpc::respond(Body::Message(grpc::encode(&answer)))
}
