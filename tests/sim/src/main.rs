//! Whole clusters of the production code in one thread: `shoal-sim one --seed 7` runs a seed,
//! `shoal-sim many --seeds 2000` runs each in a process of its own.

mod admin;
mod client;
mod entropy;
mod faults;
mod history;
mod machine;
mod many;
mod people;
mod probe;
mod scenarios;
mod story;
mod world;

use std::{process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use tracing_subscriber::{filter::Targets, prelude::*};

#[derive(Parser)]
#[command(about = "Simulates whole clusters: one seed is one run, to the bit")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one seed
    One(One),
    /// Run many seeds, each in a process of its own
    Many(many::Many),
    /// Play one execution on purpose
    Scenario(Scenario),
}

#[derive(clap::Args)]
struct Scenario {
    name: String,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// As for a seed
    #[arg(long)]
    log: Option<String>,
}

#[derive(clap::Args)]
struct One {
    #[arg(long)]
    seed: u64,
    /// Simulated seconds in which things go wrong
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// A tracing filter; the log goes to stderr, with true time
    #[arg(long)]
    log: Option<String>,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::One(one) => run(&one),
        Command::Many(many) => many.run(),
        Command::Scenario(scenario) => play(&scenario),
    }
}

fn begin(seed: u64, filter: Option<&String>) {
    entropy::seed(seed);
    if let Some(filter) = filter {
        log(filter);
    }
    watch_for_standstill();
}

fn play(scenario: &Scenario) -> ExitCode {
    begin(scenario.seed, scenario.log.as_ref());
    let problems = scenarios::play(&scenario.name, scenario.seed);
    println!("{}: {} problems", scenario.name, problems.len());
    problems.iter().for_each(|problem| println!("problem: {problem}"));
    ExitCode::from(u8::from(!problems.is_empty()))
}

fn run(one: &One) -> ExitCode {
    begin(one.seed, one.log.as_ref());
    let verdict = story::run(one.seed, Duration::from_secs(one.seconds));
    println!("{}", many::line(one.seed, &verdict));
    for problem in &verdict.problems {
        println!("problem: {problem}");
    }
    ExitCode::from(u8::from(!verdict.problems.is_empty()))
}

/// Without a filter that keeps maps by chance: a log must not change what it shows.
fn log(filter: &str) {
    let filter: Targets = filter.parse().unwrap_or_default();
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_timer(TrueTime)
        .with_ansi(false);
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
}

/// Ends the process where true time stands still: some task runs without end at one instant.
fn watch_for_standstill() {
    const PATIENCE: Duration = Duration::from_secs(60);
    std::thread::Builder::new()
        .spawn(|| {
            let mut last = Duration::MAX;
            loop {
                std::thread::sleep(PATIENCE);
                let now = shoal_worker::env::sim::now();
                if now == last {
                    println!("problem: time stands still at {now:?}");
                    std::process::exit(1);
                }
                last = now;
            }
        })
        .expect("a thread starts");
}

/// True time and the machine, before each line of the log.
struct TrueTime;

impl tracing_subscriber::fmt::time::FormatTime for TrueTime {
    fn format_time(
        &self,
        to: &mut tracing_subscriber::fmt::format::Writer<'_>,
    ) -> std::fmt::Result {
        use shoal_worker::env::sim;
        write!(to, "{:9.3} m{}", sim::now().as_secs_f64(), sim::here())
    }
}
