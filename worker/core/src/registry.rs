//! The replicated truth: who is a node, who owns which shard, under which epoch.

mod command;
mod row;

pub use command::*;
pub use row::*;
