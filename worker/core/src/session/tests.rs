//! The safety of sessions over two clocks: a worker's right ends before any member may hold
//! its session for expired. Random plans against the rules as they are, and one plan per
//! rule left out that shows what the rule is for.

mod world;

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};

use world::{ClockPlan, Cut, Mutant, Outcome, Pause, Plan, World};

/// Largest slew a time daemon applies to boottime, in parts per million.
const SLEW: i64 = 83_333;
/// ρ / 2 in parts per million: the error of one crystal.
const CRYSTAL: i64 = 5_000;

fn clock(raw_ppm: i64, slew: i64) -> ClockPlan {
    ClockPlan { raw_ppm, slews: vec![(0, slew)] }
}

fn quiet() -> Plan {
    Plan {
        end: 20_000,
        lease: 3_000,
        lease_changes: vec![],
        clocks: [clock(0, 0), clock(0, 0), clock(0, 0)],
        cuts: vec![],
        pauses: vec![],
        elections: vec![],
        restarts: vec![],
        delay: 20,
        noise: 1,
    }
}

fn cut(from: u64, until: u64) -> Cut {
    Cut { from, until, requests: true, answers: true }
}

/// Safe by the rules, unsafe without the one.
fn kills(mutant: Mutant, plan: Plan) -> Outcome {
    let outcome = World::run(plan.clone(), Mutant::None);
    assert_eq!(outcome.violation, None, "{plan:?}");
    assert!(outcome.grants > 0 && outcome.expired > 0, "nothing was tried: {outcome:?}");
    let bent = World::run(plan.clone(), mutant);
    assert!(bent.violation.is_some(), "{mutant:?} survives {plan:?}");
    outcome
}

#[test]
fn a_quiet_cluster_fences_nobody() {
    let outcome = World::run(quiet(), Mutant::None);
    assert_eq!((outcome.violation, outcome.fences, outcome.expired), (None, 0, 0));
    assert!(outcome.grants > 20 && outcome.registers == 1);
}

#[test]
fn a_node_cut_off_is_fenced_and_comes_back() {
    let outcome = World::run(Plan { cuts: vec![cut(5_000, 12_000)], ..quiet() }, Mutant::None);
    assert_eq!((outcome.violation, outcome.fences), (None, 1));
    assert!(outcome.registers >= 2);
}

#[test]
fn s8_two_slewed_clocks() {
    let clocks = [clock(-CRYSTAL, -SLEW), clock(CRYSTAL, SLEW), clock(CRYSTAL, SLEW)];
    let outcome =
        kills(Mutant::OneClockOnly, Plan { clocks, cuts: vec![cut(5_000, 12_000)], ..quiet() });
    assert_eq!(outcome.fences, 1);
}

#[test]
fn s9_the_lease_of_the_answer_counts() {
    let plan = Plan {
        end: 40_000,
        lease: 10_000,
        lease_changes: vec![(3_000, 2_000)],
        cuts: vec![cut(20_000, 40_000)],
        ..quiet()
    };
    assert_eq!(kills(Mutant::LeaseOfTheAnswerIgnored, plan).settled, 1);
}

#[test]
fn s9_an_expiry_is_never_moved_back() {
    let answers_lost = Cut { from: 4_900, until: 8_500, requests: false, answers: true };
    let plan = Plan {
        end: 30_000,
        lease: 10_000,
        lease_changes: vec![(5_000, 2_000)],
        cuts: vec![answers_lost, cut(8_500, 30_000)],
        ..quiet()
    };
    kills(Mutant::ExpiryMovedBack, plan);
}

#[test]
fn a_lease_is_not_counted_from_receipt() {
    let plan = Plan { delay: 600, cuts: vec![cut(9_000, 20_000)], noise: 3, ..quiet() };
    kills(Mutant::LeaseFromReceipt, plan);
}

#[test]
fn a_lease_is_not_counted_from_another_request() {
    let killed = (0..200).any(|noise| {
        let plan = Plan { delay: 700, cuts: vec![cut(9_000, 20_000)], noise, ..quiet() };
        assert_eq!(World::run(plan.clone(), Mutant::None).violation, None, "{plan:?}");
        World::run(plan, Mutant::SentOfAnotherRequest).violation.is_some()
    });
    assert!(killed);
}

#[test]
fn l3_no_wait_after_an_election_would_fence_the_healthy() {
    let plan = Plan { elections: vec![(6_000, 3_100)], ..quiet() };
    assert_eq!(World::run(plan.clone(), Mutant::None).fences, 0);
    assert!(World::run(plan, Mutant::NoWaitAfterElection).fences > 0);
}

