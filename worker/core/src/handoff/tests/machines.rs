//! Named executions on the composed world, and the machines one by one.

use std::time::Duration;

use super::world::{Checked, Command, Counter, SHARD, World};
use crate::{
    handoff::{
        Action, Body, DRAIN_CAP, GiveUp, LAST_ATTEMPT, Leader, Local, Message, News, ONE_CHUNK,
        PREPARE_CAP, Process, Refusal, Report, SILENCE, SMALL_STATE, STUBBORN_ROUNDS, Shard, State,
        Step, Whole,
        leader::{Action as Proposal, Event as LeaderEvent, FIRST_BACK_OFF, LAST_BACK_OFF, Why},
        shard::Event,
    },
    id::{Epoch, Incarnation, LogIndex, MoveId, NodeId, Timestamp},
    registry::{Holding, MoveRef, ShardRow},
};

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

/// Node A owns the shard and has acknowledged five increments.
fn served() -> World {
    let mut world = World::new(None);
    world.apply(Command::Assign(world.nodes[A].process)).unwrap();
    world.run_until("A serving", |world| world.admits(A)).unwrap();
    for _ in 0..5 {
        assert!(world.call(A) && world.finish(A).unwrap());
    }
    world
}

fn begin(world: &mut World, target: usize) -> MoveRef {
    world.apply(Command::Begin(world.nodes[target].process)).unwrap();
    world.moving().expect("a move")
}

fn is_released(world: &World) -> bool {
    world.pending.iter().any(|command| matches!(command, Command::Commit(_)))
}

/// A move from A to B that is released, its commit not applied.
fn released() -> World {
    let mut world = served();
    begin(&mut world, B);
    world.hold_commands = true;
    world.run_until("the release", is_released).unwrap();
    assert!(matches!(world.nodes[A].shard.local(), Local::Frozen { .. }));
    assert!((A..=C).all(|node| !world.admits(node)));
    world
}

fn state(world: &World, node: usize) -> Option<Counter> {
    world.nodes[node].host.open
}

#[test]
fn a_planned_move_hands_the_state_over() -> Checked {
    let mut world = served();
    begin(&mut world, B);
    world.run_until("B serving", |world| world.admits(B))?;
    assert_eq!(state(&world, B).map(|state| state.count), Some(5));
    assert_eq!(world.row().epoch, Epoch(2));
    world.run_until("A leaving a tombstone", |world| {
        matches!(world.nodes[A].shard.local(), Local::Closed { tombstone: Some(_) })
    })?;
    let Local::Closed { tombstone: Some(tombstone) } = world.nodes[A].shard.local() else {
        return Err("no tombstone".into());
    };
    assert_eq!(tombstone.to, Some(NodeId(2)));
    assert_eq!((tombstone.epoch, tombstone.row), (Epoch(2), world.row().changed));
    world.heal()
}

#[test]
fn s11_target_restarts_before_the_commit_is_applied() -> Checked {
    let mut world = released();
    world.crash(B);
    world.register(B)?;
    assert_eq!(world.owner(), Some(A), "the fence ends the move");
    world.hold_commands = false;
    world.run_until("A serving again", |world| world.admits(A) && world.pending.is_empty())?;
    assert_eq!(world.owner(), Some(A), "the late commit is refused");
    assert_eq!(state(&world, A).map(|state| state.count), Some(5));
    world.heal()
}

#[test]
fn s11_target_restarts_after_the_commit_was_applied() -> Checked {
    let mut world = released();
    // B's table has not reached the commit when B dies.
    world.lagging.insert(B);
    let commits = std::mem::take(&mut world.pending);
    for command in commits {
        world.apply(command)?;
    }
    assert_eq!(world.owner(), Some(B));
    world.crash(B);
    world.register(B)?;
    assert_eq!(world.row().holding, Holding::Unassigned);
    world.hold_commands = false;
    world.lagging.clear();
    world.apply(Command::Assign(world.nodes[A].process))?;
    world.run_until("A serving", |world| world.admits(A))?;
    // Its old state was handed over and is gone; the failover opens empty under a new epoch.
    assert_eq!(state(&world, A).map(|state| state.count), Some(0));
    assert_eq!(world.row().epoch, Epoch(3));
    world.heal()
}

