//! Calls through another node beside a direct call to a stock tonic server: rate, latency,
//! and the CPU of each process.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use shoal_proto::shoal::v1::{CallRequest, shoal_client::ShoalClient};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::{self, Instant},
};

use crate::{
    callers::Called,
    cluster::{self, Cluster, Place},
    figure::{Row, Spread},
    node, process,
};

const CALLERS: [usize; 3] = [1, 16, 64];
const RUNS: usize = 3;
const SECONDS: f64 = 3.0;
const KEYS: usize = 64;
/// Of a value that is read.
const VALUE: usize = 128;
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// Whom the callers call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct,
    Local,
    Forwarded,
}

const WAYS: [Way; 3] = [Way::Direct, Way::Forwarded, Way::Local];

/// Servers and what is asked of them.
struct Stage {
    cluster: Cluster,
    entry: usize,
    owner: usize,
    stock: Child,
    stock_address: String,
    keys: Vec<String>,
}

/// One run.
#[derive(Clone, Copy, Debug, Default)]
struct Took {
    rate: f64,
    p50_us: f64,
    p99_us: f64,
    /// CPU per call in µs: the first server, the second one, the client.
    entry: f64,
    owner: f64,
    client: f64,
}

pub async fn run(place: &Place) -> anyhow::Result<Vec<Row>> {
    let stage = prepare(place).await?;
    let mut rows = Vec::new();
    for callers in CALLERS {
        let mut took = [const { Vec::new() }; WAYS.len()];
        for _ in 0..RUNS {
            for (at, way) in WAYS.into_iter().enumerate() {
                took[at].push(measure(&stage, way, callers).await?);
            }
        }
        let [direct, forwarded, local] = &took;
        rows.extend(compared(callers, direct, forwarded, local));
        eprintln!("  {callers} callers are done");
    }
    let entry = process::memory(stage.cluster.nodes[stage.entry].pid()?)?;
    let owner = process::memory(stage.cluster.nodes[stage.owner].pid()?)?;
    rows.push(
        Row::new("resident memory of the entry node under this load, at most", entry.most, "MiB")
            .note(format!("the owner {:.0} MiB", owner.most)),
    );
    let Stage { cluster, mut stock, .. } = stage;
    stock.kill().await?;
    cluster.end().await?;
    Ok(rows)
}

fn compared(callers: usize, direct: &[Took], forwarded: &[Took], local: &[Took]) -> Vec<Row> {
    let of = |took: &[Took], value: fn(&Took) -> f64| took.iter().map(value).collect::<Vec<_>>();
    let middle = |samples: &[f64]| Spread::of(samples).map_or(0.0, |spread| spread.median);
    let latency = |took: &[Took]| {
        let (p50, p99) = (of(took, |took| took.p50_us), of(took, |took| took.p99_us));
        format!("p50 {:.0} µs, p99 {:.0} µs", middle(&p50), middle(&p99))
    };
    let ratios = |took: &[Took], value: fn(&Took) -> f64| -> Vec<f64> {
        took.iter().zip(direct).map(|(one, direct)| value(one) / value(direct)).collect()
    };
    let cpu = |took: &[Took], value: fn(&Took) -> f64| middle(&of(took, value));
    let servers: fn(&Took) -> f64 = |took| took.entry + took.owner;
    let rate: fn(&Took) -> f64 = |took| took.rate;
    vec![
        Row::median(format!("{callers} callers: direct stock tonic"), &of(direct, rate), "calls/s")
            .note(latency(direct)),
        Row::median(format!("{callers} callers: forwarded"), &of(forwarded, rate), "calls/s")
            .note(latency(forwarded)),
        Row::median(format!("{callers} callers: local, at the owner"), &of(local, rate), "calls/s")
            .note(latency(local)),
        Row::median(format!("{callers} callers: forwarded ÷ direct"), &ratios(forwarded, rate), ""),
        Row::median(format!("{callers} callers: local ÷ direct"), &ratios(local, rate), ""),
        Row::median(
            format!("{callers} callers: CPU per forwarded call, both nodes"),
            &of(forwarded, servers),
            "µs",
        )
        .note(format!(
            "entry {:.1}, owner {:.1}, client {:.1}; direct: server {:.1}, client {:.1}; local: server {:.1}",
            cpu(forwarded, |took| took.entry),
            cpu(forwarded, |took| took.owner),
            cpu(forwarded, |took| took.client),
            cpu(direct, |took| took.entry),
            cpu(direct, |took| took.client),
            cpu(local, |took| took.entry),
        )),
        Row::median(
            format!("{callers} callers: CPU of both nodes ÷ CPU of the direct server"),
            &ratios(forwarded, servers),
            "",
        ),
    ]
}

