//! Whole clusters of the production code in one thread: `shoal-sim one --seed 7` runs a seed,
//! `shoal-sim many --seeds 2000` runs each in a process of its own.

mod client;
mod entropy;
mod faults;
mod history;
mod machine;
mod many;
mod probe;
mod story;
mod world;

use std::{process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};

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
    }
}

fn run(one: &One) -> ExitCode {
    if let Some(filter) = &one.log {
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_timer(TrueTime)
            .with_ansi(false)
            .init();
    }
    let verdict = story::run(one.seed, Duration::from_secs(one.seconds));
    println!("{}", many::line(one.seed, &verdict));
    for problem in &verdict.problems {
        println!("problem: {problem}");
    }
    ExitCode::from(u8::from(!verdict.problems.is_empty()))
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
