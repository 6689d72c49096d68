//! Everything the worker takes from its machine: clocks, sockets, disk, chance, threads.
//!
//! The only module that names `tokio::net`, `std::fs`, `std::thread` or a clock, so that a
//! simulator can stand in for the machine: with the feature `sim`, `sim` does. It decides nothing.

pub mod child;
#[cfg(not(feature = "sim"))]
pub mod clock;
#[cfg(not(feature = "sim"))]
pub mod disk;
#[cfg(not(feature = "sim"))]
pub mod lock;
#[cfg(not(feature = "sim"))]
pub mod net;
pub mod process;
#[cfg(not(feature = "sim"))]
pub mod random;
#[cfg(feature = "sim")]
pub mod sim;
pub mod terminal;
#[cfg(not(feature = "sim"))]
pub mod thread;

#[cfg(feature = "sim")]
pub use sim::{clock, disk, lock, net, random, thread};
