//! Histories that are right, and histories that are wrong in every way that matters.

use super::*;

fn call(act: Act, value: i64, invoked: Time, returned: Time) -> Done {
    Done { act, value, invoked, returned }
}

fn put(value: i64, invoked: Time, returned: Time) -> Done {
    call(Act::Put(value), value, invoked, returned)
}

fn read(value: i64, invoked: Time, returned: Time) -> Done {
    call(Act::Read, value, invoked, returned)
}

fn add(value: i64, invoked: Time, returned: Time) -> Done {
    call(Act::Increment, value, invoked, returned)
}

fn judge(done: &[Done], perhaps: &[Perhaps]) -> Result<Ending, Error> {
    explain(&BTreeSet::from([0]), done, perhaps)
}

fn wrong(done: &[Done], perhaps: &[Perhaps]) {
    let judged = judge(done, perhaps);
    assert!(matches!(judged, Err(Error::Impossible { .. })), "{judged:?}");
}

fn values(done: &[Done], perhaps: &[Perhaps]) -> Vec<i64> {
    judge(done, perhaps).unwrap().values.into_iter().collect()
}

#[test]
fn a_stale_read_is_found() {
    wrong(&[put(1, 0, 10), put(2, 20, 30), read(1, 40, 50)], &[]);
    wrong(&[put(1, 0, 10), read(0, 20, 30)], &[]);
    // Beside the second put either may be read, but nobody goes back.
    assert_eq!(values(&[put(1, 0, 10), put(2, 20, 60), read(1, 30, 40)], &[]), [2]);
    wrong(&[put(1, 0, 10), put(2, 20, 90), read(2, 30, 40), read(1, 50, 60)], &[]);
}

#[test]
fn a_lost_increment_is_found() {
    assert_eq!(values(&[add(1, 0, 10), add(2, 20, 30), read(2, 40, 50)], &[]), [2]);
    wrong(&[add(1, 0, 10), add(2, 20, 30), add(2, 40, 50)], &[]);
    wrong(&[add(1, 0, 10), add(2, 20, 30), read(1, 40, 50)], &[]);
}

#[test]
fn a_doubled_increment_is_found() {
    wrong(&[add(1, 0, 10), add(3, 20, 30)], &[]);
}

#[test]
fn increments_at_once_may_come_in_either_order() {
    assert_eq!(values(&[add(2, 0, 10), add(1, 5, 15)], &[]), [2]);
    wrong(&[add(2, 0, 10), add(1, 15, 25)], &[]);
}

#[test]
fn an_unknown_call_happens_once_or_not_at_all_and_not_before_it_began() {
    let unknown = [Perhaps::from(12, Act::Increment)];
    let ending = judge(&[add(1, 0, 10), add(3, 20, 30)], &unknown).unwrap();
    assert_eq!((ending.values, ending.used), (BTreeSet::from([3]), unknown.to_vec()));
    let unused = judge(&[add(1, 0, 10), add(2, 20, 30)], &unknown).unwrap();
    assert!(unused.used.is_empty());
    wrong(&[add(1, 0, 10), add(3, 20, 30), add(5, 40, 50)], &unknown);
    wrong(&[add(1, 0, 10), add(3, 20, 30)], &[Perhaps::from(35, Act::Increment)]);
}

#[test]
fn an_unknown_put_may_show_late_but_only_once() {
    let unknown = [Perhaps::from(5, Act::Put(9))];
    let late = [put(1, 0, 10), read(1, 20, 30), read(9, 40, 50), put(2, 60, 70)];
    assert_eq!(values(&late, &unknown), [2]);
    wrong(&[&late[..], &[read(9, 80, 90)]].concat(), &unknown);
    wrong(&[read(7, 0, 10)], &unknown);
}

#[test]
fn what_was_not_executed_must_not_show() {
    // It is in no list, and yet was read.
    wrong(&[put(1, 0, 10), read(4, 20, 30)], &[]);
}

#[test]
fn all_endings_are_found() {
    assert_eq!(values(&[put(1, 0, 10), put(2, 5, 15)], &[]), [1, 2]);
    let ended = explain(&BTreeSet::from([1, 2]), &[read(2, 20, 30)], &[]).unwrap();
    assert_eq!(ended.values, BTreeSet::from([2]));
    assert_eq!(explain(&BTreeSet::from([7]), &[], &[]).unwrap().values, BTreeSet::from([7]));
}

#[test]
fn a_minute_of_a_busy_key_is_judged_at_once() {
    // Six clients at a time, each call across its neighbours.
    let mut done = Vec::new();
    for at in 0..3_000 {
        let value = at / 2 * 2;
        done.push(if at % 2 == 0 {
            put(value as i64 + 1, at * 10, at * 10 + 35)
        } else {
            read(value as i64 + 1, at * 10, at * 10 + 35)
        });
    }
    assert!(judge(&done, &[]).is_ok());
    done.push(read(1, 50_000, 50_010));
    wrong(&done, &[]);
}
