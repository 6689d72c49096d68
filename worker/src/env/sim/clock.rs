//! The clocks of the machine whose code runs now: each runs at its own rate.

use std::time::Duration;

use shoal_core::id::Timestamp;

/// When every world begins, in milliseconds since 1970.
const EPOCH_MS: u64 = 1_767_225_600_000;
/// What the clocks of a machine showed when its world began.
const UPTIME: Duration = Duration::from_secs(1_000);

/// Both clocks and the wall of one machine.
#[derive(Clone, Debug)]
pub struct Clocks {
    boottime: Clock,
    raw: Clock,
    wall_ahead_ms: i64,
}

#[derive(Clone, Copy, Debug)]
struct Clock {
    since: Duration,
    showed: Duration,
    rate: f64,
}

impl Default for Clocks {
    fn default() -> Self {
        let clock = Clock { since: Duration::ZERO, showed: UPTIME, rate: 1.0 };
        Self { boottime: clock, raw: clock, wall_ahead_ms: 0 }
    }
}

impl Clock {
    fn read(&self, now: Duration) -> Duration {
        self.showed + now.saturating_sub(self.since).mul_f64(self.rate)
    }

    fn set_rate(&mut self, now: Duration, rate: f64) {
        *self = Self { since: now, showed: self.read(now), rate };
    }
}

impl Clocks {
    /// From now on the clocks run at these rates, 1.0 being true.
    pub fn set_rates(&mut self, now: Duration, boottime: f64, raw: f64) {
        self.boottime.set_rate(now, boottime);
        self.raw.set_rate(now, raw);
    }

    /// The machine's idea of the date is off by so much.
    pub fn set_wall(&mut self, ahead_ms: i64) {
        self.wall_ahead_ms = ahead_ms;
    }

    pub fn read(&self, now: Duration) -> Timestamp {
        Timestamp::new(self.boottime.read(now), self.raw.read(now))
    }
}

pub fn now() -> Timestamp {
    let mut world = super::world();
    let now = world.now;
    world.here().clocks.read(now)
}

pub fn unix_ms() -> u64 {
    let mut world = super::world();
    let true_ms = EPOCH_MS + world.now.as_millis() as u64;
    true_ms.saturating_add_signed(world.here().clocks.wall_ahead_ms)
}
