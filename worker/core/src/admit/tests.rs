//! Tables of admission and retry, enumerated where they are small, and walks over calls.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    Class, DEFAULT_DEADLINE, Header, MAX_ATTEMPTS, MIN_PARK, Nack, PARK_BEYOND_LEASE,
    PARK_PER_NODE, PARK_PER_SHARD, STALE_WAIT,
    generations::{Generation, Generations, Origin},
    ingress::{Call, Decision, Outcome, Parked, Status, leaves, retry, without_owner},
    owner::{Facts, Queue, Recheck, Verdict, Withheld, admit, recheck},
};
use crate::{
    handoff::{Local, Process, Tombstone},
    id::{Epoch, Incarnation, LogIndex, MapVersion, MoveId, NodeId, Timestamp},
    registry::{Holding, ShardRow},
};

const MS: Duration = Duration::from_millis(1);
const LEASE: Duration = Duration::from_secs(3);
const EPOCH: Epoch = Epoch(7);
const MOVE: MoveId = MoveId(40);

fn process(node: u64) -> Process {
    let incarnation = Incarnation { counter: 1, nonce: node };
    Process::new(NodeId(node), incarnation)
}

fn owned(owner: Process, changed: u64) -> ShardRow {
    ShardRow {
        epoch: EPOCH,
        holding: Holding::Owned { node: owner.node, incarnation: owner.incarnation, via: None },
        changed: LogIndex(changed),
    }
}

fn moving(owner: Process) -> ShardRow {
    ShardRow {
        holding: Holding::Moving {
            node: owner.node,
            incarnation: owner.incarnation,
            via: None,
            target: NodeId(9),
            target_incarnation: process(9).incarnation,
            id: MOVE,
        },
        ..owned(owner, MOVE.0)
    }
}

fn unassigned() -> ShardRow {
    ShardRow { holding: Holding::Unassigned, ..owned(process(1), 30) }
}

fn at(millis: u64) -> Timestamp {
    Timestamp::default().plus(MS * u32::try_from(millis).unwrap())
}

fn serving() -> Facts {
    Facts {
        me: process(1),
        row: Some(owned(process(1), 30)),
        applied: LogIndex(50),
        map_version: MapVersion(50),
        local: Local::Open { epoch: EPOCH },
        right: at(2_000),
        now: at(1_000),
        header: Header { epoch: EPOCH, map_version: MapVersion(50), budget: DEFAULT_DEADLINE },
        waited: Duration::ZERO,
        queue: Queue { calls: 0, max_calls: 8 },
    }
}

fn locals() -> Vec<Local> {
    let tombstone = Tombstone { to: Some(NodeId(2)), epoch: EPOCH.next(), row: LogIndex(60) };
    let mut locals =
        vec![Local::Closed { tombstone: None }, Local::Closed { tombstone: Some(tombstone) }];
    for epoch in [Epoch(6), EPOCH, Epoch(8)] {
        locals.extend([
            Local::Opening { epoch },
            Local::Open { epoch },
            Local::Draining { epoch, id: MOVE },
            Local::Frozen { epoch, id: MOVE },
            Local::Superseded { epoch, by: Epoch(9) },
        ]);
    }
    locals
}

/// Every combination of the facts that admission looks at.
fn all_facts() -> Vec<Facts> {
    let rows = [
        None,
        Some(owned(process(1), 30)),
        Some(moving(process(1))),
        Some(owned(process(2), 30)),
        Some(unassigned()),
    ];
    let mut all = Vec::new();
    for row in rows {
        for local in locals() {
            for epoch in [Epoch(6), EPOCH, Epoch(8)] {
                for (applied, right, waited, budget, calls) in small_facts() {
                    let mut facts = serving();
                    facts.row = row;
                    facts.local = local;
                    facts.header.epoch = epoch;
                    facts.applied = LogIndex(applied);
                    facts.right = at(right);
                    facts.waited = waited;
                    facts.header.budget = budget;
                    facts.queue.calls = calls;
                    all.push(facts);
                }
            }
        }
    }
    all
}

fn small_facts() -> Vec<(u64, u64, Duration, Duration, u32)> {
    let mut all = Vec::new();
    for applied in [29, 50] {
        for right in [1_000, 1_001] {
            for waited in [Duration::ZERO, STALE_WAIT] {
                for budget in [Duration::ZERO, 50 * MS, 400 * MS] {
                    for calls in [7, 8] {
                        all.push((applied, right, waited, budget, calls));
                    }
                }
            }
        }
    }
    all
}

