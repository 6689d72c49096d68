//! The `shoal` command: the built-in host, and an allocator for many small messages.

use std::{process::ExitCode, sync::Arc};

use shoal_worker::{host::kv::Kv, process};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    process::main(Arc::new(Kv::default()))
}
