//! A whole cluster that comes back: every process was killed, every session is gone.

use std::{sync::atomic::Ordering, time::Duration};

use anyhow::{Context as _, ensure};
use shoal_proto::shoal::admin::v1 as pb;
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};

use super::{
    LARGE, SMALL, Size,
    sessions::{PROCESSES, formed, scraped, sources},
    standin::Crowd,
};
use crate::{
    cluster::{self, Cluster, Place},
    figure::{Row, Target, number},
    node, process,
};

/// Name of its file, title, and what runs.
pub const TOLD: (&str, &str, &str) = (
    "scale-restart",
    "Scale: a restart of the whole cluster",
    "65,536 shards on 1,000 nodes: three processes that vote and stand-ins for the others, each with its share. All are killed at once and started again at once: first on the same boot, where locks prove that the former processes are dead, then on another one, where sessions must run out. Before, the log is filled past a snapshot and renewed for ten seconds.",
);

/// PROMISE: shards wait for their owners so long at most, or until so many are back.
const WAIT_S: f64 = 30.0;
const BACK_PERCENT: f64 = 90.0;
/// More than a snapshot covers, so that there is one.
const ENTRIES: u64 = 55_000;
const WRITERS: usize = 64;
/// Renewals behind the snapshot.
const RENEWED: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(120);

pub async fn run(place: &Place, small: bool) -> anyhow::Result<Vec<Row>> {
    let size = if small { SMALL } else { LARGE };
    let mut cluster = formed(place, size.shards).await?;
    let mut crowd = Crowd::of(&cluster).await?;
    crowd.grow(size.nodes as usize - PROCESSES).await?;
    share(&mut cluster, size).await?;
    if !small {
        fill(&cluster).await?;
        time::sleep(RENEWED).await;
    }
    let mut rows = standing(&cluster).await?;
    for (rebooted, what) in [(false, "same boot"), (true, "another boot")] {
        let took = power_cycle(&mut cluster, &mut crowd, size, rebooted).await?;
        rows.extend(took.rows(what, rebooted));
    }
    crowd.kill().await?;
    cluster.end().await?;
    Ok(rows)
}

/// The processes own everything since the cluster formed. Restarted while they are drained,
/// they take nothing again, and all nodes share.
async fn share(cluster: &mut Cluster, size: Size) -> anyhow::Result<()> {
    let moves =
        |most| pb::ConfigureRequest { max_moves: Some(most), ..pb::ConfigureRequest::default() };
    cluster.configure(moves(1)).await?;
    let status = cluster.status().await?;
    for node in cluster.nodes.iter() {
        let row = status.nodes.iter().find(|row| row.name == node.name).context("no row")?;
        let drain = pb::DrainRequest {
            node: row.id,
            kind: pb::DrainKind::Restart.into(),
            incarnation: row.incarnation.clone(),
            operator: None,
        };
        // A leader that is drained passes leadership on: who asks meanwhile asks again.
        let until = Instant::now() + PATIENCE;
        while let Err(status) = node.admin().drain(drain.clone()).await {
            ensure!(Instant::now() < until, "{} is not drained: {status}", node.name);
            time::sleep(LOOK).await;
        }
    }
    kill_all(cluster).await?;
    cluster.start_all()?;
    let until = Instant::now() + PATIENCE;
    loop {
        cluster.nodes.iter_mut().try_for_each(node::Node::check)?;
        let status = cluster.status().await.unwrap_or_default();
        let up = status.nodes.iter().filter(|row| row.life == "up" && row.drain == "none").count();
        // Whoever lost its session meanwhile owns less: enough that it is one of many owners.
        let most = status.nodes.iter().map(|row| row.shards_owned).max().unwrap_or_default();
        let fair = most <= 4 * size.shards / size.nodes;
        if cluster::at_rest(&status) && up == size.nodes as usize && fair {
            return cluster.configure(moves(64)).await;
        }
        let without = status.shards.unwrap_or_default().unassigned;
        ensure!(
            Instant::now() < until,
            "{up} of {} nodes are up, one owns {most} shards, {without} have no owner",
            size.nodes
        );
        time::sleep(10 * LOOK).await;
    }
}

