//! What the demo has shown: the arithmetic of its last lines and of its exit code.

use std::fmt;

use serde_json::{Value, json};

use crate::cli::bench::Report;

/// Names of the phases, in their order; from `CRASH` on failures are no breach.
pub const PHASES: [&str; 5] = ["steady", "join", "drain", "roll", "crash"];
/// Phase in which an owner is killed.
pub const CRASH: usize = 4;

/// What the story counted beside the load.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Told {
    /// Changes of owner before the kill.
    pub moves: u64,
    /// Shards of the killed owner.
    pub failed_over: u64,
    /// From the kill until every shard had an owner.
    pub without_owner_ms: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    pub calls: u64,
    pub failed_planned: u64,
    pub failed_crash: u64,
    pub longest_planned_ms: f64,
    pub longest_crash_ms: f64,
    /// Gone or run twice in a planned change, or without any.
    pub damaged: u64,
    /// In the memory of the killed owner.
    pub lost_with_owner: u64,
    pub unread: u64,
    pub forwarded_percent: f64,
    /// First failures of the planned phases.
    pub causes: Vec<String>,
    pub told: Told,
}

impl Verdict {
    pub fn new(report: &Report, told: Told) -> Self {
        let (planned, crash) = report.phases.split_at(report.phases.len().min(CRASH));
        let longest = |phases: &[crate::cli::bench::PhaseReport]| {
            phases.iter().map(|phase| phase.longest_ms).fold(0.0, f64::max)
        };
        let judged = &report.judgement;
        let causes = planned.iter().zip(PHASES).flat_map(|(phase, name)| {
            phase.failures.iter().map(move |(kind, count)| format!("{name}: {count} x {kind}"))
        });
        Self {
            calls: report.whole.calls,
            failed_planned: planned.iter().map(|phase| phase.failed).sum(),
            failed_crash: crash.iter().map(|phase| phase.failed).sum(),
            longest_planned_ms: longest(planned),
            longest_crash_ms: longest(crash),
            damaged: judged.lost + judged.doubled + judged.fallen_before(CRASH),
            lost_with_owner: judged.fallen_since(CRASH),
            unread: report.unread,
            forwarded_percent: report.forwarded_percent(),
            causes: causes.collect(),
            told,
        }
    }

    /// A planned change failed no call, and no increment was lost or doubled.
    pub fn passed(&self) -> bool {
        self.calls > 0 && self.failed_planned + self.damaged + self.unread == 0
    }

    pub fn as_json(&self) -> Value {
        json!({
            "passed": self.passed(), "calls": self.calls,
            "failed_planned": self.failed_planned, "failed_crash": self.failed_crash,
            "longest_stall_planned_ms": self.longest_planned_ms,
            "longest_stall_crash_ms": self.longest_crash_ms,
            "lost_or_doubled": self.damaged,
            "lost_with_killed_owner": self.lost_with_owner,
            "unread": self.unread, "forwarded_percent": self.forwarded_percent,
            "moves": self.told.moves, "failed_over": self.told.failed_over,
            "without_owner_ms": self.told.without_owner_ms, "causes": self.causes,
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "join, drain, roll: {} failed, {} moves, longest stall {:.0} ms, {} increments lost or doubled",
            self.failed_planned, self.told.moves, self.longest_planned_ms, self.damaged
        )?;
        for cause in &self.causes {
            writeln!(f, "  {cause}")?;
        }
        writeln!(
            f,
            "kill -9: {} failed, {} shards failed over in {} ms, longest stall {:.0} ms, {} increments lost with the killed owner's memory",
            self.failed_crash,
            self.told.failed_over,
            self.told.without_owner_ms,
            self.longest_crash_ms,
            self.lost_with_owner
        )?;
        if self.unread > 0 {
            writeln!(f, "{} counters did not answer at the end", self.unread)?;
        }
        write!(
            f,
            "VERDICT {}: {} requests ({:.0} % forwarded), {} failed in planned changes, {} moves, longest stall {:.0} ms",
            if self.passed() { "passed" } else { "FAILED" },
            self.calls,
            self.forwarded_percent,
            self.failed_planned,
            self.told.moves,
            self.longest_planned_ms
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cli::bench::{Judgement, PhaseReport};

    fn report(failed: [u64; 5], judgement: Judgement) -> Report {
        let phases = failed.map(|failed| PhaseReport {
            calls: 100,
            failed,
            longest_ms: 10.0 + failed as f64,
            ..PhaseReport::default()
        });
        let whole = PhaseReport { calls: 500, failed: failed.iter().sum(), ..Default::default() };
        Report { whole, phases: phases.to_vec(), judgement, ..Report::default() }
    }

    fn fallen(phase: usize) -> Judgement {
        Judgement { fallen: BTreeMap::from([(phase, 7)]), ..Judgement::default() }
    }

    #[test]
    fn failures_of_a_crash_are_no_breach() {
        let verdict = Verdict::new(&report([0, 0, 0, 0, 90], fallen(CRASH)), Told::default());
        assert!(verdict.passed(), "{verdict}");
        assert_eq!((verdict.failed_crash, verdict.lost_with_owner), (90, 7));
        assert_eq!((verdict.longest_planned_ms, verdict.longest_crash_ms), (10.0, 100.0));
    }

    #[test]
    fn one_failed_call_or_increment_of_a_planned_change_is() {
        for phase in 0..CRASH {
            let mut failed = [0; 5];
            failed[phase] = 1;
            let failed = report(failed, Judgement::default());
            assert!(!Verdict::new(&failed, Told::default()).passed(), "call, {}", PHASES[phase]);
            let lost = report([0; 5], fallen(phase));
            assert!(!Verdict::new(&lost, Told::default()).passed(), "lost, {}", PHASES[phase]);
        }
        let doubled = Judgement { doubled: 1, ..Judgement::default() };
        assert!(!Verdict::new(&report([0; 5], doubled), Told::default()).passed());
        assert!(!Verdict::new(&Report::default(), Told::default()).passed(), "nothing was shown");
    }
}
