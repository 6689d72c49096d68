//! Whole clusters of real processes: both start-up recipes, bad input, restarts, leaves,
//! crashes. Each test has its own nodes, ports and directories; `tests/src` is the harness.
// Everything here is a test, outside of the product.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod abandoned;
mod calls;
mod directories;
mod founding;
mod garbage;
mod identity;
mod joining;
mod leases;
mod leaves;
mod levels;
mod moves;
mod pipes;
mod pods;
mod probes;
mod recipes;
mod recovery;
mod restarts;
mod settings;
mod tls;
mod watchers;
