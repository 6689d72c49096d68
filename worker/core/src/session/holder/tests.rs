//! The holder against scripted answers.

use super::*;
use crate::id::NodeId;

const L: u64 = 3_000;
/// The span of a right at L = 3 s, in whole milliseconds.
const RIGHT: u64 = 2_890;

fn at(millis: u64) -> Timestamp {
    Timestamp::default().plus(Duration::from_millis(millis))
}

fn lease(millis: u64) -> Lease {
    Lease::from_millis(u32::try_from(millis).unwrap()).unwrap()
}

fn incarnation(counter: u64) -> Incarnation {
    Incarnation { counter, nonce: counter }
}

fn row(counter: u64, life: Life) -> Event {
    let incarnation = incarnation(counter);
    let row = OwnRow { incarnation, life, drain: Drain::None, marked: false };
    Event::Table { index: LogIndex(1), row: Some(row) }
}

fn draining(event: Event, drain: Drain) -> Event {
    let Event::Table { index, row: Some(row) } = event else { panic!("no row") };
    Event::Table { index, row: Some(OwnRow { drain, ..row }) }
}

fn marked(event: Event) -> Event {
    let Event::Table { index, row: Some(row) } = event else { panic!("no row") };
    Event::Table { index, row: Some(OwnRow { marked: true, ..row }) }
}

struct Worker {
    holder: Holder,
    index: u64,
}

impl Worker {
    /// Incarnation 1, its Register sent at 0.
    fn new() -> (Self, RequestId) {
        let (holder, output) = Holder::new(lease(L), at(0));
        assert_eq!(output.actions, [Action::NewIncarnation]);
        let mut worker = Self { holder, index: 0 };
        worker.on(Event::Wake { jitter: 1.0 }, 0);
        let actions = worker.on(Event::Incarnation(incarnation(1)), 0);
        let request = sent(&actions, Call::Register);
        (worker, request)
    }

    /// Registered at 0, answered at once.
    fn registered() -> Self {
        let (mut worker, request) = Self::new();
        worker.granted(request, 0);
        worker
    }

    fn on(&mut self, event: Event, now: u64) -> Vec<Action> {
        self.holder.on(event, at(now)).actions
    }

    fn wake(&mut self, now: u64) -> Vec<Action> {
        let health = Event::Health { oldest_tick: at(now), probe_pending_since: None };
        let mut actions = self.on(health, now);
        actions.extend(self.on(Event::Wake { jitter: 1.0 }, now));
        actions
    }

    fn answer(&mut self, request: RequestId, answer: Answer, now: u64) -> Vec<Action> {
        self.on(Event::Answered { request, answer }, now)
    }

    fn granted(&mut self, request: RequestId, now: u64) -> Vec<Action> {
        self.granted_under(request, L, now)
    }

    fn granted_under(&mut self, request: RequestId, lease_ms: u64, now: u64) -> Vec<Action> {
        self.index += 1;
        let (index, lease) = (LogIndex(self.index), lease(lease_ms));
        let actions = self.answer(request, Answer::Granted { index, lease }, now);
        let _ = self.on(Event::Table { index, row: None }, now);
        actions
    }

    fn refused(&mut self, request: RequestId, refusal: Refusal, now: u64) -> Vec<Action> {
        self.answer(request, Answer::Refused(refusal), now)
    }

    /// Wakes it at `now`, when a renewal is due.
    fn renew(&mut self, now: u64) -> RequestId {
        sent(&self.wake(now), Call::Renew)
    }

    fn serves(&self, now: u64) -> bool {
        self.holder.may_serve(at(now))
    }
}

fn sent(actions: &[Action], wanted: Call) -> RequestId {
    let request = actions.iter().find_map(|action| match action {
        Action::Send { request, call, .. } if *call == wanted => Some(*request),
        _ => None,
    });
    request.unwrap_or_else(|| panic!("no {wanted:?} in {actions:?}"))
}

fn sends(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Send { .. }))
}

#[test]
fn the_right_is_counted_from_before_the_request_was_sent() {
    let (mut worker, register) = Worker::new();
    let right = lease(L).right(at(0));
    let actions = worker.granted(register, 500);
    assert_eq!(actions, [Action::ServeUntil { right }]);
    assert!(worker.serves(RIGHT) && !worker.serves(RIGHT + 1));
}

