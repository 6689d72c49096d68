//! Stock clients in other languages, with default options and no retry policy: programs of
//! their own, which increment counters until they are told that the story is over, and count for
//! themselves what failed, and what was lost or done twice.

use std::{
    collections::BTreeMap,
    fmt,
    io::Read as _,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::space;

/// What a client says at its end.
#[derive(Clone, Debug, Deserialize)]
pub struct Told {
    pub client: String,
    pub calls: u64,
    pub seconds: f64,
    pub failed: u64,
    pub failures: BTreeMap<String, u64>,
    pub forwarded_percent: f64,
    pub longest_ms: f64,
    /// Seconds after its first call.
    pub longest_at: f64,
    /// When the first and the last failure were due, likewise.
    pub failed_at: Option<Vec<f64>>,
    pub lost: u64,
    pub doubled: u64,
    pub unread: u64,
}

impl Told {
    /// No call failed, and every counter holds what was acknowledged.
    pub fn flawless(&self) -> bool {
        self.calls > 0 && self.failed + self.lost + self.doubled + self.unread == 0
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} calls in {:.0} s, {:.0} % forwarded, {} failed, longest {:.0} ms after {:.1} s, \
             {} lost, {} doubled, {} not read",
            self.client,
            self.calls,
            self.seconds,
            self.forwarded_percent,
            self.failed,
            self.longest_ms,
            self.longest_at,
            self.lost,
            self.doubled,
            self.unread,
        )?;
        for (kind, count) in &self.failures {
            write!(f, "\n  {count} x {kind}")?;
        }
        if let Some([first, last]) = self.failed_at.as_deref() {
            write!(f, "\n  from {first:.1} s to {last:.1} s")?;
        }
        Ok(())
    }
}

/// What one client does.
#[derive(Clone, Debug)]
pub struct Load {
    /// One connection each, also to the same address; comma-separated.
    pub addresses: String,
    /// At least so many, however soon it is told to end.
    pub calls: u64,
    pub keys: usize,
    /// Calls a second, in an open loop.
    pub rate: f64,
}

/// A client that runs.
#[derive(Debug)]
pub struct Stock {
    child: Child,
}

impl Stock {
    /// `program` takes the arguments of the clients of `tests/clients`.
    pub fn start(mut program: Command, load: &Load) -> anyhow::Result<Self> {
        program.args(["--addresses", &load.addresses, "--calls", &load.calls.to_string()]);
        program.args(["--keys", &load.keys.to_string(), "--rate", &load.rate.to_string()]);
        let child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        Ok(Self { child: child.context("tests/clients/build.sh was not run")? })
    }

    /// Whether it goes on, as it must until it is told to end.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Closes its standard input: the story is over.
    pub fn end(mut self) -> anyhow::Result<Told> {
        drop(self.child.stdin.take());
        let mut told = String::new();
        let stdout = self.child.stdout.as_mut().context("its output is read once")?;
        stdout.read_to_string(&mut told)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "a client ended with {status}: {told}");
        serde_json::from_str(&told).with_context(|| format!("what a client says: {told}"))
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        // Both fail only where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The programs that `tests/clients/build.sh` has built, each with its first arguments: grpcio
/// and grpc-go.
pub fn programs() -> [Vec<String>; 2] {
    let built = space::build_directory().join("clients");
    let path = |name: &str| built.join(name).display().to_string();
    [vec![path("python/venv/bin/python"), path("python/client.py")], vec![path("go/client")]]
}
