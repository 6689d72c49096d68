//! From a peer's id to an open pipe: connect, HTTP/2, Hello, Welcome.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{Ping, PingPong, RecvStream, SendStream};
use shoal_core::id::NodeId;
use tokio_util::task::AbortOnDropHandle;

use super::{link::Link, receiver::PATH};
use crate::{
    env,
    forward::{
        Node,
        frame::{self, Batch, Decoder, Frame, Hello, VERSION, Welcome},
        server::{CONNECTION_WINDOW, MAX_FRAME, STREAM_WINDOW},
    },
    tls::Stream,
};

/// From the first packet to Welcome: some round trips and a busy peer.
const TIME_OUT: Duration = Duration::from_secs(2);
/// A silent peer is asked after this, and given up when it stays silent.
const PING_EVERY: Duration = Duration::from_secs(1);
const PONG_WITHIN: Duration = Duration::from_secs(3);
/// Bytes that HTTP/2 takes before it waits for the socket: all of them become unknown when
/// the pipe breaks, so two batches and no more.
const SEND_BUFFER: usize = 2 * frame::BATCH_BYTES;

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the table knows no address of it")]
    NoAddress,
    #[error("this node is not a member yet")]
    NotAMember,
    #[error("connecting failed: {0}")]
    Connect(#[from] io::Error),
    #[error("HTTP/2: {0}")]
    Http2(#[from] h2::Error),
    #[error("it answered {0}")]
    Status(http::StatusCode),
    #[error("it refused: {0}")]
    Refused(String),
    #[error("it sent what is no pipe's: {0}")]
    Frame(#[from] frame::Error),
    #[error("it ended or strayed before it welcomed this node")]
    NoWelcome,
    #[error("no answer in time")]
    TimedOut,
}

pub(super) struct Target {
    pub(super) node: Arc<Node>,
    pub(super) peer: NodeId,
    pub(super) thread: u16,
    pub(super) generation: u64,
}

pub(super) async fn dial(target: Target) -> Result<Link, Error> {
    tokio::time::timeout(TIME_OUT, open(target)).await.map_err(|_| Error::TimedOut)?
}

async fn open(target: Target) -> Result<Link, Error> {
    let (address, name, hello) = {
        let table = target.node.table.routes();
        let peer = table.peer(target.peer).ok_or(Error::NoAddress)?;
        let me = target.node.me().ok_or(Error::NotAMember)?;
        let hello = Hello {
            version: VERSION,
            node: true,
            cluster: table.cluster().id,
            from: me.node,
            incarnation: me.incarnation,
            to: target.peer,
            thread: target.thread,
            generation: target.generation,
        };
        (peer.addresses.data.clone(), peer.name.clone(), hello)
    };
    let socket = env::net::connect(&address).await?;
    let stream = target.node.tls.connect(socket, &name).await?;
    let (requests, mut connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_push(false)
        .handshake::<_, Bytes>(stream)
        .await?;
    let ping = connection.ping_pong();
    let connection = AbortOnDropHandle::new(tokio::spawn(keep(connection, ping)));
    let request = http::Request::post(format!("http://{address}{PATH}"))
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers")
        .body(())
        .map_err(|_| Error::NoAddress)?;
    let (response, mut send) = requests.ready().await?.send_request(request, false)?;
    say_hello(&mut send, hello)?;
    let response = response.await?;
    if response.status() != http::StatusCode::OK {
        return Err(Error::Status(response.status()));
    }
    let mut receive = response.into_body();
    let mut decoder = Decoder::default();
    let welcome = welcome(&mut receive, &mut decoder).await?;
    Ok(Link::new(target.node, send, receive, decoder, welcome, connection))
}

fn say_hello(send: &mut SendStream<Bytes>, hello: Hello) -> Result<(), h2::Error> {
    let (mut batch, mut parts) = (Batch::default(), Vec::new());
    batch.push(&Frame::Hello(hello));
    batch.take(&mut parts);
    parts.into_iter().try_for_each(|part| send.send_data(part, false))
}

async fn welcome(receive: &mut RecvStream, decoder: &mut Decoder) -> Result<Welcome, Error> {
    loop {
        match decoder.next()? {
            Some(Frame::Welcome(welcome)) => return Ok(welcome),
            Some(Frame::Refuse { reason }) => return Err(Error::Refused(reason)),
            Some(_) => return Err(Error::NoWelcome),
            None => {}
        }
        let bytes = receive.data().await.ok_or(Error::NoWelcome)??;
        receive.flow_control().release_capacity(bytes.len())?;
        decoder.push(bytes);
    }
}

/// Drives the connection; ends it when the peer falls silent.
async fn keep(connection: h2::client::Connection<Stream, Bytes>, ping: Option<PingPong>) {
    tokio::select! {
        _ = connection => {}
        () = silence(ping) => {}
    }
}

/// Ends once a ping stayed without answer.
async fn silence(ping: Option<PingPong>) {
    let Some(mut ping) = ping else { return std::future::pending().await };
    loop {
        tokio::time::sleep(PING_EVERY).await;
        match tokio::time::timeout(PONG_WITHIN, ping.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
