//! Clients as gRPC's own are: one connection, and what it hands back unsent goes out again.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use prost::Message as _;
use shoal_proto::shoal::v1::{CallRequest, CallResponse};
use shoal_worker::{
    env::{net, random, sim},
    forward::grpc,
};
use tokio::time::{sleep, timeout};

use crate::{
    admin::Reply,
    history::{History, Operation, Outcome},
};

/// A call ends by then.
pub const DEADLINE: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(1);
const PING: Duration = Duration::from_secs(1);
/// Between two calls of one client, at most.
const THINKS_MS: u64 = 60;

/// Where clients are sent: nodes that are ready, as a balancer sees them.
pub type Entries = Arc<Mutex<Vec<SocketAddr>>>;

pub struct Client {
    pub entries: Entries,
    pub history: Arc<Mutex<History>>,
    pub keys: u64,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    pub fn new(entries: Entries, history: Arc<Mutex<History>>, keys: u64) -> Self {
        Self { entries, history, keys, connection: None }
    }

    /// Increments one key after the other.
    pub async fn run(mut self) {
        loop {
            sleep(Duration::from_millis(random::below(THINKS_MS))).await;
            let key = format!("k{}", random::below(self.keys));
            if self.history.lock().avoids(&key) {
                continue;
            }
            let invoked = sim::now();
            let begun = self.history.lock().begin(&key, invoked);
            let outcome = match timeout(DEADLINE, self.call(&key)).await {
                Ok(outcome) => outcome,
                Err(_) => Outcome::Unknown("out of time".to_owned()),
            };
            if !matches!(outcome, Outcome::Value { .. }) {
                self.connection = None;
            }
            let operation = Operation { key, invoked, returned: sim::now(), outcome };
            self.history.lock().end(begun, operation);
        }
    }

    async fn call(&mut self, key: &str) -> Outcome {
        let request = CallRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            method: "incr".to_owned(),
            payload: Bytes::new(),
        };
        let message = grpc::encode(&request);
        loop {
            let connection = self.connected().await;
            if connection.ready().await.is_err() {
                self.connection = None;
                continue;
            }
            let request = http::Request::post("http://shoal/shoal.v1.Shoal/Call")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header("grpc-timeout", format!("{}m", DEADLINE.as_millis()))
                .body(Full::new(message.clone()));
            let Ok(request) = request else { return Outcome::Unknown("no request".to_owned()) };
            match connection.try_send_request(request).await {
                Ok(response) => return answer(response).await,
                Err(mut error) => {
                    self.connection = None;
                    let unsent = error.take_message().is_some();
                    let error = error.into_error();
                    if !unsent && !grpc::is_unprocessed(&error) {
                        return Outcome::Unknown(format!("{error:?}"));
                    }
                }
            }
        }
    }

    async fn connected(&mut self) -> &mut SendRequest<Full<Bytes>> {
        while self.connection.is_none() {
            let entry = {
                let entries = self.entries.lock();
                entries.get(random::below(entries.len() as u64) as usize).copied()
            };
            let Some(entry) = entry else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            match timeout(CONNECT, open(entry)).await {
                Ok(Some(connection)) => self.connection = Some(connection),
                Ok(None) | Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
        self.connection.as_mut().expect("it was just made")
    }
}

async fn open(entry: SocketAddr) -> Option<SendRequest<Full<Bytes>>> {
    let socket = net::connect(&entry.to_string()).await.ok()?;
    let made = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .handshake(TokioIo::new(socket));
    let (send, connection) = made.await.ok()?;
    tokio::spawn(connection);
    Some(send)
}

async fn answer(response: http::Response<Incoming>) -> Outcome {
    let reply = match Reply::read(response).await {
        Ok(reply) => reply,
        Err(why) => return Outcome::Unknown(why),
    };
    match reply.status.as_str() {
        "0" => {}
        // UNAVAILABLE and RESOURCE_EXHAUSTED: proof that it was not executed.
        "14" | "8" => return Outcome::Refused(reply.said()),
        _ => return Outcome::Unknown(reply.said()),
    }
    let Some(Ok(answer)) = reply.message.map(CallResponse::decode) else {
        return Outcome::Unknown("unreadable".to_owned());
    };
    let value = std::str::from_utf8(&answer.payload).ok().and_then(|text| text.parse().ok());
    match value {
        Some(value) => Outcome::Value { value, shard: answer.shard, epoch: answer.epoch },
        None => Outcome::Unknown("no number".to_owned()),
    }
}
