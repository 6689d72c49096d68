//! Register, renew, fence and the ways a session ends.

use super::*;

#[test]
fn p1_renewals_do_not_move_the_map_version() {
    let (mut bed, ids) = Bed::serving(3);
    let version = bed.registry.map_version();
    let changed = bed.node(ids[0]).changed;
    assert_eq!(bed.renew(&ids), []);
    assert_eq!(bed.registry.map_version(), version);
    assert_eq!(bed.node(ids[0]).changed, changed);
    assert_eq!(bed.node(ids[0]).renewed, LogIndex(bed.index));
    let only_renewed = Changes { renewed: ids, ..Changes::default() };
    assert_eq!(bed.changes, only_renewed);
}

#[test]
fn renewal_after_fence_is_refused() {
    let (mut bed, ids) = Bed::serving(2);
    bed.fence(ids[0]);
    assert_eq!(bed.renew(&ids), [ids[0]]);
}

#[test]
fn fence_loses_to_a_renewal_before_it() {
    let (mut bed, ids) = Bed::serving(2);
    let fence = bed.fence_command(ids[0]);
    let seen = bed.node(ids[0]).renewed;
    bed.renew(&[ids[0]]);
    let refused = Refused::Renewed { node: ids[0], seen, current: LogIndex(bed.index) };
    assert_eq!(bed.apply(fence), Err(refused));
    assert_eq!(bed.node(ids[0]).life, Life::Up);
}

#[test]
fn a_fence_takes_all_shards_of_a_node_and_calls_off_what_moves_to_it() {
    let (mut bed, ids) = Bed::serving(2);
    let (dead, other) = (ids[0], ids[1]);
    let leaving = bed.begin(S0, other);
    let coming = bed.begin(ShardId(1), dead);
    let before = bed.row(ShardId(1));
    assert_eq!(bed.fence(dead), Event::Unassigned { shards: SHARDS / 2 });
    let row = bed.row(S0);
    assert_eq!((row.epoch, row.holding), (leaving.epoch.next(), Holding::Unassigned));
    let kept = bed.row(ShardId(1));
    assert_eq!((kept.epoch, kept.owner()), (coming.epoch, before.owner()));
    assert_eq!(kept.target(), None);
    assert_eq!(bed.node(dead).life, Life::Fenced);
    assert_eq!(bed.changes.shards.len() as u32, SHARDS / 2 + 1);
}

#[test]
fn a_report_of_death_names_the_incarnation_and_needs_no_renewal() {
    let (mut bed, ids) = Bed::serving(2);
    let (node, incarnation) = (ids[0], bed.incarnation(ids[0]));
    bed.renew(&[node]);
    bed.ok(Command::ReportDeath { node, incarnation });
    bed.register_anew(node);
    // S2: a late report names the incarnation before, the next one lives on.
    let current = bed.incarnation(node);
    let refused = Refused::StaleIncarnation { node, seen: incarnation, current };
    let late = Command::ReportDeath { node, incarnation };
    assert_eq!(bed.apply(late), Err(refused));
    assert_eq!(bed.node(node).life, Life::Up);
}

#[test]
fn a_second_register_of_the_same_process_is_refused() {
    let (mut bed, ids) = Bed::serving(1);
    let register = bed.register(ids[0]);
    bed.ok(Command::Register(register.clone()));
    let refused = bed.apply(Command::Register(register));
    assert!(matches!(refused, Err(Refused::StaleIncarnation { .. })));
}

#[test]
fn s18_a_restored_copy_of_a_directory_is_refused() {
    let (mut bed, ids) = Bed::serving(1);
    bed.register_anew(ids[0]);
    let mut register = bed.register(ids[0]);
    register.incarnation.counter = 2;
    let refused = Refused::RestoredCopy { node: ids[0], offered: 2, known: 2 };
    assert_eq!(bed.apply(Command::Register(register)), Err(refused));
}

#[test]
fn s17_register_without_proof_waits_for_the_expiry_of_the_session_it_replaces() {
    let (mut bed, ids) = Bed::serving(2);
    let register = bed.register(ids[0]);
    bed.renew(&[ids[0]]);
    let refused = bed.apply(Command::Register(register.clone()));
    assert!(matches!(refused, Err(Refused::Renewed { .. })));
    let judged = Register { renewed: bed.node(ids[0]).renewed, reown: true, ..register };
    let event = bed.ok(Command::Register(judged));
    let registered = Event::Registered { reowned: 0, lease_ms: 3_000 };
    assert_eq!(event, registered);
    assert_eq!(bed.registry.held(ids[0]).owned, 0);
    assert_eq!(bed.row(S0).holding, Holding::Unassigned);
}

