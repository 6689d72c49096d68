//! The gRPC contracts of Shoal and the hash that sends a key to its shard.
//!
//! `shoal` holds the generated code, package by package; `hash` is part of the public
//! contract, with published vectors.

pub mod hash;

#[allow(clippy::all, clippy::pedantic, missing_docs)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/shoal.rs"));
}

pub use generated::shoal;
