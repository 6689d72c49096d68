//! Every decoder of Shoal as a named function of bytes, and a loop that damages real encodings.
//!
//! `targets` lists them, `seeds` makes real encodings, `corpus` keeps them, `mutate` with
//! `protobuf` and `json` damages them, `property` says what must hold of each, `run` is the
//! loop. The same targets serve `cargo-fuzz`.

#![cfg(feature = "decoders")]
#![allow(clippy::disallowed_methods)] // a harness outside of the product reads the clock

pub mod corpus;
pub mod json;
pub mod memory;
pub mod mutate;
pub mod property;
pub mod protobuf;
pub mod random;
pub mod run;
pub mod seeds;
pub mod targets;

pub use targets::{Target, all};

/// For cargo-fuzz: whatever a property refuses is a crash.
///
/// # Panics
/// On an unknown name, and where the decoder breaks a promise.
pub fn withstand(name: &str, bytes: &[u8]) {
    let target = targets::named(name).expect("a target of this name");
    if let Err(broken) = property::check(&target, bytes) {
        panic!("{name}: {broken}");
    }
}
