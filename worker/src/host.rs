//! Opens, runs, drains and closes the shards of this node: the only code that runs user work.
//!
//! Decisions are taken by `shoal_core::{admit, handoff}`. It proposes nothing and learns of
//! the registry only through the node's own table.

pub mod api;
pub mod kv;
pub mod metrics;
pub mod pulse;
pub mod right;
pub mod shards;

/// What runs a user's work in this process.
pub type Host = std::sync::Arc<dyn api::ShardHost>;
