//! How far a node's table lags behind what was applied here.
//!
//! Keeps a short history of (index, instant) and judges a reported index against it. A
//! lag is never overstated: the history is thinned towards the later instant.

use std::{collections::VecDeque, time::Duration};

use crate::id::{LogIndex, Timestamp};

use super::lease::Lease;

/// Indices applied within this share of L are one sample.
const SAMPLES_PER_LEASE: u32 = 16;
/// Samples kept: 3 L, one L more than the oldest lag that is judged.
const SAMPLES: usize = 3 * SAMPLES_PER_LEASE as usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    Fresh,
    /// More than L behind: it looks for another source and is no target.
    Behind,
    /// More than 2 L behind: its renewals are refused, so that its shards move on.
    Stale,
}

#[derive(Clone, Debug, Default)]
pub struct History {
    samples: VecDeque<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    opened: Timestamp,
    index: LogIndex,
    at: Timestamp,
}

impl History {
    /// `index` is known from `now` on.
    pub fn record(&mut self, index: LogIndex, lease: Lease, now: Timestamp) {
        let width = lease.length() / SAMPLES_PER_LEASE;
        match self.samples.back_mut() {
            Some(last) if index <= last.index => {}
            Some(last) if now.at_most_since(last.opened) < width => {
                last.index = index;
                last.at = now;
            }
            Some(_) | None => {
                if self.samples.len() == SAMPLES {
                    self.samples.pop_front();
                }
                self.samples.push_back(Sample { opened: now, index, at: now });
            }
        }
    }

    /// For how long a table that ends at `table` has certainly missed something.
    pub fn lag(&self, table: LogIndex, now: Timestamp) -> Duration {
        let first_missed = self.samples.partition_point(|sample| sample.index <= table);
        self.samples
            .get(first_missed)
            .map_or(Duration::ZERO, |missed| now.at_least_since(missed.at))
    }

    pub fn judge(&self, table: LogIndex, lease: Lease, now: Timestamp) -> Freshness {
        let lag = self.lag(table, now);
        if lag > 2 * lease.length() {
            Freshness::Stale
        } else if lag > lease.length() {
            Freshness::Behind
        } else {
            Freshness::Fresh
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_millis(millis))
    }

    /// Index i applied at 100·i ms, up to `last`.
    fn history(lease: Lease, last: u64) -> History {
        let mut history = History::default();
        for index in 1..=last {
            history.record(LogIndex(index), lease, at(index * 100));
        }
        history
    }

    #[test]
    fn l5_half_open_watch_is_no_target_after_l_and_refused_after_2_l() {
        let lease = Lease::from_millis(3_000).unwrap();
        let history = history(lease, 200);
        let judge = |table| history.judge(LogIndex(table), lease, at(20_000));
        assert_eq!(judge(200), Freshness::Fresh);
        assert_eq!(judge(171), Freshness::Fresh);
        assert_eq!(judge(166), Freshness::Behind);
        assert_eq!(judge(141), Freshness::Behind);
        assert_eq!(judge(136), Freshness::Stale);
        assert_eq!(judge(0), Freshness::Stale);
    }

    #[test]
    fn a_quiet_registry_leaves_nobody_behind() {
        let lease = Lease::from_millis(3_000).unwrap();
        let history = history(lease, 10);
        assert_eq!(history.judge(LogIndex(10), lease, at(900_000)), Freshness::Fresh);
        assert_eq!(history.judge(LogIndex(9), lease, at(900_000)), Freshness::Stale);
        assert_eq!(History::default().judge(LogIndex(0), lease, at(900_000)), Freshness::Fresh);
    }

    #[test]
    fn the_history_stays_small() {
        let lease = Lease::from_millis(2_000).unwrap();
        let mut history = History::default();
        for index in 0..100_000 {
            history.record(LogIndex(index), lease, at(index));
        }
        assert!(history.samples.len() <= SAMPLES);
    }
}
