//! Chance: nonces, cluster ids, jitter.
#![allow(clippy::disallowed_methods)] // the one place that may

use rand::RngExt as _;

pub fn u64() -> u64 {
    rand::rng().random()
}

pub fn u128() -> u128 {
    rand::rng().random()
}

/// Uniform in `0.0..1.0`.
pub fn fraction() -> f64 {
    rand::rng().random()
}
