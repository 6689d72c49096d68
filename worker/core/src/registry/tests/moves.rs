//! Assignments, moves and drains.

use super::*;
use crate::session::leave::Standing;

#[test]
fn a_committed_move_takes_the_shard_under_the_next_epoch_and_names_itself() {
    let (mut bed, ids) = Bed::serving(2);
    let item = bed.begin(S0, ids[1]);
    assert_eq!(bed.row(S0).owner().map(|(id, _)| id), Some(ids[0]));
    assert_eq!(bed.commit(item), None);
    let row = bed.row(S0);
    assert_eq!(row.epoch, item.epoch.next());
    let expected = owned_by(ids[1], bed.incarnation(ids[1]), Some(item.id));
    assert_eq!(row.holding, expected);
    assert!(matches!(bed.commit(item), Some(Refused::StaleEpoch { .. })));
}

#[test]
fn p3_an_aborted_move_keeps_owner_epoch_and_the_move_that_brought_the_shard() {
    let (mut bed, ids) = Bed::serving(3);
    let first = bed.begin(S0, ids[1]);
    assert_eq!(bed.commit(first), None);
    let resting = bed.row(S0);
    let second = bed.begin(S0, ids[2]);
    assert_eq!(bed.abort(second), None);
    let row = bed.row(S0);
    assert_eq!((row.epoch, row.holding), (resting.epoch, resting.holding));
    assert!(row.changed > resting.changed);
}

#[test]
fn commit_and_abort_name_their_move() {
    let (mut bed, ids) = Bed::serving(3);
    let old = bed.begin(S0, ids[1]);
    assert_eq!(bed.abort(old), None);
    let new = bed.begin(S0, ids[2]);
    let refused = Refused::NotMoving { shard: S0, id: old.id };
    assert_eq!(bed.abort(old), Some(refused.clone()));
    assert_eq!(bed.commit(old), Some(refused));
    assert_eq!(bed.commit(new), None);
}

#[test]
fn s11_target_restarts_between_released_and_commit() {
    let (mut bed, ids) = Bed::serving(2);
    let item = bed.begin(S0, ids[1]);
    let register = Register { proof: true, reown: true, ..bed.register(ids[1]) };
    bed.ok(Command::Register(register));
    assert!(matches!(bed.commit(item), Some(Refused::NotMoving { .. })));
    let row = bed.row(S0);
    let kept = owned_by(ids[0], bed.incarnation(ids[0]), None);
    assert_eq!((row.epoch, row.holding), (item.epoch, kept));
}

#[test]
fn s11_no_command_gives_a_shard_to_another_incarnation_than_it_names() {
    let (mut bed, ids) = Bed::serving(2);
    let old = bed.incarnation(ids[1]);
    bed.fence(ids[0]);
    bed.register_anew(ids[1]);
    let epoch = bed.row(S0).epoch;
    let (shard, target, incarnation) = (S0, ids[1], old);
    let assign = Assign { shard, epoch, target, incarnation };
    let assign = Command::Assign { items: vec![assign] };
    let refused = bed.item(assign);
    assert!(matches!(refused, Some(Refused::StaleIncarnation { .. })));
    bed.register_anew(ids[0]);
    let assign = Assign { shard, epoch, target: ids[0], incarnation: bed.incarnation(ids[0]) };
    let assign = Command::Assign { items: vec![assign] };
    assert_eq!(bed.item(assign), None);
    let begin = BeginMove { shard, epoch, target, incarnation };
    let refused = bed.item(Command::BeginMove { items: vec![begin] });
    assert!(matches!(refused, Some(Refused::StaleIncarnation { .. })));
}

#[test]
fn commit_move_then_fence_of_the_target_both_orders() {
    let (mut bed, ids) = Bed::serving(2);
    let item = bed.begin(S0, ids[1]);
    let mut other = bed.clone();

    assert_eq!(bed.commit(item), None);
    bed.fence(ids[1]);
    let row = bed.row(S0);
    let lost = (item.epoch.next().next(), Holding::Unassigned);
    assert_eq!((row.epoch, row.holding), lost);

    other.fence(ids[1]);
    assert!(matches!(other.commit(item), Some(Refused::NotMoving { .. })));
    let row = other.row(S0);
    let kept = owned_by(ids[0], other.incarnation(ids[0]), None);
    assert_eq!((row.epoch, row.holding), (item.epoch, kept));
}

