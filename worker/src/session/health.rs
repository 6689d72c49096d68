//! A probe write with fsync each quarter of a lease: how long the disk has been silent.

use std::{path::PathBuf, sync::Arc, time::Duration};

use parking_lot::Mutex;
use shoal_core::id::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::env::{clock, disk, thread};

/// Shows since when the disk owes an answer.
#[derive(Clone, Default)]
pub struct Probe {
    pending: Arc<Mutex<Option<Timestamp>>>,
}

impl Probe {
    /// Probes `directory` on a thread of its own: an fsync may hang for ever.
    pub fn start(
        directory: PathBuf,
        every: Duration,
        shutdown: CancellationToken,
    ) -> std::io::Result<Self> {
        let probe = Self::default();
        let shown = probe.clone();
        thread::drive("disk-probe", async move {
            while !shutdown.is_cancelled() {
                *shown.pending.lock() = Some(clock::now());
                let written = disk::write_atomic(&directory.join("probe"), b"probe\n");
                disk::settled().await;
                match written {
                    Ok(()) => *shown.pending.lock() = None,
                    // Still pending: a disk that fails is no faster than one that hangs.
                    Err(error) => warn!(%error, "the disk's probe failed"),
                }
                thread::pause(every).await;
            }
        })?;
        Ok(probe)
    }

    pub fn pending_since(&self) -> Option<Timestamp> {
        *self.pending.lock()
    }
}
