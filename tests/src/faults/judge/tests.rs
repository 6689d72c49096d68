//! Wrong histories, whole and in pieces: each must be found, and the same ones put right must not.

use std::fs;

use super::*;
use crate::{Space, faults::history::Entry};

const SHARD: u32 = 3;

struct Bench {
    space: Space,
    judge: Judge,
}

fn bench(planned: bool) -> Bench {
    let space = Space::new();
    let keys = crate::faults::callers::keys(2);
    Bench { judge: Judge::new(&keys, space.path(), planned), space }
}

impl Bench {
    fn log(&self, lines: &[(u64, &str)]) {
        let line = |(epoch, start): &(u64, &str)| {
            format!("x: open shard=s{SHARD} epoch=e{epoch} start={start}\n")
        };
        fs::write(self.space.path().join("node.log"), lines.iter().map(line).collect::<String>())
            .unwrap();
    }

    fn take(&mut self, ops: Vec<Op>) -> &mut Self {
        self.judge.take(ops, Time::MAX).unwrap();
        self
    }

    fn broken(&self) -> Vec<Rule> {
        self.judge.broken.keys().copied().collect()
    }
}

/// A call of the counter (key 0) or the register (key 1).
fn op(act: Act, value: i64, (invoked, returned): (Time, Time), epoch: u64, owner: &str) -> Op {
    let key = usize::from(matches!(act, Act::Put(_)));
    let answer = Answer { value, shard: SHARD, epoch, owner: owner.to_owned() };
    Op { key, entry: Entry::Any, act, invoked, returned, outcome: Outcome::Done(answer) }
}

fn add(value: i64, times: (Time, Time), epoch: u64) -> Op {
    op(Act::Increment, value, times, epoch, "a")
}

fn failed(act: Act, times: (Time, Time), outcome: Outcome) -> Op {
    Op { outcome, ..op(act, 0, times, 0, "a") }
}

#[test]
fn a_lost_increment_is_a_violation_also_across_pieces() {
    let mut bench = bench(false);
    bench.take(vec![add(1, (0, 10), 1), add(2, (20, 30), 1)]);
    assert_eq!(bench.broken(), []);
    bench.take(vec![add(2, (40, 50), 1)]);
    assert_eq!(bench.broken(), [Rule::Linearizable]);
}

#[test]
fn a_stale_read_is_a_violation() {
    let mut bench = bench(false);
    let read = Op { key: 1, ..op(Act::Read, 5, (40, 50), 1, "a") };
    let puts = [5, 6].map(|value| op(Act::Put(value), value, (value as u64, value as u64), 1, "a"));
    bench.take([&puts[..], &[read]].concat());
    assert_eq!(bench.broken(), [Rule::Linearizable]);
}

#[test]
fn what_was_not_executed_must_not_show_and_what_is_unknown_may() {
    let refused = Outcome::NotExecuted(tonic::Code::Unavailable);
    for (outcome, wrong) in
        [(refused, vec![Rule::Linearizable]), (Outcome::Unknown(tonic::Code::Unknown), vec![])]
    {
        let mut bench = bench(false);
        let second = failed(Act::Increment, (20, 30), outcome);
        bench.take(vec![add(1, (0, 10), 1), second, add(3, (40, 50), 1)]);
        assert_eq!(bench.broken(), wrong);
    }
}

#[test]
fn two_owners_are_a_violation() {
    let mut bench = bench(false);
    bench.take(vec![add(1, (0, 10), 1), op(Act::Increment, 2, (20, 30), 1, "b")]);
    assert_eq!(bench.broken(), [Rule::OneOwner]);
}

#[test]
fn a_token_that_goes_back_is_a_violation() {
    let mut bench = bench(false);
    bench.log(&[(2, "Empty")]);
    bench.take(vec![add(1, (0, 10), 1), add(1, (20, 30), 2), add(2, (40, 50), 1)]);
    assert_eq!(bench.broken(), [Rule::EpochsGrow]);
}

#[test]
fn a_failover_begins_anew_and_what_was_lost_is_counted() {
    let mut bench = bench(false);
    bench.log(&[(1, "Empty"), (2, "Empty")]);
    bench.take(vec![add(1, (0, 10), 1), add(2, (20, 30), 1), add(1, (40, 50), 2)]);
    assert_eq!(bench.broken(), []);
    assert_eq!((bench.judge.tally.lost_with_owners, bench.judge.tally.emptied), (2, 1));
}

