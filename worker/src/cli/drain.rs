//! `shoal drain`: empties a node, shows how far it is, and takes it back or ends it for ever.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;
use serde_json::json;
use shoal_proto::shoal::admin::v1 as pb;
use tokio::time::{self, Instant};
use tonic::Status;

use super::{
    Output, SUCCESS, Target,
    admin::{all_nodes, client, find, print},
    ask::{Admins, Client},
    say,
};

/// The node that is asked may apply the drain a little later than the leader.
const APPLIED_WITHIN: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(250);
/// Where nobody watches a line change, one is written so often.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// Of a process that Ctrl-C ended, as shells count.
const INTERRUPTED: u8 = 130;

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Name, NODE_ADDRESS or id of the node
    pub node: String,
    /// Then end the node for ever: its process stays as an entry node until it is stopped
    #[arg(long, conflicts_with = "cancel")]
    pub remove: bool,
    /// Let it receive shards again
    #[arg(long)]
    pub cancel: bool,
    /// Return at once; with --remove the node is only drained for its removal
    #[arg(long, conflicts_with = "cancel")]
    pub no_wait: bool,
    /// Give up waiting after so many seconds; the drain goes on [default: never]
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["cancel", "no_wait"])]
    pub timeout: Option<u64>,
    #[command(flatten)]
    pub target: Target,
}

pub async fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    let mut client = client(&args.target).await?;
    let nodes = all_nodes(&mut client, false).await?;
    let node = find(&nodes, &args.node)?.clone();
    // The node that was asked first may be the one that goes.
    let mut addresses = vec![args.target.admin()?];
    addresses.extend(nodes.iter().map(|node| node.admin_address.clone()));
    let mut dialer = args.target.dialer()?;
    dialer.learn(&nodes);
    let admins = Admins { addresses, dialer };
    if args.cancel {
        return cancel(args, &node, &admins).await;
    }
    let kind = if args.remove { pb::DrainKind::Removal } else { pb::DrainKind::Restart };
    admins
        .change(|mut client| {
            let node = node.clone();
            async move { start(&mut client, &node, kind).await }
        })
        .await?;
    if args.no_wait {
        let text = format!("{} drains, {} shards left", node.name, node.shards_owned);
        done(args, &node, "draining", text)?;
        return Ok(SUCCESS);
    }
    let stopped = tokio::select! {
        emptied = emptied(args, &node, &admins) => emptied.map(|()| false)?,
        stopped = tokio::signal::ctrl_c() => stopped.map(|()| true)?,
    };
    if stopped {
        let name = &node.name;
        eprintln!("the drain goes on without you; `shoal drain {name} --cancel` takes it back");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    if args.remove {
        end(&node, &admins).await?;
        done(args, &node, "removed", format!("{} is removed", node.name))?;
    } else {
        let text = format!(
            "{0} owns nothing: restart it now, or `shoal drain {0} --cancel` takes it back",
            node.name
        );
        done(args, &node, "drained", text)?;
    }
    Ok(SUCCESS)
}

fn done(args: &Args, node: &pb::Node, state: &str, text: String) -> anyhow::Result<()> {
    print(&args.target, |_| text, || json!({ "node": node.name, "state": state }))
}

async fn cancel(args: &Args, node: &pb::Node, admins: &Admins) -> anyhow::Result<ExitCode> {
    let request = pb::CancelDrainRequest { node: node.id, operator: None };
    admins
        .change(|mut client| async move { client.cancel_drain(request).await.map(|_| ()) })
        .await?;
    done(args, node, "up", format!("{} may receive shards again", node.name))?;
    Ok(SUCCESS)
}

pub async fn start(
    client: &mut Client,
    node: &pb::Node,
    kind: pb::DrainKind,
) -> Result<(), Status> {
    let request = pb::DrainRequest {
        node: node.id,
        kind: kind.into(),
        incarnation: node.incarnation.clone(),
        operator: None,
    };
    client.drain(request).await.map(|_| ())
}

/// Returns once the node owns and receives nothing; shows how far it is.
async fn emptied(args: &Args, node: &pb::Node, admins: &Admins) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut progress = Progress::new(args.target.output, node);
    let mut seen = false;
    loop {
        let row = row(admins, node.id).await?;
        let same = row.incarnation == node.incarnation;
        seen |= row.drain != "none";
        if !seen && same && began.elapsed() < APPLIED_WITHIN {
            time::sleep(POLL).await;
            continue;
        }
        if row.drain == "none" {
            progress.end();
            if row.incarnation != node.incarnation {
                bail!("{} has registered anew, which ends its drain: drain it again", node.name);
            }
            bail!("the drain of {} was taken back by somebody else", node.name);
        }
        let left = row.shards_owned + row.shards_receiving;
        progress.show(left, began.elapsed())?;
        if left == 0 {
            progress.end();
            return Ok(());
        }
        if args.timeout.is_some_and(|seconds| began.elapsed() >= Duration::from_secs(seconds)) {
            progress.end();
            bail!("{} still holds {left} shards; its drain goes on", node.name);
        }
        time::sleep(POLL).await;
    }
}

async fn row(admins: &Admins, id: u64) -> anyhow::Result<pb::Node> {
    let nodes = admins
        .first(|mut client| async move {
            client.nodes(pb::NodesRequest { all: true }).await.map(tonic::Response::into_inner)
        })
        .await?;
    Ok(find(&nodes.nodes, &id.to_string())?.clone())
}

/// One line that changes on a terminal, else a line now and then; nothing for programs.
struct Progress {
    name: String,
    total: u32,
    shows: bool,
    terminal: bool,
    last: Option<(u32, Duration)>,
}

impl Progress {
    fn new(output: Output, node: &pb::Node) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let shows = output == Output::Table;
        Self { name: node.name.clone(), total: node.shards_owned, shows, terminal, last: None }
    }

    fn show(&mut self, left: u32, elapsed: Duration) -> anyhow::Result<()> {
        if !self.shows {
            return Ok(());
        }
        let line = format!(
            "{}: {left} of {} shards left, {:.1} s",
            self.name,
            self.total.max(left),
            elapsed.as_secs_f64()
        );
        if self.terminal {
            print!("\r\u{1b}[K{line}");
            std::io::stdout().flush()?;
        } else {
            let due = self.last.is_none_or(|(seen, at)| {
                seen != left && (left == 0 || elapsed.saturating_sub(at) >= LINE_EVERY)
            });
            if !due {
                return Ok(());
            }
            say(&line)?;
        }
        self.last = Some((left, elapsed));
        Ok(())
    }

    /// What follows begins on a line of its own.
    fn end(&self) {
        if self.shows && self.terminal && self.last.is_some() {
            println!();
        }
    }
}

/// Ends the session of a node that owns nothing, then the node.
async fn end(node: &pb::Node, admins: &Admins) -> anyhow::Result<()> {
    let close =
        pb::CloseRequest { node: node.id, incarnation: node.incarnation.clone(), operator: None };
    admins
        .change(|mut client| {
            let close = close.clone();
            async move { client.close(close).await.map(|_| ()) }
        })
        .await?;
    let remove = pb::RemoveRequest { node: node.id, force: false, operator: None };
    admins.change(|mut client| async move { client.remove(remove).await.map(|_| ()) }).await
}
