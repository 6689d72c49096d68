//! The worker: thin shells around `shoal_core`. All IO of a Shoal pod is here.
//!
//! A component is `Config → new() → run(shutdown)` plus a cheap handle; channels never
//! leave their module, every queue is bounded.

pub mod admin;
pub mod call;
#[cfg(not(feature = "sim"))]
pub mod cli;
pub mod config;
pub mod control;
pub mod discovery;
pub mod env;
pub mod forward;
pub mod found;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod host;
pub mod identity;
#[cfg(feature = "mutants")]
pub mod mutant;
pub mod node;
pub mod peer;
pub mod pod;
#[cfg(not(feature = "sim"))]
pub mod process;
pub mod raft;
pub mod session;
pub mod table;
mod telemetry;
pub mod tls;
pub mod watch;
pub mod wire;

/// What `shoal --version` prints and every node tells of itself. The feature `next` stands for
/// the version after this one, for suites that roll from one to the other.
pub const VERSION: &str = if cfg!(feature = "next") { "0.2.0" } else { env!("CARGO_PKG_VERSION") };
