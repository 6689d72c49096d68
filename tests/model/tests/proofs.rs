//! Every configuration is safe to its last state, and no rule of the protocol is idle.
//!
//! One search at a time, and each once: the document shows what the other tests found.

use std::{
    collections::BTreeSet,
    fs,
    sync::{Mutex, MutexGuard, PoisonError},
};

use shoal_model::{
    configurations::{ALL, HUNTS},
    document::{comparable, tables, with_tables},
    mutant::Mutant,
    report::{Hunted, Searched, hunt, search},
};

static SEARCHED: Mutex<Vec<Searched>> = Mutex::new(Vec::new());
static HUNTED: Mutex<Vec<Hunted>> = Mutex::new(Vec::new());
/// Held by whoever uses the processor.
static TURN: Mutex<()> = Mutex::new(());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn searched(name: &str) -> Searched {
    let _turn = lock(&TURN);
    if let Some(known) = lock(&SEARCHED).iter().find(|one| one.setup.name == name) {
        return known.clone();
    }
    let setup = ALL.iter().find(|setup| setup.name == name).expect("a configuration");
    let found = search(setup);
    let (states, depth, took) = (found.states, found.depth, found.took.as_secs_f64());
    println!("{name}: {states} states, depth {depth}, {took:.1} s");
    lock(&SEARCHED).push(found.clone());
    found
}

fn hunted(mutant: Mutant) -> Hunted {
    let _turn = lock(&TURN);
    if let Some(known) = lock(&HUNTED).iter().find(|one| one.hunt.mutant == mutant) {
        return known.clone();
    }
    let wanted = HUNTS.iter().find(|hunt| hunt.mutant == mutant).expect("a hunt for each mutant");
    let found = hunt(*wanted);
    lock(&HUNTED).push(found.clone());
    found
}

/// No violation in any state, and everything was reached that the configuration is for.
fn is_safe(name: &str) {
    let found = searched(name);
    for (broken, steps) in &found.broken {
        println!("{name}: it does not hold that {broken}:\n{steps}");
    }
    assert!(found.broken.is_empty(), "{name}: {} properties do not hold", found.broken.len());
    assert!(found.missed.is_empty(), "{name} never reached: {:?}", found.missed);
    assert!(found.reached > 0, "{name} is asked to reach nothing");
}

fn is_found(mutant: Mutant) {
    let hunted = hunted(mutant);
    let (name, setup) = (mutant.name(), hunted.hunt.setup.name);
    let found = hunted.found.unwrap_or_else(|| panic!("{setup} finds nothing wrong with {name}"));
    println!("{name}: not so in {setup} after {} steps: {}", found.length, found.broken);
    println!("{}", found.steps);
}

macro_rules! configurations {
    ($($test:ident: $name:literal,)*) => {
        const TESTED: &[&str] = &[$($name),*];
        $(
            #[test]
            fn $test() {
                is_safe($name);
            }
        )*
    };
}

configurations! {
    one_node_with_all_operations_is_safe: "node",
    s16_s19_all_ways_to_go_are_safe: "leave",
    s12_moves_with_abort_and_fence_are_safe: "move",
    an_abort_said_twice_is_safe: "abort",
    s11_a_move_with_a_crashing_target_is_safe: "crash",
    s1_one_directory_on_two_machines_is_safe: "directory",
    a_lease_under_several_leaders_is_safe: "leaders",
    s9_a_lease_that_changes_is_safe: "lease",
    a_write_long_after_its_check_is_safe: "store",
    l3_an_election_fences_nobody_who_is_well: "election",
}

macro_rules! mutants {
    ($($test:ident: $mutant:ident,)*) => {
        const WANTED: &[Mutant] = &[$(Mutant::$mutant),*];
        $(
            #[test]
            fn $test() {
                is_found(Mutant::$mutant);
            }
        )*
    };
}

mutants! {
    model_finds_no_wait_after_election: NoWaitAfterElection,
    model_finds_a_lease_counted_from_receipt: LeaseFromReceipt,
    model_finds_the_time_of_another_request: SentOfAnotherRequest,
    model_finds_a_renewal_accepted_after_the_fence: RenewalAfterFence,
    model_finds_no_check_before_the_acknowledgement: NoRecheck,
    model_finds_a_released_shard_learned_again: LateAnswerLearned,
    model_finds_an_answer_before_the_apply: AnswerBeforeApply,
    model_finds_a_commit_that_ignores_the_incarnation: CommitIgnoresIncarnation,
    model_finds_state_dropped_at_the_release: StateDroppedAtReleased,
    model_finds_the_lease_of_the_answer_ignored: LeaseOfTheAnswerIgnored,
    model_finds_an_abort_not_keyed_by_its_move: AbortNotKeyed,
    model_finds_one_clock_only: OneClockOnly,
    model_finds_received_state_opened_without_via: OpenedWithoutVia,
    model_finds_an_expiry_moved_back: ExpiryMovedBack,
    model_finds_a_target_that_drops_by_timer: TargetDropsByTimer,
    model_finds_a_fence_without_compare: FenceWithoutCompare,
    model_finds_proof_of_another_machine: ProofOfAnotherMachine,
    model_finds_a_close_while_a_call_runs: ClosedWithCallsRunning,
    model_finds_a_mark_that_takes_shards: MarkTakesShards,
    model_finds_a_store_that_takes_any_token: StoreTakesAnyToken,
}

#[test]
fn nothing_is_left_untested() {
    let names: Vec<_> = ALL.iter().map(|setup| setup.name).collect();
    assert_eq!(names, TESTED);
    assert_eq!(Mutant::ALL, WANTED);
    let hunted: BTreeSet<_> = HUNTS.iter().map(|hunt| hunt.mutant).collect();
    assert_eq!(hunted.len(), HUNTS.len());
    assert_eq!(hunted, BTreeSet::from(Mutant::ALL));
}

#[test]
fn the_document_shows_these_runs() {
    const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/proofs.md");
    let searched: Vec<_> = TESTED.iter().map(|name| searched(name)).collect();
    let hunted: Vec<_> = WANTED.iter().map(|mutant| hunted(*mutant)).collect();
    let tables = tables(&searched, &hunted);
    println!("{tables}");
    let known = fs::read_to_string(PATH).expect("docs/proofs.md exists");
    let wanted = with_tables(&known, &tables).expect("docs/proofs.md has the marks");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(PATH, wanted).expect("docs/proofs.md can be written");
        return;
    }
    let same = comparable(&known) == comparable(&wanted);
    assert!(same, "docs/proofs.md is behind: UPDATE_DOCS=1 cargo test -p shoal-model writes it");
}
