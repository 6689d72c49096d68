//! What a registry takes of a process, by a process of its own that holds several.

use std::{
    io::{Read as _, Write as _},
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};
use shoal_core::route::RouteTable;
use shoal_worker::wire::registry as wire;

use crate::process;

/// Held before the first look, so that what decoding leaves over is there already; as many
/// again are looked at, and more of small ones: the kernel counts pages.
const LEAST: usize = 8;
const ENCODED: usize = 16 << 20;

/// Reads a snapshot from its input and prints the MiB that one registry of it takes.
pub fn measure() -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    ensure!(!bytes.is_empty(), "no snapshot on the standard input");
    let count = LEAST.max(ENCODED / bytes.len());
    let mut held = Vec::new();
    let mut hold = |count| -> anyhow::Result<f64> {
        for _ in 0..count {
            let registry = wire::decode_snapshot(&bytes)?;
            let routes = RouteTable::from_registry(&registry);
            held.push((registry, routes));
        }
        Ok(process::memory(std::process::id())?.now)
    };
    let before = hold(count)?;
    let after = hold(count)?;
    println!("{}", (after - before) / count as f64);
    Ok(())
}

/// MiB of the registry in this snapshot, with the routes that share its rows.
pub fn of(snapshot: &[u8]) -> anyhow::Result<f64> {
    let program = std::env::current_exe()?;
    let mut child = Command::new(program)
        .arg("registry-memory")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("no input")?.write_all(snapshot)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "the process that holds registries: {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    text.trim().parse().with_context(|| format!("{text:?} is no number"))
}
