//! `shoal bench`: its flags, and its report for people and for programs.

use std::{process::ExitCode, sync::Arc, time::Duration};

use parking_lot::RwLock;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Bound, Config, Load, Progress, Report, run};
use crate::{
    cli::{Output, SUCCESS, ask::Dialer, say},
    config::HostPort,
    tls::{self, Tls},
};

#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// NODE_ADDRESSes of the nodes at which calls enter, comma-separated
    #[arg(
        long,
        short,
        visible_alias = "address",
        value_name = "LIST",
        value_delimiter = ',',
        env = "NODE_ADDRESS",
        default_value = "localhost:11000"
    )]
    pub addresses: Vec<HostPort>,
    /// Connections, dealt to the entry nodes in turn
    #[arg(long, value_name = "COUNT", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4_096))]
    pub connections: u16,
    /// Callers of the closed loop, each with one call under way
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub concurrency: u16,
    /// Calls per second of an open loop [default: a closed loop]
    #[arg(long, value_name = "CALLS/S", conflicts_with = "concurrency", value_parser = rate)]
    pub rate: Option<f64>,
    /// End after so many calls
    #[arg(long, value_name = "COUNT", conflicts_with = "seconds")]
    pub calls: Option<u64>,
    /// End after so long [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<u64>,
    /// Counters that are incremented, 1000 to 1000000
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1_000..=1_000_000))]
    pub keys: u64,
    /// A call without an answer by then has failed, 1 to 300
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub deadline: u64,
    /// For people, or for programs
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    pub tls: tls::FileArgs,
}

/// A rate that clocks can follow.
fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().map_err(|_| "it is no number".to_owned())?;
    if (0.1..=1_000_000.0).contains(&rate) {
        Ok(rate)
    } else {
        Err("give 0.1 to 1000000 calls per second".to_owned())
    }
}

impl Args {
    fn config(&self, tls: Tls) -> Config {
        let load = match self.rate {
            None => Load::Closed { callers: self.concurrency.into() },
            Some(rate) => Load::Open { rate },
        };
        let bound = match (self.calls, self.seconds) {
            (Some(calls), _) => Bound::Calls(calls),
            (None, seconds) => Bound::Time(Duration::from_secs(seconds.unwrap_or(10))),
        };
        let addresses = self.addresses.iter().map(ToString::to_string).collect();
        Config {
            entries: Arc::new(RwLock::new(addresses)),
            tls,
            load,
            bound,
            connections: self.connections.into(),
            keys: self.keys as usize,
            deadline: Duration::from_secs(self.deadline),
            phase: Arc::default(),
            in_flight: Arc::default(),
            stop: CancellationToken::new(),
        }
    }

    fn describe(&self) -> String {
        let load = match self.rate {
            None => format!("closed loop, {} callers", self.concurrency),
            Some(rate) => format!("open loop, {rate} calls/s"),
        };
        let entries = match &self.addresses[..] {
            [one] => one.to_string(),
            several => format!("{} nodes", several.len()),
        };
        format!(
            "{load}, {} counters, {} connections to {entries}; Ctrl-C ends it early",
            self.keys, self.connections
        )
    }
}

pub async fn execute(args: Args) -> anyhow::Result<ExitCode> {
    // Somebody must be there before calls are counted as failed.
    let tls = Tls::of_client(args.tls.files()?.as_ref())?;
    let dialer = Dialer::new(tls.clone());
    let mut reached = Ok(());
    for address in &args.addresses {
        reached = dialer.channel(&address.to_string()).await.map(|_| ());
        if reached.is_ok() {
            break;
        }
    }
    reached?;
    let config = args.config(tls);
    let stop = config.stop.clone();
    let (progress, mut seconds) = watch::channel(Progress::default());
    let running = tokio::spawn(run(config, progress));
    let interrupted = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    let people = args.output == Output::Table;
    if people {
        say(&format!("{}\n\n{HEAD}", args.describe()))?;
    }
    let mut second = 0;
    while seconds.changed().await.is_ok() {
        second += 1;
        let now = seconds.borrow_and_update().clone();
        if people {
            say(&line(second, &now))?;
        }
    }
    let report = running.await?;
    interrupted.abort();
    match args.output {
        Output::Table => say(&text(&report))?,
        Output::Json => say(&format!("{:#}", as_json(&report)))?,
    }
    Ok(if report.flawless() { SUCCESS } else { ExitCode::FAILURE })
}

const HEAD: &str = "   s   calls/s    failed    p50 ms    p99 ms    max ms  forwarded";

fn line(second: u64, now: &Progress) -> String {
    format!(
        "{second:>4}  {:>8}  {:>8}  {:>8.2}  {:>8.2}  {:>8.1}  {:>7.0} %",
        now.rate, now.failed, now.p50_ms, now.p99_ms, now.longest_ms, now.forwarded_percent
    )
}

fn text(report: &Report) -> String {
    let (whole, judged) = (&report.whole, &report.judgement);
    let seconds = report.lasted.as_secs_f64().max(f64::MIN_POSITIVE);
    let rate = whole.calls as f64 / seconds;
    let mut lines = vec![
        String::new(),
        format!("calls       {} in {seconds:.1} s, {rate:.0}/s", whole.calls),
        format!("failed      {}", whole.failed),
    ];
    let failures = whole.failures.iter();
    lines.extend(failures.map(|(kind, count)| format!("  {count:>8}  {kind}")));
    lines.push(format!("forwarded   {:.1} %", report.forwarded_percent()));
    lines.push(format!(
        "latency     p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, longest {:.1} ms",
        whole.p50_ms, whole.p99_ms, whole.p999_ms, whole.longest_ms
    ));
    lines.push(format!(
        "increments  {} lost, {} doubled, {} gone with the memory of a killed owner",
        judged.lost,
        judged.doubled,
        judged.fallen_since(0)
    ));
    if report.unread > 0 {
        lines.push(format!("unread      {} counters did not answer at the end", report.unread));
    }
    let verdict = if report.flawless() { "flawless" } else { "NOT flawless" };
    lines.push(format!("verdict     {verdict}"));
    lines.join("\n")
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
        "flawless": report.flawless(),
    })
}
