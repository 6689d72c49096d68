//! Raft: the replicated log under the registry. Only it and its messages in `wire`
//! name openraft.
//!
//! `handle` and `membership` are what the worker sees; `log_store` and `state_machine` are Raft's disk and its
//! effect, `network` and `server` its two ends of a connection, `tending` the chores beside
//! it, `vigil` what a follower makes of a broken connection, `retention` the policy of what is kept.

mod config;
mod handle;
pub(crate) mod log_store;
mod membership;
pub mod metrics;
mod network;
pub(crate) mod record;
pub mod recover;
mod retention;
mod runtime;
pub(crate) mod server;
pub(crate) mod snapshot;
mod state_machine;
mod tending;
pub(crate) mod types;
mod vigil;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::RwLock;
use shoal_core::id::ClusterId;

pub use self::{
    handle::{Config, Follower, Handle, Leadership, MAX_COMMAND, ProposeError, TransferError},
    log_store::Extent,
    membership::{ChangeError, EntryId, Heard, Members},
    server::{Service, Slot},
    types::{Member, Response},
};

use self::log_store::LogStore;
use crate::{env, identity::EXIT_UNREADABLE};

/// The log's file in the data directory.
const LOG_FILE: &str = "raft.redb";

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
    #[error(
        "{path} is gone, and this node has followed its cluster's log: put it back, or wipe the \
         directory so that the node joins anew"
    )]
    LogLost { path: PathBuf },
    #[error("raft does not start: {0}")]
    Start(String),
}

impl Error {
    /// What `shoal run` ends with when its files are the cause, or Raft itself is.
    pub fn exit_code(&self) -> u8 {
        const EXIT_RAFT: u8 = 70;
        match self {
            Self::Log(_) | Self::Snapshot(_) | Self::SnapshotLost { .. } | Self::LogLost { .. } => {
                EXIT_UNREADABLE
            }
            Self::Start(_) => EXIT_RAFT,
        }
    }
}

/// Whether the log in this directory holds the entry that forms the cluster. Raft must not
/// run on it.
pub async fn formed_in_log(dir: &Path) -> Result<bool, Error> {
    let path = dir.join(LOG_FILE);
    let exists = env::disk::exists(&path);
    if !exists.map_err(|source| log_store::Error::Io { path: path.clone(), source })? {
        return Ok(false);
    }
    let log = LogStore::open(&path, state_machine::is_form)?;
    let formed = *log.formed().borrow();
    log.close().await;
    Ok(formed)
}

/// For a directory that knows its cluster as formed: Raft has run in it, and without its log it
/// would forget its votes, or found the same cluster a second time.
pub fn expect_log(dir: &Path) -> Result<(), Error> {
    let path = dir.join(LOG_FILE);
    match env::disk::length(&path) {
        Ok(Some(1..)) => Ok(()),
        Ok(Some(0) | None) => Err(Error::LogLost { path }),
        Err(source) => Err(log_store::Error::Io { path, source }.into()),
    }
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
