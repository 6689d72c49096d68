//! A closed loop of callers as a process of its own: a stock tonic `Channel` with default
//! options, so that a direct and a forwarded call differ in nothing but the server.

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use shoal_proto::shoal::v1::{CallRequest, shoal_client::ShoalClient};
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};

use crate::node;

const WARM_UP: Duration = Duration::from_millis(500);
const LONGEST_US: u64 = 60_000_000;
/// Phases of a run.
const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const ENDED: u8 = 2;

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[arg(long)]
    pub address: String,
    #[arg(long)]
    pub callers: usize,
    #[arg(long)]
    pub seconds: f64,
    #[arg(long, value_delimiter = ',')]
    pub keys: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Called {
    pub calls: u64,
    pub failed: u64,
    pub forwarded: u64,
    pub seconds: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

struct Loop {
    histogram: Histogram<u64>,
    failed: u64,
    forwarded: u64,
}

/// Prints a line when the measurement begins, and what it found when it has ended.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let phase = Arc::new(AtomicU8::new(WARMING));
    let client = ShoalClient::new(node::connect(&args.address).await?);
    let mut callers = JoinSet::new();
    for at in 0..args.callers {
        let keys: Vec<_> = args.keys.iter().map(|key| Bytes::from(key.clone())).collect();
        callers.spawn(calls(client.clone(), keys, at, phase.clone()));
    }
    time::sleep(WARM_UP).await;
    phase.store(MEASURING, Ordering::Relaxed);
    let began = Instant::now();
    say("{}")?;
    time::sleep(Duration::from_secs_f64(args.seconds)).await;
    phase.store(ENDED, Ordering::Relaxed);
    let seconds = began.elapsed().as_secs_f64();
    let mut whole = Histogram::<u64>::new_with_max(LONGEST_US, 3)?;
    let (mut failed, mut forwarded) = (0, 0);
    while let Some(one) = callers.join_next().await {
        let one = one??;
        whole.add(&one.histogram)?;
        failed += one.failed;
        forwarded += one.forwarded;
    }
    let called = Called {
        calls: whole.len(),
        failed,
        forwarded,
        seconds,
        p50_us: whole.value_at_quantile(0.5) as f64,
        p99_us: whole.value_at_quantile(0.99) as f64,
    };
    say(&serde_json::to_string(&called)?)
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush().context("nobody listens")
}

async fn calls(
    mut client: ShoalClient<tonic::transport::Channel>,
    keys: Vec<Bytes>,
    start: usize,
    phase: Arc<AtomicU8>,
) -> anyhow::Result<Loop> {
    let histogram = Histogram::new_with_max(LONGEST_US, 3)?;
    let mut seen = Loop { histogram, failed: 0, forwarded: 0 };
    for turn in start.. {
        let key = keys[turn % keys.len()].clone();
        let request = CallRequest { key, method: "get".to_owned(), payload: Bytes::new() };
        let asked = Instant::now();
        let answer = client.call(request).await;
        match phase.load(Ordering::Relaxed) {
            MEASURING => {
                seen.histogram.saturating_record(asked.elapsed().as_micros() as u64);
                match answer {
                    Ok(answer) => seen.forwarded += u64::from(answer.get_ref().forwarded),
                    Err(_) => seen.failed += 1,
                }
            }
            ENDED => break,
            _ => {}
        }
    }
    Ok(seen)
}
