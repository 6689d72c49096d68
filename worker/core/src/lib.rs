//! Pure decisions of Shoal: what is true, who may serve, what moves, and when.
//!
//! Nothing here reads a clock, a socket, a disk or a random number: time comes in as a
//! [`id::Timestamp`], chance as an argument. Modules in reading order.

pub mod admit;
pub mod autopilot;
pub mod found;
pub mod handoff;
pub mod id;
pub mod planner;
pub mod recover;
pub mod registry;
pub mod route;
pub mod session;
pub mod supervise;
