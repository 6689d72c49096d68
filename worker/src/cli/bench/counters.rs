//! What the acknowledged increments of counters say about lost and doubled ones.
//!
//! Every value is acknowledged once per epoch, values grow from epoch to epoch, and at the
//! end a counter stands where its acknowledgements lead. A counter that falls back under a
//! newer epoch was lost with its owner; the caller knows whether an owner was killed.

use std::collections::BTreeMap;

/// One counter, from its first value 1 on.
#[derive(Debug, Default)]
pub struct Counter {
    epochs: BTreeMap<u64, Seen>,
    /// Increments that failed: each may have run or not.
    failed: u64,
    doubled: u64,
}

/// The values seen under one epoch, as closed ranges: start → end.
#[derive(Debug, Default)]
struct Seen {
    ranges: BTreeMap<i64, i64>,
    first_phase: usize,
}

impl Seen {
    /// False if `value` was there.
    fn insert(&mut self, value: i64) -> bool {
        let mut start = value;
        if let Some((&from, &to)) = self.ranges.range(..=value).next_back() {
            if to >= value {
                return false;
            }
            if to + 1 == value {
                start = from;
            }
        }
        let end = self.ranges.remove(&(value + 1)).unwrap_or(value);
        self.ranges.insert(start, end);
        true
    }
}

/// What became of the increments of some counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Acknowledged twice, or more often run than called.
    pub doubled: u64,
    /// Acknowledged and gone without a newer epoch.
    pub lost: u64,
    /// Acknowledged and gone under a newer epoch, by the phase of its first answer.
    pub fallen: BTreeMap<usize, u64>,
}

impl Judgement {
    pub fn add(&mut self, other: &Self) {
        self.doubled += other.doubled;
        self.lost += other.lost;
        for (phase, count) in &other.fallen {
            *self.fallen.entry(*phase).or_default() += count;
        }
    }

    /// Fallen with an owner in a phase from `first` on.
    pub fn fallen_since(&self, first: usize) -> u64 {
        self.fallen.range(first..).map(|(_, count)| count).sum()
    }

    pub fn fallen_before(&self, first: usize) -> u64 {
        self.fallen.range(..first).map(|(_, count)| count).sum()
    }
}

impl Counter {
    pub fn acknowledged(&mut self, epoch: u64, value: i64, phase: usize) {
        let fresh = || Seen { first_phase: phase, ..Seen::default() };
        if !self.epochs.entry(epoch).or_insert_with(fresh).insert(value) {
            self.doubled += 1;
        }
    }

    pub fn failed(&mut self) {
        self.failed += 1;
    }

    /// Judges against the value it stands at after the last increment ended.
    pub fn judge(&self, epoch: u64, value: i64, phase: usize) -> Judgement {
        let mut judgement = Judgement { doubled: self.doubled, ..Judgement::default() };
        let mut at = 0_i64;
        let mut unseen = 0_u64;
        for seen in self.epochs.values() {
            for (&start, &end) in &seen.ranges {
                if start <= at {
                    let fallen = (at - start + 1).unsigned_abs();
                    *judgement.fallen.entry(seen.first_phase).or_default() += fallen;
                } else {
                    unseen += (start - at - 1).unsigned_abs();
                }
                at = end;
            }
        }
        let newest = self.epochs.keys().next_back().copied().unwrap_or(0);
        if value < at {
            let gone = (at - value).unsigned_abs();
            if epoch > newest {
                *judgement.fallen.entry(phase).or_default() += gone;
            } else {
                judgement.lost += gone;
            }
        } else {
            unseen += (value - at).unsigned_abs();
        }
        judgement.doubled += unseen.saturating_sub(self.failed);
        judgement
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(acks: &[(u64, i64)]) -> Counter {
        let mut counter = Counter::default();
        for &(epoch, value) in acks {
            counter.acknowledged(epoch, value, epoch as usize);
        }
        counter
    }

    #[test]
    fn a_counter_that_moves_is_whole() {
        let counter = counter(&[(1, 2), (1, 1), (2, 4), (1, 3), (2, 5)]);
        assert_eq!(counter.judge(2, 5, 9), Judgement::default());
        assert_eq!(counter.epochs[&1].ranges.len(), 1, "ranges merge");
    }

    #[test]
    fn a_value_acknowledged_twice_is_doubled() {
        assert_eq!(counter(&[(1, 1), (1, 2), (1, 2)]).judge(1, 2, 1).doubled, 1);
    }

    #[test]
    fn an_increment_that_ran_twice_is_doubled() {
        let mut counter = counter(&[(1, 1), (1, 3)]);
        assert_eq!(counter.judge(1, 3, 1).doubled, 1);
        counter.failed();
        assert_eq!(counter.judge(1, 3, 1), Judgement::default(), "the failed one did run");
        assert_eq!(counter.judge(1, 4, 1).doubled, 1, "only once");
    }

    #[test]
    fn a_fall_under_a_newer_epoch_is_told_apart_by_phase() {
        let counter = counter(&[(1, 1), (1, 2), (1, 3), (4, 1), (4, 2)]);
        let judgement = counter.judge(4, 2, 9);
        assert_eq!((judgement.lost, judgement.doubled), (0, 0));
        assert_eq!((judgement.fallen_before(4), judgement.fallen_since(4)), (0, 3));
        assert_eq!(counter.judge(7, 0, 9).fallen_since(9), 2, "seen at the last read");
    }

    #[test]
    fn a_fall_without_a_newer_epoch_is_lost() {
        assert_eq!(counter(&[(1, 1), (1, 2)]).judge(1, 1, 1).lost, 1);
    }

    #[test]
    fn an_answer_of_an_old_owner_after_a_newer_one_shows() {
        let judgement = counter(&[(1, 1), (2, 2), (1, 2)]).judge(2, 2, 1);
        assert_eq!(judgement.fallen_since(0), 1);
    }
}
