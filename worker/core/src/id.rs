//! The identifiers and the clock reading that every other module speaks in.
//!
//! Newtypes only, one parser each, short display (`n7`, `s42`, `e3`). No rule of the
//! protocol lives here but the one that belongs to a pair of clocks: a span has passed
//! *at least* when both clocks say so, and *at most* when either does.

use std::{fmt, str::FromStr, time::Duration};

/// A text that is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: expected {expected}")]
pub struct ParseError {
    what: &'static str,
    expected: &'static str,
    text: String,
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal, $what:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseError;
            fn from_str(text: &str) -> Result<Self, ParseError> {
                text.strip_prefix($prefix)
                    .unwrap_or(text)
                    .parse()
                    .map(Self)
                    .map_err(|_| ParseError { what: $what, expected: $expected, text: text.to_owned() })
            }
        }
    };
}

number_id!(
    /// Index of the Join entry that admitted the node; never reused.
    NodeId(u64), "n", "node id", "n<number> or <number>"
);
number_id!(
    /// One slice of the hash space.
    ShardId(u32), "s", "shard id", "s<number> or <number>"
);
number_id!(
    /// Index of the last entry that changed an owner, an epoch, a node's address or a node's state.
    MapVersion(u64), "v", "map version", "v<number> or <number>"
);
number_id!(
    /// Index of an entry in the registry's log.
    LogIndex(u64), "i", "log index", "i<number> or <number>"
);
number_id!(
    /// A planned move: the index of its BeginMove entry.
    MoveId(u64), "m", "move id", "m<number> or <number>"
);

/// Fencing token of a shard: strictly grows with every change of owner.
///
/// The upper half is the era (seconds of forming or of a recovery), so that a cluster
/// founded anew never issues a lower token than the one before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

impl Epoch {
    pub fn new(era: u32, count: u32) -> Self {
        Self((u64::from(era) << 32) | u64::from(count))
    }

    pub fn era(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub fn count(self) -> u32 {
        self.0 as u32
    }

    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.count())
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}:{}", self.era(), self.count())
    }
}

/// One run of a node's process: a counter made durable before use, and a nonce that
/// tells two copies of one directory apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation {
    pub counter: u64,
    pub nonce: u64,
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:08x}", self.counter, self.nonce as u32)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Incarnation {
    type Err = ParseError;

    /// Reads `<counter>.<nonce in hex>`, the whole nonce.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError {
            what: "incarnation",
            expected: "<counter>.<nonce in hex>",
            text: text.to_owned(),
        };
        let (counter, nonce) = text.split_once('.').ok_or_else(error)?;
        Ok(Self {
            counter: counter.parse().map_err(|_| error())?,
            nonce: u64::from_str_radix(nonce, 16).map_err(|_| error())?,
        })
    }
}

impl Incarnation {
    /// The lossless text, as `FromStr` reads it.
    pub fn to_text(self) -> String {
        format!("{}.{:016x}", self.counter, self.nonce)
    }
}

/// One founded cluster; drawn at random by its founder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ClusterId {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        u128::from_str_radix(text, 16).map(Self).map_err(|_| ParseError {
            what: "cluster id",
            expected: "32 hexadecimal digits",
            text: text.to_owned(),
        })
    }
}

/// One reading of both clocks of one machine: CLOCK_BOOTTIME and CLOCK_MONOTONIC_RAW.
///
/// The first is slewed by time daemons, the second stops while the machine sleeps; a
/// right ends when either says so, an expiry has passed only when both say so.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Timestamp {
    pub boottime: Duration,
    pub raw: Duration,
}

impl Timestamp {
    pub fn new(boottime: Duration, raw: Duration) -> Self {
        Self { boottime, raw }
    }

    /// The span that has certainly passed since `earlier`: the smaller difference.
    pub fn at_least_since(self, earlier: Self) -> Duration {
        let (boottime, raw) = self.differences(earlier);
        boottime.min(raw)
    }

    /// The span that may have passed since `earlier`: the larger difference.
    pub fn at_most_since(self, earlier: Self) -> Duration {
        let (boottime, raw) = self.differences(earlier);
        boottime.max(raw)
    }

    /// Both clocks moved forward by `span`.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self { boottime: self.boottime + span, raw: self.raw + span }
    }

    /// True once both clocks have reached `instant`: an expiry has passed.
    pub fn surely_past(self, instant: Self) -> bool {
        self.boottime >= instant.boottime && self.raw >= instant.raw
    }

    /// True once either clock has reached `instant`: a right has ended.
    pub fn maybe_past(self, instant: Self) -> bool {
        self.boottime >= instant.boottime || self.raw >= instant.raw
    }

    /// Shortest wait after which [`Self::maybe_past`] may hold: how soon to look at a right.
    pub fn until_maybe_past(self, instant: Self) -> Duration {
        let (boottime, raw) = instant.differences(self);
        boottime.min(raw)
    }

    /// Wait after which [`Self::surely_past`] holds, if both clocks run alike.
    pub fn until_surely_past(self, instant: Self) -> Duration {
        let (boottime, raw) = instant.differences(self);
        boottime.max(raw)
    }

    /// The later of two instants, clock by clock.
    #[must_use]
    pub fn max_each(self, other: Self) -> Self {
        Self { boottime: self.boottime.max(other.boottime), raw: self.raw.max(other.raw) }
    }

    fn differences(self, earlier: Self) -> (Duration, Duration) {
        (self.boottime.saturating_sub(earlier.boottime), self.raw.saturating_sub(earlier.raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_display_short_and_parse_back() {
        assert_eq!(NodeId(7).to_string(), "n7");
        assert_eq!("n7".parse::<NodeId>(), Ok(NodeId(7)));
        assert_eq!("7".parse::<NodeId>(), Ok(NodeId(7)));
        assert_eq!(ShardId(42).to_string(), "s42");
        assert_eq!(Epoch::new(9, 3).to_string(), "e3");
        let error = "x7".parse::<NodeId>().unwrap_err().to_string();
        assert_eq!(error, "\"x7\" is not a node id: expected n<number> or <number>");
        let incarnation = Incarnation { counter: 4, nonce: u64::MAX - 1 };
        assert_eq!(incarnation.to_text().parse(), Ok(incarnation));
    }

    #[test]
    fn a_newer_era_outranks_every_count_of_an_older_one() {
        assert!(Epoch::new(2, 0) > Epoch::new(1, u32::MAX));
    }

    #[test]
    fn a_span_is_judged_by_the_clock_that_protects() {
        let start = Timestamp::default();
        let slewed = Timestamp::new(Duration::from_millis(917), Duration::from_millis(1000));
        assert_eq!(slewed.at_least_since(start), Duration::from_millis(917));
        assert_eq!(slewed.at_most_since(start), Duration::from_millis(1000));
        let expiry = start.plus(Duration::from_millis(950));
        assert!(slewed.maybe_past(expiry) && !slewed.surely_past(expiry));
    }
}
