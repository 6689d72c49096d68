//! `shoal recover`: what is left of a cluster without a quorum becomes a cluster of one node.
//!
//! Looks, asks the members whether they are really gone, says what it will do, and does it.

mod members;
mod plan;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{bail, ensure};
use serde_json::json;
use shoal_core::{recover as core, registry::Recovery};

use self::plan::{Left, Plan};
use super::{Output, SUCCESS, ask::Dialer, say, snapshot};
use crate::{
    env::terminal,
    identity::recovery::{self, Before, Next, Stopped},
    raft,
    tls::{self, Tls},
};

/// What a person types to go on.
const CONSENT: &str = "yes";

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// RAFT_DIR of a stopped node; several may be given, the newest log counts
    #[arg(long, required = true, value_name = "DIR")]
    pub data_dir: Vec<PathBuf>,
    /// Recover this file of `shoal snapshot` into the data directory, which must be empty or new
    #[arg(long, value_name = "FILE", requires = "raft_id")]
    pub from_snapshot: Option<PathBuf>,
    /// With --from-snapshot: name of the node that will run on the directory
    #[arg(long, env = "RAFT_ID", value_name = "NAME")]
    pub raft_id: Option<String>,
    /// Do not ask before it is done
    #[arg(long)]
    pub yes: bool,
    /// For people, or for programs
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    pub tls: tls::FileArgs,
}

pub async fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    say(&recover(args).await?)?;
    Ok(SUCCESS)
}

/// What it came to, for whoever asked.
async fn recover(args: &Args) -> anyhow::Result<String> {
    let dialer = Dialer::new(Tls::of_client(args.tls.files()?.as_ref())?);
    let left = look(args)?;
    if let Some((path, from, cluster)) = left.finished() {
        return Ok(finished(args, &path.display().to_string(), &from, &cluster));
    }
    let registries = || left.held.iter().map(|held| &held.registry);
    members::silent(&dialer, left.cluster(), core::to_ask(registries())).await?;
    let plan = Plan::new(&left, recovery::cluster_id())?;
    if args.output == Output::Table {
        say(&plan.text(&left))?;
    }
    consent(args)?;
    // A person may have thought about it for long.
    members::silent(&dialer, left.cluster(), core::to_ask(registries())).await?;
    carry_out(left, &plan, &mut || Ok(()))?;
    Ok(match args.output {
        Output::Table => plan.done(),
        Output::Json => format!("{:#}", plan.json()),
    })
}

/// The directories under their locks, and what they hold.
fn look(args: &Args) -> anyhow::Result<Left> {
    let Some(file) = &args.from_snapshot else {
        let stopped = args.data_dir.iter().map(|path| Stopped::open(path));
        return Left::of_directories(stopped.collect::<Result<_, _>>()?);
    };
    let [path] = &args.data_dir[..] else {
        bail!("--from-snapshot makes one directory: give --data-dir once");
    };
    let (registry, _) = snapshot::read(file)?;
    registry.recoverable().map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;
    let name = args.raft_id.as_deref().unwrap_or_default();
    ensure!(!name.is_empty(), "--raft-id is empty: give the name of the node that will run");
    Ok(Left::of_snapshot(Stopped::create(path, name)?, registry))
}

fn consent(args: &Args) -> anyhow::Result<()> {
    if args.yes {
        return Ok(());
    }
    if args.output == Output::Table {
        say(&format!("\nType {CONSENT} to go on:"))?;
        match terminal::line()?.as_deref() {
            Some(CONSENT) => return Ok(()),
            Some(_) => bail!("nothing was changed"),
            None => {}
        }
    }
    bail!("nobody is at a terminal to confirm this: nothing was changed; give --yes to go on");
}

/// Writes the cluster that follows, and makes it that of its directory. A crash leaves one or
/// the other; the same command finishes.
fn carry_out(left: Left, plan: &Plan, before: Before<'_>) -> anyhow::Result<()> {
    let (stopped, _others) = left.split(plan.newest);
    let draft = stopped.draft(before)?;
    let beginning = raft::recover::Beginning {
        registry: &plan.registry,
        node: plan.node,
        name: stopped.name(),
        raft_address: &plan.info.addresses.raft,
        term: plan.term,
    };
    raft::recover::write(&draft, &beginning, before)?;
    let next = Next {
        cluster: plan.cluster,
        from: plan.from,
        node: plan.node,
        nonce: plan.nonce,
        highest_epoch: plan.registry.highest_epoch(),
    };
    Ok(stopped.decide(&next, before)?)
}

fn finished(args: &Args, path: &str, from: &str, cluster: &str) -> String {
    let as_json = || {
        json!({
            "data_dir": path, "recovered_from": from, "cluster_id": cluster, "finished": true,
        })
    };
    match args.output {
        Output::Table => format!(
            "{path}: the recovery that was cut short is finished: cluster {from} goes on as \
             {cluster}; start its node"
        ),
        Output::Json => format!("{:#}", as_json()),
    }
}
