//! The `shoal` command with another host: one that keeps its state in a store which compares
//! tokens, and reads from memory what it has read or written there.
// Everything here is for tests, outside of the product.
#![allow(clippy::disallowed_methods)]

mod host;

use std::{io, process::ExitCode, sync::Arc};

use clap::{Parser, Subcommand};
use shoal_tests::faults::cells::SETTING;
use shoal_worker::{cli, config::RunArgs, process};
use tokio::runtime::Builder;

#[derive(Parser)]
#[command(name = "shoal-stored", version = shoal_worker::VERSION)]
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

fn main() -> io::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Run(args) => {
            let store = std::env::var(SETTING);
            let store = store.map_err(|_| io::Error::other(format!("{SETTING} is not set")))?;
            process::run(&args, Arc::new(host::Stored::new(store)))
        }
        Command::Cli(command) => {
            let runtime = Builder::new_multi_thread().enable_all().build()?;
            let ended = runtime.block_on(cli::execute(*command));
            Ok(ended.unwrap_or_else(|error| cli::failure(&error)))
        }
    }
}