async fn kill_all(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.nodes.iter().try_for_each(node::Node::kill)?;
    for node in &mut cluster.nodes {
        node.killed().await?;
    }
    Ok(())
}

/// Entries until every process has a snapshot.
async fn fill(cluster: &Cluster) -> anyhow::Result<()> {
    let status = cluster.status().await?;
    let leader = &cluster.nodes[cluster.at(&status, status.leader_id)?];
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let mut admin = leader.admin();
        writers.spawn(async move {
            for _ in 0..ENTRIES / WRITERS as u64 {
                admin.acquire_operator_epoch(pb::AcquireOperatorEpochRequest {}).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    let until = Instant::now() + PATIENCE;
    for node in &cluster.nodes {
        while scraped(node, "shoal_raft_snapshot_index").await? < 1.0 {
            ensure!(Instant::now() < until, "{} has no snapshot", node.name);
            time::sleep(LOOK).await;
        }
    }
    Ok(())
}

/// What a process holds before everything ends.
async fn standing(cluster: &Cluster) -> anyhow::Result<Vec<Row>> {
    let (mut memory, mut log, mut entries) = (Vec::new(), Vec::new(), Vec::new());
    for node in &cluster.nodes {
        memory.push(process::memory(node.pid()?)?.now);
        log.push(scraped(node, "shoal_raft_log_bytes").await? / f64::from(1 << 20));
        let last = scraped(node, "shoal_raft_last_log_index").await?;
        entries.push(last - scraped(node, "shoal_raft_snapshot_index").await?);
    }
    Ok(vec![
        Row::worst("resident memory of a process that votes", &memory, "MiB"),
        Row::worst("its log", &log, "MiB"),
        Row::worst("entries behind its snapshot", &entries, ""),
    ])
}

/// Seconds from the start of all processes.
#[derive(Default)]
struct Took {
    replayed: f64,
    led: f64,
    registered: f64,
    owned: f64,
    entries: f64,
    changes: f64,
    shards: f64,
    /// Percent of the nodes that were back when shards were first given to others.
    back: Option<f64>,
    /// Seconds of CPU of each process.
    cpu: Vec<f64>,
    watchers: f64,
    tables: f64,
    deltas: f64,
    told_mib: f64,
}

async fn power_cycle(
    cluster: &mut Cluster,
    crowd: &mut Crowd,
    size: Size,
    rebooted: bool,
) -> anyhow::Result<Took> {
    let before = cluster.status().await?;
    let epochs = cluster::owner_changes(&cluster.shards().await?);
    crowd.kill().await?;
    kill_all(cluster).await?;
    let began = Instant::now();
    cluster.start_all()?;
    crowd.revive(rebooted);
    let watchers = crowd.watch_beside(&sources(&before, |_| true));
    let mut took = watch(cluster, crowd, &before, size, began).await?;
    for node in &cluster.nodes {
        took.cpu.push(process::cpu(node.pid()?)?.as_secs_f64());
    }
    let counted = watchers.counted.clone();
    took.watchers = watchers.len() as f64;
    took.tables = counted.tables.load(Ordering::Relaxed) as f64;
    took.deltas = counted.deltas.load(Ordering::Relaxed) as f64;
    let bytes = &counted.delta_bytes;
    took.told_mib = bytes.load(Ordering::Relaxed) as f64 / f64::from(1 << 20);
    watchers.end().await;
    let changes = cluster::owner_changes(&cluster.shards().await?) - epochs;
    took.changes = changes as f64;
    Ok(took)
}

async fn watch(
    cluster: &mut Cluster,
    crowd: &Crowd,
    before: &pb::StatusResponse,
    size: Size,
    began: Instant,
) -> anyhow::Result<Took> {
    let (mut replayed, mut led, mut back) = (None, None, None);
    let mut last = pb::StatusResponse::default();
    loop {
        ensure!(began.elapsed() < PATIENCE, "the cluster does not come back");
        time::sleep(LOOK).await;
        cluster.nodes.iter_mut().try_for_each(node::Node::check)?;
        let Ok(status) = cluster.status().await else { continue };
        let now = began.elapsed().as_secs_f64();
        if status.applied >= before.applied {
            replayed = replayed.or(Some(now));
        }
        if status.leader_id != 0 && status.term > before.term {
            led = led.or(Some(now));
        }
        let shards = status.shards.unwrap_or_default();
        // Another process may answer, which has applied less.
        if status.applied > last.applied {
            if shards.unassigned < last.shards.unwrap_or_default().unassigned {
                let share = back_before(&last, &status, before) as f64 / f64::from(size.nodes);
                back = back.or(Some(100.0 * share));
            }
            last = status.clone();
        }
        let registered = crowd.registered_now()?;
        let (Some(replayed), Some(led)) = (replayed, led) else { continue };
        let (true, Some(end)) = (registered.0 == crowd.len(), registered.1) else { continue };
        if !cluster::at_rest(&status) || !anew(&status, before) {
            continue;
        }
        return Ok(Took {
            replayed,
            led,
            registered: (end - began).as_secs_f64(),
            owned: now,
            entries: (status.applied - before.applied) as f64,
            shards: f64::from(shards.total),
            back,
            ..Took::default()
        });
    }
}

/// Fewest nodes that can have been back when shards were given away between two answers: each
/// entry since the first of them, but one that gave shards away, may have registered one.
fn back_before(
    earlier: &pb::StatusResponse,
    later: &pb::StatusResponse,
    before: &pb::StatusResponse,
) -> u64 {
    let back = |status: &pb::StatusResponse| {
        let known = |row: &&pb::Node| {
            before.nodes.iter().any(|was| was.id == row.id && was.incarnation != row.incarnation)
        };
        status.nodes.iter().filter(|row| row.life == "up").filter(known).count() as u64
    };
    let since = (later.applied - earlier.applied).saturating_sub(1);
    back(earlier).max(back(later).saturating_sub(since))
}

/// Every node that was up is up again as another process.
fn anew(status: &pb::StatusResponse, before: &pb::StatusResponse) -> bool {
    before.nodes.iter().filter(|row| row.life == "up").all(|row| {
        let now = status.nodes.iter().find(|now| now.id == row.id);
        now.is_some_and(|now| now.life == "up" && now.incarnation != row.incarnation)
    })
}

impl Took {
    fn rows(&self, boot: &str, rebooted: bool) -> Vec<Row> {
        let row = |what: &str, value, unit| Row::new(format!("{boot}: {what}"), value, unit);
        let beyond = self.changes - self.shards;
        let waited = self.owned - self.led;
        let mut rows = vec![
            row(
                "snapshot opened and log replayed, from the start of the process",
                self.replayed,
                "s",
            ),
            row("a leader is known", self.led, "s"),
            row("all nodes hold a session again", self.registered, "s"),
            row("every shard has an owner again", self.owned, "s"),
            row("from the leader to owners of all shards", waited, "s")
                .target(Target::AtMost(WAIT_S)),
            row("entries written until then", self.entries, ""),
            Row::worst(
                format!("{boot}: CPU time of a process that votes until then"),
                &self.cpu,
                "s",
            ),
            row("deltas told to watching nodes until then", self.deltas, "").note(format!(
                "{} MiB to {} nodes that watch, which were told {} whole tables",
                number(self.told_mib),
                self.watchers,
                self.tables
            )),
            row("changes of owner beyond one for each shard", beyond, ""),
        ];
        if rebooted {
            let what = "nodes that were back when shards were first given away";
            rows.push(match self.back {
                Some(back) => row(what, back, "%").target(Target::AtLeast(BACK_PERCENT)),
                None => Row::unknown(what, "no shard was seen to wait"),
            });
        }
        rows
    }
}
