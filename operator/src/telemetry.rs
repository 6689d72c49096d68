//! Figures of the operator, and whether its loop still moves; served over plain HTTP.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use tokio::{net::TcpListener, time::Instant};

/// A pass ends well before it, or its task hangs.
const STUCK: Duration = Duration::from_secs(150);
/// Seconds of a pass: reads take milliseconds, a worker that hangs three seconds.
const BUCKETS: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StepLabel {
    step: &'static str,
}

/// Of one cluster, by its name.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ClusterLabel {
    namespace: String,
    name: String,
}

/// Figures of this process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    passes: Family<OutcomeLabel, Counter>,
    seconds: Histogram,
    steps: Family<StepLabel, Counter>,
    writes: Counter,
    status_writes: Counter,
    pub leads: Gauge,
    followed: Gauge,
    last_success: Gauge,
    desired: Family<ClusterLabel, Gauge>,
    ready: Family<ClusterLabel, Gauge>,
    draining: Family<ClusterLabel, Gauge>,
    unassigned: Family<ClusterLabel, Gauge>,
    stalled: Family<ClusterLabel, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Arc::default(),
            passes: Family::default(),
            seconds: Histogram::new(BUCKETS),
            steps: Family::default(),
            writes: Counter::default(),
            status_writes: Counter::default(),
            leads: Gauge::default(),
            followed: Gauge::default(),
            last_success: Gauge::default(),
            desired: Family::default(),
            ready: Family::default(),
            draining: Family::default(),
            unassigned: Family::default(),
            stalled: Family::default(),
        };
        metrics.register();
        metrics
    }
}

/// What the gauges of one cluster show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterFigures {
    pub desired: i64,
    pub ready: i64,
    pub draining: i64,
    pub unassigned: i64,
    pub stalled: bool,
}

impl Metrics {
    fn register(&self) {
        let mut registry = self.registry.lock();
        let all = registry.sub_registry_with_prefix("shoal_operator");
        all.register("reconciles", "Passes, by outcome", self.passes.clone());
        let seconds = self.seconds.clone();
        all.register_with_unit("reconcile_duration", "Time of a pass", Unit::Seconds, seconds);
        all.register("steps", "Steps taken, by kind", self.steps.clone());
        all.register("writes", "Objects written, without statuses", self.writes.clone());
        all.register("status_writes", "Statuses written", self.status_writes.clone());
        all.register("leader", "1 while this process acts", self.leads.clone());
        let text = "Clusters whose workers push what happens in them";
        all.register("followed_clusters", text, self.followed.clone());
        let last = self.last_success.clone();
        let text = "Unix time of the last pass without an error";
        all.register_with_unit("last_success_timestamp", text, Unit::Seconds, last);
        let clusters = all.sub_registry_with_prefix("cluster");
        clusters.register("desired_nodes", "Nodes asked for", self.desired.clone());
        clusters.register("ready_nodes", "Pods that are ready", self.ready.clone());
        clusters.register("draining_nodes", "Nodes that drain", self.draining.clone());
        clusters.register("unassigned_shards", "Shards without an owner", self.unassigned.clone());
        clusters.register(
            "stalled",
            "1 while nothing happens without a human",
            self.stalled.clone(),
        );
    }

    pub fn reconciled(&self, took: Duration, succeeded: bool) {
        let outcome = if succeeded { "success" } else { "error" };
        self.passes.get_or_create(&OutcomeLabel { outcome }).inc();
        self.seconds.observe(took.as_secs_f64());
        if succeeded {
            let now = k8s_openapi::jiff::Timestamp::now().as_second();
            self.last_success.set(now);
        }
    }

    pub fn stepped(&self, step: &'static str) {
        self.steps.get_or_create(&StepLabel { step }).inc();
    }

    pub fn wrote(&self) {
        self.writes.inc();
    }

    pub fn wrote_status(&self) {
        self.status_writes.inc();
    }

    /// Of one more cluster a worker pushes its status, until this is dropped.
    pub fn follows(&self) -> Follows {
        self.followed.inc();
        Follows(self.followed.clone())
    }

    pub fn show(&self, namespace: &str, name: &str, figures: ClusterFigures) {
        let label = label(namespace, name);
        self.desired.get_or_create(&label).set(figures.desired);
        self.ready.get_or_create(&label).set(figures.ready);
        self.draining.get_or_create(&label).set(figures.draining);
        self.unassigned.get_or_create(&label).set(figures.unassigned);
        self.stalled.get_or_create(&label).set(figures.stalled.into());
    }

    /// A cluster that is gone has no figures.
    pub fn forget(&self, namespace: &str, name: &str) {
        let label = label(namespace, name);
        for family in [&self.desired, &self.ready, &self.draining, &self.unassigned, &self.stalled]
        {
            family.remove(&label);
        }
    }

    fn page(&self) -> String {
        let mut page = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut page, &self.registry.lock());
        page
    }
}

pub struct Follows(Gauge);

