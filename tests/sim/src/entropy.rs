//! The kernel's random numbers and its clocks, replaced: hash maps, the runtime's own choices and
//! what an HTTP/2 connection remembers of streams ask for them too, and a seed must decide those as
//! well.
#![allow(unsafe_code)] // a symbol of the C library is replaced

use std::{
    collections::hash_map::RandomState,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A stream apart from the world's: who asks first, a log for example, must change nothing there.
static STATE: AtomicU64 = AtomicU64::new(0);

/// True time in nanoseconds, as libraries read it.
static NOW: AtomicU64 = AtomicU64::new(0);
/// Where all clocks begin: 2027-01-01, far from where an instant less an hour is none.
const BEGIN_S: u64 = 1_798_761_600;

/// What clocks show from here on.
pub fn set_time(now: Duration) {
    NOW.store(now.as_nanos() as u64, Ordering::Relaxed);
}

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

/// Stands before the C library's for this whole program; every clock shows true time.
///
/// # Safety
/// `time` is valid, as for the function that it replaces.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(_clock: i32, time: *mut Timespec) -> i32 {
    let now = NOW.load(Ordering::Relaxed);
    const NANOS: u64 = 1_000_000_000;
    // SAFETY: the caller says so.
    unsafe {
        *time = Timespec { seconds: (BEGIN_S + now / NANOS) as i64, nanos: (now % NANOS) as i64 };
    }
    0
}

/// As C has it on 64 bits.
#[repr(C)]
pub struct Timespec {
    seconds: i64,
    nanos: i64,
}
