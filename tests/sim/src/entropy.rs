//! The kernel's random numbers, replaced: hash maps and the runtime's own choices ask for them
//! too, and a seed must decide those as well.
#![allow(unsafe_code)] // a symbol of the C library is replaced

use std::{
    collections::hash_map::RandomState,
    sync::atomic::{AtomicU64, Ordering},
};

/// A stream apart from the world's: who asks first, a log for example, must change nothing there.
static STATE: AtomicU64 = AtomicU64::new(0);

/// Everything that the program asks for from here on follows from `seed`.
pub fn seed(seed: u64) {
    STATE.store(seed, Ordering::Relaxed);
    // The keys of hash maps are drawn once, by whoever makes the first.
    let _ = RandomState::new();
}

/// Knuth's multiplier; the high half is good enough to key a map.
fn draw() -> u64 {
    let step = |state: u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    let drawn =
        |_| STATE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap_or(0) >> 32;
    drawn(0) << 32 | drawn(1)
}

/// Stands before the C library's for this whole program.
///
/// # Safety
/// `buffer` is valid for `length` bytes, as for the function that it replaces.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller says so.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&draw().to_le_bytes()[..chunk.len()]);
    }
    length as isize
}
