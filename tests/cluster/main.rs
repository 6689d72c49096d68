//! Whole clusters of real processes: both start-up recipes, bad input, restarts, leaves,
//! crashes. Each test has its own nodes, ports and directories; `tests/src` is the harness.
#![allow(clippy::unwrap_used)] // everything here is a test

mod leaves;
mod probes;
mod recipes;
mod restarts;
mod settings;
