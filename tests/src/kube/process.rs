//! A process of a cluster, known by its id and the time it began: an id alone may by now be
//! somebody else's.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// Field of `/proc/<pid>/stat`, counted from the state, that says when the process began.
const STARTED: usize = 19;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub id: i32,
    started: u64,
}

impl Process {
    /// The one that has this id now.
    pub fn of(id: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The name before may hold anything, brackets too.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ended = matches!(*fields.first()?, "Z" | "X");
        let started = fields.get(STARTED)?.parse().ok()?;
        (!ended).then_some(Self { id, started })
    }

    pub fn recorded(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let (id, started) = text.trim().split_once(' ')?;
        Some(Self { id: id.parse().ok()?, started: started.parse().ok()? })
    }

    pub fn record(self, path: &Path) -> io::Result<()> {
        fs::write(path, format!("{} {}\n", self.id, self.started))
    }

    pub fn runs(self) -> bool {
        Self::of(self.id) == Some(self)
    }

    pub fn children(self) -> Vec<i32> {
        children(self.id)
    }

    /// Returns when it has ended; at once where it has already.
    pub fn end(self, signal: Signal, patience: Duration) -> anyhow::Result<()> {
        if !self.runs() {
            return Ok(());
        }
        let id = Pid::from_raw(self.id).context("not a process id")?;
        // It may end by itself before the signal comes.
        if let Err(error) = kill_process(id, signal) {
            ensure!(!self.runs(), "process {} cannot be ended: {error}", self.id);
        }
        within(patience, || {
            ensure!(!self.runs(), "process {} has not ended", self.id);
            Ok(())
        })
    }
}

/// Of the process with this id, also those that have ended and were not reaped.
pub(crate) fn children(id: i32) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
    list.unwrap_or_default().split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

/// Looks until it succeeds; past `patience`, the last error.
pub fn within<T>(
    patience: Duration,
    mut look: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(error) if began.elapsed() > patience => {
                return Err(error.context(format!("not within {patience:?}")));
            }
            Err(_) => std::thread::sleep(wait::LOOK_AGAIN),
        }
    }
}
