//! The promise of planned changes: rolls, drains, moves and changes of leaders fail no call.

use super::*;
use crate::faults::{FIRST, Kind as Fault, LAST};

/// Longest that any call may wait beyond its own time, where none runs longer than 0.5 s.
const LONGEST_STALL: True = SECOND;

#[test]
fn planned_changes_fail_no_call() {
    let kinds = [Fault::Restart, Fault::Move, Fault::Transfer, Fault::AbortMove];
    let mut moves = 0;
    for seed in 0..30 {
        let setup = Setup { longest_call: 500 * MS, verbose: true, ..Setup::calm(seed, 4) };
        let mut world = World::new(setup);
        world.run_to(FIRST);
        world.plan_faults(&kinds);
        let before = world.oracle.tally;
        world.run_to(LAST);
        world.heal();
        world.is_sound();
        moves += world.coverage.count("move committed");
        let after = world.oracle.tally;
        let failed =
            |tally: crate::oracle::Tally| tally.unavailable + tally.unknown + tally.exhausted;
        let told = || format!("{:?}\n{}\n{}", after, world.trace.text(), world.report());
        assert_eq!(failed(after), failed(before), "{}", told());
        assert!(after.longest <= LONGEST_STALL, "{}", told());
    }
    assert!(moves > 300, "{moves} moves are no test");
}
