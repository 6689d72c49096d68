//! The worker: thin shells around `shoal_core`. All IO of a Shoal pod is here.
//!
//! A component is `Config → new() → run(shutdown)` plus a cheap handle; channels never
//! leave their module, every queue is bounded.

pub mod admin;
pub mod call;
pub mod cli;
pub mod config;
pub mod control;
pub mod discovery;
pub mod env;
pub mod forward;
pub mod found;
pub mod host;
pub mod identity;
#[cfg(feature = "mutants")]
pub mod mutant;
pub mod node;
pub mod peer;
pub mod raft;
pub mod session;
pub mod table;
mod telemetry;
pub mod watch;
pub mod wire;
