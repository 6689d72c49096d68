//! `shoal bench`: its flags, and its report for people and for programs.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::ensure;
use parking_lot::RwLock;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Bound, Config, Load, Progress, Report, run};
use crate::{
    cli::{Output, SUCCESS},
    config::HostPort,
};

#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Entry nodes, comma-separated
    #[arg(long, value_delimiter = ',', env = "NODE_ADDRESS", default_value = "localhost:11000")]
    pub addresses: Vec<HostPort>,
    #[arg(long, default_value_t = 16)]
    pub connections: usize,
    /// Callers of the closed loop
    #[arg(long, default_value_t = 64)]
    pub concurrency: usize,
    /// Calls per second: an open loop
    #[arg(long)]
    pub rate: Option<f64>,
    /// End after so many calls
    #[arg(long, conflicts_with = "seconds")]
    pub calls: Option<u64>,
    /// End after so many seconds [default: 10]
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Counters, at least 1000
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1_000..=1_000_000))]
    pub keys: u64,
    /// Deadline of a call, seconds
    #[arg(long, default_value_t = 5)]
    pub deadline: u64,
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

impl Args {
    fn config(&self) -> anyhow::Result<Config> {
        let load = match self.rate {
            None => Load::Closed { callers: self.concurrency },
            Some(rate) => {
                ensure!(rate.is_finite() && rate > 0.0, "--rate must be above 0");
                Load::Open { rate }
            }
        };
        let bound = match (self.calls, self.seconds) {
            (Some(calls), _) => Bound::Calls(calls),
            (None, seconds) => Bound::Time(Duration::from_secs(seconds.unwrap_or(10))),
        };
        let addresses = self.addresses.iter().map(ToString::to_string).collect();
        Ok(Config {
            entries: Arc::new(RwLock::new(addresses)),
            load,
            bound,
            connections: self.connections,
            keys: self.keys as usize,
            deadline: Duration::from_secs(self.deadline.max(1)),
            phase: Arc::default(),
            in_flight: Arc::default(),
            stop: CancellationToken::new(),
        })
    }
}

pub async fn execute(args: Args) -> anyhow::Result<ExitCode> {
    let config = args.config()?;
    let stop = config.stop.clone();
    let (progress, mut seconds) = watch::channel(Progress::default());
    let running = tokio::spawn(run(config, progress));
    let interrupted = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    while seconds.changed().await.is_ok() {
        if args.output == Output::Table {
            println!("{}", *seconds.borrow_and_update());
        }
    }
    let report = running.await?;
    interrupted.abort();
    match args.output {
        Output::Table => print(&report),
        Output::Json => println!("{:#}", as_json(&report)),
    }
    Ok(if report.flawless() { SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &Report) {
    let (whole, judged) = (&report.whole, &report.judgement);
    let seconds = report.lasted.as_secs_f64().max(f64::MIN_POSITIVE);
    println!(
        "calls             {} in {seconds:.1} s, {:.0}/s",
        whole.calls,
        whole.calls as f64 / seconds
    );
    println!("failed            {}", whole.failed);
    for (kind, count) in &whole.failures {
        println!("  {count:>7}         {kind}");
    }
    println!("forwarded         {:.1} %", report.forwarded_percent());
    println!(
        "latency           p50 {:.2} ms  p99 {:.2} ms  p99.9 {:.2} ms  longest {:.1} ms",
        whole.p50_ms, whole.p99_ms, whole.p999_ms, whole.longest_ms
    );
    println!("increments        {} lost, {} doubled", judged.lost, judged.doubled);
    println!("lost with a killed owner  {}", judged.fallen_since(0));
    if report.unread > 0 {
        println!("counters that did not answer at the end  {}", report.unread);
    }
}

fn as_json(report: &Report) -> serde_json::Value {
    json!({
        "seconds": report.lasted.as_secs_f64(),
        "calls": report.whole,
        "forwarded_percent": report.forwarded_percent(),
        "lost": report.judgement.lost,
        "doubled": report.judgement.doubled,
        "lost_with_a_killed_owner": report.judgement.fallen_since(0),
        "unread": report.unread,
    })
}
