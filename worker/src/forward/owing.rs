//! Answers that the client of one connection has yet to take.
//!
//! HTTP/2 lets a client open no window and still be alive to every ping. What it does not take
//! would hold memory that other calls need for as long as it likes, so that its connection is cut.
//! Small answers are not counted: they hold none of `CALL_MEMORY`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

/// Those that were given in the two latest periods; one counter is the present one's.
#[derive(Default)]
pub(super) struct Owing {
    untaken: [AtomicUsize; 2],
    present: AtomicUsize,
}

impl Owing {
    /// These bytes, which are owed until the last of them was sent.
    pub fn owe(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        let period = self.present.load(Ordering::Relaxed);
        self.untaken[period].fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Owed { bytes, period, owing: self.clone() })
    }

    /// Ends once an answer was not taken for `patience`, and for less than twice as long.
    pub async fn overdue(&self, patience: Duration) {
        loop {
            tokio::time::sleep(patience).await;
            let before = 1 - self.present.load(Ordering::Relaxed);
            if self.untaken[before].load(Ordering::Relaxed) > 0 {
                return;
            }
            self.present.store(before, Ordering::Relaxed);
        }
    }
}

struct Owed {
    bytes: Bytes,
    period: usize,
    owing: Arc<Owing>,
}

impl AsRef<[u8]> for Owed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.owing.untaken[self.period].fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_in_time_is_never_overdue() {
        let owing = Arc::new(Owing::default());
        let taking = async {
            for at in 0..100 {
                let answers = [owing.owe(Bytes::from_static(b"one")), owing.owe(Bytes::new())];
                tokio::time::sleep(PATIENCE * (at % 10) / 10).await;
                assert_eq!(&answers[0][..], b"one");
            }
        };
        tokio::select! {
            () = taking => {}
            () = owing.overdue(PATIENCE) => panic!("all were taken in time"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_is_overdue_though_others_are() {
        for late in 0..4 {
            let owing = Arc::new(Owing::default());
            let given = PATIENCE * late / 2 + Duration::from_secs(1);
            let giving = async {
                tokio::time::sleep(given).await;
                let part = owing.owe(Bytes::from_static(b"held")).slice(1..);
                loop {
                    tokio::time::sleep(PATIENCE / 20).await;
                    drop(owing.owe(part.slice(1..)));
                }
            };
            let begun = tokio::time::Instant::now();
            tokio::select! {
                () = giving => {}
                () = owing.overdue(PATIENCE) => {}
            }
            let held = begun.elapsed() - given;
            assert!(held >= PATIENCE && held <= PATIENCE * 2, "{held:?}");
        }
    }
}