#[test]
fn s12_target_dies_before_commit_owner_still_has_its_state() -> Checked {
    let mut world = released();
    let lost = std::mem::take(&mut world.pending);
    assert!(!lost.is_empty());
    world.crash(B);
    for _ in 0..2_000 {
        world.round()?;
        assert!(matches!(world.nodes[A].shard.local(), Local::Frozen { .. }));
    }
    assert_eq!(world.nodes[A].host.frozen.map(|state| state.count), Some(5));
    world.hold_commands = false;
    world.fence(B)?;
    world.run_until("A serving again", |world| world.admits(A))?;
    assert_eq!(state(&world, A).map(|state| state.count), Some(5));
    assert_eq!(world.row().epoch, Epoch(1));
    world.heal()
}

#[test]
fn s12_received_state_waits_for_the_row_however_long() -> Checked {
    let mut world = released();
    world.lagging.insert(B);
    world.hold_commands = false;
    world.run_until("the commit", |world| world.owner() == Some(B))?;
    for _ in 0..100 {
        world.tick(Duration::from_secs(60))?;
    }
    world.lagging.clear();
    world.run_until("B serving", |world| world.admits(B))?;
    assert_eq!(state(&world, B).map(|state| state.count), Some(5));
    Ok(())
}

#[test]
fn s19_received_state_of_an_old_move_is_not_opened_by_a_later_assignment() -> Checked {
    let mut world = released();
    world.lagging.insert(B);
    let key = world.moving().expect("the move");
    world.pending.clear();
    world.abort(key);
    world.hold_commands = false;
    world.run_until("the abort", |world| world.admits(A))?;
    world.crash(A);
    world.fence(A)?;
    world.apply(Command::Assign(world.nodes[B].process))?;
    world.lagging.clear();
    world.run_until("B serving", |world| world.admits(B))?;
    assert_eq!(state(&world, B).map(|state| state.count), Some(0));
    assert_eq!(world.nodes[B].shard.receiving().count(), 0);
    world.heal()
}

#[test]
fn s19_a_second_move_to_a_lagging_target_opens_its_own_state() -> Checked {
    let mut world = released();
    world.lagging.insert(B);
    let first = world.moving().expect("the move");
    world.pending.clear();
    world.abort(first);
    world.hold_commands = false;
    world.run_until("the abort", |world| world.admits(A))?;
    assert!(world.call(A) && world.finish(A)?);
    let second = begin(&mut world, B);
    world.run_until("the commit", |world| world.owner() == Some(B))?;
    let held: Vec<_> = world.nodes[B].shard.receiving().collect();
    assert_eq!(held, [first, second]);
    world.lagging.clear();
    world.run_until("B serving", |world| world.admits(B))?;
    assert_eq!(state(&world, B).map(|state| state.count), Some(6));
    Ok(())
}

#[test]
fn p2_a_long_call_ends_the_move_and_not_the_call() -> Checked {
    let mut world = served();
    assert!(world.call(A));
    begin(&mut world, B);
    let began = world.now;
    world.run_until("the abort", |world| world.moving().is_none())?;
    let tried = world.now.at_least_since(began);
    assert!(tried >= DRAIN_CAP && tried < DRAIN_CAP + Duration::from_secs(1));
    world.run_until("A admitting again", |world| world.admits(A))?;
    // The call ends after four seconds and is acknowledged.
    while world.now.at_least_since(began) < Duration::from_secs(4) {
        world.round()?;
        assert!(world.admits(A));
    }
    assert!(world.finish(A)?);
    assert_eq!((world.acked, world.nodes[A].host.cancelled), (6, 0));
    assert_eq!(world.leader.back_offs(began).count(), 1);
    world.heal()
}

#[test]
fn p2_calls_are_cancelled_only_when_the_owner_must_leave() -> Checked {
    let mut world = served();
    assert!(world.call(A));
    let by = world.now.plus(LAST_ATTEMPT);
    world.event(A, Event::LeaveBy(by))?;
    begin(&mut world, B);
    world.run_until("B serving", |world| world.admits(B))?;
    assert_eq!(world.nodes[A].host.cancelled, 1);
    assert!(!world.now.maybe_past(by), "it left in time");
    assert_eq!(state(&world, B).map(|state| state.count), Some(5));
    Ok(())
}

