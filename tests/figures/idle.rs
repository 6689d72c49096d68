//! A formed cluster that nobody calls: what it sends, writes and uses.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use shoal_proto::shoal::{
    admin::v1 as pb,
    v1::{WatchRoutesRequest, shoal_client::ShoalClient},
};
use shoal_tests::http;
use tokio::{
    task,
    time::{self, Instant},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    cluster::{self, Cluster, Place},
    figure::{Row, Target},
    node, process,
};

const IDLE: Duration = Duration::from_secs(60);
/// The first answer of a watch names every shard.
const FIRST_WITHIN: Duration = Duration::from_secs(5);

/// Every quarter of a lease a watcher that has none looks for a source.
const WATCHES_WITHIN: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(200);

/// One node before and after.
struct Used {
    cpu: Duration,
    written: f64,
    at: Instant,
}

fn used(cluster: &Cluster) -> anyhow::Result<Vec<Used>> {
    let of = |node: &node::Node| {
        let pid = node.pid()?;
        Ok(Used { cpu: process::cpu(pid)?, written: process::written(pid)?, at: Instant::now() })
    };
    cluster.nodes.iter().map(of).collect()
}

pub async fn run(place: &Place) -> anyhow::Result<Vec<Row>> {
    let mut cluster = six(place).await?;
    let routes = Arc::new(AtomicU64::new(0));
    let mut watches = Vec::new();
    for node in &cluster.nodes {
        watches.push(watch_routes(&node.address(), routes.clone()).await?);
    }
    let (status, _) = cluster.settled("the cluster rests", settled).await?;
    let (entries, version, term) = (status.applied, status.map_version, status.term);
    let (before, deltas) = (used(&cluster)?, scraped(&cluster, "shoal_map_deltas_total").await?);
    time::sleep(IDLE).await;
    let after = used(&cluster)?;
    let deltas = scraped(&cluster, "shoal_map_deltas_total").await? - deltas;
    let watchers = scraped(&cluster, "shoal_map_watchers").await?;
    let status = cluster.status().await?;
    ensure!(status.term == term, "the leader changed: the cluster was not idle");
    ensure!(watchers >= 1.0, "nobody watches the map");
    let ended = watches.iter().filter(|watch| watch.is_finished()).count();
    ensure!(ended == 0, "{ended} watches ended");
    drop(watches);
    let (mut cpu, mut written, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for ((before, after), node) in before.iter().zip(&after).zip(&cluster.nodes) {
        let seconds = (after.at - before.at).as_secs_f64();
        cpu.push((after.cpu - before.cpu).as_secs_f64() * 100.0 / seconds);
        written.push((after.written - before.written) / 1024.0 / seconds);
        memory.push(process::memory(node.pid()?)?.now);
    }
    cluster.end().await?;
    let (seconds, told) = (IDLE.as_secs_f64(), routes.load(Ordering::Relaxed) as f64);
    Ok(vec![
        Row::new("deltas of the map to watching nodes in 60 s", deltas, "")
            .target(Target::Exactly(0.0))
            .note(format!("{watchers} watch; counted by their sources")),
        Row::new("deltas of the routes to a client at each node in 60 s", told, "")
            .target(Target::Exactly(0.0)),
        Row::new("growth of the map version in 60 s", (status.map_version - version) as f64, "")
            .target(Target::Exactly(0.0)),
        Row::new("entries of the log a second", (status.applied - entries) as f64 / seconds, "")
            .note("renewals of 6 sessions"),
        Row::worst("written to the disk by a node", &written, "KiB/s"),
        Row::worst("CPU of a node, of one core", &cpu, "%"),
        Row::worst("resident memory of an idle node", &memory, "MiB"),
    ])
}

/// Three nodes vote, two learn, and one is beyond them: it watches.
async fn six(place: &Place) -> anyhow::Result<Cluster> {
    let mut cluster = Cluster::formed(place).await?;
    let few = pb::ConfigureRequest { max_voters: Some(3), max_learners: Some(0), ..cluster::EAGER };
    cluster.configure(few).await?;
    for _ in 0..3 {
        let joiner = cluster.joiner()?;
        cluster.start(joiner)?;
    }
    cluster.settled("six nodes share the shards", settled).await?;
    let until = Instant::now() + WATCHES_WITHIN;
    while scraped(&cluster, "shoal_map_watchers").await? < 1.0 {
        ensure!(Instant::now() < until, "no node watches the map");
        time::sleep(LOOK).await;
    }
    Ok(cluster)
}

fn settled(status: &pb::StatusResponse) -> bool {
    cluster::whole(6)(status) && status.learners.len() == 2
}

/// Sum over all nodes of a figure that they export.
async fn scraped(cluster: &Cluster, name: &'static str) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for node in &cluster.nodes {
        let address = node.http_address();
        let page = task::spawn_blocking(move || http::get(&address, "/metrics")).await?;
        let (code, page) = page.map_err(anyhow::Error::msg)?;
        ensure!(code == 200, "/metrics answers {code}");
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value: f64 = value.with_context(|| format!("/metrics has no {name}"))?.parse()?;
        sum += value;
    }
    Ok(sum)
}

/// Counts what comes after the first answer.
async fn watch_routes(
    address: &str,
    deltas: Arc<AtomicU64>,
) -> anyhow::Result<AbortOnDropHandle<()>> {
    let mut client = ShoalClient::new(node::connect(address).await?);
    let mut routes = client.watch_routes(WatchRoutesRequest {}).await?.into_inner();
    let first =
        time::timeout(FIRST_WITHIN, routes.message()).await.context("no first routes")??;
    first.context("the watch ended at once")?;
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok(Some(_)) = routes.message().await {
            deltas.fetch_add(1, Ordering::Relaxed);
        }
    })))
}
