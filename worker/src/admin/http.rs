//! Plain HTTP, read-only: livez, readyz, drained, metrics. Nothing of the registry.

use std::sync::Arc;

use axum::{Router, extract::State, http::StatusCode, routing::get};
use parking_lot::Mutex;
use prometheus_client::{encoding::text::encode, registry::Registry};
use shoal_core::id::NodeId;

use super::Waiting;
use crate::table::Table;

/// What the endpoints look at.
#[derive(Clone)]
pub struct Http {
    pub node: NodeId,
    pub table: Table,
    pub waiting: Waiting,
    pub metrics: Arc<Mutex<Registry>>,
}

pub fn router(http: Http) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/drained", get(drained))
        .route("/metrics", get(metrics))
        .with_state(http)
}

/// 200 once this node has the table of a formed cluster, until it parks or leaves.
async fn readyz(State(http): State<Http>) -> (StatusCode, String) {
    let waiting = http.waiting.borrow().clone();
    if waiting.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{waiting}\n"))
    }
}

/// 200 once this node owns and receives nothing; waits for it.
async fn drained(State(http): State<Http>) -> String {
    let mut map = http.table.watch_map();
    loop {
        map.borrow_and_update();
        let held = http.table.registry().held(http.node);
        if held.owned == 0 && held.receiving == 0 {
            return "drained\n".to_owned();
        }
        if map.changed().await.is_err() {
            return "drained\n".to_owned();
        }
    }
}

async fn metrics(State(http): State<Http>) -> (StatusCode, String) {
    let mut text = String::new();
    match encode(&mut text, &http.metrics.lock()) {
        Ok(()) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}
