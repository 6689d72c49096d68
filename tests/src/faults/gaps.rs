//! How long a key had no acknowledged call though clients tried.

use super::history::{Op, Time};

/// A time in which a key was called and did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    pub key: usize,
    pub from: Time,
    pub to: Time,
}

impl Gap {
    pub fn length(&self) -> Time {
        self.to - self.from
    }

    /// How much of it lies between two times.
    pub fn within(&self, from: Time, to: Time) -> Time {
        self.to.min(to).saturating_sub(self.from.max(from))
    }
}

/// The calls of one key since its last acknowledgement.
#[derive(Debug, Default)]
pub struct Gaps {
    calls: Vec<(Time, Time, bool)>,
}

impl Gaps {
    pub fn add(&mut self, op: &Op) {
        self.calls.push((op.returned, op.invoked, op.served()));
    }

    /// Every gap between two acknowledgements so far, of at least this length.
    pub fn take(&mut self, key: usize, least: Time) -> Vec<Gap> {
        self.calls.sort_unstable();
        // From each call on, when the earliest one began that had not ended before it.
        let mut earliest = vec![Time::MAX; self.calls.len() + 1];
        for (at, (_, invoked, _)) in self.calls.iter().enumerate().rev() {
            earliest[at] = earliest[at + 1].min(*invoked);
        }
        let mut gaps = Vec::new();
        let mut last: Option<usize> = None;
        for (at, (returned, _, served)) in self.calls.iter().enumerate() {
            if !served {
                continue;
            }
            if let Some(before) = last {
                let began = self.calls[before].0;
                let gap = Gap { key, from: began.max(earliest[before + 1]), to: *returned };
                gaps.push(gap);
            }
            last = Some(at);
        }
        self.calls.drain(..last.unwrap_or(0));
        gaps.retain(|gap| gap.length() >= least);
        gaps
    }

    /// The gap that is still open at `now`.
    pub fn open(&self, key: usize, now: Time) -> Option<Gap> {
        let mut calls = self.calls.iter();
        let last = calls.next().filter(|call| call.2).map(|call| call.0);
        let tried = calls.map(|call| call.1).min()?;
        Some(Gap { key, from: tried.max(last.unwrap_or(0)), to: now })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::history::{Act, Entry, Outcome};

    fn op(invoked: Time, returned: Time, served: bool) -> Op {
        let outcome =
            if served { Outcome::Absent } else { Outcome::Unknown(tonic::Code::Unavailable) };
        Op { key: 0, entry: Entry::Any, act: Act::Read, invoked, returned, outcome }
    }

    fn gaps(ops: &[Op], least: Time) -> Vec<(Time, Time)> {
        let mut gaps = Gaps::default();
        ops.iter().for_each(|op| gaps.add(op));
        gaps.take(0, least).iter().map(|gap| (gap.from, gap.to)).collect()
    }

    #[test]
    fn a_gap_begins_when_somebody_tried_and_ends_with_an_answer() {
        let calls = [op(0, 10, true), op(50, 60, false), op(70, 80, true), op(90, 100, true)];
        assert_eq!(gaps(&calls, 0), [(50, 80), (90, 100)]);
        assert_eq!(gaps(&calls, 20), [(50, 80)]);
    }

    #[test]
    fn a_call_under_way_at_the_last_answer_counts_from_there() {
        assert_eq!(gaps(&[op(0, 10, true), op(5, 90, true)], 0), [(10, 90)]);
    }

    #[test]
    fn what_is_taken_piece_by_piece_is_the_same() {
        let mut whole = Gaps::default();
        [op(0, 10, true), op(20, 30, false)].iter().for_each(|op| whole.add(op));
        assert!(whole.take(0, 0).is_empty());
        assert_eq!(whole.open(0, 100).map(|gap| (gap.from, gap.to)), Some((20, 100)));
        whole.add(&op(40, 50, true));
        assert_eq!(whole.take(0, 0).len(), 1);
        assert_eq!(whole.open(0, 100), None);
    }
}
