//! The arithmetic of one lease length L: the right it grants and every span derived from it.
//!
//! All spans are whole nanoseconds, rounded to the side that protects: a right ends early.
//! Which instants they are counted from is decided in `holder` and `expiry`.

use std::time::Duration;

use crate::{id::Timestamp, registry::LEASES_MS};

/// Largest error of a machine's clock rate, in percent, on both sides of the lease.
pub const CLOCK_ERROR_PERCENT: u64 = 1;
/// Span that one node's clocks may lose within L, hypervisor pauses included.
pub const MARGIN: Duration = Duration::from_millis(50);
/// Longest election time-out; a longer L does not slow the election of a leader.
const LONGEST_ELECTION: Duration = Duration::from_millis(600);
/// Between the end of three failed elections and the first renewal of the new leader.
const ELECTION_SLACK: Duration = Duration::from_millis(200);
/// Share of the renewal interval by which jitter may shorten it; never lengthens it.
const JITTER: f64 = 0.2;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "LEASE of {lease:?} is too short: three elections of up to {election:?} would outlast \
         the {left:?} that remain of a right when it is renewed"
    )]
    ElectionsOutlastRight { lease: Duration, election: Duration, left: Duration },
    #[error(
        "lease_ms {asked} is too short: this cluster's nodes were started with elections of up to \
         {election:?}, and three of them would outlast a right; set {least} or more, or restart \
         every node with a LEASE as short as that first"
    )]
    StartedWithSlowElections { asked: u128, election: Duration, least: u32 },
    #[error("LEASE is {millis} ms, allowed: {} to {} ms", LEASES_MS.start(), LEASES_MS.end())]
    OutOfRange { millis: u32 },
}

/// A lease length that was checked against its own election times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lease(Duration);

/// Times of the consensus layer that follow from the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elections {
    pub min: Duration,
    pub max: Duration,
    pub heartbeat: Duration,
}

impl Default for Lease {
    /// Three seconds, as a cluster is founded where nothing else is said.
    fn default() -> Self {
        Self(Duration::from_secs(3))
    }
}

impl Lease {
    pub fn from_millis(millis: u32) -> Result<Self, Error> {
        let lease = Self(Duration::from_millis(millis.into()));
        let (election, left) = (lease.elections().max, lease.left_when_renewed());
        if !lease.outlasts(election) {
            return Err(Error::ElectionsOutlastRight { lease: lease.0, election, left });
        }
        if !LEASES_MS.contains(&millis) {
            return Err(Error::OutOfRange { millis });
        }
        Ok(lease)
    }

    /// Whether this lease may come into force among nodes that run such elections: their times
    /// are fixed when a process starts.
    pub fn fits(self, elections: Elections) -> Result<(), Error> {
        let (asked, election) = (self.0.as_millis(), elections.max);
        if self.outlasts(election) {
            return Ok(());
        }
        let fits = |millis: &u32| Self(Duration::from_millis((*millis).into())).outlasts(election);
        let least = LEASES_MS.clone().find(fits).unwrap_or(*LEASES_MS.end());
        Err(Error::StartedWithSlowElections { asked, election, least })
    }

    /// Three elections in a row end nobody's right that was renewed in time.
    fn outlasts(self, election: Duration) -> bool {
        3 * election + ELECTION_SLACK < self.left_when_renewed()
    }

    fn left_when_renewed(self) -> Duration {
        self.right_span().saturating_sub(self.renew_every())
    }

    pub fn length(self) -> Duration {
        self.0
    }

    /// L · (1 − ρ) / (1 + ρ) − ε: over on the fastest leader no sooner than on the slowest worker.
    pub fn right_span(self) -> Duration {
        let nanos = self.0.as_nanos() * u128::from(100 - CLOCK_ERROR_PERCENT)
            / u128::from(100 + CLOCK_ERROR_PERCENT);
        let span = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        span.saturating_sub(MARGIN)
    }

    /// End of the right granted by a renewal whose author read `sent` before sending it.
    pub fn right(self, sent: Timestamp) -> Timestamp {
        sent.plus(self.right_span())
    }

    pub fn renew_every(self) -> Duration {
        self.0 / 4
    }

    /// Span to the next renewal; `jitter` from 0 to 1 spreads the nodes of a cluster.
    pub fn renew_after(self, jitter: f64) -> Duration {
        self.renew_every().mul_f64(1.0 - JITTER * jitter.clamp(0.0, 1.0))
    }

    pub fn elections(self) -> Elections {
        let max = (self.0 / 5).min(LONGEST_ELECTION);
        Elections { min: max / 2, max, heartbeat: max / 6 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(millis: u32) -> Lease {
        Lease::from_millis(millis).unwrap()
    }

    #[test]
    fn a_right_of_three_seconds_is_rounded_down() {
        // 3 s · 99 / 101 = 2.940594059405…
        let expected = Duration::from_nanos(2_940_594_059) - MARGIN;
        assert_eq!(lease(3_000).right_span(), expected);
    }

    #[test]
    fn elections_follow_the_lease_up_to_a_limit() {
        let ms = Duration::from_millis;
        let (short, long) = (lease(2_000).elections(), lease(60_000).elections());
        assert_eq!((short.min, short.max), (ms(200), ms(400)));
        assert_eq!((long.min, long.max, long.heartbeat), (ms(300), ms(600), ms(100)));
    }

    #[test]
    fn l14_lease_of_one_second_is_refused() {
        let error = Lease::from_millis(1_000).unwrap_err();
        assert!(matches!(error, Error::ElectionsOutlastRight { .. }));
        assert!(error.to_string().contains("LEASE"));
        assert_eq!(
            Lease::from_millis(0).unwrap_err().to_string(),
            "LEASE of 0ns is too short: three elections of up to 0ns would outlast the 0ns \
             that remain of a right when it is renewed"
        );
        let error = Lease::from_millis(60_001).unwrap_err();
        assert_eq!(error.to_string(), "LEASE is 60001 ms, allowed: 2000 to 60000 ms");
    }

    #[test]
    fn l14_a_lease_is_lowered_no_further_than_the_elections_that_run_allow() {
        let slow = lease(3_000).elections();
        let error = lease(2_000).fits(slow).unwrap_err();
        assert_eq!(
            error.to_string(),
            "lease_ms 2000 is too short: this cluster's nodes were started with elections of up \
             to 600ms, and three of them would outlast a right; set 2808 or more, or restart \
             every node with a LEASE as short as that first"
        );
        assert_eq!(lease(2_808).fits(slow), Ok(()));
        assert!(lease(2_807).fits(slow).is_err());
        assert_eq!(lease(60_000).fits(slow), Ok(()));
        for millis in LEASES_MS.step_by(100) {
            assert_eq!(lease(millis).fits(lease(2_000).elections()), Ok(()), "{millis}");
        }
    }

    #[test]
    fn every_allowed_lease_outlasts_its_elections() {
        for millis in LEASES_MS {
            assert!(Lease::from_millis(millis).is_ok(), "{millis}");
        }
    }

    #[test]
    fn jitter_only_shortens() {
        let lease = lease(4_000);
        assert_eq!(lease.renew_after(0.0), Duration::from_secs(1));
        assert_eq!(lease.renew_after(1.0), Duration::from_millis(800));
        assert_eq!(lease.renew_after(7.0), Duration::from_millis(800));
    }
}
