//! Planned changes as stock clients see them: grpcio and grpc-go, default options, no retry
//! policy. The clients are programs of their own and count for themselves.

use std::{collections::BTreeMap, path::Path, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use parking_lot::RwLock;
use serde::Deserialize;
use tokio::{
    process::Command,
    time::{self, Instant},
};

use crate::{
    Arguments,
    cluster::{Cluster, Place},
    figure::{Row, Target},
    planned::{self, Phases, Told},
    vip::Vip,
};

const CONNECTIONS: usize = 64;
const KEYS: usize = 1_024;
/// Reading every counter takes a second; a client that hangs must not hold the bench.
const ENDS_WITHIN: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Python,
    Go,
}

impl Language {
    /// What one core sends beside the nodes without being late by itself.
    fn rate(self) -> f64 {
        match self {
            Self::Python => 1_250.0,
            Self::Go => 3_000.0,
        }
    }

    fn command(self, clients: &Path) -> Command {
        match self {
            Self::Python => {
                let mut command = Command::new(clients.join("python/venv/bin/python"));
                command.arg(clients.join("python/client.py"));
                command
            }
            Self::Go => Command::new(clients.join("go/client")),
        }
    }
}

/// What a client says at its end.
#[derive(Clone, Debug, Deserialize)]
struct Said {
    client: String,
    calls: u64,
    failed: u64,
    failures: BTreeMap<String, u64>,
    forwarded_percent: f64,
    longest_ms: f64,
    lost: u64,
    doubled: u64,
    unread: u64,
}

pub async fn run(place: &Place, given: &Arguments, language: Language) -> anyhow::Result<Vec<Row>> {
    let (calls, rate) = (given.calls, given.rate.unwrap_or(language.rate()));
    let mut cluster = Cluster::formed(place).await?;
    let phases = Phases::of(&cluster);
    let entries = Arc::new(RwLock::new(cluster.entries()));
    let vip = Vip::of(&entries, CONNECTIONS).await?;
    let addresses: Vec<_> = vip.addresses.iter().map(ToString::to_string).collect();
    let clients = given.clients.canonicalize().context("the clients are not built")?;
    let mut child = language
        .command(&clients)
        .args(["--addresses", &addresses.join(","), "--calls", &calls.to_string()])
        .args(["--keys", &KEYS.to_string(), "--rate", &rate.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("the client does not start")?;
    // Its end of input is the end of its run.
    let input = child.stdin.take().context("no input")?;
    let began = Instant::now();
    let due = || began.elapsed().as_secs_f64() * rate;
    let told = planned::stories(&mut cluster, &phases, &entries, || due() >= calls as f64).await?;
    drop(input);
    let output = time::timeout(ENDS_WITHIN, child.wait_with_output()).await;
    let output = output.context("the client does not end")??;
    ensure!(output.status.success(), "the client ended with {}", output.status);
    let said = serde_json::from_slice(&output.stdout).context("what the client says")?;
    cluster.end().await?;
    Ok(rows(&said, &told, calls, rate))
}

fn rows(said: &Said, told: &Told, calls: u64, rate: f64) -> Vec<Row> {
    let failures: Vec<_> =
        said.failures.iter().map(|(kind, count)| format!("{count} x {kind}")).collect();
    let damaged = said.lost + said.doubled + said.unread;
    vec![
        Row::new("calls", said.calls as f64, "")
            .target(Target::AtLeast(calls as f64))
            .note(format!("{}, {rate} a second in an open loop", said.client)),
        Row::new("failed", said.failed as f64, "")
            .target(Target::Exactly(0.0))
            .note(failures.join("; ")),
        Row::new("increments lost or doubled, counters unread", damaged as f64, "")
            .target(Target::Exactly(0.0)),
        Row::new("longest call of all", said.longest_ms, "ms").target(Target::AtMost(1_000.0)),
        Row::new("share that entered at a node that is not the owner", said.forwarded_percent, "%"),
        Row::new("changes of owner", told.moves as f64, "")
            .note(format!("{} times join, drain, removal and roll of three", told.stories)),
    ]
}
