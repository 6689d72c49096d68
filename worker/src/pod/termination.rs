//! The last words of a container: which incarnation has ended with it.
//!
//! Kubernetes reads the file when the process has ended and shows it in the pod's status, and
//! only there: whoever reads an incarnation from a terminated state knows that nothing of it
//! runs any more. It must therefore be there before the incarnation is [S2].

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use shoal_core::id::Incarnation;
use tracing::warn;

use crate::env::disk;

#[derive(Debug, Clone, Default)]
pub struct Message {
    path: Option<PathBuf>,
    failed: Arc<AtomicBool>,
}

impl Message {
    /// Without a path nothing is written.
    pub fn at(path: Option<PathBuf>) -> Self {
        Self { path, failed: Arc::default() }
    }

    /// The whole message is now this incarnation. A failure costs speed after a crash, no more:
    /// it is logged once.
    pub fn write(&self, incarnation: Incarnation) {
        let Some(path) = &self.path else { return };
        let written = disk::overwrite(path, incarnation.to_text().as_bytes());
        if let Err(error) = written
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            let path = path.display();
            warn!(%path, %error, "TERMINATION_LOG cannot be written: a crash is noticed later");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_the_last_incarnation_alone_and_a_failure_is_none_of_the_callers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("termination-log");
        let message = Message::at(Some(path.clone()));
        for incarnation in
            [Incarnation { counter: 1_000, nonce: u64::MAX }, Incarnation { counter: 2, nonce: 1 }]
        {
            message.write(incarnation);
            let text = String::from_utf8(disk::read(&path).unwrap().unwrap()).unwrap();
            assert_eq!(text.parse(), Ok(incarnation));
        }
        Message::at(Some(dir.path().to_owned())).write(Incarnation::default());
        Message::default().write(Incarnation::default());
    }
}