#[test]
fn each_answer_counts_from_its_own_request() {
    let mut worker = Worker::registered();
    let first = worker.renew(750);
    let second = worker.renew(1_350);
    assert_ne!(first, second, "the next is sent without waiting for the last");
    worker.granted(first, 1_350);
    assert!(!worker.serves(750 + RIGHT + 1));
    worker.granted(second, 1_500);
    assert!(worker.serves(1_350 + RIGHT));
}

#[test]
fn an_answer_out_of_order_does_not_shorten_the_right() {
    let mut worker = Worker::registered();
    let (first, second) = (worker.renew(750), worker.renew(1_350));
    worker.granted(second, 1_350);
    assert_eq!(worker.granted(first, 1_350), []);
    assert!(worker.serves(1_350 + RIGHT));
}

#[test]
fn s9_l_lowered_while_the_answer_is_lost() {
    let mut worker = Worker::registered();
    let first = worker.renew(750);
    worker.granted_under(first, 20_000, 760);
    let right = worker.holder.right().unwrap();
    let second = worker.renew(5_760);
    worker.granted_under(second, 2_000, 5_770);
    assert_eq!(worker.holder.right(), Some(right), "the longer right was granted, and stands");
    let third = worker.renew(6_170);
    let actions = worker.granted_under(third, 60_000, 6_180);
    assert_eq!(actions, [Action::ServeUntil { right: lease(60_000).right(at(6_170)) }]);
}

#[test]
fn a_right_ends_when_either_clock_says_so() {
    let worker = Worker::registered();
    let ms = Duration::from_millis;
    assert!(worker.holder.may_serve(Timestamp::new(ms(RIGHT), ms(RIGHT))));
    assert!(!worker.holder.may_serve(Timestamp::new(ms(RIGHT + 1), ms(1))));
    assert!(!worker.holder.may_serve(Timestamp::new(ms(1), ms(RIGHT + 1))));
}

#[test]
fn a_failed_request_is_sent_again_elsewhere_within_100_ms() {
    let mut worker = Worker::registered();
    let request = worker.renew(750);
    assert_eq!(worker.answer(request, Answer::Failed, 760), []);
    let actions = worker.wake(810);
    let again = sent(&actions, Call::Renew);
    assert!(matches!(actions[..], [Action::Send { via: Via::Another, .. }]));
    let hint = Some(NodeId(4));
    worker.answer(again, Answer::NotLeader { hint }, 820);
    let actions = worker.wake(870);
    assert!(matches!(actions[..], [Action::Send { via: Via::Member(NodeId(4)), .. }]));
}

#[test]
fn a_request_without_an_answer_ends_after_a_quarter_of_the_lease() {
    let mut worker = Worker::registered();
    let request = worker.renew(750);
    let _ = worker.wake(1_500);
    assert_eq!(worker.granted(request, 1_510), [], "it timed out and grants nothing");
}

#[test]
fn a_right_that_ended_may_be_renewed_while_nobody_fenced_it() {
    let mut worker = Worker::registered();
    let request = worker.renew(RIGHT - 5);
    assert_eq!(worker.wake(RIGHT + 1), [Action::StopServing]);
    assert!(!worker.serves(RIGHT + 1));
    let right = lease(L).right(at(RIGHT - 5));
    assert_eq!(worker.granted(request, 3_000), [Action::ServeUntil { right }]);
}

#[test]
fn it_wakes_when_its_right_ends() {
    let (mut worker, register) = Worker::new();
    let answer = Answer::Granted { index: LogIndex(1), lease: lease(L) };
    let output = worker.holder.on(Event::Answered { request: register, answer }, at(1));
    assert_eq!(output.wake_at, Some(at(600)), "the next renewal");
    let right = worker.holder.right().unwrap();
    let mut now = at(600);
    let stuck = Event::Health { oldest_tick: at(0), probe_pending_since: None };
    while now.until_maybe_past(right) > Duration::ZERO {
        let output = worker.holder.on(stuck, now);
        let _ = worker.holder.on(Event::Wake { jitter: 0.5 }, now);
        assert!(output.wake_at.unwrap().until_surely_past(right) < Duration::from_secs(3));
        now = output.wake_at.unwrap();
    }
    assert_eq!(worker.holder.on(stuck, now).actions[0], Action::StopServing);
}

