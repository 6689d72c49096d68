//! Between the messages of the wire and the types of this program.

pub mod admin;
pub mod found;
pub mod handover;
pub mod map;
pub mod raft;
pub mod registry;
pub mod session;
pub mod status;
