//! `make bench`: every figure of BENCHMARKS.md on real processes of the release build, each
//! also alone.
//!
//! Prints what it ran and on which machine, and leaves `<out>/<figure>.json` and a table.
//! Each figure is bounded in time; one that fails or could not fire its fault is unknown.
#![allow(clippy::disallowed_methods)] // measures from outside of the product

mod callers;
mod cluster;
mod commits;
mod direct;
mod figure;
mod form;
mod forward;
mod idle;
mod idle_leader;
mod kill;
mod load;
mod machine;
mod node;
mod planned;
mod process;
mod scale;
mod stock;
mod vip;
mod voters;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand};
use serde_json::json;
use tokio::time::{self, Instant};

use self::{
    cluster::Place,
    figure::{Figure, Row, Verdict},
    kill::Victim,
    machine::Machine,
    stock::Language,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc; // as the worker has it

#[derive(Parser)]
#[command(about = "The figures of BENCHMARKS.md, measured now")]
struct Arguments {
    /// Only these figures
    #[arg(value_enum)]
    only: Vec<Name>,
    /// The program that is measured [default: shoal beside this program]
    #[arg(long)]
    shoal: Option<PathBuf>,
    /// Where results go and nodes keep their data: on a disk, not in memory
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// Kills of a leader, and as many of another node
    #[arg(long, default_value_t = 30)]
    kills: usize,
    /// Calls of each client over planned changes, at least
    #[arg(long, default_value_t = 200_000)]
    calls: u64,
    /// Where tests/clients/build.sh left the stock clients
    #[arg(long, default_value = "target/clients")]
    clients: PathBuf,
    /// Calls a second beside planned changes [default: what the client can send beside the nodes]
    #[arg(long)]
    rate: Option<f64>,
    /// The figures of scale at their smallest size alone: that they run, whatever they show
    #[arg(long)]
    small: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

/// Processes that a figure starts.
#[derive(Subcommand)]
enum Part {
    #[command(hide = true)]
    Direct(direct::Args),
    #[command(hide = true)]
    Callers(callers::Args),
    #[command(hide = true)]
    RegistryMemory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    Form,
    Join,
    Planned,
    Grpcio,
    GrpcGo,
    Voters,
    KillFollower,
    KillLeader,
    IdleLeader,
    Commits,
    Forward,
    Idle,
    ScalePlanner,
    ScaleRegistry,
    ScaleFencing,
    ScaleSessions,
    ScaleRestart,
}

const STOCK: &str = "The same changes; increments on 1,024 counters over 64 channels with default options and no retry policy, through addresses that take each new connection to any running node, as a Service does.";

/// Where a run of all figures is kept, and the marks around its tables.
const KEPT: &str = "BENCHMARKS.md";
const MARKS: (&str, &str) =
    ("<!-- figures: UPDATE_DOCS=1 make bench -->", "<!-- end of the figures -->");

const ALL: [Name; 17] = [
    Name::Form,
    Name::Join,
    Name::Planned,
    Name::Grpcio,
    Name::GrpcGo,
    Name::Voters,
    Name::KillFollower,
    Name::KillLeader,
    Name::IdleLeader,
    Name::Commits,
    Name::Forward,
    Name::Idle,
    Name::ScalePlanner,
    Name::ScaleRegistry,
    Name::ScaleFencing,
    Name::ScaleSessions,
    Name::ScaleRestart,
];

impl Name {
    /// Name of its file, title, and what runs beside what.
    fn told(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Form => (
                "form",
                "Forming",
                "Three processes with empty directories form a cluster of 1,024 shards; each is asked for its Status every 2 ms.",
            ),
            Self::Join => (
                "join",
                "A fourth node",
                "A fourth process joins a cluster of three with 1,024 shards and no load.",
            ),
            Self::Planned => (
                "planned",
                "Planned changes under load, `shoal bench`",
                "Increments on 4,096 counters over 64 connections to any node while a fourth node joins, one is drained and removed, and the three that remain are restarted one after another.",
            ),
            Self::Grpcio => ("grpcio", "Planned changes under load, grpcio", STOCK),
            Self::GrpcGo => ("grpc-go", "Planned changes under load, grpc-go", STOCK),
            Self::Voters => (
                "voters",
                "Voters in a roll",
                "Three nodes are restarted one after another by SIGTERM; every node is asked for its Status all the time.",
            ),
            Self::KillFollower => (
                "kill-follower",
                "SIGKILL of a node that does not lead",
                "Lease 3 s, no report of the death. One key for each shard of the killed node, called over connections that were open to the two others.",
            ),
            Self::KillLeader => (
                "kill-leader",
                "SIGKILL of the leader",
                "As above; the killed node leads and owns its share.",
            ),
            Self::IdleLeader => (
                "idle-leader",
                "SIGKILL of a leader that owns nothing",
                "Its shards were moved away; the load enters at the two others, which own all shards.",
            ),
            Self::Commits => (
                "commits",
                "Commits of the registry",
                "Three processes, each with its log on this disk; writers over 8 connections to the leader's admin port, beside raw durable writes to the same disk in the same run.",
            ),
            Self::Forward => (
                "forward",
                "Forwarded calls beside direct ones",
                "Reads of 128 bytes in a closed loop over one connection of a stock tonic client; interleaved runs of 3 s: a stock tonic server, an entry node that forwards to the owner, the owner itself. Client and servers share the cores.",
            ),
            Self::Idle => (
                "idle",
                "An idle cluster",
                "Six nodes (three vote, two learn, one watches the map), 1,024 shards, no call for 60 s, one WatchRoutes of a client open to each.",
            ),
            Self::ScalePlanner => scale::planner::TOLD,
            Self::ScaleRegistry => scale::registry::TOLD,
            Self::ScaleFencing => scale::fencing::TOLD,
            Self::ScaleSessions => scale::sessions::TOLD,
            Self::ScaleRestart => scale::restart::TOLD,
        }
    }

    /// Longer than this it hangs.
    fn patience(self) -> Duration {
        Duration::from_secs(match self {
            Self::KillFollower | Self::KillLeader => 900,
            Self::Planned | Self::Grpcio | Self::GrpcGo => 420,
            Self::Voters | Self::Forward | Self::ScaleSessions | Self::ScaleRestart => 300,
            Self::Form | Self::Join | Self::IdleLeader | Self::Commits | Self::Idle => 180,
            Self::ScalePlanner | Self::ScaleRegistry | Self::ScaleFencing => 180,
        })
    }

    async fn rows(self, place: &Place, given: &Arguments) -> anyhow::Result<Vec<Row>> {
        match self {
            Self::Form => form::forming(place).await,
            Self::Join => form::joining(place).await,
            Self::Planned => planned::run(place, given).await,
            Self::Grpcio => stock::run(place, given, Language::Python).await,
            Self::GrpcGo => stock::run(place, given, Language::Go).await,
            Self::Voters => voters::run(place).await,
            Self::KillFollower => kill::run(place, Victim::Follower, given.kills).await,
            Self::KillLeader => kill::run(place, Victim::Leader, given.kills).await,
            Self::IdleLeader => idle_leader::run(place).await,
            Self::Commits => commits::run(place).await,
            Self::Forward => forward::run(place).await,
            Self::Idle => idle::run(place).await,
            Self::ScalePlanner => scale::planner::run(given.small),
            Self::ScaleRegistry => scale::registry::run(given.small),
            Self::ScaleFencing => scale::fencing::run(given.small),
            Self::ScaleSessions => scale::sessions::run(place, given.small).await,
            Self::ScaleRestart => scale::restart::run(place, given.small).await,
        }
    }

    async fn measure(self, place: &Place, given: &Arguments) -> Figure {
        let (name, title, ran) = self.told();
        eprintln!("== {name}: {title}");
        let began = Instant::now();
        let rows = match time::timeout(self.patience(), self.rows(place, given)).await {
            Ok(Ok(rows)) => rows,
            Ok(Err(error)) => vec![Row::unknown(title, format!("{error:#}"))],
            Err(_) => {
                let why = format!("it did not end within {:?}", self.patience());
                vec![Row::unknown(title, why)]
            }
        };
        let seconds = began.elapsed().as_secs_f64();
        Figure { name, title, ran, seconds, rows }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.part {
        Some(Part::Direct(args)) => direct::run(args).await?,
        Some(Part::Callers(args)) => callers::run(args).await?,
        Some(Part::RegistryMemory) => scale::memory::measure()?,
        None => return figures(&arguments).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn figures(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let out = &arguments.out;
    fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    let out = out.canonicalize()?;
    let program = match &arguments.shoal {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("shoal"),
    };
    ensure!(program.is_file(), "{} is not built", program.display());
    let place = Place { program, data: out.join("data") };
    fs::create_dir_all(&place.data)?;
    let machine = Machine::of(&place.data);
    println!("{machine}\n");
    let names = if arguments.only.is_empty() { ALL.to_vec() } else { arguments.only.clone() };
    let began = Instant::now();
    let mut measured = Vec::new();
    for name in names {
        let figure = name.measure(&place, arguments).await;
        println!("{figure}");
        let kept = json!({ "machine": machine, "figure": figure });
        write(&out.join(format!("{}.json", figure.name)), &format!("{kept:#}\n"))?;
        eprintln!("== {} took {:.0} s", figure.name, figure.seconds);
        measured.push(figure);
    }
    let sections: Vec<_> = measured.iter().map(ToString::to_string).collect();
    let seconds = began.elapsed().as_secs_f64();
    let table = format!("{machine}; {seconds:.0} s in all.\n\n{}", sections.join("\n"));
    write(&out.join("figures.md"), &table)?;
    if arguments.only.is_empty() && std::env::var_os("UPDATE_DOCS").is_some() {
        keep(Path::new(KEPT), &table)?;
    }
    eprintln!("the tables are in {}", out.join("figures.md").display());
    let verdicts: Vec<_> = measured.iter().flat_map(Figure::verdicts).collect();
    let count = |wanted| verdicts.iter().filter(|verdict| **verdict == wanted).count();
    let (missed, unknown) = (count(Verdict::Missed), count(Verdict::Unknown));
    println!("{} met, {missed} missed, {unknown} unknown", count(Verdict::Met));
    // A small run shows that figures are taken, not what they are.
    let missed = if arguments.small { 0 } else { missed };
    Ok(if missed + unknown == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Puts the tables between the marks of the document.
fn keep(document: &Path, table: &str) -> anyhow::Result<()> {
    let text = fs::read_to_string(document)?;
    let kept = between_marks(&text, table);
    write(document, &kept.with_context(|| format!("{} has no marks", document.display()))?)
}

fn between_marks(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(MARKS.0)?;
    let (_, after) = rest.split_once(MARKS.1)?;
    Some(format!("{before}{}\n\n{table}\n{}{after}", MARKS.0, MARKS.1))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_the_marks_and_keeps_the_rest() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(KEPT);
        let text = fs::read_to_string(path).unwrap();
        let once = between_marks(&text, "a table").unwrap();
        let twice = between_marks(&once, "a table").unwrap();
        assert_eq!(once, twice);
        assert!(once.starts_with("# Benchmarks") && once.contains("a table"));
        assert_eq!(between_marks("no marks", "a table"), None);
    }

    #[test]
    fn every_figure_stands_in_the_document() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(KEPT);
        let text = fs::read_to_string(path).unwrap();
        for name in ALL {
            assert!(text.contains(&format!("`{}`", name.told().0)), "{name:?}");
        }
    }
}
