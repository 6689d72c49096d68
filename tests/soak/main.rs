//! `shoal-soak`: random faults, one after another, on a cluster under load, and a verdict.
//!
//! Ends with exit code 1 on any violation, on a fault that did not meet its node, and on a cluster
//! that did not heal. Needs root.
#![allow(clippy::disallowed_methods)] // watches from outside of the product

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use clap::Parser;
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use shoal_tests::faults::{Kind, Plan, Run, scene, store::Fenced, table};

#[derive(Parser)]
#[command(about = "Random faults on a cluster under load, and a verdict")]
struct Arguments {
    /// How long faults go on
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// From the beginning of a fault to that of the next, in seconds; the next one waits until
    /// the cluster is whole
    #[arg(long, default_value = "10s", value_parser = span)]
    every: Duration,
    /// What chooses faults and nodes [default: of the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Founding nodes: 1, 2, 3 or 5
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    #[arg(long, default_value_t = 36)]
    keys: usize,
    /// The program that is tested [default: SHOAL, else shoal of this workspace]
    #[arg(long)]
    shoal: Option<PathBuf>,
    /// The program of the next version [default: what tests/faults/next.sh has built]
    #[arg(long)]
    next: Option<PathBuf>,
    /// Nodes of shoal-stored beside this program, whose host writes to a fenced store: a failover
    /// is to lose nothing either
    #[arg(long, conflicts_with = "shoal")]
    stored: bool,
    /// Only these kinds, by the words of their names; may be given more than once
    #[arg(long)]
    only: Vec<String>,
}

fn span(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text).parse();
    number.map(Duration::from_secs).map_err(|_| "a number of seconds, as in 10s".to_owned())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match soak(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("shoal-soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn soak(arguments: &Arguments) -> anyhow::Result<bool> {
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    let program = match arguments.stored {
        true => std::env::current_exe()?.with_file_name("shoal-stored"),
        false => arguments.shoal.clone().unwrap_or_else(scene::program),
    };
    let program = program.canonicalize().with_context(|| program.display().to_string())?;
    let next = arguments.next.clone().or_else(scene::next);
    let next = next.map(|path| path.canonicalize().with_context(|| path.display().to_string()));
    let next = next.transpose()?;
    let plan = Plan {
        size: arguments.nodes,
        spare: 1,
        keys: arguments.keys,
        // The next version is one of the built-in host.
        next: next.filter(|_| !arguments.stored),
        stored: arguments.stored,
        settings: scene::inherited(),
        ..Plan::new(&program, seed)
    };
    let (minutes, every) = (arguments.minutes, arguments.every.as_secs());
    let again = format!(
        "shoal-soak --minutes {minutes} --every {every}s --seed {seed} --nodes {} --keys {} {}{}",
        plan.size,
        plan.keys,
        if plan.stored { "--stored".to_owned() } else { format!("--shoal {}", program.display()) },
        arguments.only.iter().map(|only| format!(" --only '{only}'")).collect::<String>()
    );
    println!("seed {seed}; again: {again}");
    let kinds = kinds(arguments, &plan)?;
    let mut run = Run::start(&plan)?;
    let fenced = Fenced::start(&run.scene)?;
    let ended = faults(&mut run, &kinds, arguments, seed);
    // What was seen until then is told whatever went wrong.
    run.end()?;
    let stale = fenced.end();
    Ok(tell(&run, ended, &stale, &program, &again))
}

/// Those that can happen here.
fn kinds(arguments: &Arguments, plan: &Plan) -> anyhow::Result<Vec<Kind>> {
    let wanted = |kind: &Kind| {
        arguments.only.is_empty() || arguments.only.iter().any(|only| kind.name().contains(only))
    };
    let mut kinds: Vec<_> = Kind::ALL.into_iter().filter(wanted).collect();
    if plan.next.is_none() {
        kinds.retain(|kind| *kind != Kind::Versions);
        println!("left out: {} (tests/faults/next.sh builds what it needs)", Kind::Versions);
    }
    anyhow::ensure!(!kinds.is_empty(), "no kind of fault is named so: {:?}", arguments.only);
    Ok(kinds)
}

/// Each kind once in a random order, then all again in another.
fn faults(run: &mut Run, kinds: &[Kind], arguments: &Arguments, seed: u64) -> anyhow::Result<()> {
    let mut chance = StdRng::seed_from_u64(seed);
    let until = Instant::now() + Duration::from_secs_f64(60.0 * arguments.minutes);
    let mut waiting: Vec<Kind> = Vec::new();
    while Instant::now() < until {
        if waiting.is_empty() {
            waiting = kinds.to_vec();
            waiting.shuffle(&mut chance);
        }
        let began = Instant::now();
        if let Some(kind) = waiting.pop() {
            let episode = run.play(kind)?;
            println!("{episode}");
            anyhow::ensure!(episode.sick.is_none(), "the cluster did not heal");
        }
        while began.elapsed() < arguments.every {
            run.rest(Duration::from_millis(250))?;
        }
        if run.judge.violations() > 0 {
            break;
        }
    }
    Ok(())
}

fn tell(
    run: &Run,
    ended: anyhow::Result<()>,
    stale: &anyhow::Result<String>,
    program: &std::path::Path,
    again: &str,
) -> bool {
    let episodes = &run.episodes;
    println!("\n{}\n\n{}", table::machine(program), table::table(episodes));
    println!("{}", run.judge.tally);
    if let Some(store) = &run.store {
        let (written, refused) = store.told();
        println!("store of the host: {written} writes taken, {refused} questions refused");
    }
    let mut wrong = Vec::new();
    match stale {
        Ok(told) => println!("{told}"),
        Err(error) => wrong.push(format!("{error:#}")),
    }
    if let Err(error) = ended {
        wrong.push(format!("it ended early: {error:#}"));
    }
    if run.judge.violations() > 0 {
        wrong.push(run.judge.told());
    }
    wrong.extend(episodes.iter().filter(|e| !e.flawless()).map(|e| format!("not flawless: {e}")));
    let mut fired: BTreeMap<Kind, usize> = BTreeMap::new();
    for episode in episodes {
        *fired.entry(episode.kind).or_default() += 1;
    }
    println!(
        "{} faults of {} kinds, {} violations",
        episodes.len(),
        fired.len(),
        run.judge.violations()
    );
    if wrong.is_empty() && !episodes.is_empty() {
        println!("verdict: no violation");
        return true;
    }
    if episodes.is_empty() {
        wrong.push("no fault happened".to_owned());
    }
    println!(
        "{}\nverdict: FAILED\nagain: {again}\nlogs: {}",
        wrong.join("\n"),
        run.scene.space.path().display()
    );
    run.scene.space.keep();
    false
}