fn owns(facts: &Facts) -> bool {
    facts
        .row
        .and_then(|row| row.owner())
        .is_some_and(|owner| owner == (facts.me.node, facts.me.incarnation))
}

#[test]
fn a_call_is_admitted_exactly_when_every_condition_holds() {
    let mut admitted = 0;
    for facts in all_facts() {
        let wanted = owns(&facts)
            && facts.row.unwrap().changed <= facts.applied
            && facts.header.epoch <= EPOCH
            && facts.local == (Local::Open { epoch: EPOCH })
            && facts.now.boottime < facts.right.boottime
            && facts.waited < facts.header.budget
            && facts.queue.calls < facts.queue.max_calls;
        let verdict = admit(&facts).verdict;
        let hint = facts.header.epoch < EPOCH;
        let as_wanted = verdict == Verdict::Admit { epoch: EPOCH, hint };
        assert_eq!(as_wanted, wanted, "{verdict:?} for {facts:?}");
        assert!(as_wanted || !matches!(verdict, Verdict::Admit { .. }));
        admitted += u32::from(wanted);
    }
    assert!(admitted > 0);
}

#[test]
fn every_other_verdict_names_its_reason() {
    for facts in all_facts() {
        let expired = facts.waited >= facts.header.budget;
        match admit(&facts).verdict {
            Verdict::Nack(Nack::Expired) => assert!(expired),
            Verdict::Nack(Nack::Moving { row }) => {
                assert_eq!(row, LogIndex(MOVE.0));
                assert!(owns(&facts) && facts.header.epoch <= EPOCH);
            }
            Verdict::Nack(Nack::NotOwner { owner, row, .. }) => {
                assert!(!owns(&facts) && owner != Some(facts.me.node));
                assert!(row >= facts.row.unwrap().changed);
            }
            Verdict::Nack(Nack::Busy { .. }) => assert_eq!(facts.queue.calls, 8),
            Verdict::Nack(Nack::StaleReceiver) => assert!(
                facts.row.is_none_or(|row| row.changed > facts.applied)
                    || facts.header.epoch > EPOCH
                    || facts.now.maybe_past(facts.right)
                    || matches!(facts.local, Local::Superseded { .. })
            ),
            Verdict::Wait(span) => {
                assert!(!span.is_zero() && span <= facts.header.budget, "{facts:?}");
            }
            Verdict::Admit { .. } => assert!(!expired),
        }
    }
}

#[test]
fn a_receiver_that_sees_a_higher_epoch_waits_shortly_and_stops_serving() {
    let mut facts = serving();
    facts.header.epoch = EPOCH.next();
    let admission = admit(&facts);
    assert_eq!(admission.verdict, Verdict::Wait(STALE_WAIT));
    assert!(admission.stop_serving);

    facts.header.budget = 80 * MS;
    assert_eq!(admit(&facts).verdict, Verdict::Wait(20 * MS));
    facts.waited = 20 * MS;
    let stale = Verdict::Nack(Nack::StaleReceiver);
    assert_eq!(admit(&facts).verdict, stale);

    for facts in all_facts() {
        let served = match facts.local {
            Local::Closed { .. } => None,
            Local::Opening { epoch }
            | Local::Open { epoch }
            | Local::Draining { epoch, .. }
            | Local::Frozen { epoch, .. }
            | Local::Superseded { epoch, .. } => Some(epoch),
        };
        let stop = served.is_some_and(|served| served < facts.header.epoch);
        assert_eq!(admit(&facts).stop_serving, stop);
    }
}

#[test]
fn the_right_ends_by_whichever_clock_says_so() {
    let mut facts = serving();
    facts.now = Timestamp::new(2_000 * MS, 1_000 * MS);
    // The answer that brings a right follows the row by a moment.
    assert_eq!(admit(&facts).verdict, Verdict::Wait(STALE_WAIT));
    facts.waited = STALE_WAIT;
    let stale = Verdict::Nack(Nack::StaleReceiver);
    assert_eq!(admit(&facts).verdict, stale);
    facts.now = Timestamp::new(1_000 * MS, 2_000 * MS);
    assert_eq!(admit(&facts).verdict, stale);
}

#[test]
fn an_assignment_under_the_same_epoch_is_waited_for_when_the_caller_saw_it() {
    let mut facts = serving();
    facts.local = Local::Closed { tombstone: None };
    facts.row = Some(unassigned());
    facts.header.map_version = MapVersion(51);
    assert_eq!(admit(&facts).verdict, Verdict::Wait(STALE_WAIT));
    facts.header.map_version = MapVersion(50);
    let nack = Nack::NotOwner { owner: None, epoch: EPOCH, row: LogIndex(30) };
    assert_eq!(admit(&facts).verdict, Verdict::Nack(nack));
}

