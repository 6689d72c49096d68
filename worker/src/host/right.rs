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
use shoal_core::id::{Incarnation, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::env::{clock, thread};

/// Longest sleep of the watcher: no timer of one clock follows a suspend or a slew of the other.
const WATCH: Duration = Duration::from_millis(20);

/// The shared right of one process. Cheap to clone; without a holder it never holds.
#[derive(Clone)]
pub struct Right {
    shared: Arc<Shared>,
}

/// Each clock's end in nanoseconds; 0: no right. A reader may see one clock of an extension
/// before the other: both only grow while a right lasts, so the mixture ends no later.
struct Shared {
    boottime: AtomicU64,
    raw: AtomicU64,
    holder: Mutex<Holder>,
}

#[derive(Default)]
struct Holder {
    incarnation: Option<Incarnation>,
    /// Cancelled when the right ends; a new one with the next extension.
    ended: CancellationToken,
}

impl Right {
    /// No right yet, and the thread that will watch it; the thread ends with the last clone.
    pub fn new() -> io::Result<Self> {
        let shared = Arc::new(Shared {
            boottime: AtomicU64::new(0),
            raw: AtomicU64::new(0),
            holder: Mutex::default(),
        });
        let watched = Arc::downgrade(&shared);
        thread::spawn("right", move || watch(&watched))?;
        Ok(Self { shared })
    }

    /// From now on only this incarnation's right counts; it has none yet.
    pub fn begin(&self, incarnation: Incarnation) {
        let mut holder = self.shared.holder.lock();
        self.shared.end(&holder);
        *holder = Holder { incarnation: Some(incarnation), ended: CancellationToken::new() };
    }

    /// Takes a later end. False if it is none, or belongs to another incarnation.
    pub fn extend(&self, incarnation: Incarnation, until: Timestamp) -> bool {
        let mut holder = self.shared.holder.lock();
        let later = until != self.until() && until.surely_past(self.until());
        if holder.incarnation != Some(incarnation) || !later {
            return false;
        }
        self.shared.boottime.store(nanos(until.boottime), Ordering::Release);
        self.shared.raw.store(nanos(until.raw), Ordering::Release);
        if holder.ended.is_cancelled() && self.holds(clock::now()) {
            holder.ended = CancellationToken::new();
        }
        true
    }

    /// Ends the right at once and for this incarnation for ever.
    pub fn revoke(&self) {
        let mut holder = self.shared.holder.lock();
        holder.incarnation = None;
        self.shared.end(&holder);
    }

    /// Whether the right lasts at `now`: neither clock has reached its end.
    pub fn holds(&self, now: Timestamp) -> bool {
        !now.maybe_past(self.until())
    }

    /// The end; zero on both clocks where there is none.
    pub fn until(&self) -> Timestamp {
        self.shared.until()
    }

    /// Cancelled when the right ends.
    pub fn ended(&self) -> CancellationToken {
        self.shared.holder.lock().ended.clone()
    }
}

impl Shared {
    fn until(&self) -> Timestamp {
        let read = |clock: &AtomicU64| Duration::from_nanos(clock.load(Ordering::Acquire));
        Timestamp::new(read(&self.boottime), read(&self.raw))
    }

    fn end(&self, holder: &Holder) {
        self.boottime.store(0, Ordering::Release);
        self.raw.store(0, Ordering::Release);
        holder.ended.cancel();
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

fn watch(shared: &Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        let sleep = {
            let holder = shared.holder.lock();
            let (now, until) = (clock::now(), shared.until());
            if now.maybe_past(until) {
                holder.ended.cancel();
            }
            let left = until.boottime.saturating_sub(now.boottime);
            left.min(until.raw.saturating_sub(now.raw))
        };
        drop(shared);
        thread::sleep(if sleep.is_zero() { WATCH } else { sleep.min(WATCH) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Incarnation = Incarnation { counter: 1, nonce: 1 };
    const SECOND: Incarnation = Incarnation { counter: 2, nonce: 2 };
    const HOUR: Duration = Duration::from_secs(3_600);

    fn right() -> Right {
        let right = Right::new().unwrap();
        right.begin(FIRST);
        right
    }

    #[test]
    fn s8_a_right_ends_when_either_clock_says_so() {
        let right = right();
        let start = clock::now();
        let end = start.plus(HOUR);
        assert!(!right.holds(start));
        assert!(right.extend(FIRST, end));
        assert!(right.holds(start));
        assert!(!right.holds(Timestamp::new(end.boottime, start.raw)));
        assert!(!right.holds(Timestamp::new(start.boottime, end.raw)));
    }

    #[test]
    fn only_a_later_end_on_both_clocks_replaces_the_right() {
        let right = right();
        let end = clock::now().plus(HOUR);
        assert!(right.extend(FIRST, end));
        assert!(!right.extend(FIRST, end));
        assert!(!right.extend(FIRST, Timestamp::new(end.boottime + HOUR, end.raw - HOUR)));
        assert_eq!(right.until(), end);
    }

    #[test]
    fn a_late_answer_does_not_bring_a_revoked_right_back() {
        let right = right();
        let end = clock::now().plus(HOUR);
        right.extend(FIRST, end);
        let ended = right.ended();
        right.revoke();
        assert!(ended.is_cancelled());
        assert!(!right.extend(FIRST, end.plus(HOUR)));
        right.begin(SECOND);
        assert!(!right.extend(FIRST, end.plus(HOUR)));
        assert!(!right.holds(clock::now()));
        assert!(right.extend(SECOND, end));
        assert!(right.holds(clock::now()) && !right.ended().is_cancelled());
    }

    #[tokio::test]
    async fn the_watcher_cancels_when_the_right_runs_out_and_a_renewal_revives_it() {
        let right = right();
        let ended = right.ended();
        right.extend(FIRST, clock::now().plus(Duration::from_millis(30)));
        tokio::time::timeout(Duration::from_secs(10), ended.cancelled()).await.unwrap();
        assert!(!right.holds(clock::now()));
        assert!(right.extend(FIRST, clock::now().plus(HOUR)));
        assert!(!right.ended().is_cancelled());
    }
}
