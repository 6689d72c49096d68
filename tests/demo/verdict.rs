//! What the demo has shown: the arithmetic of its last lines and of its exit code.

use std::fmt;

use shoal_tests::{deploy::Outage, stock::Told};

/// At least this share of the calls enters at a node that is not the owner: half of them do
/// while there are two nodes, two thirds with three.
const FORWARDED_PERCENT: f64 = 50.0;

#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// What the stock clients say of the planned changes.
    pub told: Vec<Told>,
    /// What the killed process left without an answer.
    pub outage: Option<Outage>,
    /// Other promises that were not kept.
    pub broken: Vec<String>,
}

impl Verdict {
    fn sum(&self, count: impl Fn(&Told) -> u64) -> u64 {
        self.told.iter().map(count).sum()
    }

    pub fn calls(&self) -> u64 {
        self.sum(|told| told.calls)
    }

    fn longest_ms(&self) -> f64 {
        self.told.iter().map(|told| told.longest_ms).fold(0.0, f64::max)
    }

    fn forwarded_percent(&self) -> f64 {
        let forwarded = self.told.iter().map(|told| told.forwarded_percent * told.calls as f64);
        forwarded.sum::<f64>() / self.calls().max(1) as f64
    }

    /// A planned change failed no call, no increment was lost or doubled, and nothing else that
    /// was promised is missing.
    pub fn passed(&self) -> bool {
        let flawless = !self.told.is_empty() && self.told.iter().all(Told::flawless);
        let entered_anywhere = self.forwarded_percent() >= FORWARDED_PERCENT;
        flawless && entered_anywhere && self.broken.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for told in &self.told {
            writeln!(f, "{told}")?;
        }
        if let Some(Outage { keys, shards, first, last }) = self.outage {
            writeln!(
                f,
                "kill -9: {keys} keys in {shards} shards answered again after {first:.1?} to {last:.1?}"
            )?;
        }
        for promise in &self.broken {
            writeln!(f, "BROKEN: {promise}")?;
        }
        write!(
            f,
            "VERDICT {}: {} requests ({:.0} % forwarded), {} failed, {} lost, {} doubled in planned changes, longest stall {:.0} ms",
            if self.passed() { "passed" } else { "FAILED" },
            self.calls(),
            self.forwarded_percent(),
            self.sum(|told| told.failed),
            self.sum(|told| told.lost + told.unread),
            self.sum(|told| told.doubled),
            self.longest_ms(),
        )
    }
}
