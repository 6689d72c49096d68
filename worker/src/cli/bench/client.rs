//! One HTTP/2 connection after another to any entry node, for many calls at once.
//!
//! As gRPC's own clients do it sends again what provably no server looked at, and nothing
//! else: a call that may have run is reported as failed. Counts and judges nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::RwLock;
use prost::Message as _;
use shoal_proto::shoal::v1::{CallRequest, CallResponse};
use tokio::{sync::Mutex, time};
use tonic::{Code, Status};

use crate::{cli::ask::Dialer, forward::grpc};

/// Pause after an entry node could not be reached.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// An entry that takes longer to connect to is left for the next one.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
/// Flag and length before a message.
const PREFIX: usize = 5;

/// Addresses a connection may be opened to; they may change during a run.
pub type Entries = Arc<RwLock<Vec<String>>>;
type Sender = SendRequest<Full<Bytes>>;

/// A slot for one connection at a time.
pub struct Link {
    entries: Entries,
    dialer: Dialer,
    turn: AtomicUsize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    generation: u64,
    sender: Option<Sender>,
}

impl Link {
    pub fn new(entries: Entries, dialer: Dialer, turn: usize) -> Self {
        Self { entries, dialer, turn: AtomicUsize::new(turn), open: Mutex::default() }
    }

    /// One call; what it waits for a connection counts against `deadline`.
    pub async fn call(
        &self,
        request: &CallRequest,
        deadline: time::Instant,
    ) -> Result<CallResponse, Status> {
        let message = grpc::encode(request);
        match time::timeout_at(deadline, self.attempts(message, deadline)).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::deadline_exceeded("no answer before the deadline")),
        }
    }

    async fn attempts(
        &self,
        message: Bytes,
        deadline: time::Instant,
    ) -> Result<CallResponse, Status> {
        loop {
            let (generation, mut sender) = self.connected().await;
            if sender.ready().await.is_err() {
                self.gone(generation).await;
                continue;
            }
            let request = post(message.clone(), deadline)
                .map_err(|error| Status::internal(error.to_string()))?;
            match sender.try_send_request(request).await {
                Ok(response) => return read(response).await,
                Err(mut error) => {
                    let unsent = error.take_message().is_some();
                    let error = error.into_error();
                    if !unsent && !grpc::is_unprocessed(&error) {
                        return Err(Status::unknown(format!("the connection broke: {error}")));
                    }
                    self.gone(generation).await;
                }
            }
        }
    }

    async fn connected(&self) -> (u64, Sender) {
        let mut open = self.open.lock().await;
        loop {
            if let Some(sender) = open.sender.as_ref().filter(|sender| !sender.is_closed()) {
                return (open.generation, sender.clone());
            }
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let entry = {
                let entries = self.entries.read();
                entries.get(turn % entries.len().max(1)).cloned()
            };
            let made = match entry {
                Some(entry) => {
                    let dialled = time::timeout(CONNECT_PATIENCE, dial(&self.dialer, &entry));
                    dialled.await.ok().flatten()
                }
                None => None,
            };
            match made {
                Some(sender) => {
                    open.generation += 1;
                    open.sender = Some(sender);
                }
                None => time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// Calls that run on the old connection end there.
    async fn gone(&self, generation: u64) {
        let mut open = self.open.lock().await;
        if open.generation == generation {
            open.sender = None;
        }
    }
}

async fn dial(dialer: &Dialer, entry: &str) -> Option<Sender> {
    let stream = dialer.open(entry).await.ok()?;
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    Some(sender)
}

fn post(
    message: Bytes,
    deadline: time::Instant,
) -> Result<http::Request<Full<Bytes>>, http::Error> {
    let left = deadline.saturating_duration_since(time::Instant::now());
    http::Request::post("http://shoal/shoal.v1.Shoal/Call")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", format!("{}m", left.as_millis().max(1)))
        .body(Full::new(message))
}

async fn read(response: http::Response<hyper::body::Incoming>) -> Result<CallResponse, Status> {
    let (head, body) = response.into_parts();
    judge(&head.headers).unwrap_or(Ok(()))?;
    let body = body.collect().await;
    let body = body.map_err(|error| Status::unknown(format!("the answer broke off: {error}")))?;
    let verdict = body.trailers().and_then(judge);
    verdict.unwrap_or_else(|| Err(Status::unknown("the answer has no status")))?;
    let bytes = body.to_bytes();
    let message = bytes.get(PREFIX..).unwrap_or_default();
    CallResponse::decode(message).map_err(|error| Status::new(Code::DataLoss, error.to_string()))
}

fn judge(headers: &HeaderMap) -> Option<Result<(), Status>> {
    let status = Status::from_header_map(headers)?;
    Some(if status.code() == Code::Ok { Ok(()) } else { Err(status) })
}
