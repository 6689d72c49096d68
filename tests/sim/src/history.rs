//! What clients did and heard, what owners let out, and what must hold of both.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use shoal_worker::env::sim::{Acknowledged, Opened};

/// One increment, from the call to the answer in true time.
#[derive(Clone, Debug)]
pub struct Operation {
    pub key: String,
    pub invoked: Duration,
    pub returned: Duration,
    pub outcome: Outcome,
}

#[derive(Clone, Debug)]
pub enum Outcome {
    Value {
        value: i64,
        shard: u32,
        epoch: u64,
    },
    /// Certainly not executed, in the server's words.
    #[allow(dead_code)] // for whoever reads the problem
    Refused(String),
    /// Perhaps executed, and why nobody knows.
    #[allow(dead_code)]
    Unknown(String),
}

/// A value and its epoch, and when the call began and ended.
type Answer = (i64, u64, Duration, Duration);

#[derive(Default)]
pub struct History {
    pub operations: Vec<Operation>,
    /// Clients wait.
    pub paused: bool,
    /// When each shard answered last.
    pub answered: BTreeMap<u32, Duration>,
    openings: BTreeMap<u32, BTreeMap<u64, bool>>,
    newest: BTreeMap<u32, Acknowledged>,
    pub violations: Vec<String>,
    pub acknowledged: u64,
}

impl History {
    pub fn push(&mut self, operation: Operation) {
        if let Outcome::Value { shard, .. } = operation.outcome {
            self.answered.insert(shard, operation.returned);
        }
        self.operations.push(operation);
    }

    /// Owners' openings and acknowledgements, in the order in which they happened: the epoch of
    /// a shard never falls, and one epoch has one owner.
    pub fn witness(&mut self, opened: Vec<Opened>, acknowledged: Vec<Acknowledged>) {
        for opening in opened {
            let epochs = self.openings.entry(opening.shard).or_default();
            // Opened again from the frozen state after a move was called off.
            let empty = epochs.entry(opening.epoch).or_insert(opening.empty);
            *empty |= opening.empty;
        }
        for new in acknowledged {
            self.acknowledged += 1;
            let newest = self.newest.entry(new.shard).or_insert_with(|| new.clone());
            if new.epoch < newest.epoch {
                self.violations.push(format!("acknowledged {new:?} after {newest:?}"));
            } else if new.epoch == newest.epoch && new.place != newest.place {
                self.violations.push(format!("two owners of one epoch: {new:?} and {newest:?}"));
            }
            *newest = new;
        }
    }

    /// How many shards were opened empty, the first time apart.
    pub fn emptied(&self) -> usize {
        let of = |epochs: &BTreeMap<u64, bool>| epochs.values().filter(|empty| **empty).count();
        self.openings.values().map(|epochs| of(epochs).saturating_sub(1)).sum()
    }

    /// All that was not answered with a value.
    pub fn failed(&self) -> Vec<&Operation> {
        let failed = |op: &&Operation| !matches!(op.outcome, Outcome::Value { .. });
        self.operations.iter().filter(failed).collect()
    }

    /// Within what one state went through, each increment counts once and in order.
    pub fn judge(&mut self) {
        let mut lines: BTreeMap<(String, u64), Vec<Answer>> = BTreeMap::new();
        for operation in &self.operations {
            let Outcome::Value { value, shard, epoch } = operation.outcome else { continue };
            let epochs = self.openings.get(&shard);
            let begun = epochs.and_then(|epochs| {
                epochs.range(..=epoch).rev().find(|(_, empty)| **empty).map(|(epoch, _)| *epoch)
            });
            let Some(begun) = begun else {
                self.violations.push(format!("an answer of a shard never opened: {operation:?}"));
                continue;
            };
            let line = lines.entry((operation.key.clone(), begun)).or_default();
            line.push((value, epoch, operation.invoked, operation.returned));
        }
        for ((key, begun), mut line) in lines {
            line.sort_unstable();
            let mut values = BTreeSet::new();
            // Latest begin of any increment with a smaller value or epoch.
            let mut latest = Duration::ZERO;
            let mut epoch = 0;
            for (value, of, invoked, returned) in line {
                if !values.insert(value) {
                    self.violations.push(format!("{key} e{begun:x}: {value} was given twice"));
                }
                if of < epoch || returned < latest {
                    self.violations.push(format!(
                        "{key} e{begun:x}: {value} of e{of:x} came before a smaller one"
                    ));
                }
                (latest, epoch) = (latest.max(invoked), of);
            }
        }
    }
}
