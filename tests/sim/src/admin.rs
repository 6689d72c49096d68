//! The admin interface of a node, asked from outside: one call on a connection of its own.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use shoal_worker::{
    env::{
        net,
        sim::{self, Place},
    },
    forward::grpc,
};

use crate::world::data_address;

const OFFSET: u16 = 2_000;
/// Flag and length before a message.
const PREFIX: usize = 5;

/// The answer of one call, or the status that came instead.
pub async fn call<A: Message, R: Message + Default>(
    place: Place,
    method: &str,
    request: &A,
) -> Result<R, String> {
    let address = SocketAddr::new(sim::address(place), data_address(place).port() + OFFSET);
    let socket = net::connect(&address.to_string()).await.map_err(|e| e.to_string())?;
    let made = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
    let (mut send, connection) = made.map_err(|e| e.to_string())?;
    let driven = tokio::spawn(connection);
    let request = http::Request::post(format!("http://shoal/shoal.admin.v1.Admin/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(grpc::encode(request)))
        .map_err(|e| e.to_string())?;
    let response = send.send_request(request).await.map_err(|e| e.to_string())?;
    let reply = Reply::read(response).await?;
    driven.abort();
    if reply.status != "0" {
        return Err(reply.said());
    }
    let answer = reply.message.ok_or("no message")?;
    R::decode(answer).map_err(|e| e.to_string())
}

/// What came of one call.
pub struct Reply {
    /// `grpc-status`, and the text beside it.
    pub status: String,
    pub text: String,
    /// The one message, without its prefix.
    pub message: Option<Bytes>,
}

impl Reply {
    pub async fn read(response: http::Response<Incoming>) -> Result<Self, String> {
        let head = response.headers().clone();
        let body = response.into_body().collect().await.map_err(|e| format!("body: {e}"))?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let find = |name: &str| {
            let value = trailers.get(name).or(head.get(name)).and_then(|v| v.to_str().ok());
            value.map(str::to_owned)
        };
        let status = find("grpc-status").unwrap_or_else(|| "none".to_owned());
        let text = find("grpc-message").unwrap_or_default();
        let bytes = body.to_bytes();
        Ok(Self { status, text, message: (bytes.len() >= PREFIX).then(|| bytes.slice(PREFIX..)) })
    }

    pub fn said(&self) -> String {
        format!("status {} {}", self.status, self.text)
    }
}