#[test]
fn a_process_that_took_the_lock_owns_its_shards_again_under_a_new_epoch() {
    let (mut bed, ids) = Bed::serving(2);
    let (node, other) = (ids[0], ids[1]);
    let leaving = bed.begin(S0, other);
    let coming = bed.begin(ShardId(1), node);
    bed.renew(&[node]);
    let register =
        Register { proof: true, reown: true, renewed: LogIndex(0), ..bed.register(node) };
    let incarnation = register.incarnation;
    let event = bed.ok(Command::Register(register));
    let registered = Event::Registered { reowned: SHARDS / 2, lease_ms: 3_000 };
    assert_eq!(event, registered);
    assert_eq!(bed.changes.renewed, [node]);
    let row = bed.row(S0);
    assert_eq!(row.epoch, leaving.epoch.next());
    assert_eq!(row.holding, owned_by(node, incarnation, None));
    let kept = bed.row(ShardId(1));
    assert_eq!(kept.epoch, coming.epoch);
    assert_eq!(kept.holding, owned_by(other, bed.incarnation(other), None));
}

#[test]
fn s1_a_lock_taken_on_another_machine_proves_nothing() {
    let (mut bed, ids) = Bed::serving(1);
    let register = bed.register(ids[0]);
    bed.renew(&[ids[0]]);
    let elsewhere = LockId { boot_id: "another boot".into(), ..lock(ids[0]) };
    for lock in [Some(elsewhere), None] {
        let claim = Register { lock, proof: true, reown: true, ..register.clone() };
        let refused = bed.apply(Command::Register(claim));
        assert!(matches!(refused, Err(Refused::Renewed { .. })));
    }
    assert_eq!(bed.registry.held(ids[0]).owned, SHARDS);
}

#[test]
fn s17_a_crash_before_close_ends_the_restart_and_gives_nothing_back() {
    let (mut bed, ids) = Bed::serving(2);
    bed.drain_restart(ids[0]);
    let register = Register { proof: true, reown: true, ..bed.register(ids[0]) };
    bed.ok(Command::Register(register));
    assert_eq!(bed.registry.held(ids[0]), Held::default());
    assert_eq!(bed.node(ids[0]).drain, Drain::None);
    assert!(bed.registry.is_target(ids[0]));
}

#[test]
fn a_removal_survives_fence_and_restart() {
    let (mut bed, ids) = Bed::serving(2);
    let node = ids[0];
    bed.ok(Command::DrainRemoval { node });
    bed.fence(node);
    bed.register_anew(node);
    assert_eq!(bed.node(node).drain, Drain::Removal);
    assert_eq!(bed.node(node).life, Life::Up);
    assert!(!bed.registry.is_target(node));
}

#[test]
fn a_restart_survives_the_fence_and_ends_with_the_next_process() {
    let (mut bed, ids) = Bed::serving(2);
    bed.drain_restart(ids[0]);
    bed.fence(ids[0]);
    let old = bed.incarnation(ids[0]);
    assert_eq!(bed.node(ids[0]).drain, Drain::Restart(old));
    bed.register_anew(ids[0]);
    assert_eq!(bed.node(ids[0]).drain, Drain::None);
}

#[test]
fn a_node_may_change_its_name_only_to_a_free_one() {
    let (mut bed, ids) = Bed::serving(2);
    let rename = |bed: &Bed, name| Register { info: info(name), ..bed.register(ids[0]) };
    let taken = rename(&bed, "b");
    let refused = bed.apply(Command::Register(taken));
    assert!(matches!(refused, Err(Refused::NameInUse { node, .. }) if node == ids[1]));
    let free = rename(&bed, "z");
    bed.ok(Command::Register(free));
    assert_eq!(bed.registry.node_by_name("a"), None);
}

#[test]
fn a_batch_of_renewals_over_the_limit_is_refused() {
    let (mut bed, ids) = Bed::serving(1);
    let sessions = vec![(ids[0], bed.incarnation(ids[0])); MAX_BATCH + 1];
    let refused = Refused::BatchTooLarge(MAX_BATCH + 1);
    assert_eq!(bed.apply(Command::Renew { sessions }), Err(refused));
}
