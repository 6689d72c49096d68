//! What a model contains, and how often what may happen in it.

use std::time::Duration;

use shoal_core::id::NodeId;

use crate::{judge::Seen, mutant::Mutant};

/// One model with a name.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub name: &'static str,
    pub kind: Kind,
    pub about: &'static str,
    /// The lease that the cluster is founded with.
    pub lease_ms: u32,
    /// The lease that it may be given instead.
    pub other_lease_ms: Option<u32>,
    pub tick: Duration,
    /// Members of the log that may each think they lead. One applies at once what is committed.
    pub members: usize,
    pub seats: &'static [Seat],
    pub budget: Budget,
    /// Renewals and Registers of one process that may be on their way at once.
    pub requests: usize,
    /// Decisions that may wait for their turn in the log at once.
    pub pending: usize,
    /// What people may ask for.
    pub asked: &'static [Asked],
    /// What must have been seen by the end, or the model reaches too little.
    pub reached: &'static [Seen],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Protocol,
    Election,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Restart,
    Removal,
    Cancel,
    Mark,
}

/// A place for a process.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    pub node: NodeId,
    pub machine: u8,
    /// Renews all the time and is never fenced: its right is always fresh.
    pub steady: bool,
    /// Reads every entry at once. Nobody waits for it, and sooner is worse.
    pub prompt: bool,
    /// Runs, registered, when the model begins.
    pub up: bool,
}

/// How often what may happen, in all. What is not listed may happen any number of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    pub renewals: u8,
    pub calls: u8,
    pub effects: u8,
    pub moves: u8,
    pub aborts: u8,
    /// Transfers of a move that break at the owner.
    pub breaks: u8,
    pub crashes: u8,
    /// Incarnations begun.
    pub starts: u8,
    /// Crashes after which the kernel is another.
    pub reboots: u8,
    /// Processes told to stop.
    pub stops: u8,
    /// Things that people ask for, of those they may.
    pub people: u8,
    pub configures: u8,
    /// Members that lose their memory of expiries.
    pub restarts: u8,
    /// Rows shown late.
    pub late: u8,
    /// Deaths told by a parent or an operator.
    pub deaths: u8,
}

/// One mutant, and the model in which it must be found.
#[derive(Clone, Copy, Debug)]
pub struct Hunt {
    pub mutant: Mutant,
    pub setup: &'static Setup,
}