#[test]
fn s15_handler_of_an_old_incarnation_still_running() {
    let mut worker = Worker::registered();
    let request = worker.renew(750);
    let actions = worker.refused(request, Refusal::Stale, 760);
    assert_eq!(actions, [Action::StopServing, Action::CloseAll(incarnation(1))]);
    assert!(!worker.serves(761));
    assert!(!sends(&worker.wake(5_000)), "nothing is asked while a handler runs");
    assert!(!sends(&worker.wake(9_000)));
    assert_eq!(worker.on(Event::AllClosed(incarnation(1)), 9_000), [Action::NewIncarnation]);
    let actions = worker.on(Event::Incarnation(incarnation(2)), 9_010);
    let register = sent(&actions, Call::Register);
    worker.granted(register, 9_020);
    assert!(worker.serves(9_020));
}

#[test]
fn s15_handlers_that_never_end_end_the_process() {
    let mut worker = Worker::registered();
    assert_eq!(
        worker.on(row(1, Life::Fenced), 100),
        [Action::StopServing, Action::CloseAll(incarnation(1))]
    );
    assert_eq!(worker.wake(10_099), []);
    assert_eq!(worker.wake(10_100), [Action::Exit(Why::StillRunning)]);
    assert_eq!(worker.on(Event::AllClosed(incarnation(1)), 10_101), []);
}

#[test]
fn a_late_grant_of_a_lost_incarnation_grants_nothing() {
    let mut worker = Worker::registered();
    let (first, second) = (worker.renew(750), worker.renew(1_350));
    worker.refused(first, Refusal::Stale, 1_350);
    assert_eq!(worker.granted(second, 1_350), []);
    worker.on(Event::AllClosed(incarnation(1)), 1_350);
    assert!(!worker.serves(1_350));
}

#[test]
fn a_table_that_lags_does_not_end_a_newer_session() {
    let mut worker = Worker::registered();
    worker.on(row(1, Life::Fenced), 100);
    worker.on(Event::AllClosed(incarnation(1)), 110);
    let actions = worker.on(Event::Incarnation(incarnation(2)), 120);
    worker.granted(sent(&actions, Call::Register), 130);
    assert_eq!(worker.on(row(1, Life::Fenced), 140), []);
    assert!(worker.serves(140));
    let taken_over = worker.on(row(3, Life::Up), 150);
    assert_eq!(taken_over[0], Action::StopServing);
}

#[test]
fn a_register_whose_answer_was_lost_goes_on_as_a_renewal() {
    let (mut worker, register) = Worker::new();
    worker.answer(register, Answer::Failed, 10);
    let again = sent(&worker.wake(60), Call::Register);
    let actions = worker.refused(again, Refusal::AlreadyRegistered, 70);
    let renew = sent(&actions, Call::Renew);
    worker.granted(renew, 80);
    assert!(worker.serves(70 + RIGHT) && !worker.serves(70 + RIGHT + 1));
}

#[test]
fn of_two_registers_in_flight_the_second_ends_nothing() {
    let (mut worker, first) = Worker::new();
    let second = sent(&worker.wake(600), Call::Register);
    worker.granted(first, 610);
    assert_eq!(worker.refused(second, Refusal::Stale, 620), []);
    assert!(worker.serves(620));
}

#[test]
fn s17_an_old_session_that_may_live_is_waited_for() {
    let (mut worker, register) = Worker::new();
    assert_eq!(worker.refused(register, Refusal::Retry, 10), []);
    assert_eq!(worker.wake(190), []);
    sent(&worker.wake(198), Call::Register);
}

