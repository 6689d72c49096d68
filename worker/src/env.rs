//! Everything the worker takes from its machine: clocks, sockets, disk, chance, threads.
//!
//! The only module that names `tokio::net`, `std::fs`, `std::thread` or a clock, so that a
//! simulator can stand in for the machine. It decides nothing.

pub mod clock;
pub mod disk;
pub mod lock;
pub mod net;
pub mod process;
pub mod random;
pub mod terminal;
pub mod thread;
