//! Many seeds over several threads: what they must find, and what they must not.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    clock::MS,
    coverage::{Coverage, REQUIRED},
    faults::{FIRST, KINDS, Kind, LAST},
    mutant::Mutant,
    network::{CALM, Weather},
    world::{Setup, World},
};

const SEEDS: u64 = 500;
/// Seeds in which every mutant must be found.
const MUTANT_SEEDS: u64 = 400;

/// What one run came to.
struct Run {
    violation: Option<String>,
    /// It was only too slow.
    late: bool,
    trace: String,
    digest: u64,
    coverage: Coverage,
    converged_after: u64,
}

/// As `run`, with a panic for a violation.
fn try_run(setup: Setup, kinds: &[Kind]) -> Run {
    let seed = setup.seed;
    let ran = std::panic::catch_unwind(|| run(setup, kinds));
    match ran {
        Ok(world) => Run {
            violation: world.oracle.violation.is_some().then(|| world.report()),
            late: world.oracle.late,
            trace: world.trace.text(),
            digest: world.trace.digest(),
            converged_after: world.converged_after,
            coverage: world.coverage,
        },
        Err(_) => Run {
            violation: Some(format!("seed {seed} panicked")),
            late: false,
            trace: String::new(),
            digest: 0,
            coverage: Coverage::default(),
            converged_after: 0,
        },
    }
}

/// One whole run: faults, then the healing.
pub fn run(setup: Setup, kinds: &[Kind]) -> World {
    let mut world = World::new(setup);
    world.plan_faults(kinds);
    world.run_to(FIRST);
    world.run_to(LAST);
    if world.oracle.violation.is_none() {
        world.heal();
    }
    world
}

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")),
        Err(_) => default,
    }
}

/// Hands the seeds to all cores and folds what `each` makes of them, in no order.
fn over_seeds<T: Send>(
    seeds: std::ops::Range<u64>,
    each: impl Fn(u64) -> T + Sync,
    fold: impl FnMut(T) -> bool + Send,
) {
    let next = AtomicU64::new(seeds.start);
    let fold = Mutex::new((fold, true));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || !fold.lock().expect("no panic while folding").1 {
                        return;
                    }
                    let made = each(seed);
                    let mut fold = fold.lock().expect("no panic while folding");
                    let go_on = (fold.0)(made);
                    fold.1 &= go_on;
                }
            });
        }
    });
}

#[test]
fn no_seed_breaks_the_machines() {
    let (base, seeds) = (number("SEED_BASE", 0), number("SEEDS", SEEDS));
    let mut coverage = Coverage::default();
    let mut failed = Vec::new();
    let mut slowest = (0, 0);
    over_seeds(
        base..base + seeds,
        |seed| (seed, try_run(Setup { verbose: seeds == 1, ..Setup::drawn(seed) }, &KINDS)),
        |(seed, run)| {
            coverage.add(&run.coverage);
            slowest = slowest.max((run.converged_after, seed));
            failed.extend(run.violation.map(|report| (seed, report, run.trace)));
            true
        },
    );
    println!(
        "{seeds} seeds from {base}; the slowest was whole after {} ms (seed {})",
        slowest.0 / 1_000,
        slowest.1
    );
    println!("{coverage}");
    failed.sort();
    for (seed, report, trace) in &failed {
        println!("{trace}{report}");
        println!(
            "SEED_BASE={seed} SEEDS=1 cargo test -p shoal-tests --test machines no_seed -- --nocapture"
        );
    }
    assert!(failed.is_empty(), "{} of {seeds} seeds failed", failed.len());
    if seeds >= SEEDS {
        let missing = coverage.missing(REQUIRED);
        assert!(missing.is_empty(), "never happened: {missing:?}");
        let missing = coverage.faults_missing();
        assert!(missing.is_empty(), "faults that never struck: {missing:?}");
    }
}

#[test]
fn a_seed_is_the_same_run_to_the_bit() {
    let digest = |seed| {
        let run = try_run(Setup::drawn(seed), &KINDS);
        (run.digest, run.coverage, run.converged_after)
    };
    for seed in 0..8 {
        assert_eq!(digest(seed), digest(seed), "seed {seed}");
    }
    assert_ne!(digest(0).0, digest(1).0);
}

/// Where the seeds look for a rule left out: in the usual faults, or where it matters.
struct Hunt {
    setup: fn(u64) -> Setup,
    kinds: &'static [Kind],
}

const EVERYWHERE: Hunt = Hunt { setup: Setup::drawn, kinds: &KINDS };