#[test]
fn p3_an_abort_leaves_calls_in_flight_untouched() -> Checked {
    let mut world = served();
    assert!(world.call(A));
    let opened = world.nodes[A].host.opened;
    let key = begin(&mut world, B);
    world.run_until("the drain", |world| {
        matches!(world.nodes[A].shard.local(), Local::Draining { .. })
    })?;
    assert!(!world.admits(A));
    world.abort(key);
    world.run_until("A admitting again", |world| world.admits(A))?;
    assert!(world.finish(A)?, "the call is acknowledged under the same epoch");
    assert_eq!(world.nodes[A].host.opened, opened, "the host was not opened again");
    assert_eq!(world.nodes[A].host.cancelled, 0);
    world.heal()
}

#[test]
fn p4_target_slow_to_prepare_shard_still_served() -> Checked {
    let mut world = served();
    begin(&mut world, B);
    world.idle_hosts.insert(B);
    for _ in 0..1_000 {
        world.round()?;
        assert!(world.call(A) && world.finish(A)?);
    }
    assert!(world.moving().is_some(), "20 s are within its patience");
    world.idle_hosts.clear();
    world.run_until("B serving", |world| world.admits(B))?;
    assert_eq!(state(&world, B).map(|state| state.count), Some(1_005));
    Ok(())
}

#[test]
fn a_target_that_never_prepares_is_given_up() -> Checked {
    let mut world = served();
    begin(&mut world, B);
    world.idle_hosts.insert(B);
    let began = world.now;
    world.run_until("the abort", |world| world.moving().is_none())?;
    assert!(world.now.at_least_since(began) >= PREPARE_CAP);
    assert!(world.admits(A));
    Ok(())
}

#[test]
fn a_new_leader_finishes_what_the_old_one_began() -> Checked {
    let mut world = released();
    world.pending.clear();
    world.new_leader();
    world.hold_commands = false;
    world.run_until("B serving", |world| world.admits(B))?;
    assert_eq!(state(&world, B).map(|state| state.count), Some(5));
    Ok(())
}

#[test]
fn a_higher_epoch_stops_serving_until_the_own_table_follows() -> Checked {
    let mut world = served();
    world.event(A, Event::NewerEpoch(Epoch(1)))?;
    assert!(world.admits(A), "its own epoch is no news");
    world.event(A, Event::NewerEpoch(Epoch(2)))?;
    assert!(!world.admits(A));
    world.nodes[A].right = false;
    world.fence(A)?;
    world.apply(Command::Assign(world.nodes[B].process))?;
    world.run_until("B serving", |world| world.admits(B))?;
    assert!(matches!(world.nodes[A].shard.local(), Local::Closed { .. }));
    world.heal()
}

// --- one machine at a time ---

const KEY: MoveRef = MoveRef { shard: SHARD, epoch: Epoch(4), id: MoveId(50) };

fn process(node: u64) -> Process {
    Process::new(NodeId(node), Incarnation { counter: 1, nonce: node })
}

fn owned(epoch: u64, owner: Process, via: Option<u64>, changed: u64) -> ShardRow {
    let via = via.map(MoveId);
    let holding = Holding::Owned { node: owner.node, incarnation: owner.incarnation, via };
    ShardRow { epoch: Epoch(epoch), holding, changed: LogIndex(changed) }
}

fn moving(id: u64) -> ShardRow {
    let holding = Holding::Moving {
        node: process(1).node,
        incarnation: process(1).incarnation,
        via: None,
        target: process(2).node,
        target_incarnation: process(2).incarnation,
        id: MoveId(id),
    };
    ShardRow { epoch: Epoch(4), holding, changed: LogIndex(id) }
}

fn start() -> Timestamp {
    Timestamp::default().plus(Duration::from_secs(10))
}

fn after(millis: u64) -> Timestamp {
    start().plus(Duration::from_millis(millis))
}

/// The owner's shard, open and streaming to node 2.
fn streaming() -> Shard {
    let mut shard = Shard::new(SHARD, process(1));
    shard.on(Event::Row(owned(4, process(1), None, 40)), start());
    shard.on(Event::Opened(Epoch(4)), start());
    shard.on(Event::Row(moving(50)), start());
    let output = shard.on(from_target(Body::Prepared), start());
    assert_eq!(output.actions, [Action::Export { key: KEY, to: process(2) }]);
    shard
}

fn from_target(body: Body) -> Event {
    Event::Message { from: process(2), message: Message { key: KEY, body } }
}

fn step(step: Step) -> Event {
    Event::Host { key: KEY, step }
}

