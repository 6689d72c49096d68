//! A proxy between a client of the API server and the API server: it names and counts every
//! write, and does to the one that a test picks what networks, servers and restarts do.
//!
//! Plain HTTP towards the client, which needs no credentials; towards the API server it is the
//! administrator. It knows nothing of what is written.

mod script;
mod watches;

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use ::kube::Client;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full, combinators::UnsyncBoxBody};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};

pub use script::{Fault, Point, Script, Write};
pub use watches::Watches;

/// Longer than any call of the operator is patient.
const STALL: Duration = Duration::from_secs(90);
/// A short pause, so that a test need not wait long.
const RETRY_AFTER_SECONDS: &str = "1";

type Body = Either<Full<Bytes>, UnsyncBoxBody<Bytes, std::io::Error>>;
/// None: the connection ends without an answer.
type Answer = Option<Response<Body>>;

/// Serves until it is dropped.
pub struct FaultProxy {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    client: Client,
    writes: Arc<Script>,
    watches: Watches,
}

impl FaultProxy {
    /// In front of the API server of this client, in whose network it must be started.
    pub async fn start(client: Client) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let watches = Watches::default();
        let state = Arc::new(State { client, writes: Arc::default(), watches });
        let task = tokio::spawn(accept(listener, state.clone()));
        Ok(Self { address, state, task })
    }

    /// Every write, and the fault of one of them.
    pub fn writes(&self) -> &Arc<Script> {
        &self.state.writes
    }

    /// What becomes of lists and watches.
    pub fn watches(&self) -> &Watches {
        &self.state.watches
    }

    /// Writes a kubeconfig by which a client speaks to this proxy.
    pub fn write_kubeconfig(&self, path: &Path) -> anyhow::Result<()> {
        let server = format!("http://{}", self.address);
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": server}}],
            "users": [{"name": "proxy", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
        });
        Ok(std::fs::write(path, config.to_string())?)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let state = state.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let state = state.clone();
                // Without an answer the connection ends.
                let ended = || io::Error::other("ended by a fault");
                async move { answer(&state, request).await.ok_or_else(ended) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer);
            // How it ends is seen by the client.
            let _ = connection.await;
        });
    }
}

async fn answer(state: &State, request: Request<Incoming>) -> Answer {
    if request.method() == Method::GET {
        return read(state, request).await;
    }
    let name = Write::name_of(request.method(), request.uri());
    let Some(name) = name else { return forward(state, request).await };
    match state.writes.on(|_| name) {
        None => forward(state, request).await,
        Some(Fault::Reset) => None,
        Some(Fault::KillBefore) => {
            state.writes.kill();
            None
        }
        Some(fault @ (Fault::LostReply | Fault::KillAfter)) => {
            forward(state, request).await?;
            if fault == Fault::KillAfter {
                state.writes.kill();
            }
            None
        }
        Some(Fault::Conflict) => Some(refuse(StatusCode::CONFLICT, "Conflict")),
        Some(Fault::TooMany) => {
            let mut response = refuse(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests");
            let after = header::HeaderValue::from_static(RETRY_AFTER_SECONDS);
            response.headers_mut().insert(header::RETRY_AFTER, after);
            Some(response)
        }
        Some(Fault::Internal) => Some(refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")),
        Some(Fault::Timeout) => {
            // As where the server gives up waiting for what etcd then commits.
            forward(state, request).await?;
            Some(refuse(StatusCode::GATEWAY_TIMEOUT, "Timeout"))
        }
        Some(Fault::Hold) => {
            state.writes.hold().await;
            forward(state, request).await
        }
        Some(Fault::Stall) => {
            tokio::time::sleep(STALL).await;
            None
        }
    }
}

async fn read(state: &State, request: Request<Incoming>) -> Answer {
    let query = request.uri().query().unwrap_or_default();
    if !query.contains("watch=") {
        let key = request.uri().to_string();
        // A list that a watch begins with; what is read to act upon names one cluster.
        let begins_watch = query.contains("limit=") && !query.contains("instance");
        if begins_watch && let Some(old) = state.watches.stale(&key) {
            return Some(full(StatusCode::OK, old));
        }
        let response = forward(state, request).await?;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.ok()?.to_bytes();
        if begins_watch && parts.status == StatusCode::OK {
            state.watches.remember(&key, &bytes);
        }
        return Some(Response::from_parts(parts, Either::Left(Full::new(bytes))));
    }
    if state.watches.takes_gone() {
        return Some(refuse(StatusCode::GONE, "Expired"));
    }
    forward(state, request).await
}

async fn forward(state: &State, request: Request<Incoming>) -> Answer {
    let (parts, body) = request.into_parts();
    let watch = parts.uri.query().is_some_and(|query| query.contains("watch="));
    let body = body.collect().await.ok()?.to_bytes();
    let path = parts.uri.path_and_query()?.as_str().to_owned();
    let mut upstream = Request::builder().method(parts.method).uri(path);
    for name in [header::ACCEPT, header::CONTENT_TYPE] {
        if let Some(value) = parts.headers.get(&name) {
            upstream = upstream.header(name, value);
        }
    }
    let upstream = upstream.body(::kube::client::Body::from(body)).ok()?;
    // Where the API server is gone, so is the connection to this proxy.
    let response = state.client.send(upstream).await.ok()?;
    let (mut parts, body) = response.into_parts();
    for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION] {
        parts.headers.remove(name);
    }
    let body = if watch {
        Either::Right(state.watches.filter(body))
    } else {
        Either::Left(Full::new(body.collect().await.ok()?.to_bytes()))
    };
    Some(Response::from_parts(parts, body))
}

/// An error as the API server words them.
fn refuse(code: StatusCode, reason: &str) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "a fault of the test", "reason": reason, "code": code.as_u16(),
    });
    full(code, Bytes::from(status.to_string()))
}

fn full(code: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body)));
    *response.status_mut() = code;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