#[test]
fn an_answer_is_withheld_unless_table_right_and_state_still_stand() {
    let mut acknowledged = 0;
    for facts in all_facts() {
        let facts = Recheck {
            me: facts.me,
            admitted: facts.header.epoch,
            row: facts.row,
            local: facts.local,
            right: facts.right,
            now: facts.now,
        };
        let mine = facts.row.is_some_and(|row| {
            row.epoch == facts.admitted
                && row.owner() == Some((facts.me.node, facts.me.incarnation))
        });
        let open = [Local::Open { epoch: EPOCH }, Local::Draining { epoch: EPOCH, id: MOVE }]
            .contains(&facts.local);
        let right = facts.now.boottime < facts.right.boottime;
        let answer = recheck(&facts);
        assert_eq!(answer.is_ok(), mine && open && right, "{facts:?}");
        acknowledged += u32::from(answer.is_ok());
        if answer == Err(Withheld::RightEnded) {
            assert!(!right && mine && open);
        }
    }
    assert!(acknowledged > 0);
}

#[test]
fn a_drain_waits_for_admitted_calls_and_does_not_withhold_them() {
    let facts = Recheck {
        me: process(1),
        admitted: EPOCH,
        row: Some(moving(process(1))),
        local: Local::Draining { epoch: EPOCH, id: MOVE },
        right: at(10),
        now: at(9),
    };
    assert_eq!(recheck(&facts), Ok(()));
    let frozen = Local::Frozen { epoch: EPOCH, id: MOVE };
    let facts = Recheck { local: frozen, ..facts };
    assert_eq!(recheck(&facts), Err(Withheld::Frozen));
}

fn call(class: Class) -> Call {
    Call {
        class,
        bytes: 1 << 10,
        attempts: 0,
        stale_since: None,
        sent: 1,
        paced: LogIndex(30),
        tainted: false,
        left: DEFAULT_DEADLINE,
        row_sent: LogIndex(30),
        row_now: LogIndex(30),
    }
}

const EMPTY: Parked = Parked { shard_bytes: 0, node_bytes: 0, lease: LEASE };
const CLASSES: [Class; 3] = [Class::Plain, Class::Idempotent, Class::Deduplicated];

fn not_owner(row: u64) -> Outcome {
    Outcome::Nack(Nack::NotOwner {
        owner: Some(NodeId(2)),
        epoch: EPOCH.next(),
        row: LogIndex(row),
    })
}

fn moving_nack(row: u64) -> Outcome {
    Outcome::Nack(Nack::Moving { row: LogIndex(row) })
}

#[test]
fn proof_of_non_execution_decides_for_every_class() {
    for class in CLASSES {
        for outcome in [Outcome::NotSent, Outcome::Refused] {
            let mut call = call(class);
            // However often: nothing but the deadline ends it.
            for _ in 0..100 {
                let (next, decision) = retry(outcome, call, &EMPTY);
                assert!(matches!(decision, Decision::Resend { .. }), "{decision:?}");
                call = next;
            }
            call.left = Duration::ZERO;
            let (_, decision) = retry(outcome, call, &EMPTY);
            assert!(matches!(decision, Decision::Answer(Status::Unavailable { .. })));
        }
        let (call, decision) = retry(Outcome::Unknown, call(class), &EMPTY);
        let unknown = Decision::Answer(Status::OutcomeUnknown);
        assert_eq!(decision == unknown, class == Class::Plain);
        assert_eq!(retry(Outcome::Unknown, call, &EMPTY).1, unknown);
    }
}

#[test]
fn a_stale_receiver_is_asked_until_a_failover_would_be_over() {
    let mut call = call(Class::Plain);
    let mut spent = Duration::ZERO;
    let status = loop {
        call.left = DEFAULT_DEADLINE - spent;
        let (next, decision) = retry(Outcome::Nack(Nack::StaleReceiver), call, &EMPTY);
        call = next;
        match decision {
            // The receiver itself waits for its table before it refuses.
            Decision::Pause { past, at_most } => {
                assert_eq!(past, call.row_sent, "a newer row ends the pause");
                spent += at_most + STALE_WAIT;
            }
            Decision::Answer(status) => break status,
            Decision::Park { .. } | Decision::Resend { .. } => panic!("{decision:?}"),
        }
    };
    assert!(matches!(status, Status::Unavailable { .. }));
    assert!(spent >= LEASE && spent <= LEASE + PARK_BEYOND_LEASE + STALE_WAIT, "{spent:?}");
    // A row that changed meanwhile names another owner, or the same one anew.
    let newer = Call { row_now: LogIndex(31), ..call };
    let at_once = Decision::Resend { after: Duration::ZERO };
    assert_eq!(retry(Outcome::Nack(Nack::StaleReceiver), newer, &EMPTY).1, at_once);
    // What waits takes room like what is parked.
    let full = Parked { shard_bytes: PARK_PER_SHARD, ..EMPTY };
    let fresh = Call { stale_since: None, sent: 1, left: DEFAULT_DEADLINE, ..call };
    let (_, decision) = retry(Outcome::Nack(Nack::StaleReceiver), fresh, &full);
    assert!(matches!(decision, Decision::Answer(Status::ResourceExhausted { .. })));
}