fn gave_up(actions: &[Action]) -> Option<GiveUp> {
    actions.iter().find_map(|action| match action {
        Action::Report(Report { news: News::GaveUp(why), .. }) => Some(*why),
        _ => None,
    })
}

#[test]
fn p6_200_mb_travel_while_the_owner_serves() {
    const MB: u64 = 1_000_000;
    let mut shard = streaming();
    // 200 MB in 4 s: 10 MB may be sent with calls parked, 30 MB may not.
    let round = Step::Round { sent: 200 * MB, remainder: 30 * MB };
    let output = shard.on(step(round), after(4_000));
    assert_eq!(output.actions, [Action::Export { key: KEY, to: process(2) }]);
    assert_eq!(shard.local(), Local::Open { epoch: Epoch(4) });
    let round = Step::Round { sent: 30 * MB, remainder: 4 * MB };
    let output = shard.on(step(round), after(4_600));
    assert_eq!(output.actions, [Action::Drain(KEY)]);
    assert_eq!(shard.local(), Local::Draining { epoch: Epoch(4), id: KEY.id });
}

#[test]
fn p6_a_host_that_cannot_export_moves_only_while_small() {
    for (total, moves) in [(SMALL_STATE, true), (SMALL_STATE + 1, false)] {
        let mut shard = streaming();
        let output = shard.on(step(Step::Measured { total }), after(1));
        assert_eq!(output.actions.contains(&Action::Drain(KEY)), moves);
        assert_eq!(gave_up(&output.actions), (!moves).then_some(GiveUp::TooLarge(total)));
    }
    // Better parked for long than lost: it has no time for another attempt.
    let mut shard = streaming();
    shard.on(Event::LeaveBy(after(4_000)), start());
    let output = shard.on(step(Step::Measured { total: 200 << 20 }), after(1));
    assert_eq!(output.actions, [Action::Drain(KEY)]);
}

#[test]
fn the_remainder_is_judged_by_the_rate_of_the_first_phase() {
    // (sent, millis, largest remainder that may stay)
    let table = [
        (0, 0, ONE_CHUNK),
        (1 << 20, 1_000, (1 << 20) / 5),
        (1 << 30, 2_000, (1 << 30) / 10),
        (1 << 10, 60_000, ONE_CHUNK),
    ];
    for (sent, millis, most) in table {
        for (remainder, drains) in [(most, true), (most + 1, false)] {
            let mut shard = streaming();
            let output = shard.on(step(Step::Round { sent, remainder }), after(millis));
            assert_eq!(
                output.actions.contains(&Action::Drain(KEY)),
                drains,
                "{sent} bytes in {millis} ms, {remainder} left"
            );
        }
    }
}

#[test]
fn state_that_changes_faster_than_it_travels_is_given_up() {
    let mut shard = streaming();
    let round = Step::Round { sent: 10 << 20, remainder: 10 << 20 };
    let mut now = 0;
    let mut rounds = 0;
    let why = loop {
        now += 1_000;
        rounds += 1;
        let output = shard.on(step(round), after(now));
        if let Some(why) = gave_up(&output.actions) {
            break why;
        }
        assert!(rounds < 20);
    };
    assert_eq!((why, rounds), (GiveUp::NotConverging, STUBBORN_ROUNDS + 1));
    assert_eq!(shard.local(), Local::Open { epoch: Epoch(4) });
}

#[test]
fn released_is_said_only_after_the_whole_was_acknowledged() {
    let whole = Whole { length: 9, digest: 7 };
    let other = Whole { digest: 8, ..whole };
    let mut shard = streaming();
    shard.on(step(Step::Round { sent: 0, remainder: 0 }), after(1));
    shard.on(step(Step::Idle), after(2));
    shard.on(step(Step::RestSent(whole)), after(3));
    let stranger = Event::Message {
        from: process(3),
        message: Message { key: KEY, body: Body::Holds(whole) },
    };
    let old = MoveRef { id: MoveId(49), ..KEY };
    let of_another_move = Event::Message {
        from: process(2),
        message: Message { key: old, body: Body::Holds(whole) },
    };
    for event in [from_target(Body::Holds(other)), stranger, of_another_move] {
        assert_eq!(shard.on(event, after(4)).actions, []);
    }
    let report = Report { key: KEY, source: process(1), target: process(2), news: News::Released };
    let output = shard.on(from_target(Body::Holds(whole)), after(5));
    assert_eq!(output.actions, [Action::Report(report)]);
    // From here on no message and no timer opens it again, and it is said until the row changes.
    let refused = from_target(Body::Refused(Refusal::Over));
    assert_eq!(shard.on(refused, after(6)).actions, []);
    let output = shard.on(Event::Tick, after(1_000_000));
    assert_eq!(output.actions, [Action::Report(report)]);
    assert!(output.wake_at.is_some());
}

