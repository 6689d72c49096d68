//! True time in ticks, and what each machine reads of it.
//!
//! A tick is a whole share of the shortest lease of a configuration. Between two ticks no time
//! passes and everything may happen in any order; whatever may wait may also wait for ever.
//! This is enough, because time enters the rules in two places only, and both are monotone:
//! slower clocks of a worker only lengthen its right, faster clocks of a member only bring
//! expiries forward. So every worker runs as slow and every member as fast as the protocol
//! allows, on both of its clocks, and any other rates allow less. A node that is worker and
//! member at once gets both, which allows more than any real one.
//!
//! What ticks cannot see is a gap or an overlap shorter than one. That the right of a renewal
//! ends before any expiry counted from it is therefore also compared to the nanosecond, for all
//! leases, by a test of this module.

use std::time::Duration;

use shoal_core::id::Timestamp;

/// The tick at which a model begins: all that was before is within a lease of it.
pub const START: u32 = 64;
/// Half of ρ, in parts per million: the error of one crystal.
const CRYSTAL: i64 = 5_000;
/// Largest slew that a time daemon applies to boottime, in parts per million.
const SLEW: i64 = 83_333;
const MILLION: i64 = 1_000_000;

/// The clocks of one configuration.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    tick: Duration,
    /// Everybody reads boottime alone: one of the rules left out.
    one_clock: bool,
}

impl Clocks {
    pub fn new(tick: Duration, one_clock: bool) -> Self {
        Self { tick, one_clock }
    }

    /// What a worker reads: the slowest clocks allowed.
    pub fn worker(self, tick: u32) -> Timestamp {
        self.read(tick, -1)
    }

    /// What a member of the log reads: the fastest clocks allowed.
    pub fn member(self, tick: u32) -> Timestamp {
        self.read(tick, 1)
    }

    fn read(self, tick: u32, sign: i64) -> Timestamp {
        let raw = scaled(self.tick, sign * CRYSTAL);
        let boottime = scaled(raw, sign * SLEW);
        let raw = if self.one_clock { boottime } else { raw };
        Timestamp::new(boottime * tick, raw * tick)
    }
}

fn scaled(span: Duration, ppm: i64) -> Duration {
    let nanos = span.as_nanos() * u128::from((MILLION + ppm).unsigned_abs());
    Duration::from_nanos(
        u64::try_from(nanos / u128::from(MILLION.unsigned_abs())).unwrap_or(u64::MAX),
    )
}

#[cfg(test)]
mod tests {
    use shoal_core::{registry::LEASES_MS, session::lease::Lease};

    use super::*;

    /// What the ticks cannot see: on the slowest worker the right of a renewal, and the span
    /// that its clocks may lose beyond their rates, are over before the lease has passed on the
    /// fastest member that applied the renewal in the very instant of its sending.
    #[test]
    fn a_right_ends_before_any_expiry_for_every_lease() {
        let leases = LEASES_MS.filter_map(|millis| Lease::from_millis(millis).ok());
        let mut compared = 0;
        for lease in leases {
            // True nanoseconds, with the margin given back: the worker's clocks lost it.
            let right = lease.right_span() + shoal_core::session::lease::MARGIN;
            let right = right.as_nanos() * 1_000_000 / 995_000;
            let expiry = lease.length().as_nanos() * 1_000_000 / 1_005_000;
            assert!(right <= expiry, "{lease:?}");
            compared += 1;
        }
        assert!(compared > 50_000, "{compared}");
    }

    #[test]
    fn the_rates_are_the_worst_that_are_allowed() {
        let clocks = Clocks::new(Duration::from_secs(1), false);
        let (slow, fast) = (clocks.worker(1_000), clocks.member(1_000));
        assert_eq!((slow.raw.as_secs(), fast.raw.as_secs()), (995, 1_005));
        assert!(slow.boottime < slow.raw && fast.boottime > fast.raw);
        assert_eq!(
            Clocks::new(Duration::from_secs(1), true).worker(9).raw,
            clocks.worker(9).boottime
        );
    }
}
