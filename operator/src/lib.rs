//! The operator of `ShardCluster`: what a cluster needs, how it is scaled, drained and rolled.
//!
//! Decisions are pure (`validate`, `build`, `rollout`, `status`); only `apply` writes to the API
//! server. It knows a worker through its admin API alone.

pub mod apply;
pub mod build;
pub mod cli;
pub mod controller;
pub mod crd;
pub mod desired;
pub mod elector;
pub mod names;
pub mod observe;
pub mod pki;
pub mod rollout;
pub mod status;
pub mod telemetry;
pub mod validate;
pub mod worker_client;