#[test]
fn frozen_state_is_decided_by_the_first_row_that_knows_the_move() {
    let whole = Whole { length: 9, digest: 7 };
    let reopen = Action::Open { epoch: Epoch(4), with: State::Frozen };
    let other_run = Process::new(NodeId(1), Incarnation { counter: 2, nonce: 1 });
    let table = [
        (owned(4, process(1), None, 51), Some(reopen)),
        (moving(51), Some(reopen)),
        (owned(5, process(2), Some(50), 51), Some(Action::Close)),
        (owned(5, process(1), None, 51), Some(Action::Close)),
        (owned(5, other_run, None, 51), Some(Action::Close)),
        (owned(4, process(1), None, 49), None),
        (moving(50), None),
    ];
    for (row, decision) in table {
        let mut shard = streaming();
        shard.on(step(Step::Round { sent: 0, remainder: 0 }), after(1));
        shard.on(step(Step::Idle), after(2));
        shard.on(step(Step::RestSent(whole)), after(3));
        shard.on(from_target(Body::Holds(whole)), after(4));
        let output = shard.on(Event::Row(row), after(5));
        match decision {
            Some(action) => assert!(output.actions.contains(&action), "{row:?}: {output:?}"),
            None => assert_eq!(output.actions, [], "{row:?}"),
        }
    }
}

#[test]
fn received_state_is_opened_only_by_its_own_move() {
    let whole = Whole { length: 9, digest: 7 };
    let received = |epoch| Action::Open { epoch: Epoch(epoch), with: State::Received(KEY.id) };
    let empty = |epoch| Action::Open { epoch: Epoch(epoch), with: State::Empty };
    let onward = Holding::Moving {
        node: process(2).node,
        incarnation: process(2).incarnation,
        via: Some(KEY.id),
        target: NodeId(3),
        target_incarnation: Incarnation::default(),
        id: MoveId(60),
    };
    let onward = ShardRow { epoch: Epoch(5), holding: onward, changed: LogIndex(60) };
    let table = [
        (owned(5, process(2), Some(50), 51), vec![received(5)]),
        (onward, vec![received(5)]),
        (owned(5, process(2), None, 51), vec![Action::Discard(KEY), empty(5)]),
        (owned(6, process(2), Some(55), 56), vec![Action::Discard(KEY), empty(6)]),
        (owned(4, process(1), None, 51), vec![Action::Discard(KEY)]),
        (moving(51), vec![Action::Discard(KEY)]),
        (owned(4, process(1), None, 49), vec![]),
        (moving(50), vec![]),
    ];
    for (row, actions) in table {
        let mut shard = Shard::new(SHARD, process(2));
        let from = process(1);
        let target = process(2).incarnation;
        let message = |body| Event::Message { from, message: Message { key: KEY, body } };
        shard.on(message(Body::Prepare { target }), start());
        shard.on(step(Step::Prepared), start());
        shard.on(step(Step::Stored(whole)), start());
        let output = shard.on(message(Body::Whole(whole)), start());
        assert_eq!(output.wake_at, None, "no timer ends the holding");
        assert_eq!(shard.on(Event::Row(row), start()).actions, actions, "{row:?}");
    }
}

#[test]
fn a_late_prepare_for_a_move_that_is_over_is_refused() {
    let mut shard = Shard::new(SHARD, process(2));
    shard.on(Event::Row(owned(4, process(1), None, 51)), start());
    let prepare = |incarnation| Event::Message {
        from: process(1),
        message: Message { key: KEY, body: Body::Prepare { target: incarnation } },
    };
    let refused = |refusal| Action::Send {
        to: process(1),
        message: Message { key: KEY, body: Body::Refused(refusal) },
    };
    let output = shard.on(prepare(process(2).incarnation), start());
    assert_eq!(output.actions, [refused(Refusal::Over)]);
    let output = shard.on(prepare(Incarnation::default()), start());
    assert_eq!(output.actions, [refused(Refusal::OtherIncarnation)]);
    assert!(shard.is_idle());
}