#[test]
fn s16_close_refused_while_a_shard_is_committed_to_the_leaver() {
    let (mut bed, ids) = Bed::formed(2);
    let (node, incarnation) = (ids[0], bed.incarnation(ids[0]));
    let close = Command::Close { node, incarnation };
    assert_eq!(bed.apply(close.clone()), Err(Refused::NotDraining(node)));
    // "0 shards" is read here; the assignment was already on its way.
    let assign = Assign { shard: S0, epoch: bed.row(S0).epoch, target: node, incarnation };
    let assign = Command::Assign { items: vec![assign] };
    assert_eq!(bed.item(assign.clone()), None);
    bed.drain_restart(node);
    let refused = Refused::StillOwns { node, owned: 1, receiving: 0 };
    assert_eq!(bed.apply(close.clone()), Err(refused));
    let item = bed.begin(S0, ids[1]);
    assert!(bed.apply(close.clone()).is_err(), "it still serves the shard");
    assert_eq!(bed.commit(item), None);
    bed.ok(close.clone());
    assert_eq!(bed.apply(close), Err(Refused::NotUp(node)));
    assert!(bed.item(assign).is_some());
}

#[test]
fn s16_a_drain_is_cancelled_until_close_and_not_after() {
    let (mut bed, ids) = Bed::formed(2);
    let node = ids[0];
    let cancel = Command::CancelDrain { node };
    assert_eq!(bed.apply(cancel.clone()), Err(Refused::NotDraining(node)));
    bed.ok(Command::DrainRemoval { node });
    bed.ok(cancel.clone());
    assert!(bed.registry.is_target(node));
    bed.ok(Command::DrainRemoval { node });
    let incarnation = bed.incarnation(node);
    bed.ok(Command::Close { node, incarnation });
    assert_eq!(bed.apply(cancel), Err(Refused::Closed(node)));
    bed.ok(Command::Remove { node, incarnation });
}

#[test]
fn only_the_node_takes_back_what_it_asked_for_itself() {
    let (mut bed, ids) = Bed::formed(2);
    let (node, incarnation) = (ids[0], bed.incarnation(ids[0]));
    let (leave, stay) = (Command::Leave { node, incarnation }, Command::Stay { node, incarnation });
    let cancel = Command::CancelDrain { node };
    assert_eq!(bed.apply(stay.clone()), Err(Refused::NotDraining(node)));
    for others_asked_first in [false, true] {
        if others_asked_first {
            bed.drain_restart(node);
            assert_eq!(bed.apply(stay.clone()), Err(Refused::NotDraining(node)));
        }
        bed.ok(leave.clone());
        bed.ok(leave.clone());
        assert_eq!(bed.changes, Changes::default(), "draining already");
        bed.drain_restart(node);
        assert_eq!(bed.node(node).drain, Drain::Own(incarnation));
        assert_eq!(bed.apply(cancel.clone()), Err(Refused::OwnDrain(node)));
        bed.ok(stay.clone());
        assert!(bed.registry.is_target(node));
    }
    bed.ok(leave.clone());
    bed.ok(Command::DrainRemoval { node });
    assert_eq!(bed.apply(stay), Err(Refused::NotDraining(node)));
    assert_eq!(bed.apply(leave.clone()), Err(Refused::DrainingForRemoval(node)));
    bed.ok(cancel.clone());
    bed.ok(leave);
    bed.register_anew(node);
    assert_eq!(bed.node(node).drain, Drain::None, "it came back");
}

#[test]
fn what_a_leaver_sees_of_itself() {
    let (mut bed, ids) = Bed::serving(2);
    let (node, other, incarnation) = (ids[0], ids[1], bed.incarnation(ids[0]));
    let of = |bed: &Bed, incarnation| Standing::of(&bed.registry, node, incarnation);
    assert_eq!(of(&bed, incarnation), Standing::Undrained);
    assert_eq!(of(&bed, Incarnation::default()), Standing::Nothing, "another process");
    bed.drain_restart(node);
    assert_eq!(of(&bed, incarnation), Standing::Undrained, "others may take it back");
    bed.ok(Command::DrainRemoval { node });
    assert_eq!(of(&bed, incarnation), Standing::Holds);
    bed.ok(Command::CancelDrain { node });
    bed.ok(Command::Leave { node, incarnation });
    assert_eq!(of(&bed, incarnation), Standing::Holds);
    bed.drain_restart(other);
    assert_eq!(of(&bed, incarnation), Standing::NoTarget);
    bed.ok(Command::CancelDrain { node: other });
    for shard in (0..SHARDS).step_by(2) {
        assert_eq!(of(&bed, incarnation), Standing::Holds, "{shard} of {SHARDS}");
        let item = bed.begin(ShardId(shard), other);
        assert_eq!(bed.commit(item), None);
    }
    assert_eq!(of(&bed, incarnation), Standing::Empty);
    bed.ok(Command::Stay { node, incarnation });
    assert_eq!(of(&bed, incarnation), Standing::Undrained, "it may be given some again");
    bed.ok(Command::Leave { node, incarnation });
    bed.ok(Command::Close { node, incarnation });
    assert_eq!(of(&bed, incarnation), Standing::Nothing);
}

