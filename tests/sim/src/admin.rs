//! The admin interface of a node, asked from outside: one call on a connection of its own.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use shoal_worker::env::{
    net,
    sim::{self, Place},
};

use crate::world::data_address;

const OFFSET: u16 = 2_000;

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
    let mut message = vec![0];
    message.extend((request.encoded_len() as u32).to_be_bytes());
    request.encode(&mut message).map_err(|e| e.to_string())?;
    let request = http::Request::post(format!("http://shoal/shoal.admin.v1.Admin/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(message)))
        .map_err(|e| e.to_string())?;
    let response = send.send_request(request).await.map_err(|e| e.to_string())?;
    let head = response.headers().clone();
    let body = response.into_body().collect().await.map_err(|e| e.to_string())?;
    driven.abort();
    let trailers = body.trailers().cloned().unwrap_or_default();
    let find = |name: &str| trailers.get(name).or(head.get(name)).and_then(|v| v.to_str().ok());
    match find("grpc-status") {
        Some("0") => {}
        code => return Err(format!("{code:?} {:?}", find("grpc-message"))),
    }
    let bytes = body.to_bytes();
    let answer = bytes.get(5..).ok_or_else(|| "no message".to_owned())?;
    R::decode(answer).map_err(|e| e.to_string())
}
