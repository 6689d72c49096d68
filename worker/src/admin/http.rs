//! Plain HTTP, read-only: livez, readyz, drained, metrics. Nothing of the registry.

use std::sync::Arc;

use axum::{Router, extract::State, http::StatusCode, routing::get};
use prometheus_client::encoding::text::encode;

use crate::node::Shared;

/// What the endpoints look at.
#[derive(Clone)]
pub(crate) struct Http {
    pub shared: Arc<Shared>,
}

pub(crate) fn router(http: Http) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/drained", get(drained))
        .route("/metrics", get(metrics))
        .with_state(http)
}

/// 200 once this node has the table of a formed cluster, until it parks or leaves.
async fn readyz(State(http): State<Http>) -> (StatusCode, String) {
    let waiting = http.shared.waiting.borrow().clone();
    if waiting.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{waiting}\n"))
    }
}

/// 200 once this node owns and receives nothing; waits for it.
async fn drained(State(http): State<Http>) -> String {
    let mut map = http.shared.table.watch_map();
    loop {
        map.borrow_and_update();
        let held = http.shared.me.get().map(|me| http.shared.table.registry().held(*me));
        if held.is_none_or(|held| held.owned == 0 && held.receiving == 0) {
            return "drained\n".to_owned();
        }
        if map.changed().await.is_err() {
            return "drained\n".to_owned();
        }
    }
}

async fn metrics(State(http): State<Http>) -> (StatusCode, String) {
    let mut text = String::new();
    match encode(&mut text, &http.shared.metrics.lock()) {
        Ok(()) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}
