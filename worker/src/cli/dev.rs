//! `shoal dev`: a whole cluster of child processes on this machine, and the demo on it.

mod children;
mod cluster;
mod guide;
mod screen;
mod story;
mod verdict;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};

use self::{
    cluster::Cluster,
    screen::Teller,
    story::{Story, Told},
};
use super::{Output, SUCCESS, say};
use crate::env::{disk, random};

/// Where `shoal dev` keeps its nodes between runs.
const DEFAULT_DIR: &str = ".local/dev";

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Port of the first node; the others follow. 1000, 2000 and 3000 above are used too
    #[arg(long, default_value_t = 11_000, value_parser = clap::value_parser!(u16).range(1_024..=62_000))]
    pub base_port: u16,
    /// Directory of the nodes [default: .local/dev; with --demo a new temporary one]
    #[arg(long, value_name = "PATH")]
    pub dir: Option<PathBuf>,
    /// Shards of a cluster that is founded now: a power of two, 16 to 65536 [default: 1024]
    #[arg(long, value_name = "COUNT")]
    pub shards: Option<u32>,
    /// Lease of a cluster that is founded now, 2 to 60 [default: 3]
    #[arg(long, value_name = "SECONDS")]
    pub lease: Option<u32>,
    /// Under load a node joins, one is removed, one is rolled, one is killed
    #[arg(long)]
    pub demo: bool,
    /// With --demo: do not report the death of the killed node, wait for its lease
    #[arg(long, requires = "demo")]
    pub no_report: bool,
    /// With --demo: calls per second
    #[arg(long, value_name = "CALLS/S", default_value_t = 500.0, requires = "demo")]
    pub rate: f64,
    /// With --demo: lines instead of the live view
    #[arg(long, requires = "demo")]
    pub plain: bool,
    /// For people, or for programs
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

pub async fn execute(args: Args) -> anyhow::Result<ExitCode> {
    let dir = args.dir.clone().unwrap_or_else(|| {
        if args.demo {
            std::env::temp_dir().join(format!("shoal-demo-{:08x}", random::u64() as u32))
        } else {
            PathBuf::from(DEFAULT_DIR)
        }
    });
    disk::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let mut cluster = Cluster::new(&args, &dir);
    // What a cluster to play with says is there to be copied.
    let teller = Teller::open(args.plain || !args.demo || args.output == Output::Json)?;
    let outcome = tokio::select! {
        outcome = shown(&args, &mut cluster, teller.clone()) => outcome,
        stopped = interrupted() => stopped.map(|()| Told::Interrupted),
    };
    teller.close();
    if matches!(outcome, Ok(Told::Interrupted)) {
        teller.say("stops every node, Ctrl-C again kills them".to_owned());
    }
    let stopped = tokio::select! {
        stopped = cluster.stop() => stopped,
        again = interrupted() => again.and_then(|()| bail!("the nodes were killed")),
    };
    let told = outcome.with_context(|| format!("the nodes' logs are in {}", dir.display()))?;
    let code = match told {
        Told::Interrupted => {
            println!("stopped");
            SUCCESS
        }
        Told::Whole(verdict) => {
            match args.output {
                Output::Table => println!("{verdict}"),
                Output::Json => println!("{:#}", verdict.as_json()),
            }
            if verdict.passed() { SUCCESS } else { ExitCode::FAILURE }
        }
    };
    stopped.with_context(|| format!("the nodes' logs are in {}", dir.display()))?;
    if code == SUCCESS && args.demo && args.dir.is_none() {
        disk::remove_dir_all(&dir)?;
    } else if args.demo {
        println!("the nodes' logs are in {}", dir.display());
    }
    Ok(code)
}

async fn shown(args: &Args, cluster: &mut Cluster, teller: Teller) -> anyhow::Result<Told> {
    if args.demo {
        return Story::new(args, cluster, teller).tell().await.map(Told::Whole);
    }
    teller.say("three nodes start".to_owned());
    cluster.form().await?;
    teller.say("formed: every shard has an owner".to_owned());
    if args.output == Output::Table {
        say(&guide::text(args.base_port, cluster))?;
    }
    cluster.tend(&teller).await
}

async fn interrupted() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
