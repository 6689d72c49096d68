//! The command line with any host: a node as a process, with its settings, its log, its runtimes,
//! the signals that end it and its exit code, or one of the other commands. `shoal` is this with the
//! built-in host. The first process of a container looks after that process instead of being it.

mod supervisor;

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use tokio::runtime::Builder;
use tracing_subscriber::{
    filter::{LevelFilter, targets::Targets},
    prelude::*,
};

use crate::{
    VERSION, cli,
    config::{Config, LogFormat, RunArgs},
    env::{child, disk},
    host::Host,
    node::{self, Work},
};

/// Exit code of a setting that cannot be used.
const EXIT_SETTING: u8 = 64;
/// Raft, session and administration of one node: one thread may wait for a lock or a directory
/// while the other renews.
const CONTROL_THREADS: usize = 2;

#[derive(Parser)]
#[command(name = "shoal", version = VERSION, about = "Every key has one owner; any node reaches it")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one node
    Run(Box<RunArgs>),
    #[command(flatten)]
    Cli(Box<cli::Command>),
}

/// What the arguments of this process ask for; `host` is what a node runs.
pub fn main(host: Host) -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // A broken pipe while printing usage changes nothing.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_SETTING } else { 0 });
        }
    };
    let ended = match arguments.command {
        Command::Run(args) => run(&args, host),
        Command::Cli(command) => command_line(*command),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("shoal: cannot run: {error}");
        ExitCode::FAILURE
    })
}

fn command_line(command: cli::Command) -> io::Result<ExitCode> {
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(cli::execute(command)).unwrap_or_else(|error| cli::failure(&error)))
}

/// Runs a node until it is told to stop or must end.
fn run(args: &RunArgs, host: Host) -> io::Result<ExitCode> {
    let config = match Config::resolve(args, &host_name()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("shoal: {error}");
            return Ok(ExitCode::from(EXIT_SETTING));
        }
    };
    log(&config);
    if child::is_first() {
        return supervisor::run();
    }
    let control = Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()?;
    let calls = Builder::new_multi_thread().thread_name("calls").enable_all().build()?;
    let work = Work { host, executor: calls.handle().clone() };
    let ended = control.block_on(node::run(config, work, stopped()));
    // Handlers that cannot be cancelled must not hold the process.
    calls.shutdown_background();
    control.shutdown_background();
    Ok(match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            eprintln!("shoal: {exit}");
            ExitCode::from(exit.code)
        }
    })
}

fn log(config: &Config) {
    let asked: Targets = config.log_level.parse().unwrap_or_default();
    // Raft tells of each step at info; its errors are enough unless it is named.
    let named = config.log_level.contains("openraft");
    let filter = if named { asked } else { asked.with_target("openraft", LevelFilter::ERROR) };
    // Colours are for a terminal: in a file or a collector they are noise.
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    let layer = match config.log_format {
        LogFormat::Json => layer.json().boxed(),
        LogFormat::Text => layer.boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
}

fn host_name() -> String {
    let name = disk::read(std::path::Path::new("/proc/sys/kernel/hostname"));
    let name = name.ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&name).trim().to_owned()
}

/// SIGTERM or Ctrl-C.
async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
