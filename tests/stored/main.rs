//! The `shoal` command with another host: one that keeps its state in a store which compares
//! tokens, and reads from memory what it has read or written there.
// Everything here is for tests, outside of the product.
#![allow(clippy::disallowed_methods)]

mod host;

use std::{env, process::ExitCode, sync::Arc};

use shoal_tests::faults::cells::SETTING;
use shoal_worker::process;

fn main() -> ExitCode {
    // Commands other than `run` need none.
    let store = env::var(SETTING).unwrap_or_default();
    process::main(Arc::new(host::Stored::new(store)))
}