#[test]
fn a_put_that_took_long_may_have_run_twice_and_one_that_did_not_may_not() {
    let read = |value, times| Op { key: 1, ..op(Act::Read, value, times, 1, "a") };
    for (took, wrong) in [(LEAST_GAP, vec![]), (LEAST_GAP - 1, vec![Rule::Linearizable])] {
        let mut bench = bench(false);
        let long = op(Act::Put(5), 5, (0, took), 1, "a");
        let short = op(Act::Put(6), 6, (20, 30), 1, "a");
        bench.take(vec![long, read(5, (5, 10)), short, read(6, (40, 45)), read(5, (50, 60))]);
        assert_eq!(bench.broken(), wrong);
    }
    // Never again once it was answered.
    let mut bench = bench(false);
    let long = op(Act::Put(5), 5, (0, LEAST_GAP), 1, "a");
    let (after, late) = (LEAST_GAP + 10, LEAST_GAP + 30);
    let short = op(Act::Put(6), 6, (after, after + 5), 1, "a");
    bench.take(vec![long, read(5, (5, 10)), short, read(5, (late, late + 5))]);
    assert_eq!(bench.broken(), [Rule::Linearizable]);
}

#[test]
fn where_the_host_has_a_store_a_failover_loses_nothing() {
    for (value, wrong) in [(2, vec![]), (1, vec![Rule::Linearizable])] {
        let mut bench = bench(false);
        bench.judge = bench.judge.stored();
        bench.log(&[(1, "Empty"), (2, "Empty")]);
        bench.take(vec![add(1, (0, 10), 1), add(value, (40, 50), 2)]);
        assert_eq!(bench.broken(), wrong);
    }
}

#[test]
fn the_same_is_a_violation_while_nothing_fails() {
    let mut bench = bench(true);
    bench.log(&[(1, "Empty"), (2, "Empty")]);
    bench.take(vec![add(1, (0, 10), 1), add(1, (40, 50), 2)]);
    assert_eq!(bench.broken(), [Rule::NothingLostOnMoves]);
}

#[test]
fn a_move_loses_nothing() {
    for (value, wrong) in [(3, vec![]), (1, vec![Rule::Linearizable])] {
        let mut bench = bench(false);
        bench.log(&[(1, "Empty"), (2, "Imported")]);
        let calls = vec![add(1, (0, 10), 1), add(2, (20, 30), 1), add(value, (40, 50), 2)];
        bench.take(calls);
        assert_eq!(bench.broken(), wrong);
    }
}

#[test]
fn an_epoch_that_no_log_tells_may_begin_either_way() {
    for value in [1, 3] {
        let mut bench = bench(false);
        bench.take(vec![add(1, (0, 10), 1), add(2, (20, 30), 1), add(value, (40, 50), 2)]);
        assert_eq!((bench.broken(), bench.judge.tally.untold), (vec![], 1));
    }
}

#[test]
fn a_panic_in_a_log_is_a_violation() {
    let mut bench = bench(false);
    fs::write(bench.space.path().join("node.log"), "thread 'calls' panicked at x.rs:1\n").unwrap();
    bench.take(Vec::new());
    assert_eq!(bench.broken(), [Rule::Logs]);
}

#[test]
fn a_piece_ends_where_no_call_of_the_key_runs() {
    let times = [(0, 10), (20, 40), (30, 50), (60, 70)];
    let mut waiting: Vec<_> = times.map(|times| add(0, times, 1)).into();
    assert_eq!(cut(&mut waiting, 45).len(), 1, "two calls at once, one of which ends later");
    assert_eq!(cut(&mut waiting, 60).len(), 2);
    assert_eq!(cut(&mut waiting, 65).len(), 0);
    assert_eq!(cut(&mut waiting, Time::MAX).len(), 1);
}

#[test]
fn a_put_may_run_once_more_at_the_owner_after_the_one_that_was_lost() {
    let put = op(Act::Put(5), 5, (35, 100), 2, "b");
    let seen = Op { key: 1, ..op(Act::Read, 5, (40, 50), 1, "a") };
    for (ops, wrong) in [(vec![seen.clone(), put], vec![]), (vec![seen], vec![Rule::Linearizable])]
    {
        let mut bench = bench(false);
        bench.log(&[(1, "Empty"), (2, "Empty")]);
        bench.take(ops);
        assert_eq!(bench.broken(), wrong);
    }
}
