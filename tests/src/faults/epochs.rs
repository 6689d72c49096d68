//! The order of tokens: an acknowledgement under an older epoch never begins after one under a
//! newer epoch of the same shard was received, and one epoch of a shard has one owner.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use super::history::{Answer, Time};

/// Epochs of a shard whose owners are remembered: calls take seconds, epochs are older.
const REMEMBERED: usize = 64;

/// All acknowledgements of one shard, in the order in which they began.
#[derive(Debug, Default)]
pub struct Epochs {
    /// Received acknowledgements that began before one that is still to be judged.
    returned: BinaryHeap<Reverse<(Time, u64)>>,
    waiting: BTreeMap<(Time, u64), Vec<u64>>,
    /// The newest epoch received so far, as far as it was judged.
    newest: u64,
    owners: BTreeMap<u64, String>,
    count: u64,
}

impl Epochs {
    /// One more acknowledgement: whoever else has answered under its epoch.
    pub fn add(&mut self, answer: &Answer, invoked: Time, returned: Time) -> Result<(), String> {
        self.count += 1;
        self.waiting.entry((invoked, self.count)).or_default().push(answer.epoch);
        self.returned.push(Reverse((returned, answer.epoch)));
        let owner = self.owners.entry(answer.epoch).or_insert_with(|| answer.owner.clone());
        let told = (*owner != answer.owner).then(|| {
            let Answer { shard, epoch, .. } = answer;
            format!("shard {shard} under {epoch}: {owner} and {} answered", answer.owner)
        });
        while self.owners.len() > REMEMBERED {
            self.owners.pop_first();
        }
        told.map_or(Ok(()), Err)
    }

    /// Judges what began before `horizon`: nothing else that ended before then may come any more.
    pub fn judge(&mut self, horizon: Time) -> Vec<String> {
        let mut wrong = Vec::new();
        while let Some((&(invoked, number), _)) = self.waiting.first_key_value()
            && invoked < horizon
        {
            let epochs = self.waiting.remove(&(invoked, number)).unwrap_or_default();
            while let Some(Reverse((returned, epoch))) = self.returned.peek().copied()
                && returned < invoked
            {
                self.returned.pop();
                self.newest = self.newest.max(epoch);
            }
            for epoch in epochs.into_iter().filter(|epoch| *epoch < self.newest) {
                wrong.push(format!(
                    "acknowledged under {epoch} a call that began at {invoked} ns, after {} had \
                     been seen",
                    self.newest
                ));
            }
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(epoch: u64, owner: &str) -> Answer {
        Answer { value: 0, shard: 1, epoch, owner: owner.to_owned() }
    }

    #[test]
    fn an_older_epoch_after_a_newer_one_is_found() {
        let mut epochs = Epochs::default();
        epochs.add(&answer(2, "b"), 20, 30).unwrap();
        epochs.add(&answer(1, "a"), 40, 50).unwrap();
        assert_eq!(epochs.judge(100).len(), 1);
        // Beside the newer one it may still be on its way, also if it is received later.
        let mut epochs = Epochs::default();
        epochs.add(&answer(2, "b"), 20, 30).unwrap();
        epochs.add(&answer(1, "a"), 25, 50).unwrap();
        epochs.add(&answer(2, "b"), 60, 70).unwrap();
        assert!(epochs.judge(100).is_empty());
    }

    #[test]
    fn what_is_judged_piece_by_piece_is_judged_alike() {
        let mut epochs = Epochs::default();
        epochs.add(&answer(1, "a"), 0, 10).unwrap();
        epochs.add(&answer(2, "b"), 20, 30).unwrap();
        assert!(epochs.judge(25).is_empty());
        epochs.add(&answer(1, "a"), 40, 50).unwrap();
        assert_eq!(epochs.judge(60).len(), 1);
    }

    #[test]
    fn two_owners_of_one_epoch_are_found() {
        let mut epochs = Epochs::default();
        epochs.add(&answer(3, "a"), 0, 10).unwrap();
        let told = epochs.add(&answer(3, "b"), 5, 15).unwrap_err();
        assert!(told.contains("a and b"), "{told}");
    }
}
