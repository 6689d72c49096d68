//! The two clocks of one machine over the axis of true time, which no machine reads.

use std::time::Duration;

use shoal_core::id::Timestamp;

/// True time in microseconds since the run began.
pub type True = u64;

pub const MS: True = 1_000;
pub const SECOND: True = 1_000 * MS;

/// Largest slew that a time daemon applies to boottime, in parts per million.
pub const SLEW: i64 = 83_333;
/// Error of one crystal in parts per million: with that of another, half of ρ.
pub const CRYSTAL: i64 = 5_000;

#[derive(Debug)]
pub struct Clock {
    pub raw_ppm: i64,
    pub slew_ppm: i64,
    /// Asleep: raw stands still, boottime follows the hardware clock, which nobody slews.
    pub asleep: bool,
    read: True,
    boottime: u64,
    raw: u64,
}

impl Clock {
    pub fn new(raw_ppm: i64, uptime: True) -> Self {
        let started = uptime * 1_000;
        Self { raw_ppm, slew_ppm: 0, asleep: false, read: 0, boottime: started, raw: started }
    }

    /// Reads both. To be called before a rate changes, too.
    pub fn read(&mut self, now: True) -> Timestamp {
        let span = i64::try_from(now - self.read).expect("a run is short") * 1_000;
        self.read = now;
        let raw = span + scaled(span, self.raw_ppm);
        let slewed = raw + if self.asleep { 0 } else { scaled(raw, self.slew_ppm) };
        self.boottime += slewed as u64;
        if !self.asleep {
            self.raw += raw as u64;
        }
        Timestamp::new(Duration::from_nanos(self.boottime), Duration::from_nanos(self.raw))
    }

    /// The machine boots: both clocks begin anew.
    pub fn boot(&mut self, now: True) {
        self.read(now);
        self.boottime = 0;
        self.raw = 0;
        self.asleep = false;
    }
}

fn scaled(span: i64, ppm: i64) -> i64 {
    (i128::from(span) * i128::from(ppm) / 1_000_000) as i64
}
