//! What runs exercised: a run that met none of its faults proves nothing.

use std::{collections::BTreeMap, fmt};

use shoal_core::registry::{Command, Event as Applied, Refused, Registry};

use crate::{
    faults::{KINDS, Kind},
    world::World,
};

const AT: [&str; 4] = ["leader", "owner", "in move", "election"];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    seen: BTreeMap<&'static str, u64>,
    faults: BTreeMap<Kind, Hits>,
}

/// How often a kind of fault struck, and whom or when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Hits {
    all: u64,
    /// The leader, an owner, during a move, during an election.
    at: [u64; 4],
}

/// Everything that must have happened somewhere in the seeds of one test.
pub const REQUIRED: &[&str] = &[
    "answer withheld",
    "call parked",
    "commit refused",
    "delta installed",
    "directory given up",
    "election",
    "entry of a deposed leader committed",
    "entry of a deposed leader lost",
    "fence",
    "fence refused: it renewed",
    "frame of an older pipe dropped",
    "handler cancelled",
    "leadership transferred",
    "lease settled",
    "left empty",
    "members changed",
    "message lost",
    "message repeated",
    "move aborted",
    "move committed",
    "move given up",
    "opened received",
    "owner fenced during a move",
    "pipe broke",
    "register waits for the old session",
    "register with proof",
    "released",
    "renewal refused",
    "reopened frozen",
    "restored copy refused",
    "right ended",
    "shards taken again",
    "snapshot installed",
    "stream of a move broke",
    "table read from another source",
];

impl Coverage {
    pub fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub fn count(&self, what: &str) -> u64 {
        self.seen.get(what).copied().unwrap_or_default()
    }

    pub fn fault(&mut self, kind: Kind, at: [bool; 4]) {
        let hits = self.faults.entry(kind).or_default();
        hits.all += 1;
        for (count, hit) in hits.at.iter_mut().zip(at) {
            *count += u64::from(hit);
        }
    }

    /// Kinds that never struck; and the places and times that no fault of any kind met.
    pub fn faults_missing(&self) -> Vec<String> {
        let kinds = KINDS.iter().filter(|kind| !self.faults.contains_key(kind));
        let mut missing: Vec<String> = kinds.map(|kind| format!("{kind:?}")).collect();
        for (number, what) in AT.iter().enumerate() {
            if self.faults.values().all(|hits| hits.at[number] == 0) {
                missing.push((*what).to_owned());
            }
        }
        missing
    }

    pub fn add(&mut self, other: &Self) {
        for (kind, hits) in &other.faults {
            let sum = self.faults.entry(*kind).or_default();
            sum.all += hits.all;
            for (count, more) in sum.at.iter_mut().zip(hits.at) {
                *count += more;
            }
        }
        for (what, count) in &other.seen {
            *self.seen.entry(what).or_default() += count;
        }
    }

    /// What never happened of all that had to.
    pub fn missing(&self, required: &[&'static str]) -> Vec<&'static str> {
        required.iter().copied().filter(|what| self.count(what) == 0).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>9} {:>9} {:>9} {:>9} {:>9}", "struck", AT[0], AT[1], AT[2], AT[3])?;
        for (kind, Hits { all, at: [a, b, c, d] }) in &self.faults {
            writeln!(f, "{all:>9} {a:>9} {b:>9} {c:>9} {d:>9} {kind:?}")?;
        }
        self.seen.iter().try_for_each(|(what, count)| writeln!(f, "{count:>9} {what}"))
    }
}

impl World {
    pub fn cover_entry(
        &mut self,
        command: &Command,
        before: &Registry,
        outcome: Option<&Result<Applied, Refused>>,
    ) {
        let Some(outcome) = outcome else { return };
        let what = match (command, outcome) {
            (Command::Fence { node, .. }, Ok(_)) => {
                let owner_of_a_move = before.shards().any(|(_, row)| {
                    row.target().is_some() && row.owner().is_some_and(|(owner, _)| owner == *node)
                });
                if owner_of_a_move {
                    self.saw("owner fenced during a move");
                }
                "fence"
            }
            (Command::Fence { .. }, Err(Refused::Renewed { .. })) => "fence refused: it renewed",
            (Command::Close { .. }, Err(Refused::StillOwns { .. })) => {
                "close refused: it still owns"
            }
            (Command::Renew { .. }, Ok(Applied::Renewed { refused, .. }))
                if !refused.is_empty() =>
            {
                "renewal refused"
            }
            (Command::CommitMove { .. }, Ok(Applied::Items { refused })) => {
                if refused.iter().any(Option::is_some) {
                    self.saw("commit refused");
                }
                if refused.iter().all(Option::is_some) {
                    return;
                }
                "move committed"
            }
            (Command::AbortMove { .. }, Ok(Applied::Items { refused }))
                if refused.iter().any(Option::is_none) =>
            {
                "move aborted"
            }
            _ => return,
        };
        self.saw(what);
    }
}
