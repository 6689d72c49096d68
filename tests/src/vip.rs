//! One address for all nodes, as a Service of Kubernetes is: each new connection goes to a node
//! that is ready now, and stays there.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{self, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    time,
};

use crate::Node;

/// A probe that takes longer means that the node is not ready.
const PROBE: Duration = Duration::from_secs(1);
/// Until some node is ready.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A node behind the address: where it serves, and where it says whether it is ready.
struct Backend {
    address: String,
    http: String,
}

struct Backends {
    all: Vec<Backend>,
    turn: AtomicUsize,
}

pub struct Vip {
    addresses: Vec<SocketAddr>,
    /// Ends every connection when it goes.
    _runtime: Runtime,
}

impl Vip {
    /// Listens on `count` addresses of loopback: a client that keeps one connection to each
    /// address has that many.
    pub fn new<'a>(nodes: impl IntoIterator<Item = &'a Node>, count: u8) -> Self {
        let backend = |node: &Node| Backend { address: node.address(), http: node.http_address() };
        let backends =
            Backends { all: nodes.into_iter().map(backend).collect(), turn: AtomicUsize::new(0) };
        let backends = Arc::new(backends);
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime can be made");
        let listen = |at| TcpListener::bind((Ipv4Addr::new(127, 0, 1, at), 0));
        let addresses = (1..=count).map(|at| {
            let listener = runtime.block_on(listen(at)).expect("loopback has many addresses");
            let address = listener.local_addr().expect("a bound address");
            runtime.spawn(accept(listener, backends.clone()));
            address
        });
        Self { addresses: addresses.collect(), _runtime: runtime }
    }

    /// All its addresses, comma-separated.
    pub fn addresses(&self) -> String {
        let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        addresses.join(",")
    }
}

async fn accept(listener: TcpListener, backends: Arc<Backends>) {
    while let Ok((mut client, _)) = listener.accept().await {
        let backends = backends.clone();
        tokio::spawn(async move {
            let mut node = backends.connect().await;
            let nodelay = client.set_nodelay(true).and_then(|()| node.set_nodelay(true));
            if nodelay.is_ok() {
                // How a connection ends is between the client and the node.
                let _ = io::copy_bidirectional(&mut client, &mut node).await;
            }
        });
    }
}

impl Backends {
    async fn connect(&self) -> TcpStream {
        loop {
            for _ in 0..self.all.len() {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                let backend = &self.all[turn % self.all.len()];
                let ready = time::timeout(PROBE, ready(&backend.http)).await;
                if matches!(ready, Ok(Ok(true)))
                    && let Ok(node) = TcpStream::connect(&backend.address).await
                {
                    return node;
                }
            }
            time::sleep(LOOK_AGAIN).await;
        }
    }
}

async fn ready(http: &str) -> io::Result<bool> {
    let mut socket = TcpStream::connect(http).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {http}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    Ok(answer.starts_with("HTTP/1.1 200 "))
}
