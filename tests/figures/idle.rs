//! A formed cluster that nobody calls: what it sends, writes and uses.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use shoal_proto::shoal::v1::{WatchRoutesRequest, shoal_client::ShoalClient};
use tokio::time::{self, Instant};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    cluster::{self, Cluster, Place},
    figure::{Row, Target},
    node, process,
};

const IDLE: Duration = Duration::from_secs(60);
/// The first answer of a watch names every shard.
const FIRST_WITHIN: Duration = Duration::from_secs(5);

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
    let mut cluster = Cluster::formed(place).await?;
    let routes = Arc::new(AtomicU64::new(0));
    let mut watches = Vec::new();
    for node in &cluster.nodes {
        watches.push(watch_routes(&node.address(), routes.clone()).await?);
    }
    let (status, _) = cluster.settled("the cluster rests", cluster::whole(3)).await?;
    let (entries, version, term) = (status.applied, status.map_version, status.term);
    let before = used(&cluster)?;
    time::sleep(IDLE).await;
    let after = used(&cluster)?;
    let status = cluster.status().await?;
    anyhow::ensure!(status.term == term, "the leader changed: the cluster was not idle");
    let (mut cpu, mut written, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for ((before, after), node) in before.iter().zip(&after).zip(&cluster.nodes) {
        let seconds = (after.at - before.at).as_secs_f64();
        cpu.push((after.cpu - before.cpu).as_secs_f64() * 100.0 / seconds);
        written.push((after.written - before.written) / 1024.0 / seconds);
        memory.push(process::memory(node.pid()?)?.now);
    }
    let ended = watches.iter().filter(|watch| watch.is_finished()).count();
    anyhow::ensure!(ended == 0, "{ended} watches ended");
    drop(watches);
    cluster.end().await?;
    let seconds = IDLE.as_secs_f64();
    Ok(vec![
        Row::new(
            "route deltas to a watch on each of 3 nodes in 60 s",
            routes.load(Ordering::Relaxed) as f64,
            "",
        )
        .target(Target::Exactly(0.0)),
        Row::new("growth of the map version in 60 s", (status.map_version - version) as f64, "")
            .target(Target::Exactly(0.0)),
        Row::new("entries of the log a second", (status.applied - entries) as f64 / seconds, "")
            .note("renewals of 3 sessions"),
        Row::worst("written to the disk by a node", &written, "KiB/s"),
        Row::worst("CPU of a node, of one core", &cpu, "%"),
        Row::worst("resident memory of an idle node", &memory, "MiB"),
    ])
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
