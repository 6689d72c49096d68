//! The right to serve: until when this node may admit and acknowledge.
//!
//! The session extends it, admission and acknowledgement read it, a plain thread watches it,
//! so that overrunning handlers are cancelled even if no executor runs. It does not know
//! where a right comes from.

use std::{
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use shoal_core::id::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::env::{clock, thread};

/// Longest sleep of the watcher: no timer of one clock follows a suspend or a slew of the other.
const WATCH: Duration = Duration::from_millis(20);

/// The shared right of one process. Cheap to clone.
#[derive(Clone)]
pub struct Right {
    shared: Arc<Shared>,
}

/// Each clock's end in nanoseconds; 0: no right. A reader may see one clock of an extension
/// before the other: both only grow while a right lasts, so the mixture ends no later.
struct Shared {
    boottime: AtomicU64,
    raw: AtomicU64,
    /// Cancelled when the right ends; a new one with the next extension. Also keeps writers
    /// apart.
    ended: Mutex<CancellationToken>,
}

impl Right {
    /// No right yet, and the thread that will watch it; the thread ends with the last clone.
    pub fn new() -> io::Result<Self> {
        let ended = CancellationToken::new();
        ended.cancel();
        let shared = Arc::new(Shared {
            boottime: AtomicU64::new(0),
            raw: AtomicU64::new(0),
            ended: Mutex::new(ended),
        });
        let watched = Arc::downgrade(&shared);
        thread::drive("right", async move { watch(&watched).await })?;
        Ok(Self { shared })
    }

    /// Takes an end that is later on both clocks; false if it is not.
    pub fn extend(&self, until: Timestamp) -> bool {
        let mut ended = self.shared.ended.lock();
        if until == self.until() || !until.surely_past(self.until()) {
            return false;
        }
        self.shared.boottime.store(nanos(until.boottime), Ordering::Release);
        self.shared.raw.store(nanos(until.raw), Ordering::Release);
        if ended.is_cancelled() && self.holds(clock::now()) {
            *ended = CancellationToken::new();
        }
        true
    }

    /// Ends the right at once; the next extension is a new one.
    pub fn revoke(&self) {
        let ended = self.shared.ended.lock();
        self.shared.boottime.store(0, Ordering::Release);
        self.shared.raw.store(0, Ordering::Release);
        ended.cancel();
    }

    /// Whether the right lasts at `now`: neither clock has reached its end.
    pub fn holds(&self, now: Timestamp) -> bool {
        !now.maybe_past(self.until())
    }

    /// The end; zero on both clocks where there is none.
    pub fn until(&self) -> Timestamp {
        self.shared.until()
    }

    /// Cancelled when the right ends, and where there is none.
    pub fn ended(&self) -> CancellationToken {
        self.shared.ended.lock().clone()
    }
}

impl Shared {
    fn until(&self) -> Timestamp {
        let read = |clock: &AtomicU64| Duration::from_nanos(clock.load(Ordering::Acquire));
        Timestamp::new(read(&self.boottime), read(&self.raw))
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

async fn watch(shared: &Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        let sleep = {
            let ended = shared.ended.lock();
            let (now, until) = (clock::now(), shared.until());
            if now.maybe_past(until) {
                ended.cancel();
            }
            let left = until.boottime.saturating_sub(now.boottime);
            left.min(until.raw.saturating_sub(now.raw))
        };
        drop(shared);
        thread::pause(if sleep.is_zero() { WATCH } else { sleep.min(WATCH) }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn s8_a_right_ends_when_either_clock_says_so() {
        let right = Right::new().unwrap();
        let start = clock::now();
        let end = start.plus(HOUR);
        assert!(!right.holds(start));
        assert!(right.extend(end));
        assert!(right.holds(start));
        assert!(!right.holds(Timestamp::new(end.boottime, start.raw)));
        assert!(!right.holds(Timestamp::new(start.boottime, end.raw)));
    }

    #[test]
    fn only_a_later_end_on_both_clocks_replaces_the_right() {
        let right = Right::new().unwrap();
        let end = clock::now().plus(HOUR);
        assert!(right.extend(end));
        assert!(!right.extend(end));
        assert!(!right.extend(Timestamp::new(end.boottime + HOUR, end.raw - HOUR)));
        assert_eq!(right.until(), end);
    }

    #[test]
    fn a_revoked_right_is_gone_until_it_is_extended() {
        let right = Right::new().unwrap();
        let end = clock::now().plus(HOUR);
        right.extend(end);
        let ended = right.ended();
        right.revoke();
        assert!(ended.is_cancelled() && !right.holds(clock::now()));
        assert!(right.extend(end));
        assert!(right.holds(clock::now()) && !right.ended().is_cancelled());
    }

    #[tokio::test]
    async fn the_watcher_cancels_when_the_right_runs_out_and_a_renewal_revives_it() {
        let right = Right::new().unwrap();
        assert!(right.ended().is_cancelled(), "none yet");
        right.extend(clock::now().plus(Duration::from_millis(200)));
        let ended = right.ended();
        tokio::time::timeout(Duration::from_secs(10), ended.cancelled()).await.unwrap();
        assert!(!right.holds(clock::now()));
        assert!(right.extend(clock::now().plus(HOUR)));
        assert!(!right.ended().is_cancelled());
    }
}
