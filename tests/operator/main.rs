//! The operator on a real control plane: real API server, controllers and scheduler, a stand-in
//! for kubelet and workers, and a proxy that fails what it is told to.
//!
//! Small by default, each suite once. `make sweep` sets SHOAL_SWEEP: every write with every fault,
//! more seeds, longer outages, and figures.
// Everything here is a test, outside of the product.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod bad_input;
mod certificates;
mod chance;
mod held;
mod idle;
mod leavers;
mod operators;
mod process;
mod refound;
mod reversals;
mod scene;
mod schema;
mod sweep;

use std::time::Duration;

/// Whether the long forms run.
fn is_sweep() -> bool {
    std::env::var_os("SHOAL_SWEEP").is_some()
}

/// For what takes a second or two on an idle machine.
const PATIENCE: Duration = Duration::from_secs(90);