#[test]
fn a_drain_calls_off_moves_to_the_leaver_and_lets_it_take_none() {
    for removal in [false, true] {
        let (mut bed, ids) = Bed::serving(2);
        let (node, incarnation) = (ids[1], bed.incarnation(ids[1]));
        let item = bed.begin(S0, node);
        if removal {
            bed.ok(Command::DrainRemoval { node });
        } else {
            bed.drain_restart(node);
        }
        assert!(matches!(bed.commit(item), Some(Refused::NotMoving { .. })));
        let again = BeginMove { shard: S0, epoch: item.epoch, target: node, incarnation };
        let refused = bed.item(Command::BeginMove { items: vec![again] });
        assert_eq!(refused, Some(Refused::NotATarget(node)));
    }
}

#[test]
fn a_restart_names_its_incarnation_and_gives_way_to_a_removal() {
    let (mut bed, ids) = Bed::formed(1);
    let (node, incarnation) = (ids[0], bed.incarnation(ids[0]));
    bed.register_anew(node);
    let stale = Command::DrainRestart { node, incarnation };
    let refused = bed.apply(stale);
    assert!(matches!(refused, Err(Refused::StaleIncarnation { .. })));
    bed.drain_restart(node);
    bed.drain_restart(node);
    assert_eq!(bed.changes, Changes::default(), "draining already");
    bed.ok(Command::DrainRemoval { node });
    let incarnation = bed.incarnation(node);
    let restart = Command::DrainRestart { node, incarnation };
    assert_eq!(bed.apply(restart), Err(Refused::DrainingForRemoval(node)));
}

#[test]
fn l7_stop_all_drains_every_up_node_in_one_entry() {
    let (mut bed, ids) = Bed::serving(4);
    bed.ok(Command::DrainRemoval { node: ids[1] });
    bed.fence(ids[2]);
    let item = bed.begin(S0, ids[3]);
    bed.ok(Command::StopAll);
    for id in [ids[0], ids[3]] {
        assert_eq!(bed.node(id).drain, Drain::Restart(bed.incarnation(id)));
    }
    assert_eq!(bed.node(ids[1]).drain, Drain::Removal);
    assert_eq!(bed.node(ids[2]).drain, Drain::None);
    assert!(matches!(bed.commit(item), Some(Refused::NotMoving { .. })));
    assert!(bed.registry.nodes().all(|(_, node)| !node.is_target()));
    let (node, incarnation) = (ids[0], bed.incarnation(ids[0]));
    let epoch = bed.row(S0).epoch;
    bed.ok(Command::CloseInPlace { node, incarnation });
    let row = bed.row(S0);
    assert_eq!((row.epoch, row.holding), (epoch.next(), Holding::Unassigned));
}

#[test]
fn items_of_a_batch_are_compared_one_by_one() {
    let (mut bed, ids) = Bed::formed(1);
    let (target, incarnation) = (ids[0], bed.incarnation(ids[0]));
    let epoch = bed.row(S0).epoch;
    let assign = |shard, epoch| Assign { shard: ShardId(shard), epoch, target, incarnation };
    let items = vec![
        assign(0, epoch),
        assign(0, epoch),
        assign(1, epoch.next()),
        assign(SHARDS, epoch),
        assign(2, epoch),
    ];
    let stale = Refused::StaleEpoch { shard: ShardId(1), seen: epoch.next(), current: epoch };
    let refused = vec![
        None,
        Some(Refused::NotUnassigned(S0)),
        Some(stale),
        Some(Refused::UnknownShard(ShardId(SHARDS))),
        None,
    ];
    assert_eq!(bed.ok(Command::Assign { items }), Event::Items { refused });
    assert_eq!(bed.changes.shards, [S0, ShardId(2)]);
    let items = vec![assign(3, epoch); MAX_BATCH + 1];
    let refused = Refused::BatchTooLarge(MAX_BATCH + 1);
    assert_eq!(bed.apply(Command::Assign { items }), Err(refused));
}

#[test]
fn a_shard_moves_to_another_node_and_from_rest_only() {
    let (mut bed, ids) = Bed::serving(2);
    let begin = |bed: &Bed, target| {
        let item = BeginMove {
            shard: S0,
            epoch: bed.row(S0).epoch,
            target,
            incarnation: bed.incarnation(target),
        };
        Command::BeginMove { items: vec![item] }
    };
    let to_itself = begin(&bed, ids[0]);
    assert_eq!(bed.item(to_itself), Some(Refused::SameNode(S0)));
    bed.begin(S0, ids[1]);
    let twice = begin(&bed, ids[1]);
    assert_eq!(bed.item(twice), Some(Refused::NotOwned(S0)));
}