impl Drop for Follows {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn label(namespace: &str, name: &str) -> ClusterLabel {
    ClusterLabel { namespace: namespace.to_owned(), name: name.to_owned() }
}

/// Notices a pass that began and never ended. Cheap to clone.
#[derive(Clone, Default)]
pub struct Progress {
    next: Arc<AtomicU64>,
    under_way: Arc<Mutex<std::collections::BTreeMap<u64, Instant>>>,
}

/// One pass; over when it is dropped.
pub struct Pass {
    progress: Progress,
    number: u64,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.progress.under_way.lock().remove(&self.number);
    }
}

impl Progress {
    pub fn begin(&self) -> Pass {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.under_way.lock().insert(number, Instant::now());
        Pass { progress: self.clone(), number }
    }

    /// How long the oldest pass has been under way.
    fn oldest(&self) -> Duration {
        let all = self.under_way.lock();
        all.values().map(|began| began.elapsed()).max().unwrap_or_default()
    }

    fn is_stuck(&self, patience: Duration) -> bool {
        self.oldest() > patience
    }
}

/// Serves /livez, /readyz and /metrics until it is dropped.
pub async fn serve(
    address: SocketAddr,
    metrics: Metrics,
    progress: Progress,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let (metrics, progress) = (metrics.clone(), progress.clone());
        tokio::spawn(async move {
            let answer = |request: Request<Incoming>| {
                let response = answer(request.uri().path(), &metrics, &progress);
                async move { Ok::<_, Infallible>(response) }
            };
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            // A client that went away has its answer.
            let _ = connection.await;
        });
    }
}

fn answer(path: &str, metrics: &Metrics, progress: &Progress) -> Response<Full<Bytes>> {
    let (code, text) = match path {
        "/livez" if progress.is_stuck(STUCK) => {
            (500, format!("a pass has been under way for {:?}\n", progress.oldest()))
        }
        // One that stands by is ready: it takes over within a lease.
        "/livez" | "/readyz" => (200, "ok\n".to_owned()),
        "/metrics" => (200, metrics.page()),
        _ => (404, "there is /livez, /readyz and /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = hyper::StatusCode::from_u16(code).unwrap_or_default();
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_pass_that_never_ends_is_noticed() {
        let progress = Progress::default();
        let pass = progress.begin();
        assert!(progress.is_stuck(Duration::ZERO));
        assert_eq!(answer("/livez", &Metrics::default(), &progress).status(), 200);
        drop(pass);
        assert!(!progress.is_stuck(Duration::ZERO));
    }

    fn used() -> Metrics {
        let metrics = Metrics::default();
        metrics.reconciled(Duration::from_millis(20), true);
        metrics.stepped("resize");
        metrics.show("n", "c", ClusterFigures { desired: 3, ..ClusterFigures::default() });
        metrics
    }

    #[test]
    fn the_page_holds_every_family() {
        let metrics = used();
        let page = metrics.page();
        for family in [
            "shoal_operator_reconciles_total{outcome=\"success\"} 1",
            "shoal_operator_reconcile_duration_seconds_count 1",
            "shoal_operator_steps_total{step=\"resize\"} 1",
            "shoal_operator_cluster_desired_nodes{namespace=\"n\",name=\"c\"} 3",
        ] {
            assert!(page.contains(family), "{family} in {page}");
        }
        let followed = "shoal_operator_followed_clusters";
        let follows = metrics.follows();
        assert!(metrics.page().contains(&format!("{followed} 1")));
        drop(follows);
        assert!(metrics.page().contains(&format!("{followed} 0")));
        metrics.forget("n", "c");
        assert!(!metrics.page().contains("desired_nodes{"));
    }

    /// Name, type and meaning of each family, as the page itself tells them.
    fn table(page: &str) -> String {
        let mut kinds = BTreeMap::new();
        let mut meanings = BTreeMap::new();
        for line in page.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
            {
                kinds.insert(name, kind);
            }
            if let Some((name, text)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' '))
            {
                meanings.insert(name, text.trim_end_matches('.'));
            }
        }
        let rows = kinds.iter().map(|(name, kind)| {
            let total = if *kind == "counter" { "_total" } else { "" };
            format!("| `{name}{total}` | {kind} | {} |\n", meanings[name])
        });
        format!("\n| name | type | meaning |\n| --- | --- | --- |\n{}", rows.collect::<String>())
    }

    #[test]
    fn the_document_lists_every_family() {
        const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        const MARKER: &str =
            "<!-- from here on: UPDATE_DOCS=1 cargo test -p shoal-operator telemetry -->\n";
        let text = std::fs::read_to_string(DOCUMENT).unwrap();
        let (before, listed) = text.split_once(MARKER).expect("a marker");
        let table = table(&used().page());
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(DOCUMENT, format!("{before}{MARKER}{table}")).unwrap();
            return;
        }
        assert_eq!(listed, table, "docs/metrics.md is behind: UPDATE_DOCS=1 writes it");
    }
}
