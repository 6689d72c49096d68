//! The `shoal` command: parses, and maps the end to an exit code.

use std::{io, process::ExitCode, sync::Arc};

use clap::{Parser, Subcommand};
use shoal_worker::{
    cli,
    config::RunArgs,
    host::kv::Kv,
    process::{self, EXIT_SETTING},
};
use tokio::runtime::Builder;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "shoal", version = shoal_worker::VERSION, about = "Every key has one owner; any node reaches it")]
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

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // A broken pipe while printing usage changes nothing.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_SETTING } else { 0 });
        }
    };
    let ended = match arguments.command {
        Command::Run(args) => process::run(&args, Arc::new(Kv::default())),
        Command::Cli(command) => command_line(*command),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("shoal: no runtime: {error}");
        ExitCode::FAILURE
    })
}

fn command_line(command: cli::Command) -> io::Result<ExitCode> {
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(cli::execute(command)).unwrap_or_else(|error| cli::failure(&error)))
}
