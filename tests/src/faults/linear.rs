//! Is there an order of these calls that a single cell could have gone through? The search of
//! Wing and Gong with Lowe's memory of what was tried, over one number.
//!
//! It finds every state in which the calls may have ended, so that a long history can be judged
//! piece by piece. A call of unknown outcome may be placed anywhere after its beginning, once,
//! or not at all; it is placed only where an acknowledged call needs it.

use std::collections::{BTreeSet, HashSet};

use super::history::{Act, Time};

/// States beyond which a search gives up: a hundred times what a minute of one key takes.
const MOST_STEPS: usize = 400_000;

/// A call that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    pub act: Act,
    pub value: i64,
    pub invoked: Time,
    pub returned: Time,
}

/// A call that may have been executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Perhaps {
    pub invoked: Time,
    pub act: Act,
    /// Not after this; mostly it may be at any time.
    pub until: Time,
}

impl Perhaps {
    pub fn from(invoked: Time, act: Act) -> Self {
        Self { invoked, act, until: Time::MAX }
    }
}

/// How a search ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// All values that the cell may hold now.
    pub values: BTreeSet<i64>,
    /// Calls of unknown outcome without which the answers cannot be.
    pub used: Vec<Perhaps>,
}

/// How a search ended otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("no order explains {told}")]
    Impossible { told: String },
    #[error("undecided after {MOST_STEPS} steps: too many calls at once")]
    Undecided,
    #[error("porcupine-rs finds no order within its time, where one was found here")]
    Disputed,
}

/// Where a search stands: calls before `first` are placed, and those in `beyond`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Stand {
    first: usize,
    beyond: Vec<usize>,
    /// Calls of unknown outcome that are placed: increments from the earliest, puts by place.
    increments: usize,
    puts: Vec<usize>,
    value: i64,
}

struct Search {
    done: Vec<Done>,
    increments: Vec<Perhaps>,
    puts: Vec<Perhaps>,
}

/// Searches for every order that explains `done`, beginning with any of `values`.
pub fn explain(
    values: &BTreeSet<i64>,
    done: &[Done],
    perhaps: &[Perhaps],
) -> Result<Ending, Error> {
    let search = Search::new(done, perhaps);
    let mut waiting: Vec<_> = values.iter().map(|&value| Stand::at(value)).collect();
    let mut seen: HashSet<Stand> = waiting.iter().cloned().collect();
    let mut ending: Option<Ending> = None;
    let mut furthest = (0, None);
    while let Some(stand) = waiting.pop() {
        if seen.len() > MOST_STEPS {
            return Err(Error::Undecided);
        }
        if stand.first == search.done.len() {
            match &mut ending {
                Some(ending) => _ = ending.values.insert(stand.value),
                None => ending = Some(search.ending(&stand)),
            }
            continue;
        }
        let placed = stand.first + stand.beyond.len();
        if furthest.1.is_none() || placed > furthest.0 {
            furthest = (placed, Some(stand.clone()));
        }
        for next in search.steps(&stand) {
            if seen.insert(next.clone()) {
                waiting.push(next);
            }
        }
    }
    ending.ok_or_else(|| Error::Impossible { told: search.tell(furthest.1.as_ref()) })
}

impl Stand {
    fn at(value: i64) -> Self {
        Self { first: 0, beyond: Vec::new(), increments: 0, puts: Vec::new(), value }
    }
}

impl Search {
    fn new(done: &[Done], perhaps: &[Perhaps]) -> Self {
        let mut done = done.to_vec();
        done.sort_by_key(|call| (call.invoked, call.returned));
        let read: HashSet<i64> =
            done.iter().filter(|call| call.act == Act::Read).map(|call| call.value).collect();
        let (mut increments, mut puts) = (Vec::new(), Vec::new());
        for call in perhaps {
            match call.act {
                Act::Increment => increments.push(*call),
                // What nobody read need not have happened.
                Act::Put(value) if read.contains(&value) => puts.push(*call),
                Act::Put(_) | Act::Read => {}
            }
        }
        // Increments are alike: if any is needed, the earliest will do.
        increments.sort();
        Self { done, increments, puts }
    }

