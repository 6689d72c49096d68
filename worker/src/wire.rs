//! Between the messages of the wire and the types of this program.

pub mod handover;
pub mod raft;
pub mod registry;
pub mod status;
