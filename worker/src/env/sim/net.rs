//! TCP over the simulated wires, with the shape that tokio's has.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{address, world};

/// One end of a connection.
#[derive(Debug)]
pub struct TcpStream(u64);

/// An open port.
#[derive(Debug)]
pub struct TcpListener(SocketAddr);

/// Only addresses: there are no names to look up.
pub async fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    let parsed = address.parse().map_err(|_| io::ErrorKind::NotFound)?;
    Ok(vec![parsed])
}

pub fn listen(mut at: SocketAddr) -> io::Result<TcpListener> {
    let mut world = world();
    if at.port() == 0 {
        at.set_port(world.wires.unused_port());
    }
    world.wires.listen(at)?;
    Ok(TcpListener(at))
}

pub async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let accepted = poll_fn(|cx| {
        let found = world().wires.poll_accept(listener.0, cx.waker());
        found.map_or(Poll::Pending, Poll::Ready)
    });
    let stream = TcpStream(accepted.await?);
    let from = world().wires.addresses(stream.0).ok_or(io::ErrorKind::NotConnected)?.1;
    Ok((stream, from))
}

/// Stops listening. Connections that wait are handed out first.
pub async fn close(
    listener: TcpListener,
    _handshakes: Duration,
    mut take: impl FnMut(TcpStream, SocketAddr),
) {
    let waiting: Vec<_> = {
        let mut world = world();
        let waiting = world.wires.unlisten(listener.0);
        let found = waiting.into_iter();
        found.filter_map(|id| Some((TcpStream(id), world.wires.addresses(id)?.1))).collect()
    };
    waiting.into_iter().for_each(|(stream, from)| take(stream, from));
}

pub async fn connect(to: &str) -> io::Result<TcpStream> {
    let to = resolve(to).await?.remove(0);
    let stream = {
        let mut world = world();
        let (here, now) = (world.here, world.now);
        let local = SocketAddr::new(address(here), world.wires.unused_port());
        TcpStream(world.wires.connect(here, local, to, now))
    };
    poll_fn(|cx| {
        let done = world().wires.poll_connected(stream.0, cx.waker());
        done.map_or(Poll::Pending, Poll::Ready)
    })
    .await?;
    Ok(stream)
}

impl TcpListener {
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0)
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        let waiting = world().wires.unlisten(self.0);
        waiting.into_iter().map(TcpStream).for_each(drop);
    }
}

impl TcpStream {
    /// Looks at bytes without taking them.
    pub async fn peek(&self, out: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| {
            let (found, _) = world().wires.poll_read(self.0, out, false, cx.waker());
            found.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    fn close(&self, gone: bool) {
        let mut world = world();
        let now = world.now;
        world.wires.close(self.0, gone, now);
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (found, writer) =
            world().wires.poll_read(self.0, buffer.initialize_unfilled(), true, cx.waker());
        writer.into_iter().for_each(Waker::wake);
        match found {
            Some(Ok(length)) => {
                buffer.advance(length);
                Poll::Ready(Ok(()))
            }
            Some(Err(error)) => Poll::Ready(Err(error)),
            None => Poll::Pending,
        }
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut world = world();
        let now = world.now;
        world.wires.poll_write(self.0, bytes, cx.waker(), now).map_or(Poll::Pending, Poll::Ready)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close(false);
        Poll::Ready(Ok(()))
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        self.close(true);
    }
}
