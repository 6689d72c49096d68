//! TCP as every component uses it: NODELAY on, both ways, always.
//!
//! With Nagle's algorithm a forwarded call waits 40 ms for a delayed acknowledgement.

use std::{io, net::SocketAddr};

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

/// Stops listening. Connections that the kernel had completed are handed out first: it would
/// reset them with the socket, and to their clients the port would look broken.
pub fn close(listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    let mut waiting = Vec::new();
    let Ok(listener) = listener.into_std() else { return waiting };
    // Not blocking: an error says that none waits.
    while let Ok((stream, peer)) = listener.accept() {
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
            waiting.push((stream, peer));
        }
    }
    waiting
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

    #[tokio::test]
    async fn a_connection_that_nobody_has_accepted_survives_the_end_of_the_port() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut client = connect(&address).await.unwrap();
        let mut waiting = close(listener);
        assert!(connect(&address).await.is_err(), "the port is closed");
        let (mut served, _) = waiting.pop().unwrap();
        served.write_all(b"served").await.unwrap();
        let mut said = [0; 6];
        client.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"served");
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
