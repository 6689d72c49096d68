//! The commands of `shoal` other than `run`: what people ask of a cluster.
//!
//! Talks to nodes over their public ports only, carries no operator epoch.

mod admin;
mod ask;
pub mod bench;
mod dev;
mod drain;
mod events;
pub(crate) mod figures;
pub(crate) mod http;
mod json;
mod recover;
mod show;
pub(crate) mod snapshot;
mod table;
mod top;
mod view;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;

use crate::{
    config::{self, ADMIN_PORT_OFFSET, HostPort},
    tls::{self, Tls},
};

const SUCCESS: ExitCode = ExitCode::SUCCESS;
/// Nobody answers at the address: another try later may succeed.
const EXIT_UNREACHABLE: u8 = 69;
/// Exit code of a setting that cannot be used.
const EXIT_SETTING: u8 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For programs: the shapes of docs/cli.md
    Json,
}

/// The node that is asked.
#[derive(clap::Args, Clone, Debug)]
pub struct Target {
    /// NODE_ADDRESS of any member
    #[arg(
        long,
        short,
        env = "NODE_ADDRESS",
        default_value = "localhost:11000",
        value_name = "HOST:PORT",
        help_heading = "Which cluster"
    )]
    pub address: HostPort,
    /// Its admin port [default: port of the address + 2000]
    #[arg(long, env = "ADMIN_ADDRESS", value_name = "HOST:PORT", help_heading = "Which cluster")]
    pub admin_address: Option<HostPort>,
    /// For people, or for programs
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    pub tls: tls::FileArgs,
}

impl Target {
    fn dialer(&self) -> anyhow::Result<ask::Dialer> {
        Ok(ask::Dialer::new(Tls::of_client(self.tls.files()?.as_ref())?))
    }

    fn admin(&self) -> anyhow::Result<String> {
        let near = || self.address.with_port_offset(ADMIN_PORT_OFFSET);
        let admin = self.admin_address.clone().or_else(near);
        let admin = admin.with_context(|| {
            format!(
                "the port of {} + {ADMIN_PORT_OFFSET} is over 65535: give --admin-address",
                self.address
            )
        })?;
        Ok(admin.to_string())
    }
}

