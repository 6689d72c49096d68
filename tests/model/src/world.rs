//! One state of a model, and which states count as the same.
//!
//! Two states are the same when no rule can tell them apart from here on. So time counts from
//! now, a span that has passed is just over, and what lies in a bag has no order. The number of
//! the present tick, and what the last step showed, are no part of it.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use shoal_core::{
    handoff,
    id::{Epoch, Incarnation, MoveId, NodeId, Timestamp},
    registry::MoveRef,
    session::expiry::Expiry,
};

use crate::{
    clock::Clocks,
    decision::Decision,
    judge::{Oracle, Seen},
    process::{Process, Request},
    setup::Budget,
    table::Table,
};

/// Place of a process in a configuration.
pub type Seat = usize;

#[derive(Clone, Debug)]
pub struct World {
    pub clocks: Clocks,
    pub now: u32,
    /// Tables that somebody has yet to reach or still has, the newest last.
    pub log: Vec<Arc<Table>>,
    /// Decided, by whomever and whenever; each may be committed at any time or never.
    pub pending: Vec<Decision>,
    pub members: Vec<Arc<Member>>,
    /// Shared by the states that follow until one changes it.
    pub processes: Vec<Arc<Process>>,
    /// Messages between processes that move a shard.
    pub parcels: Vec<Parcel>,
    /// Moves that their owner reported as released.
    pub released: Vec<Release>,
    /// Checked by their author and on their way to the store.
    pub writes: Vec<Epoch>,
    pub oracle: Oracle,
    pub left: Budget,
    pub first_owner: (NodeId, Incarnation),
    /// Steps taken to get here.
    pub depth: usize,
    seen: u64,
}

/// One that holds the log, and may think that it leads.
#[derive(Clone, Debug)]
pub struct Member {
    /// Place of its table in the log.
    pub at: usize,
    pub expiry: Expiry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Parcel {
    pub from: handoff::Process,
    pub to: handoff::Process,
    pub message: handoff::Message,
    /// The state that `Whole` speaks of.
    pub value: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Release {
    pub key: MoveRef,
    pub source: handoff::Process,
    pub target: handoff::Process,
}

impl World {
    pub fn new(
        clocks: Clocks,
        table: Arc<Table>,
        members: Vec<Arc<Member>>,
        processes: Vec<Arc<Process>>,
        left: Budget,
        now: u32,
    ) -> Self {
        let first_owner = table.row().owner().unwrap_or_default();
        Self {
            clocks,
            now,
            log: vec![table],
            pending: Vec::new(),
            members,
            processes,
            parcels: Vec::new(),
            released: Vec::new(),
            writes: Vec::new(),
            oracle: Oracle::default(),
            left,
            first_owner,
            depth: 0,
            seen: 0,
        }
    }

    /// The committed log as it is.
    pub fn truth(&self) -> &Arc<Table> {
        self.log.last().expect("a log has its first table")
    }

    pub fn process_mut(&mut self, seat: Seat) -> &mut Process {
        Arc::make_mut(&mut self.processes[seat])
    }

    pub fn member_mut(&mut self, number: usize) -> &mut Member {
        Arc::make_mut(&mut self.members[number])
    }

    pub fn saw(&mut self, what: Seen) {
        self.seen |= what.bit();
    }

    /// What the step that led here showed.
    pub fn take_seen(&mut self) -> u64 {
        std::mem::take(&mut self.seen)
    }

    pub fn decide(&mut self, decision: Decision) {
        if decision.may_wait_beside(&self.pending) {
            let place = self.pending.partition_point(|other| *other < decision);
            self.pending.insert(place, decision);
        }
    }

    /// One of the decisions that wait no longer does.
    pub fn take(&mut self, decision: Decision) {
        if let Ok(place) = self.pending.binary_search(&decision) {
            self.pending.remove(place);
        }
    }

    /// Drops the tables that everybody has passed.
    pub fn trim(&mut self) {
        let members = self.members.iter().map(|member| member.at);
        let processes = self.processes.iter().map(|process| process.at);
        let oldest = members.chain(processes).min().unwrap_or_default();
        if oldest > 0 {
            self.log.drain(..oldest);
            (0..self.members.len()).for_each(|number| self.member_mut(number).at -= oldest);
            (0..self.processes.len()).for_each(|seat| self.process_mut(seat).at -= oldest);
        }
    }

    fn hash_process<H: Hasher>(&self, process: &Process, state: &mut H) {
        let now = self.clocks.worker(self.now);
        (process.phase, process.me, process.machine, process.boot, process.at).hash(state);
        process.right.map(|right| left(right, now)).hash(state);
        process.requests.len().hash(state);
        for Request { sent, call, answer } in &process.requests {
            (self.now - sent, call, answer).hash(state);
        }
        process.shard.hash(state);
        (process.host, process.frozen, &process.received, process.call).hash(state);
        (process.late, process.relearned).hash(state);
    }

    fn hash_member<H: Hasher>(&self, member: &Member, state: &mut H) {
        let now = self.clocks.member(self.now);
        member.at.hash(state);
        for process in &self.processes {
            member.expiry.of(process.node).map(|end| left(end, now)).hash(state);
        }
        if self.log[member.at].registry.settings().previous_lease.is_some() {
            let due = (self.now..)
                .find(|tick| member.expiry.settle_due(self.clocks.member(*tick)).is_some());
            due.map(|tick| tick - self.now).hash(state);
        }
    }
}

/// What is left until an instant, on both clocks.
fn left(instant: Timestamp, now: Timestamp) -> (u128, u128) {
    let left = |instant: std::time::Duration, now| instant.saturating_sub(now).as_nanos();
    (left(instant.boottime, now.boottime), left(instant.raw, now.raw))
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.log.len().hash(state);
        self.log.iter().for_each(|table| table.digest().hash(state));
        self.pending.hash(state);
        self.members.iter().for_each(|member| self.hash_member(member, state));
        self.processes.iter().for_each(|process| self.hash_process(process, state));
        hash_bag(&self.parcels, state);
        self.released.hash(state);
        self.writes.hash(state);
        self.oracle.hash(state);
        self.left.hash(state);
    }
}

fn hash_bag<T: Hash, H: Hasher>(bag: &[T], state: &mut H) {
    let mut digests: Vec<u64> = bag
        .iter()
        .map(|item| {
            let mut state = DefaultHasher::new();
            item.hash(&mut state);
            state.finish()
        })
        .collect();
    digests.sort_unstable();
    digests.hash(state);
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        let digest = |world: &Self| {
            let mut state = DefaultHasher::new();
            world.hash(&mut state);
            state.finish()
        };
        digest(self) == digest(other)
    }
}

/// State received for a move.
pub type Received = (MoveId, u8);