#[test]
fn s19_a_marked_node_closes_in_place_then_stops() {
    let mut worker = Worker::registered();
    let actions = worker.on(marked(row(1, Life::Up)), 100);
    assert_eq!(actions, [Action::CloseAll(incarnation(1))]);
    assert!(worker.serves(200), "what was admitted may be acknowledged while the right lasts");
    let actions = worker.on(Event::AllClosed(incarnation(1)), 300);
    assert_eq!(actions[0], Action::StopServing);
    let close = sent(&actions, Call::CloseInPlace);
    assert!(!worker.serves(301));
    assert_eq!(worker.granted(close, 310), [Action::Exit(Why::Marked)]);
}

#[test]
fn a_close_in_place_that_nobody_answers_is_left_to_the_expiry() {
    let mut worker = Worker::registered();
    let request = worker.renew(750);
    worker.refused(request, Refusal::Marked, 760);
    let actions = worker.on(Event::AllClosed(incarnation(1)), 800);
    let mut close = sent(&actions, Call::CloseInPlace);
    for now in (850..3_800).step_by(50) {
        worker.answer(close, Answer::Failed, now - 50);
        close = sent(&worker.wake(now), Call::CloseInPlace);
    }
    assert_eq!(worker.wake(3_800), [Action::Exit(Why::Marked)]);
}

#[test]
fn l7_everyone_gets_sigterm_and_nobody_takes_the_shards() {
    let mut worker = Worker::registered();
    assert_eq!(worker.on(Event::ToldToStop, 100), [], "it still hands over");
    assert_eq!(worker.on(Event::GiveUp, 200), [Action::CloseAll(incarnation(1))]);
    let actions = worker.on(Event::AllClosed(incarnation(1)), 300);
    let close = sent(&actions, Call::CloseInPlace);
    assert_eq!(worker.granted(close, 310), [Action::Exit(Why::Stopped)]);
}

#[test]
fn closed_but_not_told_to_stop_registers_anew() {
    let mut worker = Worker::registered();
    let request = worker.renew(750);
    assert_eq!(worker.refused(request, Refusal::Closed, 760), [Action::StopServing]);
    assert_eq!(worker.wake(60_759), []);
    assert_eq!(worker.wake(60_760), [Action::NewIncarnation]);

    let mut worker = Worker::registered();
    worker.on(row(1, Life::Closed), 100);
    assert_eq!(worker.on(Event::ToldToStop, 200), [Action::Exit(Why::Stopped)]);
}

#[test]
fn a_node_closed_for_removal_stays_parked() {
    let mut worker = Worker::registered();
    let parked = draining(row(1, Life::Closed), Drain::Removal);
    assert_eq!(worker.on(parked, 100), [Action::StopServing]);
    let output = worker.holder.on(Event::Wake { jitter: 0.0 }, at(1_000_000));
    assert_eq!(output, Output { actions: vec![], wake_at: None });

    let (holder, _) = Holder::new(lease(L), at(0));
    let mut restarted = Worker { holder, index: 0 };
    restarted.on(Event::Incarnation(incarnation(2)), 0);
    restarted.on(parked, 10);
    assert_eq!(restarted.wake(1_000_000), [], "also across a restart");
}

#[test]
fn s16_a_parked_node_registers_anew_once_its_removal_is_cancelled() {
    let (mut restarted, _) = Worker::new();
    let parked = draining(row(0, Life::Closed), Drain::Removal);
    restarted.on(parked, 10);
    assert_eq!(restarted.wake(5_000), [], "its Register is under way all the same");
    assert_eq!(restarted.on(draining(row(1, Life::Fenced), Drain::Removal), 5_010), []);
    assert_eq!(restarted.on(row(1, Life::Fenced), 5_020), [Action::NewIncarnation]);
}

#[test]
fn l5_io_thread_wedged_stops_renewing() {
    let mut worker = Worker::registered();
    let renews = |worker: &mut Worker, oldest_tick, now| {
        let event = Event::Health { oldest_tick: at(oldest_tick), probe_pending_since: None };
        sends(&worker.on(event, now))
    };
    assert!(renews(&mut worker, 0, 750));
    assert!(renews(&mut worker, 0, 3_000));
    assert!(!renews(&mut worker, 0, 6_000));
    assert!(renews(&mut worker, 6_000, 6_050));
}

