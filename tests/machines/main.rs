//! The machines of `shoal-core` together, over a simulated log, network, clocks and disks.
//!
//! One seed is one run, the same to the bit wherever it runs. `SEEDS` says how many runs,
//! `SEED_BASE` the first; a seed that fails prints the command that repeats it.

mod calls;
mod clock;
mod coverage;
mod faults;
mod handover;
mod heal;
mod leader;
mod leave;
mod log;
mod memory;
mod mutant;
mod network;
mod node;
mod oracle;
mod random;
mod requests;
mod scenarios;
mod seeds;
mod session;
mod trace;
mod watch;
mod world;
