//! The question of [`super::linear`], asked of porcupine-rs: is there an order of these calls that a
//! single cell could have gone through?
//!
//! It is given the calls of unknown outcome that the other search needed, and no others: of a long
//! outage there are dozens, all alike, and it would try every subset of them.

use std::{collections::BTreeSet, time::Duration};

use porcupine_rs::{CheckResult, Model, Operation, check_operations_timeout};

use super::{
    history::{Act, Time},
    linear::{Done, Perhaps},
};

/// A hundred times what the history of one key between two quiet moments takes.
const LONGEST: Duration = Duration::from_secs(20);

/// One number.
#[derive(Clone, Debug)]
struct Cell;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Comes before every call.
    Begin(i64),
    Answered(Act, i64),
    Unknown(Act),
}

impl Model for Cell {
    type State = i64;
    type Op = Step;
    type Metadata = ();

    fn init() -> i64 {
        0
    }

    fn step(state: &i64, op: &Step) -> (bool, i64) {
        let held = *state;
        match *op {
            Step::Begin(value) => (true, value),
            Step::Answered(Act::Increment, value) => (value == held + 1, value),
            Step::Answered(Act::Read, value) => (value == held, held),
            Step::Unknown(Act::Increment) => (true, held + 1),
            Step::Unknown(Act::Read) => (true, held),
            Step::Answered(Act::Put(value), _) | Step::Unknown(Act::Put(value)) => (true, value),
        }
    }
}

/// Whether some order explains `done` with each of `used`, beginning with any of `values`.
pub fn agrees(values: &BTreeSet<i64>, done: &[Done], used: &[Perhaps]) -> bool {
    let operation = |op, invoked: Time, returned: Time| Operation::<Cell> {
        client_id: None,
        // After the beginning, which takes the first two moments.
        call_time: invoked.saturating_add(2).min(i64::MAX as Time) as i64,
        return_time: returned.saturating_add(2).min(i64::MAX as Time) as i64,
        op,
        metadata: None,
    };
    let done = done
        .iter()
        .map(|call| operation(Step::Answered(call.act, call.value), call.invoked, call.returned));
    let used = used.iter().map(|call| operation(Step::Unknown(call.act), call.invoked, call.until));
    let calls: Vec<_> = done.chain(used).collect();
    values.iter().any(|value| {
        let begin =
            Operation { call_time: 0, return_time: 1, ..operation(Step::Begin(*value), 0, 0) };
        let history: Vec<_> = [begin].into_iter().chain(calls.iter().cloned()).collect();
        check_operations_timeout(&history, LONGEST) == CheckResult::Ok
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(act: Act, value: i64, invoked: Time, returned: Time) -> Done {
        Done { act, value, invoked, returned }
    }

    #[test]
    fn what_no_order_explains_is_not_agreed_to() {
        let from = |value| BTreeSet::from([value]);
        let calls = [
            done(Act::Put(7), 7, 0, 10),
            done(Act::Read, 7, 20, 30),
            done(Act::Increment, 8, 25, 40),
        ];
        assert!(agrees(&from(0), &calls, &[]));
        assert!(agrees(&from(0), &calls[..2], &[]));
        assert!(!agrees(&from(0), &calls[1..2], &[]));
        assert!(agrees(&BTreeSet::from([0, 7]), &calls[1..2], &[]), "it may have held 7");
        let stale = [calls[0], done(Act::Read, 3, 20, 30)];
        assert!(!agrees(&from(3), &stale, &[]));
        let perhaps = Perhaps::from(5, Act::Put(3));
        assert!(agrees(&from(0), &stale, &[perhaps]));
        let late = Perhaps::from(31, Act::Put(3));
        assert!(!agrees(&from(0), &stale, &[late]));
        let early = Perhaps { until: 19, ..perhaps };
        assert!(agrees(&from(0), &stale, &[early]), "after the other put and before the read");
    }
}
