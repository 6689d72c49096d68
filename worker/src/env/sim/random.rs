//! Chance that depends on the seed of the world alone.

use std::sync::atomic::{AtomicU64, Ordering};

static STATE: AtomicU64 = AtomicU64::new(0);

/// Everything drawn afterwards follows from `seed`.
pub fn seed(seed: u64) {
    STATE.store(seed, Ordering::Relaxed);
}

/// The next number of SplitMix64.
pub fn u64() -> u64 {
    const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
    let drawn = STATE.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
    let drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    drawn ^ (drawn >> 31)
}

pub fn u128() -> u128 {
    u128::from(u64()) << 64 | u128::from(u64())
}

pub fn fraction() -> f64 {
    (u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Uniform below `end`; 0 where there is nothing below.
pub fn below(end: u64) -> u64 {
    if end == 0 { 0 } else { u64() % end }
}