/// A call that waited long for a killed owner must not wait as long again because its successor,
/// whom the next row names, needs another moment.
#[test]
fn a_newer_row_begins_the_pauses_anew() {
    let stale = Outcome::Nack(Nack::StaleReceiver);
    let pauses = |mut call: Call| {
        let paused = (0..8).map(|_| {
            let decision;
            (call, decision) = retry(stale, call, &EMPTY);
            match decision {
                Decision::Pause { at_most, .. } => at_most,
                other => panic!("{other:?}"),
            }
        });
        let paused: Vec<_> = paused.collect();
        (call, paused)
    };
    let (waited, by_this_row) = pauses(Call { sent: 0, ..call(Class::Plain) });
    assert_eq!(by_this_row.last(), Some(&super::ingress::PAUSES.1));
    // The pause ended with the row that came, by which it was sent again.
    let next = LogIndex(31);
    let (_, by_the_next) = pauses(Call { row_sent: next, row_now: next, ..waited });
    assert_eq!(by_the_next, by_this_row);
}

#[test]
fn busy_and_expired_end_after_four_attempts() {
    let nacks = [Nack::Busy { after: 5 * MS }, Nack::Expired];
    for nack in nacks {
        let mut call = call(Class::Plain);
        let mut resent = 0;
        let status = loop {
            let (next, decision) = retry(Outcome::Nack(nack), call, &EMPTY);
            call = next;
            match decision {
                Decision::Resend { after } => {
                    resent += 1;
                    assert!(after >= 5 * MS || !matches!(nack, Nack::Busy { .. }));
                }
                Decision::Answer(status) => break status,
                Decision::Park { .. } | Decision::Pause { .. } => panic!("held for {nack:?}"),
            }
        };
        assert_eq!(resent + 1, MAX_ATTEMPTS);
        assert!(matches!(status, Status::Unavailable { .. }));
    }
}

#[test]
fn moving_parks_past_its_row_and_not_owner_until_its_row() {
    let at_most = LEASE + PARK_BEYOND_LEASE;
    let parked = |past| Decision::Park { past: LogIndex(past), at_most };
    let call = call(Class::Plain);
    assert_eq!(retry(moving_nack(40), call, &EMPTY).1, parked(40));
    assert_eq!(retry(moving_nack(30), call, &EMPTY).1, parked(30));
    // The row that makes the other the owner is itself the one to wait for.
    assert_eq!(retry(not_owner(40), call, &EMPTY).1, parked(39));

    let newer = Call { row_now: LogIndex(41), ..call };
    let at_once = Decision::Resend { after: Duration::ZERO };
    for outcome in [moving_nack(40), not_owner(40), not_owner(41)] {
        assert_eq!(retry(outcome, newer, &EMPTY).1, at_once);
    }
    assert_eq!(without_owner(&unassigned(), &call, &EMPTY), parked(30));
}

#[test]
fn a_receiver_behind_its_caller_is_not_asked_in_a_hot_loop() {
    for outcome in [moving_nack(29), not_owner(29), not_owner(30)] {
        let mut call = call(Class::Plain);
        let mut waited = Duration::ZERO;
        for _ in 0..20 {
            let (next, decision) = retry(outcome, call, &EMPTY);
            let Decision::Resend { after } = decision else {
                panic!("{decision:?}");
            };
            waited += after;
            call = next;
        }
        assert!(waited >= Duration::from_secs(5));
    }
}