#[test]
fn l6_a_slow_disk_asks_to_be_drained_a_dead_one_stops_renewing() {
    let mut worker = Worker::registered();
    let probe = |worker: &mut Worker, since: Option<u64>, now| {
        let probe_pending_since = since.map(at);
        worker.on(Event::Health { oldest_tick: at(now), probe_pending_since }, now)
    };
    let stalled = probe(&mut worker, Some(400), 2_000);
    assert!(matches!(stalled[..], [Action::Send { .. }]), "1.6 s are nothing");
    let slow = probe(&mut worker, Some(400), 3_401);
    assert!(slow.contains(&Action::Leave) && sends(&slow));
    let asked = probe(&mut worker, Some(400), 6_400);
    assert!(!asked.contains(&Action::Leave), "the answer is under way");
    assert!(probe(&mut worker, Some(400), 6_401).contains(&Action::Leave), "it was lost");
    worker.on(draining(row(1, Life::Up), Drain::Own(incarnation(1))), 6_500);
    let still = probe(&mut worker, Some(400), 9_400);
    assert!(!still.contains(&Action::Leave) && sends(&still));
    assert!(!sends(&probe(&mut worker, Some(400), 12_000)));
    assert!(sends(&probe(&mut worker, None, 12_050)));
}

#[test]
fn a_node_takes_its_shards_back_once_its_disk_has_been_well_for_long() {
    let probe = |worker: &mut Worker, since: Option<u64>, now| {
        let probe_pending_since = since.map(at);
        worker.on(Event::Health { oldest_tick: at(now), probe_pending_since }, now)
    };
    let slow = |drain| {
        let mut worker = Worker::registered();
        assert!(probe(&mut worker, Some(400), 3_401).contains(&Action::Leave));
        probe(&mut worker, None, 3_402);
        worker.on(draining(row(1, Life::Up), drain), 3_500);
        probe(&mut worker, Some(5_000), 6_000);
        worker
    };
    let mut worker = slow(Drain::Own(incarnation(1)));
    assert!(!probe(&mut worker, None, 33_401).contains(&Action::Stay), "too early");
    assert!(probe(&mut worker, None, 33_402).contains(&Action::Stay));
    assert!(!probe(&mut worker, None, 36_401).contains(&Action::Stay), "under way");
    assert!(probe(&mut worker, None, 36_402).contains(&Action::Stay), "it was lost");
    worker.on(row(1, Life::Up), 36_500);
    assert!(!probe(&mut worker, None, 39_500).contains(&Action::Stay));

    for others in [Drain::Restart(incarnation(1)), Drain::Removal] {
        let mut worker = slow(others);
        assert!(!probe(&mut worker, None, 60_000).contains(&Action::Stay), "{others:?}");
    }
    let mut worker = slow(Drain::Own(incarnation(1)));
    worker.on(Event::Leaving, 7_000);
    assert!(!probe(&mut worker, None, 60_000).contains(&Action::Stay), "told to stop");
}

#[test]
fn l5_a_lagging_table_is_read_from_another_member() {
    let mut worker = Worker::registered();
    let mut changed = Vec::new();
    for now in (750..7_000).step_by(750) {
        let actions = worker.wake(now);
        if actions.contains(&Action::ChangeSource) {
            changed.push(now);
        }
        worker.index += 1;
        let answer = Answer::Granted { index: LogIndex(worker.index), lease: lease(L) };
        worker.answer(sent(&actions, Call::Renew), answer, now);
    }
    assert_eq!(changed, [4_500], "L after the first index it misses, once per L");

    let mut worker = Worker::registered();
    let request = worker.renew(750);
    assert_eq!(worker.refused(request, Refusal::TableBehind, 760), [Action::ChangeSource]);
    assert!(worker.serves(760), "the right lasts, only renewals stop");
}

#[test]
fn a_directory_that_may_not_register_ends_the_process() {
    for (refusal, why) in [
        (Refusal::Identity, Why::Identity),
        (Refusal::Left, Why::Left),
        (Refusal::Marked, Why::Marked),
    ] {
        let (mut worker, register) = Worker::new();
        assert_eq!(worker.refused(register, refusal, 10), [Action::Exit(why)]);
        assert_eq!(worker.wake(60_000), []);
    }
}
