//! When this process is told to stop, and how long that may take.
//!
//! The deletionTimestamp of the own pod tells before SIGTERM does, and tells the grace. Without
//! an answer of the API server SIGTERM alone counts.

use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tracing::{info, warn};

use super::client;

/// Kept back of the grace: at its end the process is killed.
const MARGIN: Duration = Duration::from_secs(5);
/// SIGTERM has come: whether the pod goes must be known soon.
const PATIENCE: Duration = Duration::from_secs(2);

/// The API server's word of the pod that this process runs in.
pub struct Own {
    pods: Api<Pod>,
    name: String,
    uid: Option<String>,
}

impl Own {
    pub fn new(client: Client, namespace: &str, name: String, uid: Option<String>) -> Self {
        Self { pods: Api::namespaced(client, namespace), name, uid }
    }

    /// Resolves once this pod is to go: with its grace.
    async fn deleted(&self) -> Duration {
        let config = watcher::Config::default()
            .fields(&format!("metadata.name={}", self.name))
            .timeout(client::WATCH_SECONDS);
        let mut events = std::pin::pin!(watcher(self.pods.clone(), config).default_backoff());
        let mut failing = false;
        loop {
            match events.next().await {
                Some(Ok(Event::Apply(pod) | Event::InitApply(pod))) => {
                    failing = false;
                    if let Some(grace) = self.grace(&pod) {
                        return grace;
                    }
                }
                Some(Ok(Event::Init | Event::InitDone | Event::Delete(_))) => failing = false,
                Some(Err(error)) => {
                    if !std::mem::replace(&mut failing, true) {
                        let why = client::line(&error);
                        warn!(why, "the own pod cannot be watched: only SIGTERM will stop this");
                    }
                }
                None => return std::future::pending().await,
            }
        }
    }

    async fn ask(&self) -> Option<Duration> {
        let asked = tokio::time::timeout(PATIENCE, self.pods.get_opt(&self.name));
        self.grace(&asked.await.ok()?.ok()??)
    }

    /// Of this very pod, not of another by its name.
    fn grace(&self, pod: &Pod) -> Option<Duration> {
        let uid = pod.metadata.uid.as_ref();
        let same = self.uid.as_ref().is_none_or(|own| uid == Some(own));
        let told = same && pod.metadata.deletion_timestamp.is_some();
        let seconds = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        told.then(|| Duration::from_secs(seconds.try_into().unwrap_or(0)))
    }
}

/// Resolves when this process is to stop: with the time that it has. `budget` is that after
/// `signal` alone.
pub async fn told_to_stop(
    signal: impl Future<Output = ()>,
    own: Option<&Own>,
    budget: Duration,
) -> Duration {
    let Some(own) = own else {
        signal.await;
        return budget;
    };
    let grace = tokio::select! {
        grace = own.deleted() => Some(grace),
        () = signal => own.ask().await,
    };
    match grace {
        Some(grace) => {
            info!(grace = grace.as_secs(), "this pod is being deleted");
            grace.saturating_sub(MARGIN)
        }
        None => budget,
    }
}

#[cfg(test)]
mod tests;
