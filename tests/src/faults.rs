//! Faults of every kind on real processes under load, and the judgement of what clients saw.
//!
//! `scene` is a cluster in network namespaces of its own, `callers` are its clients, `fault`
//! what happens to it, `judge` what must hold whatever happens, `run` brings them together.
//! Needs root.

pub mod callers;
pub mod cells;
pub mod cgroup;
pub mod epochs;
pub mod fault;
pub mod gaps;
pub mod history;
pub mod judge;
pub mod kind;
pub mod linear;
pub mod net;
pub mod opens;
mod porcupine;
pub mod preload;
pub mod run;
pub mod scene;
pub mod store;
pub mod table;

pub use kind::Kind;
pub use run::{Episode, Plan, Run};
