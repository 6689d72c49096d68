//! The commands of `shoal` other than `run`: what people ask of a cluster.
//!
//! Talks to nodes over their public ports only, carries no operator epoch.

mod admin;
pub mod bench;
mod dev;
mod show;
mod top;
mod view;

use std::process::ExitCode;

use anyhow::Context as _;

use crate::config::{ADMIN_PORT_OFFSET, HostPort};

const SUCCESS: ExitCode = ExitCode::SUCCESS;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    Table,
    Json,
}

/// The node that is asked.
#[derive(clap::Args, Clone, Debug)]
pub struct Target {
    /// NODE_ADDRESS of any member
    #[arg(long, env = "NODE_ADDRESS", default_value = "localhost:11000", value_name = "HOST:PORT")]
    pub address: HostPort,
    /// Its admin port [default: port of the address + 2000]
    #[arg(long, env = "ADMIN_ADDRESS", value_name = "HOST:PORT")]
    pub admin_address: Option<HostPort>,
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

impl Target {
    fn admin(&self) -> anyhow::Result<String> {
        let near = || self.address.with_port_offset(ADMIN_PORT_OFFSET);
        let admin = self.admin_address.clone().or_else(near);
        let admin = admin.with_context(|| {
            format!("the port of {} + {ADMIN_PORT_OFFSET} is over 65535", self.address)
        })?;
        Ok(admin.to_string())
    }
}

#[derive(clap::Subcommand, Clone, Debug)]
pub enum Command {
    /// Start a whole cluster on this machine
    Dev(dev::Args),
    /// The cluster as one node sees it
    Status {
        /// Confirmed by a quorum
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
    Shards {
        /// Only those of this node (name, address or id)
        #[arg(long)]
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
    /// Move all shards away from a node (name, address or id)
    Drain {
        node: String,
        /// Then end the node for ever
        #[arg(long, conflicts_with = "cancel")]
        remove: bool,
        /// Let it receive shards again
        #[arg(long)]
        cancel: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Move one shard to a node (name, address or id)
    Move {
        shard: u32,
        node: String,
        #[command(flatten)]
        target: Target,
    },
    /// Change settings of the cluster: key=value …
    Configure {
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
        #[command(flatten)]
        target: Target,
    },
    /// A live view of the cluster
    Top {
        #[command(flatten)]
        target: Target,
    },
    /// Load on counters, with every answer checked
    Bench(bench::Args),
}

/// Runs one command; an error is for people and ends the process with a failure.
pub async fn execute(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Dev(args) => dev::execute(args).await,
        Command::Bench(args) => bench::execute(args).await,
        Command::Top { target } => top::execute(&target).await,
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
        Command::Drain { node, remove, cancel, target } => {
            if cancel {
                admin::cancel_drain(&target, &node).await
            } else {
                admin::drain(&target, &node, remove).await
            }
        }
        Command::Move { shard, node, target } => admin::move_shard(&target, shard, &node).await,
        Command::Configure { settings, target } => admin::configure(&target, &settings).await,
    }
}

#[cfg(test)]
mod tests;
