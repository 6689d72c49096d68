//! The types that Raft is instantiated with.
//!
//! Entries carry a command as the bytes of its versioned envelope; it is decoded once, when it
//! is applied. Nothing of openraft leaves `crate::raft`, neither to disk nor in an API.

use std::fmt;

use bytes::Bytes;
use openraft::type_config::alias;
use shoal_core::{
    id::LogIndex,
    registry::{Event, Refused},
};

use super::{runtime::Runtime, state_machine::StateMachine};

openraft::declare_raft_types!(
    /// Shoal's instance of Raft.
    pub Types:
        D = Payload,
        R = Response,
        NodeId = u64,
        Node = Member,
        AsyncRuntime = Runtime,
);

pub type Raft = openraft::Raft<Types, StateMachine>;
pub type Vote = alias::VoteOf<Types>;
pub type Instant = alias::InstantOf<Types>;
pub type LogId = alias::LogIdOf<Types>;
pub type Entry = alias::EntryOf<Types>;
pub type Membership = openraft::Membership<u64, Member>;
pub type StoredMembership = alias::StoredMembershipOf<Types>;
pub type SnapshotMeta = alias::SnapshotMetaOf<Types>;
pub type Snapshot = alias::SnapshotOf<Types, Bytes>;

/// A command in its versioned envelope.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(pub Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What membership says of a node.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Member {
    pub name: String,
    /// A first guess; the address book knows better.
    pub raft_address: String,
}

/// What the registry made of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub index: LogIndex,
    pub result: Result<Event, Refused>,
}
