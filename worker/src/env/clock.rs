//! The pair of clocks that rights and expiries are judged by, and the wall clock for labels.
#![allow(unsafe_code)] // clock_gettime: std offers neither of the two clocks

use std::time::Duration;

use shoal_core::id::Timestamp;

/// Both clocks, read one right after the other.
pub fn now() -> Timestamp {
    Timestamp::new(read(libc::CLOCK_BOOTTIME), read(libc::CLOCK_MONOTONIC_RAW))
}

/// Milliseconds since 1970; for records and epochs' eras, never for rights.
pub fn unix_ms() -> u64 {
    read(libc::CLOCK_REALTIME).as_millis() as u64
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut spec = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `spec` is a valid timespec for the duration of the call.
    let code = unsafe { libc::clock_gettime(clock, &mut spec) };
    assert_eq!(code, 0, "this kernel lacks clock {clock}");
    Duration::new(spec.tv_sec as u64, spec.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_advance() {
        let before = now();
        while now().at_least_since(before) == Duration::ZERO {
            std::hint::spin_loop();
        }
    }
}