/// A cluster, a stock server, and the same values in both.
async fn prepare(place: &Place) -> anyhow::Result<Stage> {
    let mut cluster = Cluster::formed(place).await?;
    let (status, _) = cluster.settled("the cluster rests", cluster::whole(3)).await?;
    let others: Vec<_> = status.nodes.iter().filter(|node| node.id != status.leader_id).collect();
    ensure!(others.len() == 2, "the cluster has three nodes");
    let (entry, owner) = (cluster.at(&status, others[0].id)?, cluster.at(&status, others[1].id)?);
    let shards = cluster.shards().await?;
    let owned = shards.iter().filter(|shard| shard.owner == others[1].id);
    let owned: Vec<_> = owned.map(|shard| shard.id).take(KEYS).collect();
    let keys = cluster::keys_of(&owned, shards.len() as u32);
    let keys: Vec<_> = keys.into_iter().map(|(_, key)| key).collect();
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let stock_address = listener.local_addr()?.to_string();
    drop(listener);
    let stock = Command::new(std::env::current_exe()?)
        .args(["direct", "--listen", &stock_address])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    for address in [&cluster.nodes[owner].address(), &stock_address] {
        let mut client = ShoalClient::new(reached(address).await?);
        for key in &keys {
            let (key, payload) = (Bytes::from(key.clone()), Bytes::from(vec![b'v'; VALUE]));
            client.call(CallRequest { key, method: "put".to_owned(), payload }).await?;
        }
    }
    Ok(Stage { cluster, entry, owner, stock, stock_address, keys })
}

async fn reached(address: &str) -> anyhow::Result<tonic::transport::Channel> {
    let until = Instant::now() + STARTS_WITHIN;
    loop {
        match node::connect(address).await {
            Ok(channel) => return Ok(channel),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn measure(stage: &Stage, way: Way, callers: usize) -> anyhow::Result<Took> {
    let (entry, owner) = (&stage.cluster.nodes[stage.entry], &stage.cluster.nodes[stage.owner]);
    let (address, first, second) = match way {
        Way::Direct => (stage.stock_address.clone(), stage.stock.id(), None),
        Way::Local => (owner.address(), Some(owner.pid()?), None),
        Way::Forwarded => (entry.address(), Some(entry.pid()?), Some(owner.pid()?)),
    };
    let first = first.context("the server ended")?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["callers", "--address", &address, "--keys", &stage.keys.join(",")])
        .args(["--callers", &callers.to_string(), "--seconds", &SECONDS.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let client = child.id().context("the callers ended")?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let cpu = |pid: Option<u32>| pid.map_or(Ok(Duration::ZERO), process::cpu);
    next(&mut lines).await?;
    let before = [cpu(Some(first))?, cpu(second)?, cpu(Some(client))?];
    let called: Called = serde_json::from_str(&next(&mut lines).await?)?;
    let after = [cpu(Some(first))?, cpu(second)?];
    // The client prints after it has stopped measuring and ends at once.
    let client = process::cpu(client).ok();
    child.wait().await?;
    judge(&called, way)?;
    let per_call = |used: Duration| used.as_secs_f64() * 1e6 / called.calls as f64;
    Ok(Took {
        rate: called.calls as f64 / called.seconds,
        p50_us: called.p50_us,
        p99_us: called.p99_us,
        entry: per_call(after[0].saturating_sub(before[0])),
        owner: per_call(after[1].saturating_sub(before[1])),
        client: client.map_or(f64::NAN, |after| per_call(after.saturating_sub(before[2]))),
    })
}

/// A run measures what it says only if each call went the way it was meant to.
fn judge(called: &Called, way: Way) -> anyhow::Result<()> {
    ensure!(called.calls > 0 && called.failed == 0, "{way:?}: calls failed: {called:?}");
    let forwarded = if way == Way::Forwarded { called.calls } else { 0 };
    ensure!(called.forwarded == forwarded, "{way:?}: calls went another way: {called:?}");
    Ok(())
}

async fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<String> {
    lines.next_line().await?.context("the callers ended early")
}
