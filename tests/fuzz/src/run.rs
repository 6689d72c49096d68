//! The loop: takes an input of the pool, damages it, runs the decoder, keeps what was answered
//! in a new way. One seed is the same inputs in the same order.

use std::{
    collections::BTreeSet,
    fmt,
    panic::{self, AssertUnwindSafe},
    time::{Duration, Instant},
};

use crate::{
    mutate,
    property::{self, Seen, hex},
    random::Random,
    targets::Target,
};

/// Inputs of the pool beyond the corpus.
const MOST_KEPT: usize = 512;
/// An input for which a decoder takes longer is a failure of its own, however slow the machine.
const SLOW: Duration = Duration::from_secs(10);
/// How often the time given may be exceeded for a decoder to get to its least.
const PATIENCE: u32 = 8;
/// Tries to make a failing input smaller.
const SHRINKS: usize = 2_000;

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub tried: u64,
    pub taken: u64,
    pub refused: u64,
    /// Different answers, as `kind_of` tells them apart.
    pub kinds: usize,
    /// The most memory that one input took, with its length.
    pub peak: (usize, usize),
    /// The most memory for each byte of an input, beyond what any may take.
    pub spread: usize,
}

/// A broken promise and all that is needed to see it again.
#[derive(Clone, Debug)]
pub struct Failure {
    pub target: &'static str,
    pub seed: u64,
    pub tried: u64,
    pub why: String,
    pub input: Vec<u8>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, seed, tried, why, input } = self;
        write!(
            f,
            "{target}: {why}\n  seed {seed}, input {tried}, {} bytes: {}\n  \
             again: FUZZ_SEED={seed} FUZZ_TARGET={target} cargo test -p shoal-fuzz --test decoders",
            input.len(),
            hex(input)
        )
    }
}

/// Runs one input; a panic is an answer as well.
pub fn once(target: &Target, input: &[u8]) -> Result<Seen, String> {
    let began = Instant::now();
    let caught = panic::catch_unwind(AssertUnwindSafe(|| property::check(target, input)));
    let seen = match caught {
        Ok(seen) => seen.map_err(|broken| broken.to_string())?,
        Err(payload) => return Err(format!("it panicked: {}", words(&*payload))),
    };
    if began.elapsed() > SLOW {
        return Err(format!("it took {:?}", began.elapsed()));
    }
    Ok(seen)
}

fn words(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("without words").to_owned()
}

/// Runs a target from its pool for `span`, and on until it has tried its least.
pub fn run(
    target: &Target,
    mut pool: Vec<Vec<u8>>,
    seed: u64,
    span: Duration,
) -> Result<Report, Failure> {
    let mut random = Random::new(seed ^ u64::from(crc32fast::hash(target.name.as_bytes())));
    let mut report = Report::default();
    let mut kinds = BTreeSet::new();
    let began = Instant::now();
    let most = pool.len() + MOST_KEPT;
    let mut first = pool.clone();
    first.extend(mutate::floods(target));
    let mut firsts = first.iter();
    loop {
        let input = match firsts.next() {
            Some(input) => input.clone(),
            None if began.elapsed() >= span && report.tried >= target.least => break,
            None if began.elapsed() >= span * PATIENCE => break,
            None => {
                let at = |random: &mut Random| random.below(pool.len());
                let (base, other) = (at(&mut random), at(&mut random));
                let none = Vec::new();
                let base = pool.get(base).unwrap_or(&none);
                let other = pool.get(other).unwrap_or(&none);
                mutate::next(target, base, other, &mut random)
            }
        };
        report.tried += 1;
        let seen = once(target, &input).map_err(|why| Failure {
            target: target.name,
            seed,
            tried: report.tried,
            input: smaller(target, input.clone(), &why),
            why,
        })?;
        report.note(&seen, input.len());
        if kinds.insert(kind_of(&seen, input.len()))
            && pool.len() < most
            && input.len() < mutate::LONGEST
        {
            pool.push(input);
        }
    }
    report.kinds = kinds.len();
    Ok(report)
}

impl Report {
    fn note(&mut self, seen: &Seen, length: usize) {
        if seen.refusal.is_some() {
            self.refused += 1;
        } else {
            self.taken += 1;
        }
        self.peak = self.peak.max((seen.peak, length));
        self.spread = self.spread.max(seen.peak.saturating_sub(64 << 10) / length.max(1));
    }
}

/// What tells answers apart: the words of a refusal, without numbers, up to what it quotes; or
/// about how much was taken, for how much.
fn kind_of(seen: &Seen, length: usize) -> (String, u32) {
    let magnitude = |number: usize| usize::BITS - number.leading_zeros();
    match &seen.refusal {
        Some(text) => {
            let before = text.split(['"', '`']).next().unwrap_or(text);
            (before.chars().filter(char::is_ascii_alphabetic).collect(), 0)
        }
        None => (String::new(), magnitude(length) << 8 | magnitude(seen.peak)),
    }
}

/// A shorter input that fails too, with the same first word.
fn smaller(target: &Target, mut input: Vec<u8>, why: &str) -> Vec<u8> {
    let alike = |input: &[u8]| {
        once(target, input).err().is_some_and(|other| other.get(..12) == why.get(..12))
    };
    let mut tries = 0;
    let mut size = input.len() / 2;
    while size > 0 && tries < SHRINKS {
        let mut at = 0;
        while at + size <= input.len() && tries < SHRINKS {
            let mut shorter = input.clone();
            shorter.drain(at..at + size);
            tries += 1;
            if alike(&shorter) {
                input = shorter;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    input
}
