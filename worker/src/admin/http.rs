//! The HTTP port: HTTP/1, read-only, one request per connection, everything bounded.
//!
//! Knows connections and time limits; what stands on a page is its [`Pages`]' business.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    sync::{Notify, Semaphore},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::env::net::{self, TcpListener, TcpStream};

/// Connections at once: probes, a few scrapers and people; others wait in the backlog.
const MAX_CONNECTIONS: usize = 64;
/// A client says what it wants within it.
const ASK: Duration = Duration::from_secs(5);
/// A client takes its answer within it.
const TAKE: Duration = Duration::from_secs(10);
/// Longest request line and headers together.
const MAX_HEAD: usize = 16 << 10;
/// Pause after a failed accept: descriptors come back as connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: String,
}

impl Page {
    /// One line for people.
    pub fn text(status: StatusCode, line: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: format!("{line}\n") }
    }
}

/// What the port shows.
pub trait Pages: Send + Sync + 'static {
    /// All there are, for a client that asked for another.
    const PATHS: &'static [&'static str];

    /// `None`: there is no such page.
    fn page(&self, path: &str) -> Option<BoxFuture<'static, Page>>;
}

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub connections: usize,
    pub ask: Duration,
    pub take: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: MAX_CONNECTIONS, ask: ASK, take: TAKE }
    }
}

/// Serves until `shutdown`.
pub async fn serve<P: Pages>(
    listener: TcpListener,
    pages: Arc<P>,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(limits.connections));
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let permit = room.clone().acquire_owned().await.ok()?;
            Some((permit, net::accept(&listener).await))
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Some((permit, Ok((socket, _)))) => {
                let (pages, shutdown) = (pages.clone(), shutdown.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        () = answer(socket, pages, limits) => {}
                    }
                    drop(permit);
                });
            }
            Some((_, Err(error))) => {
                debug!(%error, "an http connection was not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
            None => return,
        }
    }
}

async fn answer<P: Pages>(socket: TcpStream, pages: Arc<P>, limits: Limits) {
    let answered = Notify::new();
    let service = service_fn(|request| {
        let (pages, answered) = (pages.clone(), &answered);
        async move {
            let response = respond(&*pages, request).await;
            answered.notify_one();
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(limits.ask)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(socket), service);
    let overdue = async {
        answered.notified().await;
        sleep(limits.take).await;
    };
    tokio::select! {
        served = connection => if let Err(error) = served {
            debug!(%error, "an http connection ended badly");
        },
        () = overdue => debug!("an http client did not take its answer"),
    }
}

async fn respond<P: Pages>(pages: &P, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let page = Page::text(StatusCode::METHOD_NOT_ALLOWED, "this port is read-only: use GET");
        let mut response = encode(page);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let path = request.uri().path().to_owned();
    // What a client sends besides is not read: the connection ends with the answer.
    drop(request);
    encode(match pages.page(&path) {
        Some(page) => page.await,
        None => {
            let text = format!("no page {path:?}; there are {}", P::PATHS.join(", "));
            Page::text(StatusCode::NOT_FOUND, &text)
        }
    })
}

fn encode(page: Page) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page.body)));
    *response.status_mut() = page.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
