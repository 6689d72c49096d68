//! How the registry reaches nodes that do not follow the log.
//!
//! `server`, on every node, tells what its table learns from the log: rows once, then what
//! changed, then that nothing did. `client` finds a source, follows it, and leaves it for
//! another when it falls silent or stands still. A watcher is no source, so that two of them
//! never feed each other. Neither decides what a table takes: that is `table`'s.

mod client;
mod server;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use shoal_core::id::{ClusterId, LogIndex, NodeId};

pub use client::{Client, Config};
pub use server::Server;

use crate::raft::Heard;

/// One message of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub cluster: ClusterId,
    /// The source.
    pub from: NodeId,
    /// The watcher knows every row up to here once it has taken the news.
    pub index: LogIndex,
    pub news: News,
    /// Who follows the log, where the watcher was not told so before.
    pub members: Option<Heard>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Every row, encoded.
    Snapshot(Bytes),
    /// The rows that changed since the last event, encoded.
    Delta(Bytes),
    Nothing,
    /// The end of this watch.
    Elsewhere(Why),
}

/// Why a source serves a watcher no longer, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It knows less than the watcher.
    Behind,
    Busy,
    /// It leads, and another member can be watched.
    Leads,
    /// It does not follow the log, or the log stands still here.
    NoLog,
    NotFormed,
}

/// What was told to watchers of this node, and how often it changed its own source.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub deltas: Counter,
    pub snapshots: Counter,
    pub watchers: Gauge,
    pub source_changes: Counter,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("map");
        let help = "Messages with changed rows told to watchers of this node";
        registry.register("deltas", help, self.deltas.clone());
        let help = "Whole tables told to watchers of this node";
        registry.register("snapshots", help, self.snapshots.clone());
        registry.register("watchers", "Watchers of this node now", self.watchers.clone());
        let help = "Times that this node left the source that it watched";
        registry.register("source_changes", help, self.source_changes.clone());
    }
}
