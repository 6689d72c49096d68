//! What clients did and heard, what owners let out, and what must hold of both.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use shoal_worker::env::sim::{Acknowledged, Opened, Place};

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
    /// Calls that have begun and not ended, and how many have begun in all.
    pending: BTreeMap<u64, (String, Duration)>,
    begun: u64,
    /// Clients leave these keys alone.
    avoided: BTreeSet<String>,
    /// When each shard answered last.
    pub answered: BTreeMap<u32, Duration>,
    openings: BTreeMap<u32, BTreeMap<u64, bool>>,
    /// All openings, in order.
    pub opened: Vec<Opened>,
    newest: BTreeMap<u32, Acknowledged>,
    pub violations: Vec<String>,
    pub acknowledged: u64,
    acknowledged_at: BTreeMap<Place, u64>,
}

impl History {
    pub fn begin(&mut self, key: &str, now: Duration) -> u64 {
        self.begun += 1;
        self.pending.insert(self.begun, (key.to_owned(), now));
        self.begun
    }

    pub fn end(&mut self, begun: u64, operation: Operation) {
        self.pending.remove(&begun);
        if let Outcome::Value { shard, .. } = operation.outcome {
            self.answered.insert(shard, operation.returned);
        }
        self.operations.push(operation);
    }

    /// Owners' openings and acknowledgements, in the order in which they happened: the epoch of
    /// a shard never falls, and one epoch has one owner.
    pub fn witness(&mut self, opened: Vec<Opened>, acknowledged: Vec<Acknowledged>) {
        for opening in opened {
            self.opened.push(opening.clone());
            let epochs = self.openings.entry(opening.shard).or_default();
            // Opened again from the frozen state after a move was called off.
            let empty = epochs.entry(opening.epoch).or_insert(opening.empty);
            *empty |= opening.empty;
        }
        for new in acknowledged {
            self.acknowledged += 1;
            *self.acknowledged_at.entry(new.place).or_default() += 1;
            let newest = self.newest.entry(new.shard).or_insert_with(|| new.clone());
            if new.epoch < newest.epoch {
                self.violations.push(format!("acknowledged {new:?} after {newest:?}"));
            } else if new.epoch == newest.epoch && new.place != newest.place {
                self.violations.push(format!("two owners of one epoch: {new:?} and {newest:?}"));
            }
            *newest = new;
        }
    }

    /// How many answers a machine has let out.
    pub fn acknowledged_at(&self, place: Place) -> u64 {
        self.acknowledged_at.get(&place).copied().unwrap_or_default()
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

    /// Clients leave alone what is known to lie in these shards.
    pub fn avoid(&mut self, shards: impl Fn(u32) -> bool) {
        let known = self.operations.iter().filter(|operation| match operation.outcome {
            Outcome::Value { shard, .. } => shards(shard),
            Outcome::Refused(_) | Outcome::Unknown(_) => false,
        });
        self.avoided = known.map(|operation| operation.key.clone()).collect();
    }

    pub fn avoids(&self, key: &str) -> bool {
        self.avoided.contains(key)
    }

    /// Who acknowledged last, by shard.
    pub fn owners(&self) -> BTreeMap<u32, Place> {
        self.newest.iter().map(|(shard, newest)| (*shard, newest.place)).collect()
    }

    /// When calls of a key that may have been executed began, though nobody was told.
    fn unknown(&self) -> BTreeMap<&str, Vec<Duration>> {
        let mut unknown: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (key, invoked) in self.pending.values() {
            unknown.entry(key.as_str()).or_default().push(*invoked);
        }
        for operation in &self.operations {
            if matches!(operation.outcome, Outcome::Unknown(_)) {
                unknown.entry(operation.key.as_str()).or_default().push(operation.invoked);
            }
        }
        unknown
    }

    /// Within what one state went through, each increment counts once and in order, and nothing
    /// counts but what was asked for and not refused.
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
        let unknown = self.unknown();
        let mut violations = Vec::new();
        for ((key, begun), mut line) in lines {
            line.sort_unstable();
            let calls = unknown.get(key.as_str()).map_or(&[][..], Vec::as_slice);
            judge_line(&format!("{key} e{begun:x}"), &line, calls, &mut violations);
        }
        self.violations.append(&mut violations);
    }
}

/// One key while one state lasted: its answers by value, and when calls of unknown outcome began.
fn judge_line(name: &str, line: &[Answer], unknown: &[Duration], violations: &mut Vec<String>) {
    let mut values = BTreeSet::new();
    // Latest begin of any increment with a smaller value or epoch.
    let mut latest = Duration::ZERO;
    let mut last_epoch = 0;
    for (answered, (value, epoch, invoked, returned)) in (1_i64..).zip(line) {
        if !values.insert(value) {
            violations.push(format!("{name}: {value} was given twice"));
        }
        if *epoch < last_epoch || *returned < latest {
            violations.push(format!("{name}: {value} of e{epoch:x} came before a smaller one"));
        }
        let possible = answered + unknown.iter().filter(|begun| *begun < returned).count() as i64;
        if *value > possible {
            violations.push(format!("{name}: {value} after {possible} calls: one counts twice"));
        }
        (latest, last_epoch) = (latest.max(*invoked), *epoch);
    }
}
