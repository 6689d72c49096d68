//! What clients did and what they were told: the material of every check.

use std::time::Instant;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Nanoseconds since a history began.
pub type Time = u64;

/// What a key is used for: calls of the two kinds never meet on one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Counter,
    Register,
}

/// One call, as its client meant it. All leave a number behind: 0 stands for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Act {
    /// Adds one; the answer is the new value.
    Increment,
    /// No two of a history put the same value.
    Put(i64),
    /// The answer is the value.
    Read,
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done(Answer),
    /// The host says that the key holds nothing; it does not say under which epoch.
    Absent,
    /// A node says that it was not executed and never will be.
    NotExecuted(Code),
    /// It may have been executed, or may be still.
    Unknown(Code),
}

/// An acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub value: i64,
    pub shard: u32,
    pub epoch: u64,
    /// Name of the node that ran it.
    pub owner: String,
}

/// One call with its time on the client's clock.
#[derive(Clone, Debug)]
pub struct Op {
    /// Place of the key in the history's list.
    pub key: usize,
    /// Whether it entered at one node, or wherever the shared address led.
    pub entry: Entry,
    pub act: Act,
    pub invoked: Time,
    pub returned: Time,
    pub outcome: Outcome,
}

/// Where a client enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// This node, whatever happens to it.
    Node(usize),
    /// Any node that is ready, as behind a Service.
    Any,
}

impl Op {
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Done(answer) => Some(answer),
            Outcome::Absent | Outcome::NotExecuted(_) | Outcome::Unknown(_) => None,
        }
    }

    /// The key answered.
    pub fn served(&self) -> bool {
        matches!(self.outcome, Outcome::Done(_) | Outcome::Absent)
    }
}

impl Outcome {
    /// Of a call that failed. What no node vouched for is unknown, also where the client's own
    /// library says that it could not connect.
    pub fn failed(status: &Status) -> Self {
        let told = status.get_details_error_info();
        match told.filter(|info| info.domain == DOMAIN) {
            Some(info) if info.reason == NOT_EXECUTED => Self::NotExecuted(status.code()),
            Some(_) | None => Self::Unknown(status.code()),
        }
    }
}

/// As `shoal_worker::wire::status` spells them; a client knows no more than the texts.
const DOMAIN: &str = "shoal.dev";
const NOT_EXECUTED: &str = "NOT_EXECUTED";

/// The clock of a history.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Self { began: Instant::now() }
    }

    pub fn now(self) -> Time {
        self.began.elapsed().as_nanos() as Time
    }
}

/// Seconds, as reports show them.
pub fn seconds(time: Time) -> f64 {
    time as f64 / 1e9
}
