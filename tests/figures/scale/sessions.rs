//! A leader under many sessions: three processes that vote, and stand-ins beside them.

use std::{sync::atomic::Ordering, time::Duration};

use anyhow::{Context as _, ensure};
use shoal_core::id::NodeId;
use shoal_proto::shoal::admin::v1 as pb;
use shoal_tests::http;
use tokio::{
    task,
    time::{self, Instant},
};

use super::{LARGE, SMALL, growth, standin::Crowd, watchers::Source};
use crate::{
    cluster::{Cluster, Place},
    figure::{Row, Target},
    node::Node,
    process,
};

/// Name of its file, title, and what runs.
pub const TOLD: (&str, &str, &str) = (
    "scale-sessions",
    "Scale: sessions",
    "Three processes vote over 65,536 shards, which they own; the other nodes are stand-ins in one process that hold their sessions at the leader by the worker's own session machine and client, each over a connection of its own. Lease 3 s, balancing paused, on the same cores.",
);

/// Sessions of the three processes among them.
const SESSIONS: [usize; 3] = [10, 100, 1_000];
const STEADY: Duration = Duration::from_secs(30);
const STEADY_OF_A_TEST: Duration = Duration::from_secs(2);
/// Registering is over by then.
const CALM: Duration = Duration::from_secs(2);
pub const PROCESSES: usize = 3;

/// What the leader needed in one steady time.
struct Steady {
    sessions: f64,
    cpu_percent: f64,
    memory_mib: f64,
    entries: f64,
    log_kib: f64,
    written_kib: f64,
    renewals: f64,
    p50_ms: f64,
    p99_ms: f64,
    failed: f64,
    lost: f64,
}

pub async fn run(place: &Place, small: bool) -> anyhow::Result<Vec<Row>> {
    let (shards, counts, span) = if small {
        (SMALL.shards, &SESSIONS[..1], STEADY_OF_A_TEST)
    } else {
        (LARGE.shards, &SESSIONS[..], STEADY)
    };
    let cluster = formed(place, shards).await?;
    let mut crowd = Crowd::of(&cluster).await?;
    let mut seen = vec![steady(&cluster, None, span).await?];
    for sessions in counts {
        crowd.grow(sessions - PROCESSES).await?;
        time::sleep(CALM).await;
        seen.push(steady(&cluster, Some(&crowd), span).await?);
    }
    let mut rows = rows(&seen);
    match watched(&cluster, &crowd, span).await {
        Ok(watched) => rows.extend(watched),
        Err(why) => rows.push(Row::unknown("a follower under watchers", format!("{why:#}"))),
    }
    crowd.kill().await?;
    cluster.end().await?;
    Ok(rows)
}

/// What a follower needs that as many nodes watch as each member of the log has beside it.
async fn watched(cluster: &Cluster, crowd: &Crowd, span: Duration) -> anyhow::Result<Vec<Row>> {
    let status = cluster.status().await?;
    let leader = cluster.at(&status, status.leader_id)?;
    let before = cpu_of_followers(cluster, leader)?;
    time::sleep(span).await;
    let alone = cpu_of_followers(cluster, leader)? - before;
    let watchers = crowd.watch_beside(&sources(&status, |node| node.id != status.leader_id));
    watchers.all_told().await?;
    time::sleep(CALM).await;
    let counted = &watchers.counted;
    let told = || counted.deltas.load(Ordering::Relaxed);
    let (rest, deltas) = (cluster.status().await?, told());
    let before = cpu_of_followers(cluster, leader)?;
    time::sleep(span).await;
    let busy = cpu_of_followers(cluster, leader)? - before;
    let deltas = told() - deltas;
    let at_leader = scraped(&cluster.nodes[leader], "shoal_map_watchers").await?;
    let tables = counted.tables.load(Ordering::Relaxed);
    let mib = counted.table_bytes.load(Ordering::Relaxed) as f64 / f64::from(1 << 20);
    let now = cluster.status().await?;
    let tally = crowd.look()?;
    ensure!(
        now.term == status.term,
        "the leader changed under watchers: term {} to {}, map version {} to {} to {}, {} sessions \
         lost, {} renewals failed",
        status.term,
        now.term,
        status.map_version,
        rest.map_version,
        now.map_version,
        tally.lost,
        tally.failed
    );
    let followers = (PROCESSES - 1) as f64;
    let percent = |cpu: Duration| cpu.as_secs_f64() * 100.0 / span.as_secs_f64() / followers;
    let each = watchers.len() as f64 / followers;
    watchers.end().await;
    let cpu = |cpu, watched: String| {
        let what = format!("CPU of a follower that {watched}, of one core");
        Row::new(what, percent(cpu), "%")
    };
    let mut deltas = Row::new("deltas told to watching nodes meanwhile", deltas as f64, "");
    // Whoever was fenced on a machine that had no time for it is told of.
    if now.map_version > rest.map_version {
        let changes = now.map_version - rest.map_version;
        let lost = tally.lost;
        deltas = deltas.note(format!("map version grew by {changes}, {lost} sessions were lost"));
    }
    Ok(vec![
        cpu(alone, "one node watches at most".to_owned()),
        cpu(busy, format!("{each} nodes watch")),
        Row::new("a whole table told to a node", mib / tables as f64, "MiB"),
        deltas.target(Target::Exactly(0.0)),
        Row::new("nodes that watch the leader", at_leader, "").target(Target::Exactly(0.0)),
    ])
}

/// Both together.
fn cpu_of_followers(cluster: &Cluster, leader: usize) -> anyhow::Result<Duration> {
    let followers = cluster.nodes.iter().enumerate().filter(|(at, _)| *at != leader);
    followers.map(|(_, node)| process::cpu(node.pid()?)).sum()
}