fn report(news: News) -> LeaderEvent {
    LeaderEvent::Report(Report { key: KEY, source: process(1), target: process(2), news })
}

fn tracking() -> Leader {
    Leader::rebuild([(SHARD, moving(50))], start())
}

#[test]
fn the_leader_commits_once_and_again_only_when_nothing_came_of_it() {
    let mut leader = tracking();
    let commit = [Proposal::Commit(KEY)];
    assert_eq!(leader.on(report(News::Released), start()).actions, commit);
    let output = leader.on(report(News::Released), after(100));
    assert_eq!(output.actions, [], "repeated reports change nothing");
    assert_eq!(output.wake_at, Some(after(1_000)));
    assert_eq!(leader.on(LeaderEvent::Tick, after(1_000)).actions, commit);
    // A commit that the log does not take gives way to an abort.
    let why = Why::NotAccepted;
    let abort = [Proposal::Abort { key: KEY, why }];
    assert_eq!(leader.on(LeaderEvent::Tick, after(10_000)).actions, abort);
    let row = owned(5, process(2), Some(50), 51);
    let output = leader.on(LeaderEvent::Row { shard: SHARD, row }, after(10_001));
    assert_eq!((output.actions.len(), output.wake_at), (0, None));
    assert_eq!(leader.back_offs(after(10_001)).count(), 0);
}

#[test]
fn the_leader_heeds_only_reports_of_the_row_s_own_processes() {
    let stranger = Process::new(NodeId(2), Incarnation { counter: 2, nonce: 2 });
    let good = Report { key: KEY, source: process(1), target: process(2), news: News::Released };
    let reports = [
        Report { target: stranger, ..good },
        Report { source: process(3), ..good },
        Report { key: MoveRef { id: MoveId(49), ..KEY }, ..good },
        Report { key: MoveRef { epoch: Epoch(3), ..KEY }, ..good },
    ];
    for report in reports {
        let output = tracking().on(LeaderEvent::Report(report), start());
        assert_eq!(output.actions, [], "{report:?}");
    }
}

#[test]
fn the_leader_aborts_for_a_lost_target_a_given_up_move_and_a_silent_owner() {
    let abort = |why| [Proposal::Abort { key: KEY, why }];
    let lost = tracking().on(LeaderEvent::Lost(process(2)), start());
    assert_eq!(lost.actions, abort(Why::TargetLost));
    assert_eq!(tracking().on(LeaderEvent::Lost(process(1)), start()).actions, []);
    let why = GiveUp::SlowCalls;
    let given_up = tracking().on(report(News::GaveUp(why)), start());
    assert_eq!(given_up.actions, abort(Why::GaveUp(why)));
    let mut leader = tracking();
    let cap = start().plus(SILENCE);
    assert_eq!(leader.on(LeaderEvent::Tick, start()).wake_at, Some(cap));
    assert_eq!(leader.on(LeaderEvent::Tick, cap).actions, abort(Why::Silent));
}

#[test]
fn the_back_off_of_a_pair_doubles_and_ends_with_a_success() {
    let mut leader = Leader::default();
    let target = process(2).node;
    let mut now = start();
    let show = |leader: &mut Leader, row, now| {
        leader.on(LeaderEvent::Row { shard: SHARD, row }, now);
    };
    let mut pause = FIRST_BACK_OFF;
    for id in (100..120).step_by(2) {
        show(&mut leader, moving(id), now);
        assert_eq!(leader.held_back(SHARD, target, None, now), None);
        show(&mut leader, owned(4, process(1), None, id + 1), now);
        assert_eq!(leader.held_back(SHARD, target, None, now), Some(now.plus(pause)));
        assert_eq!(leader.held_back(SHARD, NodeId(3), None, now), None);
        // Four attempts fit into what a leaver has left.
        let by = Some(now.plus(Duration::from_millis(400)));
        let soon = now.plus(Duration::from_millis(100));
        assert_eq!(leader.held_back(SHARD, target, by, now), Some(soon));
        now = now.plus(pause);
        pause = (pause * 2).min(LAST_BACK_OFF);
    }
    show(&mut leader, moving(200), now);
    show(&mut leader, owned(5, process(2), Some(200), 201), now);
    show(&mut leader, moving(202), now);
    show(&mut leader, owned(4, process(1), None, 203), now);
    assert_eq!(leader.back_offs(now).next().map(|back_off| back_off.failures), Some(1));
}
