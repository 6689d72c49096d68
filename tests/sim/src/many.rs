//! Many seeds, each in a process of its own, and what they exercised together.

use std::{
    collections::BTreeMap,
    process::{Command, ExitCode},
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use crate::{
    faults::Fault,
    story::{Kind, Verdict},
};

#[derive(clap::Args)]
pub struct Many {
    #[arg(long, default_value_t = 64)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    base: u64,
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Processes at once [default: one for each core]
    #[arg(long)]
    jobs: Option<usize>,
    /// Fewer faults in all are no proof
    #[arg(long, default_value_t = 0)]
    at_least: u64,
}

/// One seed in one line: words that `Sums` reads back.
pub fn line(seed: u64, verdict: &Verdict) -> String {
    let mut words = vec![
        format!("seed={seed}"),
        format!("kind={:?}", verdict.kind),
        format!("problems={}", verdict.problems.len()),
        format!("calls={}", verdict.calls),
        format!("failed={}", verdict.failed),
        format!("acknowledged={}", verdict.acknowledged),
        format!("emptied={}", verdict.emptied),
        format!("healed_ms={}", verdict.healed_in.map_or(0, |span| span.as_millis())),
        format!("digest={:016x}", verdict.digest),
    ];
    words.extend(verdict.faults.fired.iter().map(|(fault, times)| format!("{fault:?}={times}")));
    let felt = verdict.faults.felt.iter();
    words.extend(felt.map(|(what, times)| format!("{}={times}", what.replace(' ', "-"))));
    words.join(" ")
}

#[derive(Default)]
struct Sums {
    values: BTreeMap<String, u64>,
    planned: u64,
    slowest_ms: u64,
    bad: Vec<u64>,
}

impl Sums {
    fn take(&mut self, seed: u64, text: &str, well: bool) {
        let first = text.lines().find(|line| line.starts_with("seed=")).unwrap_or_default();
        for (name, value) in first.split(' ').filter_map(|word| word.split_once('=')) {
            match (name, value.parse::<u64>()) {
                ("seed" | "digest", _) => {}
                ("healed_ms", Ok(ms)) => self.slowest_ms = self.slowest_ms.max(ms),
                (_, Ok(value)) => *self.values.entry(name.to_owned()).or_default() += value,
                ("kind", Err(_)) => {
                    self.planned += u64::from(value == format!("{:?}", Kind::Planned))
                }
                (_, Err(_)) => {}
            }
        }
        if !well || first.is_empty() {
            self.bad.push(seed);
        }
    }

    fn faults(&self) -> u64 {
        Fault::ALL.iter().filter_map(|fault| self.values.get(&format!("{fault:?}"))).sum()
    }
}

impl Many {
    pub fn run(&self) -> ExitCode {
        let jobs = self.jobs.unwrap_or_else(|| {
            std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
        });
        let (next, sums) = (AtomicU64::new(self.base), Mutex::new(Sums::default()));
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= self.base + self.seeds {
                            return;
                        }
                        self.one(seed, &sums);
                    }
                });
            }
        });
        self.report(&sums.into_inner())
    }

    fn one(&self, seed: u64, sums: &Mutex<Sums>) {
        let arguments = format!("one --seed {seed} --seconds {}", self.seconds);
        let this = std::env::current_exe().expect("this program has a path");
        let output = Command::new(this).args(arguments.split(' ')).output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let well = output.status.success();
        if !well {
            let said = String::from_utf8_lossy(&output.stderr);
            println!("FAILED, to repeat: shoal-sim {arguments}\n{text}{said}");
        }
        sums.lock().take(seed, &text, well);
    }

    fn report(&self, sums: &Sums) -> ExitCode {
        println!(
            "{} seeds of {} simulated seconds, {} with planned changes alone",
            self.seeds, self.seconds, sums.planned
        );
        for (name, value) in &sums.values {
            println!("  {name}: {value}");
        }
        println!("  faults in all: {}", sums.faults());
        println!("  slowest to be whole again: {} ms", sums.slowest_ms);
        let fired = |fault: &Fault| sums.values.contains_key(&format!("{fault:?}"));
        let silent: Vec<_> = Fault::ALL.iter().filter(|fault| !fired(fault)).collect();
        let mut well = sums.bad.is_empty();
        if !well {
            println!("failing seeds: {:?}", sums.bad);
        }
        // A handful of seeds need not have seen everything.
        const ENOUGH: u64 = 32;
        if self.seeds >= ENOUGH && !silent.is_empty() {
            println!("never happened: {silent:?}");
            well = false;
        }
        if sums.faults() < self.at_least {
            println!("fewer than {} faults", self.at_least);
            well = false;
        }
        ExitCode::from(u8::from(!well))
    }
}