/// Processes that may be watched.
pub fn sources(status: &pb::StatusResponse, wanted: impl Fn(&pb::Node) -> bool) -> Vec<Source> {
    let voters = status.nodes.iter().filter(|node| status.voters.contains(&node.id));
    let source =
        |node: &pb::Node| Source { node: NodeId(node.id), raft_address: node.raft_address.clone() };
    voters.filter(|node| wanted(node)).map(source).collect()
}

/// Three processes that vote, alone with the log; nothing is balanced.
pub async fn formed(place: &Place, shards: u32) -> anyhow::Result<Cluster> {
    let cluster = Cluster::formed_of(place, shards).await?;
    cluster
        .configure(pb::ConfigureRequest {
            rebalance: Some("paused".to_owned()),
            max_voters: Some(PROCESSES as u32),
            max_learners: Some(0),
            ..pb::ConfigureRequest::default()
        })
        .await?;
    Ok(cluster)
}

async fn steady(
    cluster: &Cluster,
    crowd: Option<&Crowd>,
    span: Duration,
) -> anyhow::Result<Steady> {
    let status = cluster.status().await?;
    let leader = &cluster.nodes[cluster.at(&status, status.leader_id)?];
    let fenced = scraped(leader, "shoal_control_sessions_fenced_total").await?;
    if let Some(crowd) = crowd {
        crowd.look()?;
    }
    let log = scraped(leader, "shoal_raft_log_bytes").await?;
    let (began, applied) = (Instant::now(), leader.status().await?.applied);
    let (pid, written) = (leader.pid()?, process::written(leader.pid()?)?);
    let cpu = process::cpu(pid)?;
    time::sleep(span).await;
    let cpu = process::cpu(pid)? - cpu;
    let seconds = began.elapsed().as_secs_f64();
    let tally = crowd.map(Crowd::look).transpose()?;
    let written = process::written(pid)? - written;
    let log = scraped(leader, "shoal_raft_log_bytes").await? - log;
    let now = leader.status().await?;
    ensure!(now.term == status.term, "the leader changed");
    let fenced = scraped(leader, "shoal_control_sessions_fenced_total").await? - fenced;
    let quantile = |at| tally.as_ref().map_or(0, |tally| tally.renewals.value_at_quantile(at));
    let up = now.nodes.iter().filter(|node| node.life == "up").count();
    ensure!(up == crowd.map_or(0, Crowd::len) + PROCESSES, "{up} nodes are up");
    Ok(Steady {
        sessions: up as f64,
        cpu_percent: cpu.as_secs_f64() * 100.0 / seconds,
        memory_mib: process::memory(pid)?.now,
        entries: (now.applied - applied) as f64 / seconds,
        log_kib: log / 1024.0 / seconds,
        written_kib: written / 1024.0 / seconds,
        renewals: tally.as_ref().map_or(0.0, |tally| tally.renewals.len() as f64 / seconds),
        p50_ms: quantile(0.5) as f64 / 1e3,
        p99_ms: quantile(0.99) as f64 / 1e3,
        failed: tally.as_ref().map_or(0.0, |tally| tally.failed as f64),
        lost: tally.as_ref().map_or(0.0, |tally| tally.lost as f64) + fenced,
    })
}

/// One figure that a node exports.
pub async fn scraped(node: &Node, name: &'static str) -> anyhow::Result<f64> {
    let address = node.http_address();
    let page = task::spawn_blocking(move || http::get(&address, "/metrics")).await?;
    let (code, page) = page.map_err(anyhow::Error::msg)?;
    ensure!(code == 200, "/metrics answers {code}");
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.with_context(|| format!("/metrics has no {name}"))?.parse()?)
}

fn rows(seen: &[Steady]) -> Vec<Row> {
    type Read = fn(&Steady) -> f64;
    const MEASURED: [(&str, &str, Read); 8] = [
        ("CPU of the leader, of one core", "%", |s| s.cpu_percent),
        ("resident memory of the leader", "MiB", |s| s.memory_mib),
        ("entries of the log a second", "", |s| s.entries),
        ("bytes of the log a second", "KiB", |s| s.log_kib),
        ("written to the disk by the leader a second", "KiB", |s| s.written_kib),
        ("renewals answered to the stand-ins a second", "", |s| s.renewals),
        ("a renewal and its answer, p50", "ms", |s| s.p50_ms),
        ("a renewal and its answer, p99", "ms", |s| s.p99_ms),
    ];
    let mut rows = Vec::new();
    for (what, unit, read) in MEASURED {
        for (at, one) in seen.iter().enumerate() {
            let value = read(one);
            if value <= 0.0 {
                continue;
            }
            let told = format!("{} sessions: {what}", crate::figure::number(one.sessions));
            let row = Row::new(told, value, unit);
            let last = at > 1 && at + 1 == seen.len();
            rows.push(if last { row.note(since_the_first(seen, read)) } else { row });
        }
    }
    let lost: f64 = seen.iter().map(|one| one.lost).sum();
    let failed: f64 = seen.iter().map(|one| one.failed).sum();
    let row = Row::new("sessions lost, all of these together", lost, "");
    let told = format!("{failed} renewals of the stand-ins had no good answer");
    rows.push(row.target(Target::Exactly(0.0)).note(told));
    rows
}

/// From the first stand-ins on.
fn since_the_first(seen: &[Steady], read: fn(&Steady) -> f64) -> String {
    let values: Vec<f64> = seen.iter().skip(1).map(read).collect();
    let sessions: Vec<f64> = seen.iter().skip(1).map(|one| one.sessions).collect();
    growth(&values, &sessions, "sessions")
}