fn clocks() -> impl Strategy<Value = ClockPlan> {
    let slew = prop_oneof![Just(-SLEW), Just(SLEW), Just(0), -SLEW..=SLEW];
    let slews = prop::collection::vec((0..40_000_u64, slew), 0..4);
    let raw = prop_oneof![Just(-CRYSTAL), Just(CRYSTAL), -CRYSTAL..=CRYSTAL];
    (raw, slews).prop_map(|(raw_ppm, mut slews)| {
        slews.sort_unstable();
        ClockPlan { raw_ppm, slews }
    })
}

fn cuts() -> impl Strategy<Value = Vec<Cut>> {
    let one = (1_000..40_000_u64, 500..15_000_u64, 0..3_u8).prop_map(|(from, span, kind)| Cut {
        from,
        until: from + span,
        requests: kind != 0,
        answers: kind != 1,
    });
    prop::collection::vec(one, 0..4)
}

fn pauses() -> impl Strategy<Value = Vec<Pause>> {
    let one = (0..3_usize, 1_000..40_000_u64, 100..12_000_u64, any::<bool>()).prop_map(
        |(who, from, span, suspended)| Pause { who, from, until: from + span, suspended },
    );
    prop::collection::vec(one, 0..3)
}

prop_compose! {
    fn plans()(
        lease in prop::sample::select(vec![2_000, 3_000, 5_000, 10_000]),
        lease_changes in prop::collection::vec(
            (1_000..30_000_u64, prop::sample::select(vec![2_000, 3_000, 5_000, 10_000])), 0..3),
        clocks in [clocks(), clocks(), clocks()],
        cuts in cuts(),
        pauses in pauses(),
        elections in prop::collection::vec((2_000..9_000_u64, 300..5_000_u64), 0..3),
        restarts in prop::collection::vec((1_000..40_000_u64, 0..2_usize), 0..3),
        delay in prop_oneof![Just(20_u64), 20..700_u64],
        noise in any::<u64>(),
    ) -> Plan {
        let mut from = 0;
        let elections = elections.into_iter().map(|(after, gap)| {
            from += after + gap;
            (from - gap, gap)
        });
        let mut plan = Plan {
            end: 45_000, lease, lease_changes, cuts, pauses,
            elections: elections.collect(),
            clocks, restarts, delay, noise,
        };
        // one clock of a machine may fail, not both: asleep, only boottime is left to tell
        if plan.pauses.iter().any(|pause| pause.who == 0 && pause.suspended) {
            plan.clocks[0].slews.clear();
        }
        plan
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_right_never_outlasts_the_earliest_fence(plan in plans()) {
        let outcome = World::run(plan, Mutant::None);
        prop_assert_eq!(outcome.violation, None);
    }

    #[test]
    fn an_election_alone_fences_nobody(plan in plans(), gap in 300..6_000_u64) {
        let plan = Plan {
            lease_changes: vec![], cuts: vec![], pauses: vec![], restarts: vec![],
            elections: vec![(8_000, gap), (20_000, gap)],
            delay: plan.delay.min(100),
            ..plan
        };
        let outcome = World::run(plan, Mutant::None);
        prop_assert_eq!((outcome.violation, outcome.fences), (None, 0));
    }
}

/// Random plans until one shows a violation, at most `most`; also what they exercised.
fn search(mutant: Mutant, most: u32) -> (bool, Outcome) {
    let mut runner = TestRunner::deterministic();
    let mut all = Outcome::default();
    for _ in 0..most {
        let plan = plans().new_tree(&mut runner).unwrap().current();
        let outcome = World::run(plan, mutant);
        if outcome.violation.is_some() {
            return (true, all);
        }
        all.grants += outcome.grants;
        all.fences += outcome.fences;
        all.registers += outcome.registers;
        all.settled += outcome.settled;
        all.expired += outcome.expired;
    }
    (false, all)
}

#[test]
fn random_plans_kill_every_mutant() {
    let (violated, exercised) = search(Mutant::None, 60);
    assert!(!violated);
    let Outcome { grants, fences, registers, settled, expired, .. } = exercised;
    let rare = [grants, fences, registers - 60, settled, expired].into_iter().min();
    assert!(rare >= Some(10), "the plans try too little: {exercised:?}");
    for mutant in [
        Mutant::LeaseFromReceipt,
        Mutant::SentOfAnotherRequest,
        Mutant::LeaseOfTheAnswerIgnored,
        Mutant::OneClockOnly,
        Mutant::ExpiryMovedBack,
    ] {
        assert!(search(mutant, 400).0, "{mutant:?} survives");
    }
}
