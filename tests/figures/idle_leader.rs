//! The leader is killed while it owns nothing: calls that enter at the others must not
//! notice it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use shoal_proto::shoal::admin::v1 as pb;
use tokio::time::{self, Instant};

use crate::{
    cluster::{self, Cluster, Place},
    figure::{Row, Target},
    form::millis,
    load,
};

const KILLS: usize = 3;
const RATE: f64 = 1_000.0;
const BEFORE: Duration = Duration::from_secs(2);
/// Longer than a lease: what hangs on it shows.
const AFTER: Duration = Duration::from_secs(6);
const MOVES_AT_ONCE: usize = 12;
const ELECTED_WITHIN: Duration = Duration::from_secs(20);
/// Phases of the load.
const STEADY: usize = 0;
const LEADERLESS: usize = 1;

#[derive(Default)]
struct Seen {
    calls: Vec<f64>,
    failed: Vec<f64>,
    damaged: Vec<f64>,
    longest: Vec<f64>,
    longest_before: Vec<f64>,
    elected: Vec<f64>,
}

pub async fn run(place: &Place) -> anyhow::Result<Vec<Row>> {
    let mut cluster = Cluster::formed(place).await?;
    cluster.configure(cluster::EAGER).await?;
    let mut seen = Seen::default();
    for _ in 0..KILLS {
        one(&mut cluster, &mut seen).await?;
    }
    cluster.end().await?;
    Ok(vec![
        Row::worst("calls that failed, entering at the other two", &seen.failed, "")
            .target(Target::Exactly(0.0))
            .note("the leader owned 0 shards and led when it was killed"),
        Row::worst("increments lost or doubled", &seen.damaged, "").target(Target::Exactly(0.0)),
        Row::median("calls in a run, 1,000 a second in an open loop", &seen.calls, ""),
        Row::worst("longest call after the kill", &seen.longest, "ms"),
        Row::worst("longest call before it", &seen.longest_before, "ms"),
        Row::median("SIGKILL to another leader", &seen.elected, "ms"),
    ])
}

async fn one(cluster: &mut Cluster, seen: &mut Seen) -> anyhow::Result<()> {
    let (status, _) = cluster.settled("the cluster is whole", cluster::whole(3)).await?;
    let leader = status.leader_id;
    let at = cluster.at(&status, leader)?;
    cluster.configure(rebalance("paused")).await?;
    move_away(cluster, &status).await?;
    let others = cluster.entries().into_iter().filter(|at_| *at_ != cluster.nodes[at].address());
    let phase = Arc::new(AtomicUsize::new(STEADY));
    let load = load::Load::start(others.collect(), RATE, phase.clone());
    time::sleep(BEFORE).await;

    let now = cluster.nodes[at].status().await?;
    ensure!(now.leader_id == leader, "leadership moved before the kill");
    let held = now.nodes.iter().find(|node| node.id == leader).context("no leader's row")?;
    ensure!(held.shards_owned + held.shards_receiving == 0, "the leader still owns shards");
    phase.store(LEADERLESS, Ordering::Relaxed);
    let killed = Instant::now();
    cluster.nodes[at].kill()?;
    cluster.nodes[at].killed().await?;
    seen.elected.push(millis(elected(cluster, leader, killed).await?));
    time::sleep(AFTER.saturating_sub(killed.elapsed())).await;
    let report = load.end().await?;
    let phases = (report.phases.get(STEADY), report.phases.get(LEADERLESS));
    let (Some(before), Some(after)) = phases else { anyhow::bail!("no calls around the kill") };
    seen.calls.push(report.whole.calls as f64);
    seen.failed.push((report.whole.failed + report.unread) as f64);
    seen.damaged.push(load::damaged(&report) as f64);
    seen.longest.push(after.longest_ms);
    seen.longest_before.push(before.longest_ms);
    for (kind, count) in &report.whole.failures {
        eprintln!("  {count} x {kind}");
    }
    cluster.start(at)?;
    cluster.configure(rebalance("automatic")).await
}

fn rebalance(how: &str) -> pb::ConfigureRequest {
    pb::ConfigureRequest { rebalance: Some(how.to_owned()), ..Default::default() }
}

async fn elected(cluster: &mut Cluster, old: u64, killed: Instant) -> anyhow::Result<Duration> {
    while killed.elapsed() < ELECTED_WITHIN {
        if cluster.status().await.is_ok_and(|now| now.leader_id != 0 && now.leader_id != old) {
            return Ok(killed.elapsed());
        }
        time::sleep(Duration::from_millis(5)).await;
    }
    anyhow::bail!("nobody leads after {ELECTED_WITHIN:?}")
}

/// Every shard of the leader goes to one of the others in turn.
async fn move_away(cluster: &mut Cluster, status: &pb::StatusResponse) -> anyhow::Result<()> {
    let leader = status.leader_id;
    let others: Vec<_> =
        status.nodes.iter().map(|node| node.id).filter(|id| *id != leader).collect();
    let shards = cluster.shards().await?.into_iter().filter(|shard| shard.owner == leader);
    let admin = cluster.nodes[cluster.at(status, leader)?].admin();
    let moves = shards.enumerate().map(|(turn, shard)| {
        let (mut admin, to) = (admin.clone(), others[turn % others.len()]);
        async move {
            let request = pb::MoveRequest { shard: shard.id, to, operator: None };
            admin.r#move(request).await.context("a move away from the leader")
        }
    });
    futures::stream::iter(moves).buffer_unordered(MOVES_AT_ONCE).try_collect::<Vec<_>>().await?;
    Ok(())
}