/// Only leaders come and go.
const ELECTIONS: Hunt = Hunt {
    setup: |seed| Setup { lease_ms: 2_000, ..Setup::calm(seed, 3) },
    kinds: &[Kind::Election, Kind::Transfer, Kind::Move],
};

/// Answers take almost as long as the next renewal, and nodes fall silent.
const SLOW_ANSWERS: Hunt = Hunt {
    setup: |seed| {
        let weather = Weather { delay: 700 * MS, ..CALM };
        Setup { weather, lease_ms: 3_000, ..Setup::calm(seed, 3) }
    },
    kinds: &[Kind::Isolate, Kind::OneWayOut, Kind::Pause, Kind::Slew],
};

/// Moves are begun and called off by people whose requests arrive late, and twice.
const LATE_ABORTS: Hunt = Hunt {
    setup: |seed| {
        let weather = Weather { duplicates: 500, stragglers: 200, delay: 20 * MS, ..CALM };
        Setup { weather, ..Setup::calm(seed, 5) }
    },
    kinds: &[Kind::AbortMove, Kind::AbortMove, Kind::Move, Kind::Removal, Kind::CancelDrain],
};

/// Moves end at their most delicate point.
const RELEASES: Hunt = Hunt {
    setup: |seed| Setup { lease_ms: 2_000, ..Setup::calm(seed, 3) },
    kinds: &[Kind::Trap, Kind::Trap, Kind::Move, Kind::Crash],
};

/// Seeds until one finds the rule left out; with the rule the same seed finds nothing.
fn is_found(mutant: Mutant, hunt: &Hunt) {
    let setup = |seed| Setup { mutant: Some(mutant), ..(hunt.setup)(seed) };
    let mut found = None;
    over_seeds(
        0..MUTANT_SEEDS,
        |seed| (seed, try_run(setup(seed), hunt.kinds)),
        |(seed, run)| {
            let what = run.violation.filter(|_| !run.late);
            found = found.take().or(what.map(|what| (seed, what)));
            found.is_none()
        },
    );
    let (seed, what) =
        found.unwrap_or_else(|| panic!("{MUTANT_SEEDS} seeds found nothing wrong with {mutant:?}"));
    println!("{mutant:?} found: {what}");
    let sound = try_run((hunt.setup)(seed), hunt.kinds);
    assert_eq!(sound.violation, None, "without {mutant:?}");
}

macro_rules! mutants {
    ($($name:ident: $mutant:ident in $hunt:ident,)*) => {$(
        #[test]
        fn $name() {
            is_found(Mutant::$mutant, &$hunt);
        }
    )*};
}

mutants! {
    mutant_no_wait_after_election_is_found: NoWaitAfterElection in ELECTIONS,
    mutant_lease_counted_from_receipt_is_found: LeaseFromReceipt in SLOW_ANSWERS,
    mutant_time_of_another_request_is_found: SentOfAnotherRequest in SLOW_ANSWERS,
    mutant_renewal_accepted_after_fence_is_found: RenewalAfterFence in EVERYWHERE,
    mutant_no_check_before_the_acknowledgement_is_found: NoRecheck in EVERYWHERE,
    mutant_released_shard_learned_again_is_found: LateAnswerLearned in EVERYWHERE,
    mutant_answer_before_apply_is_found: AnswerBeforeApply in EVERYWHERE,
    mutant_commit_ignoring_the_incarnation_is_found: CommitIgnoresIncarnation in RELEASES,
    mutant_state_dropped_at_released_is_found: StateDroppedAtReleased in RELEASES,
    mutant_lease_of_the_answer_ignored_is_found: LeaseOfTheAnswerIgnored in EVERYWHERE,
    mutant_abort_not_keyed_by_move_is_found: AbortNotKeyed in LATE_ABORTS,
    mutant_one_clock_only_is_found: OneClockOnly in EVERYWHERE,
    mutant_received_state_opened_without_via_is_found: OpenedWithoutVia in RELEASES,
    mutant_expiry_moved_back_is_found: ExpiryMovedBack in EVERYWHERE,
    mutant_target_dropping_by_timer_is_found: TargetDropsByTimer in RELEASES,
}

/// What the hunts rest on: they find nothing where every rule holds.
#[test]
fn hunts_find_nothing_when_every_rule_holds() {
    for (name, hunt) in [
        ("elections", &ELECTIONS),
        ("slow answers", &SLOW_ANSWERS),
        ("late aborts", &LATE_ABORTS),
        ("releases", &RELEASES),
    ] {
        over_seeds(
            0..40,
            |seed| try_run((hunt.setup)(seed), hunt.kinds),
            |run| {
                let wrong = run.violation.filter(|_| !run.late);
                assert_eq!(wrong, None, "{name}");
                true
            },
        );
    }
}