#[test]
fn a_full_park_is_said_and_a_short_deadline_ends_it() {
    let call = call(Class::Plain);
    let full = |shard_bytes, node_bytes| Parked { shard_bytes, node_bytes, lease: LEASE };
    for parked in [full(PARK_PER_SHARD - 1, 0), full(0, PARK_PER_NODE - 1)] {
        let (_, decision) = retry(moving_nack(40), call, &parked);
        let exhausted = Decision::Answer(Status::ResourceExhausted { retry_after: 640 * MS });
        assert_eq!(decision, exhausted);
        let tainted = Call { tainted: true, ..call };
        let (_, decision) = retry(moving_nack(40), tainted, &parked);
        assert_eq!(decision, Decision::Answer(Status::OutcomeUnknown));
    }
    let fits = full(PARK_PER_SHARD - call.bytes, PARK_PER_NODE - call.bytes);
    let short = Call { left: 70 * MS, ..call };
    let parked = Decision::Park { past: LogIndex(40), at_most: 70 * MS };
    assert_eq!(retry(moving_nack(40), short, &fits).1, parked);
    assert!(LEASE + PARK_BEYOND_LEASE >= MIN_PARK);
}

#[test]
fn p1_idle_renewals_do_not_wake_parked_calls() {
    let (_, decision) = retry(moving_nack(MOVE.0), call(Class::Plain), &EMPTY);
    let Decision::Park { past, .. } = decision else {
        panic!("{decision:?}");
    };
    // Renewals move the index of the table; the row stays where its last change left it.
    let row = moving(process(1));
    for table in 41..2_000 {
        assert!(row.changed < LogIndex(table) && !leaves(past, &row));
    }
    let committed = owned(process(2), 2_000);
    assert!(leaves(past, &committed));
}

#[test]
fn s14_frames_of_an_older_pipe_are_dropped_once_a_newer_one_is_open() {
    let mut pipes = Generations::default();
    let origin = Origin { peer: process(2), thread: 0 };
    let other_thread = Origin { thread: 1, ..origin };
    let (first, second) = (Generation(1), Generation(2));
    assert!(pipes.open(origin, first));
    assert!(pipes.open(other_thread, first));
    assert!(pipes.may_admit(origin, first));

    // The stalled owner accepts the second pipe before it reads what waits in the first.
    assert!(pipes.open(origin, second));
    assert!(!pipes.may_admit(origin, first));
    assert!(pipes.may_admit(origin, second));
    assert!(pipes.may_admit(other_thread, first));

    assert!(!pipes.open(origin, first), "an older pipe came late");
    assert!(pipes.may_admit(origin, second));

    pipes.forget(process(2));
    assert!(!pipes.may_admit(origin, second));
    assert!(!pipes.may_admit(other_thread, first));
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::NotSent),
        Just(Outcome::Refused),
        Just(Outcome::Unknown),
        Just(Outcome::Nack(Nack::StaleReceiver)),
        Just(Outcome::Nack(Nack::Expired)),
        Just(Outcome::Nack(Nack::Busy { after: 30 * MS })),
        (20_u64..60).prop_map(moving_nack),
        (20_u64..60).prop_map(not_owner),
    ]
}

proptest! {
    #[test]
    fn no_call_runs_twice_unless_it_may_and_none_outlives_its_deadline(
        outcomes in prop::collection::vec((outcomes(), 0_u64..40), 1..60),
        class in prop::sample::select(CLASSES.to_vec()),
    ) {
        let mut call = call(class);
        let mut possible_runs = 0_u32;
        let mut spent = Duration::ZERO;
        for (outcome, millis) in outcomes {
            possible_runs += u32::from(outcome == Outcome::Unknown);
            call.left = DEFAULT_DEADLINE.saturating_sub(spent);
            let (next, decision) = retry(outcome, call, &EMPTY);
            call = next;
            spent += MS * u32::try_from(millis).unwrap();
            match decision {
                Decision::Resend { after } => {
                    prop_assert!(possible_runs == 0 || class.may_run_twice());
                    prop_assert!(possible_runs <= 1);
                    spent += after;
                    call.row_sent = call.row_now;
                }
                Decision::Park { past, at_most } => {
                    prop_assert!(past >= call.row_now, "would leave at once");
                    prop_assert!(at_most <= call.left);
                    spent += at_most / 20;
                    call.row_now = LogIndex(past.0 + 1);
                    call.row_sent = call.row_now;
                }
                Decision::Pause { past, at_most } => {
                    prop_assert!(possible_runs == 0 || class.may_run_twice());
                    prop_assert!(past == call.row_sent && at_most < call.left);
                    spent += at_most;
                }
                Decision::Answer(status) => {
                    prop_assert_ne!(status, Status::Result);
                    let unknown = status == Status::OutcomeUnknown;
                    prop_assert_eq!(unknown, possible_runs > 0);
                    return Ok(());
                }
            }
            prop_assert!(spent < DEFAULT_DEADLINE + LEASE + PARK_BEYOND_LEASE);
        }
    }
}
