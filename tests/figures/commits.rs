//! Commits of the registry: real Raft of three processes, each with its log on the disk.
//!
//! A writer acquires operator epochs: each is one command, one entry of the log, durable on
//! a quorum, applied and answered with its own number, so that lost and doubled ones show.

use std::{fs, os::unix::fs::FileExt as _, path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use shoal_proto::shoal::admin::v1 as pb;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    cluster::{self, Cluster, Place},
    figure::{Row, Spread},
    node::{self, Admin},
    process,
};

const WRITERS: [usize; 3] = [1, 64, 256];
const RUNS: usize = 3;
const RUN: Duration = Duration::from_secs(4);
const CONNECTIONS: usize = 8;
/// Of the raw writes: a page, as a small commit writes.
const PAGE: usize = 4_096;
const PAGES: usize = 256;
const RAW: Duration = Duration::from_secs(1);

pub async fn run(place: &Place) -> anyhow::Result<Vec<Row>> {
    let mut cluster = Cluster::formed(place).await?;
    let (status, _) = cluster.settled("the cluster rests", cluster::whole(3)).await?;
    let leader = cluster.at(&status, status.leader_id)?;
    let mut admins = Vec::new();
    for _ in 0..CONNECTIONS {
        let address = admin_address(&status)?;
        admins.push(Admin::new(node::connect(&address).await?));
    }
    let mut rates = [const { Vec::new() }; WRITERS.len()];
    let mut cpus = [const { Vec::new() }; WRITERS.len()];
    let mut raw = Vec::new();
    for _ in 0..RUNS {
        raw.push(syncs(place.data.clone()).await?);
        for (at, writers) in WRITERS.into_iter().enumerate() {
            let applied = cluster.nodes[leader].status().await?.applied;
            let cpu = used(&cluster)?;
            let began = Instant::now();
            let committed = write(&admins, writers).await?;
            let seconds = began.elapsed().as_secs_f64();
            let now = cluster.nodes[leader].status().await?;
            ensure!(now.leader_id == status.leader_id, "the leader changed");
            ensure!(now.applied - applied >= committed, "fewer entries than answers");
            rates[at].push(committed as f64 / seconds);
            let used = used(&cluster)? - cpu;
            cpus[at].push(used.as_secs_f64() * 1e6 / committed as f64);
        }
    }
    cluster.end().await?;
    let median = |samples: &[f64]| Spread::of(samples).map_or(0.0, |spread| spread.median);
    let syncs = median(&raw);
    let mut rows = vec![Row::median(
        "raw writes of 4 KiB in place with fdatasync, one after another",
        &raw,
        "/s",
    )];
    for ((writers, rates), cpus) in WRITERS.iter().zip(&rates).zip(&cpus) {
        let row = Row::median(format!("commits, {writers} writers"), rates, "/s");
        rows.push(row.note(format!(
            "{:.2} x the raw writes; {:.0} µs of CPU of all three nodes per commit",
            median(rates) / syncs,
            median(cpus)
        )));
    }
    Ok(rows)
}

fn admin_address(status: &pb::StatusResponse) -> anyhow::Result<String> {
    let leader = status.nodes.iter().find(|node| node.id == status.leader_id);
    Ok(leader.context("nobody leads")?.admin_address.clone())
}

fn used(cluster: &Cluster) -> anyhow::Result<Duration> {
    cluster.nodes.iter().map(|node| process::cpu(node.pid()?)).sum()
}

/// Answers in `RUN`; each number must have been given once, and none left out.
async fn write(admins: &[Admin], writers: usize) -> anyhow::Result<u64> {
    let until = Instant::now() + RUN;
    let mut tasks = JoinSet::new();
    for at in 0..writers {
        let mut admin = admins[at % admins.len()].clone();
        tasks.spawn(async move {
            let mut epochs = Vec::new();
            while Instant::now() < until {
                let ask = pb::AcquireOperatorEpochRequest {};
                epochs.push(admin.acquire_operator_epoch(ask).await?.into_inner().epoch);
            }
            anyhow::Ok(epochs)
        });
    }
    let mut epochs = Vec::new();
    while let Some(done) = tasks.join_next().await {
        epochs.extend(done??);
    }
    epochs.sort_unstable();
    ensure!(epochs.windows(2).all(|pair| pair[0] + 1 == pair[1]), "a commit is missing or twice");
    Ok(epochs.len() as u64)
}

/// Raw durable writes a second in the directory of the nodes.
async fn syncs(dir: std::path::PathBuf) -> anyhow::Result<f64> {
    tokio::task::spawn_blocking(move || {
        let path = dir.join("raw-writes");
        let rate = sync_for(&path, RAW);
        fs::remove_file(&path)?;
        rate
    })
    .await?
}

fn sync_for(path: &Path, time: Duration) -> anyhow::Result<f64> {
    let file = fs::File::create(path)?;
    let page = [7_u8; PAGE];
    // In place, as a log writes to pages it has: a file that grows would also pay for that.
    file.write_all_at(&vec![0; PAGES * PAGE], 0)?;
    file.sync_all()?;
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < time {
        file.write_all_at(&page, ((count % PAGES) * PAGE) as u64)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}
