//! TCP as every component uses it: NODELAY on, both ways, always.
//!
//! With Nagle's algorithm a forwarded call waits 40 ms for a delayed acknowledgement.

use std::{io, net::SocketAddr, time::Duration};

use tracing::warn;

pub use tokio::net::{TcpListener, TcpStream};

/// Addresses a `host:port` stands for; `localhost` gives every loopback it resolves to.
pub async fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    let found: Vec<_> = tokio::net::lookup_host(address).await?.collect();
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(found)
}

/// Listens with SO_REUSEADDR and a deep backlog.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    /// Connections the kernel holds while the accept loop is busy.
    const BACKLOG: u32 = 1_024;
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts one connection.
pub async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, peer))
}

/// Stops listening, after `handshakes`. Connections that the kernel has completed, or is about to,
/// are handed out first: it would reset them with the socket, and a client that has sent a call by
/// then could not tell whether it ran.
pub async fn close(
    listener: TcpListener,
    handshakes: Duration,
    mut take: impl FnMut(TcpStream, SocketAddr),
) {
    if let Err(error) = begin_no_more(&listener) {
        warn!(%error, "the port ends at once: connections that begin now may break");
    }
    let ended = tokio::time::sleep(handshakes);
    let mut ended = std::pin::pin!(ended);
    loop {
        tokio::select! {
            biased;
            accepted = accept(&listener) => match accepted {
                Ok((stream, from)) => take(stream, from),
                Err(_) if ended.is_elapsed() => return,
                // One was reset meanwhile, or no descriptor is free: others may come yet.
                Err(_) => tokio::task::yield_now().await,
            },
            // Polled after the queue was found empty, into which nothing comes any more.
            () = &mut ended => return,
        }
    }
}

/// The kernel drops what would begin a connection. A client begins again after a second and is
/// refused by then; what it has begun goes on.
fn begin_no_more(listener: &TcpListener) -> io::Result<()> {
    use socket2::{SockFilter, SockRef};
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_ANY: u16 = 0x45;
    const RETURN: u16 = 0x06;
    // A filter of a TCP socket reads from the TCP header on.
    let filter = [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(JUMP_IF_ANY, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    SockRef::from(listener).attach_filter(&filter)
}

/// Connects to the first address of `host:port` that answers.
pub async fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in resolve(address).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDSHAKES: Duration = Duration::from_millis(50);
    const PORTS: usize = 100;

    #[tokio::test]
    async fn a_connection_that_nobody_has_accepted_survives_the_end_of_the_port() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut client = connect(&address).await.unwrap();
        let mut waiting = Vec::new();
        close(listener, HANDSHAKES, |stream, _| waiting.push(stream)).await;
        assert!(connect(&address).await.is_err(), "the port is closed");
        let mut served = waiting.pop().unwrap();
        served.write_all(b"served").await.unwrap();
        let mut said = [0; 6];
        client.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"served");
    }

    /// Echoes one byte on each connection.
    async fn echo(mut stream: TcpStream) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut byte = [0];
        if stream.read_exact(&mut byte).await.is_ok() {
            let _ = stream.write_all(&byte).await;
        }
    }

    /// Connects over and over until it is refused: how many connections broke instead.
    async fn hammer(address: SocketAddr) -> (u32, u32) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut served, mut broken) = (0, 0);
        while let Ok(mut stream) = TcpStream::connect(address).await {
            let mut byte = [0];
            let said = stream.write_all(b"?").await;
            if said.is_ok() && stream.read_exact(&mut byte).await.is_ok() {
                served += 1;
            } else {
                broken += 1;
            }
        }
        (served, broken)
    }

    /// One port, from its first connections to its end.
    async fn port() -> (u32, u32) {
        const CLIENTS: usize = 4;
        const CONNECTIONS: usize = 50;
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(hammer(address))).collect();
        for _ in 0..CONNECTIONS {
            tokio::spawn(echo(accept(&listener).await.unwrap().0));
        }
        close(listener, HANDSHAKES, |stream, _| drop(tokio::spawn(echo(stream)))).await;
        let (mut served, mut broken) = (0, 0);
        for client in clients {
            let seen = client.await.unwrap();
            (served, broken) = (served + seen.0, broken + seen.1);
        }
        (served, broken)
    }

    /// Without the filter about one port in 400 resets a connection on two busy cores.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_port_that_ends_serves_or_refuses_every_connection() {
        let mut ports = tokio::task::JoinSet::new();
        (0..PORTS).for_each(|_| drop(ports.spawn(port())));
        let (mut served, mut broken) = (0, 0);
        while let Some(seen) = ports.join_next().await {
            let seen = seen.unwrap();
            (served, broken) = (served + seen.0, broken + seen.1);
        }
        assert!(served > 0);
        assert_eq!(broken, 0, "{served} were served");
    }

    #[tokio::test]
    async fn nagle_is_off_on_both_ends() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (accepted, connected) = tokio::join!(accept(&listener), connect(&address));
        assert!(accepted.unwrap().0.nodelay().unwrap());
        assert!(connected.unwrap().nodelay().unwrap());
    }
}
