//! One address for all nodes, as a ClusterIP Service is: each new connection goes to one of
//! the nodes that run, by bytes. Knows nothing of what they carry.

use std::{net::SocketAddr, sync::Arc};

use shoal_worker::cli::bench::Entries;
use shoal_worker::env::random;
use tokio::{
    io,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Several such addresses: clients share one connection per address.
pub struct Vip {
    pub addresses: Vec<SocketAddr>,
    _listening: JoinSet<()>,
}

impl Vip {
    pub async fn of(entries: &Entries, count: usize) -> anyhow::Result<Self> {
        let (mut addresses, mut listening) = (Vec::new(), JoinSet::new());
        for _ in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            addresses.push(listener.local_addr()?);
            listening.spawn(listen(listener, entries.clone()));
        }
        Ok(Self { addresses, _listening: listening })
    }
}

async fn listen(listener: TcpListener, entries: Entries) {
    // Aborted with the listener, so that nothing outlives the figure.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(carry(client, entries.clone()));
        while connections.try_join_next().is_some() {}
    }
}

/// To the first node that accepts, from any one on; none: the client sees its end.
async fn carry(mut client: TcpStream, entries: Entries) {
    let nodes = Arc::new(entries.read().clone());
    let first = (random::fraction() * nodes.len() as f64) as usize;
    for turn in 0..nodes.len() {
        let Ok(mut node) = TcpStream::connect(&nodes[(first + turn) % nodes.len()]).await else {
            continue;
        };
        if client.set_nodelay(true).is_ok() && node.set_nodelay(true).is_ok() {
            // Either side may end a connection at any time.
            let _ = io::copy_bidirectional(&mut client, &mut node).await;
        }
        return;
    }
}
