//! Raft: the replicated log under the registry. Only it and its messages in `wire`
//! name openraft.
//!
//! `handle` and `membership` are what the worker sees; `log_store` and `state_machine` are Raft's disk and its
//! effect, `network` and `server` its two ends of a connection, `tending` the chores beside
//! it, `retention` the policy of what is kept.

mod config;
mod handle;
pub(crate) mod log_store;
mod membership;
pub mod metrics;
mod network;
mod record;
mod retention;
mod runtime;
mod server;
mod snapshot;
mod state_machine;
mod tending;
pub(crate) mod types;

use std::{path::PathBuf, sync::Arc};

use parking_lot::RwLock;
use shoal_core::id::ClusterId;

pub use self::{
    handle::{Config, Follower, Handle, Leadership, MAX_COMMAND, ProposeError, TransferError},
    log_store::Extent,
    membership::{ChangeError, EntryId, Heard, Members},
    server::{Service, Slot},
    types::{Member, Response},
};

/// Why Raft does not start. Each is one line for a person.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Log(#[from] log_store::Error),
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
    #[error(
        "{dir}: the log begins after entry {purged} and no snapshot reaches it; wipe the \
         directory so that the node joins anew"
    )]
    SnapshotLost { dir: PathBuf, purged: u64 },
    #[error("raft does not start: {0}")]
    Start(String),
}

/// The cluster this node is in: empty until it founded or joined one. Shared by all who
/// check a call's origin.
#[derive(Clone, Debug, Default)]
pub struct ClusterCell(Arc<RwLock<Option<ClusterId>>>);

impl ClusterCell {
    pub fn get(&self) -> Option<ClusterId> {
        *self.0.read()
    }

    pub fn set(&self, cluster: Option<ClusterId>) {
        *self.0.write() = cluster;
    }
}

#[cfg(test)]
mod tests;
