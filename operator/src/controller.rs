//! The loop: observe, validate, apply, take one step, report.
//!
//! One pass takes at most one mutating step and keeps nothing in memory that the next one needs.

mod certificates;
mod follow;
mod pass;
mod perform;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, future};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Pod, Service},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Client, ResourceExt as _,
    api::Api,
    runtime::{
        Controller,
        controller::{Action, Config},
        events::Recorder,
        reflector::ObjectRef,
        watcher,
    },
};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use crate::{
    apply,
    crd::{ShardCluster, annotation},
    telemetry::{Metrics, Progress},
    worker_client::{self, Epochs},
};

/// Clusters worked on at once.
const CONCURRENCY: u16 = 8;
/// A burst of changes of pods is one pass.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// One pass, whatever hangs.
const PASS: Duration = Duration::from_secs(60);
/// A dead connection to the API server is noticed within it.
const WATCH_SECONDS: u32 = 60;
/// Looked at again where nothing happens.
const IDLE: Duration = Duration::from_secs(300);
/// And where no worker pushes what happens.
const UNFOLLOWED: Duration = Duration::from_secs(10);
/// Looked at again after a step, and while something is waited for.
const AFTER_STEP: Duration = Duration::from_millis(150);
const WAITING: Duration = Duration::from_secs(1);
/// After failures in a row: doubled from the first to the last.
const BACKOFF: std::ops::Range<Duration> = Duration::from_millis(500)..Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Apply(#[from] apply::Error),
    #[error("the cluster could not be observed: {0}")]
    Observe(#[source] kube::Error),
    #[error(transparent)]
    Worker(#[from] worker_client::Error),
    #[error("a secret cannot be used: {0}")]
    Credentials(#[from] worker_client::ConnectError),
    #[error("certificates could not be made: {0}")]
    Certificates(#[from] crate::pki::Error),
    #[error("no end within {PASS:?}")]
    Hangs,
}

impl Error {
    /// Another operator acts: this process must not.
    pub fn is_superseded(&self) -> bool {
        matches!(self, Self::Worker(worker_client::Error::Superseded { .. }))
    }
}

/// What all passes share.
pub struct Context {
    pub client: Client,
    pub recorder: Recorder,
    pub metrics: Metrics,
    pub progress: Progress,
    pub epochs: Epochs,
    /// Ends the process with its last word.
    pub fatal: tokio::sync::watch::Sender<Option<String>>,
    /// By uid: failures in a row, and when the status was last written.
    failures: Mutex<BTreeMap<String, u32>>,
    written: Mutex<BTreeMap<String, Instant>>,
    followers: follow::Followers,
}

impl Context {
    pub fn new(
        client: Client,
        recorder: Recorder,
        metrics: Metrics,
        progress: Progress,
        fatal: tokio::sync::watch::Sender<Option<String>>,
    ) -> Self {
        Self {
            client,
            recorder,
            metrics,
            progress,
            epochs: Epochs::default(),
            fatal,
            failures: Mutex::default(),
            written: Mutex::default(),
            followers: follow::Followers::default(),
        }
    }
}

/// Runs until it is dropped: whoever leads no more must not finish what it began.
pub async fn run(context: Arc<Context>, namespaces: &[&str]) {
    if namespaces.is_empty() {
        watch(context, None).await;
        return;
    }
    let each = namespaces.iter().map(|namespace| watch(context.clone(), Some(namespace)));
    future::join_all(each).await;
}

async fn watch(context: Arc<Context>, namespace: Option<&str>) {
    fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        match namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        }
    }
    let all = watcher::Config::default().timeout(WATCH_SECONDS);
    let ours = all.clone().labels(&format!("{}=shoal", annotation::LABEL_NAME));
    let client = &context.client;
    let clusters: Api<ShardCluster> = api(client, namespace);
    let sets: Api<StatefulSet> = api(client, namespace);
    let services: Api<Service> = api(client, namespace);
    let budgets: Api<PodDisruptionBudget> = api(client, namespace);
    let policies: Api<NetworkPolicy> = api(client, namespace);
    let pods: Api<Pod> = api(client, namespace);
    // What people edit by hand is mended at once; the rest with the next pass.
    Controller::new(clusters, all)
        .owns(sets, ours.clone())
        .owns(services, ours.clone())
        .owns(budgets, ours.clone())
        .owns(policies, ours.clone())
        .watches(pods, ours, |pod| {
            let cluster = pod.labels().get(annotation::LABEL_INSTANCE)?;
            Some(ObjectRef::new(cluster).within(&pod.namespace()?))
        })
        .reconcile_on(context.followers.pushed(namespace))
        .with_config(Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .run(reconcile, on_error, context.clone())
        .for_each(|result| {
            if let Err(error) = result {
                debug!(%error, "a pass ended with an error");
            }
            future::ready(())
        })
        .await;
}

async fn reconcile(cluster: Arc<ShardCluster>, context: Arc<Context>) -> Result<Action, Error> {
    let began = context.progress.begin();
    let started = Instant::now();
    let result = match timeout(PASS, pass::pass(&cluster, &context)).await {
        Ok(result) => result,
        Err(_) => Err(Error::Hangs),
    };
    drop(began);
    context.metrics.reconciled(started.elapsed(), result.is_ok());
    if result.is_ok() {
        context.failures.lock().remove(&cluster.uid().unwrap_or_default());
    }
    result
}

fn on_error(cluster: Arc<ShardCluster>, error: &Error, context: Arc<Context>) -> Action {
    let name = cluster.name_any();
    if error.is_superseded() {
        context.fatal.send_replace(Some(format!("{name}: {error}")));
        return Action::await_change();
    }
    let uid = cluster.uid().unwrap_or_default();
    let failures = {
        let mut all = context.failures.lock();
        let failures = all.entry(uid).or_default();
        *failures += 1;
        *failures
    };
    let pause = BACKOFF.start * 2u32.saturating_pow(failures.saturating_sub(1).min(16));
    let pause = pause.min(BACKOFF.end);
    warn!(cluster = %name, failures, ?pause, error = %chain(error), "a pass failed");
    Action::requeue(pause)
}

/// The error with what it came from.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let next = source.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = source.source();
    }
    text
}