    fn ending(&self, stand: &Stand) -> Ending {
        let mut used = self.increments[..stand.increments].to_vec();
        used.extend(stand.puts.iter().map(|at| self.puts[*at]));
        Ending { values: BTreeSet::from([stand.value]), used }
    }

    /// Calls that may be next: begun before any other that is not placed had returned.
    fn open(&self, stand: &Stand) -> (Vec<usize>, Time) {
        let (mut open, mut earliest) = (Vec::new(), Time::MAX);
        for (at, call) in self.done.iter().enumerate().skip(stand.first) {
            if call.invoked > earliest {
                break;
            }
            if !stand.beyond.contains(&at) {
                open.push(at);
                earliest = earliest.min(call.returned);
            }
        }
        open.retain(|at| self.done[*at].invoked <= earliest);
        (open, earliest)
    }

    /// What comes next comes after the beginning of each call that is placed.
    fn latest(&self, stand: &Stand) -> Time {
        let placed = stand.beyond.last().copied().or(stand.first.checked_sub(1));
        placed.map_or(0, |at| self.done[at].invoked)
    }

    fn steps(&self, stand: &Stand) -> Vec<Stand> {
        let (open, earliest) = self.open(stand);
        let mut next: Vec<Stand> = Vec::new();
        // What comes last is tried first: unknown calls only where nothing else will do.
        if let Some(call) = self.increments.get(stand.increments)
            && call.invoked <= earliest
        {
            let increments = stand.increments + 1;
            next.push(Stand { increments, value: stand.value + 1, ..stand.clone() });
        }
        let latest = self.latest(stand);
        for (at, call) in self.puts.iter().enumerate() {
            if let Act::Put(value) = call.act
                && call.invoked <= earliest
                && call.until >= latest
                && !stand.puts.contains(&at)
            {
                let mut puts = stand.puts.clone();
                puts.push(at);
                puts.sort_unstable();
                next.push(Stand { puts, value, ..stand.clone() });
            }
        }
        let placed = open.into_iter().filter_map(|at| {
            let value = after(self.done[at], stand.value)?;
            Some(self.place(stand, at, value))
        });
        next.extend(placed);
        next
    }

    fn place(&self, stand: &Stand, at: usize, value: i64) -> Stand {
        let mut next = Stand { value, ..stand.clone() };
        next.beyond.push(at);
        next.beyond.sort_unstable();
        while next.beyond.first() == Some(&next.first) {
            next.beyond.remove(0);
            next.first += 1;
        }
        next
    }

    /// The calls of which one had to be next where the longest order ended.
    fn tell(&self, stand: Option<&Stand>) -> String {
        let Some(stand) = stand else { return "an empty history".to_owned() };
        let (open, _) = self.open(stand);
        let calls: Vec<_> = open.iter().map(|at| format!("{:?}", self.done[*at])).collect();
        let read: BTreeSet<i64> = open.iter().map(|at| self.done[*at].value).collect();
        let puts = |act| matches!(act, Act::Put(value) if read.contains(&value));
        let known = self.done.iter().filter(|call| puts(call.act)).map(|call| format!("{call:?}"));
        let placed = |at: usize| if stand.puts.contains(&at) { "placed" } else { "not placed" };
        let unknown = self.puts.iter().enumerate().filter(|(_, call)| puts(call.act));
        let unknown = unknown.map(|(at, call)| format!("{call:?}, {}", placed(at)));
        format!(
            "one of [{}] after the value {}; put by [{}]",
            calls.join(", "),
            stand.value,
            known.chain(unknown).collect::<Vec<_>>().join(", ")
        )
    }
}

/// The value after a call, if it can have been answered so.
fn after(call: Done, value: i64) -> Option<i64> {
    match call.act {
        Act::Increment => (call.value == value + 1).then_some(call.value),
        Act::Put(put) => Some(put),
        Act::Read => (call.value == value).then_some(value),
    }
}

#[cfg(test)]
mod tests;