#[derive(clap::Subcommand, Clone, Debug)]
pub enum Command {
    /// Start a whole cluster on this machine
    #[command(after_help = DEV)]
    Dev(dev::Args),
    /// The cluster as one node sees it
    Status {
        /// Confirmed by a quorum: not older than this question
        #[arg(long)]
        linearizable: bool,
        #[command(flatten)]
        target: Target,
    },
    /// The nodes and what they own
    Nodes {
        /// Also those that left
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        target: Target,
    },
    /// The shards and their owners
    #[command(after_help = SHARDS)]
    Shards {
        /// Only those of this node (name, NODE_ADDRESS or id)
        #[arg(long, value_name = "NODE")]
        owner: Option<String>,
        /// Only those that move or have no owner
        #[arg(long)]
        unsettled: bool,
        #[command(flatten)]
        target: Target,
    },
    /// The shard and the owner of a key
    Lookup {
        key: String,
        #[command(flatten)]
        target: Target,
    },
    /// Call a method on the owner of a key
    #[command(after_help = CALL)]
    Call {
        method: String,
        key: String,
        #[arg(default_value = "")]
        payload: String,
        #[command(flatten)]
        target: Target,
    },
    /// What the balancer would do now, and why
    Plan {
        #[command(flatten)]
        target: Target,
    },
    /// Move all shards away from a node
    #[command(after_help = DRAIN)]
    Drain(drain::Args),
    /// Move one shard to a node, wait until it is there
    Move {
        /// Number of the shard, as `shoal lookup` and `shoal shards` show it
        shard: u32,
        /// Name, NODE_ADDRESS or id of the node
        node: String,
        #[command(flatten)]
        target: Target,
    },
    /// Change settings of the cluster
    #[command(after_help = CONFIGURE)]
    Configure {
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Write the registry of a member to a file
    #[command(after_help = SNAPSHOT)]
    Snapshot(snapshot::Args),
    /// Go on from what is left of a cluster whose quorum is lost for good
    #[command(after_help = RECOVER)]
    Recover(recover::Args),
    /// A live view of the cluster, until Ctrl-C
    Top(top::Args),
    /// Load on counters, with every answer checked
    #[command(after_help = BENCH)]
    Bench(bench::Args),
}

const DEV: &str = "Examples:
  shoal dev                        three nodes at localhost:11000 to 11002, until Ctrl-C
  shoal dev --demo                 the whole story under load, with a verdict
  shoal dev --base-port 21000 --shards 64 --dir /tmp/other";
const SHARDS: &str = "Examples:
  shoal shards --owner node-b      what node-b owns
  shoal shards --unsettled         what moves or has no owner";
const CALL: &str = "The built-in kv knows get, put, delete, incr and compare-and-set.

Examples:
  shoal call put greeting hello
  shoal call get greeting
  shoal call incr visits 5         adds 5, answers the sum";
const DRAIN: &str =
    "Without --remove the node is drained for a restart: it owns nothing until its process starts
anew, or --cancel.

Examples:
  shoal drain node-b               before its process is restarted
  shoal drain node-b --cancel      not after all
  shoal drain node-b --remove      it leaves the cluster for ever";
const CONFIGURE: &str = "Settings:
  lease_ms            2000 to 60000: milliseconds that a silent node keeps its shards
  rebalance           automatic, or paused: drains and failover go on
  max_moves           1 to 4096: moves in flight in the cluster
  max_moves_per_node  1 to 4096: moves in flight that touch one node
  cooldown_ms         milliseconds between two rounds of balancing
  max_voters          1, 3, 5 or 7: most voters of the log
  max_learners        most learners of the log; further nodes watch

Examples:
  shoal configure rebalance=paused
  shoal configure max_moves=128 max_moves_per_node=32";
const SNAPSHOT: &str =
    "The file holds who owns what, no data of the hosts. Any member can be asked, also without a
leader.

Examples:
  shoal snapshot registry.shoal
  shoal snapshot registry.shoal --inspect";
const RECOVER: &str =
    "For stopped nodes, when more than half of the voters are lost for ever. Of all directories given
it takes the one with the newest log and makes it a cluster of one node under a new cluster id;
other nodes join it with empty directories. It refuses while any member of the old cluster answers.
docs/recovery.md says how to tell that a quorum is lost, and what is lost with it.

Examples:
  shoal recover --data-dir data/node-c
  shoal recover --data-dir data/node-b --data-dir data/node-c
  shoal recover --from-snapshot registry.shoal --data-dir data/node-a --raft-id node-a";
const BENCH: &str = "Without --rate the loop is closed: each caller sends its next call after an answer. With --rate
it is open: calls are due at fixed instants and a latency counts from there, so that a stall shows
in every call it held up. Each call increments a counter; in the end every counter is read and
compared with what was acknowledged. Exits 1 if a call failed or an increment is lost or doubled.

Examples:
  shoal bench --seconds 30
  shoal bench --rate 500 --addresses localhost:11000,localhost:11001,localhost:11002
  shoal bench --concurrency 256 --connections 32 --calls 1000000 --output json";

/// Runs one command; an error is for people, [`failure`] says how the process ends.
pub async fn execute(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Dev(args) => dev::execute(args).await,
        Command::Bench(args) => bench::execute(args).await,
        Command::Top(args) => top::execute(&args).await,
        Command::Drain(args) => drain::execute(&args).await,
        Command::Snapshot(args) => snapshot::execute(&args).await,
        Command::Recover(args) => recover::execute(&args).await,
        Command::Status { linearizable, target } => admin::status(&target, linearizable).await,
        Command::Nodes { all, target } => admin::nodes(&target, all).await,
        Command::Shards { owner, unsettled, target } => {
            admin::shards(&target, owner.as_deref(), unsettled).await
        }
        Command::Lookup { key, target } => admin::lookup(&target, &key).await,
        Command::Call { method, key, payload, target } => {
            admin::call(&target, method, key, payload).await
        }
        Command::Plan { target } => admin::plan(&target).await,
        Command::Move { shard, node, target } => admin::move_shard(&target, shard, &node).await,
        Command::Configure { settings, target } => admin::configure(&target, &settings).await,
    }
}

/// Tells the error, unless nobody reads any more, and with which code the process ends.
pub fn failure(error: &anyhow::Error) -> ExitCode {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    if io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::FAILURE;
    }
    eprintln!("shoal: {error:#}");
    if error.is::<ask::Unreachable>() {
        return ExitCode::from(EXIT_UNREACHABLE);
    }
    if error.is::<config::Error>() { ExitCode::from(EXIT_SETTING) } else { ExitCode::FAILURE }
}

/// Lines on standard output; an error where its reader has gone.
fn say(text: &str) -> anyhow::Result<()> {
    say_bytes(text.as_bytes())
}

fn say_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests;
