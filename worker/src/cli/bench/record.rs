//! What happened to every call, by phase, and the report that comes of it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::Serialize;
use tonic::Status;

use super::{
    Answer,
    counters::{Counter, Judgement},
};

/// Longest latency that is told apart, in microseconds.
const LONGEST_US: u64 = 120_000_000;
const DIGITS: u8 = 3;
/// Different failures that are told apart; further ones count under their code alone.
const MAX_KINDS: usize = 32;

/// A second of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Progress {
    pub calls: u64,
    pub failed: u64,
    pub in_flight: u64,
    pub rate: u64,
    pub forwarded_percent: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub longest_ms: f64,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>7} calls/s  p50 {:>7.2} ms  p99 {:>7.2} ms  longest {:>7.1} ms  forwarded {:>3.0} %  {} calls, {} failed",
            self.rate,
            self.p50_ms,
            self.p99_ms,
            self.longest_ms,
            self.forwarded_percent,
            self.calls,
            self.failed
        )
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PhaseReport {
    pub calls: u64,
    pub failed: u64,
    pub forwarded: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub longest_ms: f64,
    pub failures: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default)]
pub struct Report {
    pub lasted: Duration,
    /// All phases as one.
    pub whole: PhaseReport,
    pub phases: Vec<PhaseReport>,
    pub judgement: Judgement,
    /// Counters that did not answer at the end.
    pub unread: u64,
}

impl Report {
    pub fn forwarded_percent(&self) -> f64 {
        percent(self.whole.forwarded, self.whole.calls - self.whole.failed)
    }

    /// No call failed, no increment was lost or doubled.
    pub fn flawless(&self) -> bool {
        let judged = &self.judgement;
        let damaged = judged.lost + judged.doubled + judged.fallen_since(0);
        self.whole.failed + self.unread + damaged == 0
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

struct Phase {
    calls: u64,
    failed: u64,
    forwarded: u64,
    latency: Histogram<u64>,
    failures: BTreeMap<String, u64>,
}

impl Default for Phase {
    fn default() -> Self {
        Self { calls: 0, failed: 0, forwarded: 0, latency: histogram(), failures: BTreeMap::new() }
    }
}

/// Of one size for all, so that they can be added.
fn histogram() -> Histogram<u64> {
    match Histogram::new_with_max(LONGEST_US, DIGITS) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("the bounds are constants: {error}"),
    }
}

impl Phase {
    fn add(&mut self, latency: Duration, answer: &Result<Answer, Status>) {
        self.calls += 1;
        self.latency.saturating_record(latency.as_micros().min(LONGEST_US.into()) as u64);
        match answer {
            Ok(answer) => self.forwarded += u64::from(answer.forwarded),
            Err(status) => {
                self.failed += 1;
                let mut kind = format!("{:?}: {}", status.code(), status.message());
                if self.failures.len() >= MAX_KINDS && !self.failures.contains_key(&kind) {
                    kind = format!("{:?}", status.code());
                }
                *self.failures.entry(kind).or_default() += 1;
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        self.calls += other.calls;
        self.failed += other.failed;
        self.forwarded += other.forwarded;
        // Both have the same bounds.
        let _ = self.latency.add(&other.latency);
        for (kind, count) in &other.failures {
            *self.failures.entry(kind.clone()).or_default() += count;
        }
    }

    fn ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1_000.0
    }

    fn report(&self) -> PhaseReport {
        PhaseReport {
            calls: self.calls,
            failed: self.failed,
            forwarded: self.forwarded,
            p50_ms: self.ms(0.5),
            p99_ms: self.ms(0.99),
            p999_ms: self.ms(0.999),
            longest_ms: self.latency.max() as f64 / 1_000.0,
            failures: self.failures.clone(),
        }
    }
}

pub(super) struct Recorder {
    in_flight: Arc<AtomicU64>,
    records: Mutex<Records>,
}

struct Records {
    phases: Vec<Phase>,
    second: Phase,
    calls: u64,
    failed: u64,
    counters: Vec<Counter>,
}

impl Recorder {
    pub fn new(keys: usize, in_flight: Arc<AtomicU64>) -> Self {
        let records = Records {
            phases: Vec::new(),
            second: Phase::default(),
            calls: 0,
            failed: 0,
            counters: std::iter::repeat_with(Counter::default).take(keys).collect(),
        };
        Self { in_flight, records: Mutex::new(records) }
    }

    pub fn began(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub fn ended(
        &self,
        key: usize,
        phase: usize,
        latency: Duration,
        answer: Result<Answer, Status>,
    ) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let mut records = self.records.lock();
        let records = &mut *records;
        if records.phases.len() <= phase {
            records.phases.resize_with(phase + 1, Phase::default);
        }
        records.phases[phase].add(latency, &answer);
        records.second.add(latency, &answer);
        records.calls += 1;
        match answer {
            Ok(answer) => records.counters[key].acknowledged(answer.epoch, answer.value, phase),
            Err(_) => {
                records.failed += 1;
                records.counters[key].failed();
            }
        }
    }

    /// The second that ended now.
    pub fn second(&self) -> Progress {
        let mut records = self.records.lock();
        let second = std::mem::take(&mut records.second);
        Progress {
            calls: records.calls,
            failed: records.failed,
            in_flight: self.in_flight.load(Ordering::Relaxed),
            rate: second.calls,
            forwarded_percent: percent(second.forwarded, second.calls - second.failed),
            p50_ms: second.ms(0.5),
            p99_ms: second.ms(0.99),
            longest_ms: second.latency.max() as f64 / 1_000.0,
        }
    }

    pub fn judge(&self, key: usize, epoch: u64, value: i64, phase: usize) -> Judgement {
        self.records.lock().counters[key].judge(epoch, value, phase)
    }

    pub fn report(&self, lasted: Duration, judgement: Judgement, unread: u64) -> Report {
        let records = self.records.lock();
        let mut whole = Phase::default();
        for phase in &records.phases {
            whole.merge(phase);
        }
        let phases = records.phases.iter().map(Phase::report).collect();
        Report { lasted, whole: whole.report(), phases, judgement, unread }
    }
}
