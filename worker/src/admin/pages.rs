//! What the HTTP port shows: livez, readyz, drained, metrics. Nothing of the registry.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use http::StatusCode;
use tokio::sync::Semaphore;

use super::{
    http::{Page, Pages},
    ready,
};
use crate::{node::Shared, telemetry};

/// Clients that wait for /drained at once: the room of the port stays for the others.
const MAX_WAITING: usize = 16;
/// The table has no word for what the host has not closed yet.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

pub(crate) struct NodePages {
    shared: Arc<Shared>,
    waiting: Arc<Semaphore>,
}

impl NodePages {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, waiting: Arc::new(Semaphore::new(MAX_WAITING)) }
    }
}

impl Pages for NodePages {
    const PATHS: &'static [&'static str] = &["/livez", "/readyz", "/drained", "/metrics"];

    fn page(&self, path: &str) -> Option<BoxFuture<'static, Page>> {
        let (shared, waiting) = (self.shared.clone(), self.waiting.clone());
        Some(match path {
            "/livez" => async { Page::text(StatusCode::OK, "ok") }.boxed(),
            "/readyz" => async move { readyz(&shared) }.boxed(),
            "/drained" => async move { drained(&shared, &waiting).await }.boxed(),
            "/metrics" => async move { metrics(&shared) }.boxed(),
            _ => return None,
        })
    }
}

/// 200 once this node has the table of a formed cluster, until it parks or leaves.
fn readyz(shared: &Shared) -> Page {
    let missing = shared.waiting.borrow().clone();
    if missing.is_empty() {
        let note = ready::note(&shared.table.registry(), shared.me.get().copied());
        Page::text(StatusCode::OK, &note)
    } else {
        Page::text(StatusCode::SERVICE_UNAVAILABLE, &missing)
    }
}

/// 200 once this node owns and receives nothing and its host has closed all; waits for it.
async fn drained(shared: &Shared, waiting: &Semaphore) -> Page {
    let Ok(_room) = waiting.try_acquire() else {
        let text = format!("{MAX_WAITING} clients wait for it already: ask again");
        return Page::text(StatusCode::SERVICE_UNAVAILABLE, &text);
    };
    let mut map = shared.table.watch_map();
    loop {
        map.borrow_and_update();
        let by_table = shared.me.get().map(|me| shared.table.registry().held(*me));
        let owned = shared.owner.owned();
        let held = owned.open + owned.opening + owned.leaving + owned.receiving;
        if by_table.is_none_or(|held| held.owned + held.receiving == 0) && held == 0 {
            return Page::text(StatusCode::OK, "drained");
        }
        // The table outlives every page; only the host's part needs the pause.
        let _ = tokio::time::timeout(LOOK_AGAIN, map.changed()).await;
    }
}

fn metrics(shared: &Shared) -> Page {
    match shared.telemetry.page(&shared.table, &shared.right) {
        Ok(body) => Page { status: StatusCode::OK, content_type: telemetry::CONTENT_TYPE, body },
        Err(error) => Page::text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}
