//! Founding, joins, marks and removal.

use super::*;

#[test]
fn nothing_is_applied_before_found_and_found_only_once() {
    let mut bed = Bed::default();
    assert_eq!(bed.apply(join("b", 2, &[])), Err(Refused::NotFounded));
    assert_eq!(bed.ok(Command::Blank), Event::Done);
    assert_eq!(bed.ok(found(info("a"))), Event::Joined { node: NodeId(1) });
    assert!(bed.changes.cluster && bed.changes.settings && bed.changes.map_version_changed);
    assert_eq!(bed.apply(found(info("z"))), Err(Refused::AlreadyFounded(CLUSTER)));
}

#[test]
fn a_join_answers_the_index_of_the_first_entry_of_its_directory() {
    let mut bed = Bed::founded();
    let first = bed.ok(join("b", 2, &[]));
    assert_eq!(first, Event::Joined { node: NodeId(2) });
    assert_eq!(bed.ok(join("b", 2, &[])), first);
    assert_eq!(bed.changes, Changes::default());
    assert_eq!(bed.ok(join("c", 3, &[])), Event::Joined { node: NodeId(4) });
}

#[test]
fn forming_starts_above_every_epoch_found_and_only_once() {
    for (unix_seconds, found, first) in [
        (1_000, Epoch(0), Epoch::new(1_000, 0)),
        (1_000, Epoch::new(999, 5), Epoch::new(1_000, 5)),
        (1_000, Epoch::new(2_000, 7), Epoch::new(2_001, 7)),
    ] {
        let mut bed = Bed::founded();
        let form = Command::Form { unix_seconds, highest_epoch_found: found };
        bed.ok(form.clone());
        assert_eq!(bed.row(S0).epoch, first);
        assert_eq!(bed.registry.highest_epoch(), first);
        assert_eq!(bed.registry.shards().count(), SHARDS as usize);
        assert_eq!(bed.apply(form), Err(Refused::AlreadyFormed));
    }
}

#[test]
fn s13_an_era_with_nothing_above_it_is_refused() {
    let mut bed = Bed::founded();
    let form = Command::Form { unix_seconds: 1, highest_epoch_found: Epoch(u64::MAX) };
    assert!(matches!(bed.apply(form), Err(Refused::OutOfRange { .. })));
    assert!(!bed.registry.formed());
}

#[test]
fn nothing_is_assigned_before_the_cluster_is_formed() {
    let mut bed = Bed::founded();
    let items = Vec::new();
    assert_eq!(bed.apply(Command::Assign { items }), Err(Refused::NotFormed));
    assert_eq!(bed.registry.shard(S0), None);
}

#[test]
fn a_name_in_use_is_refused_with_its_address() {
    let (mut bed, _) = Bed::serving(2);
    let renewed = bed.node(NodeId(1)).renewed;
    let address = "a:11000".into();
    let refused = Refused::NameInUse { name: "a".into(), node: NodeId(1), address, renewed };
    assert_eq!(bed.apply(join("a", 99, &[])), Err(refused));
}

#[test]
fn a_new_directory_of_a_name_marks_the_old_one_at_the_renewal_judged_dead() {
    let (mut bed, ids) = Bed::serving(2);
    let (old, judged) = (ids[1], bed.node(ids[1]).renewed);
    let owned = bed.registry.held(old).owned;
    let moving = bed.begin(S0, old);
    bed.renew(&[old]);
    let refused = bed.apply(join("b", 99, &[(old, judged)]));
    let current = bed.node(old).renewed;
    assert_eq!(refused, Err(Refused::Renewed { node: old, seen: judged, current }));
    bed.ok(join("b", 99, &[(old, current)]));
    let new = NodeId(bed.index);
    let row = bed.node(old);
    assert!(row.marked && row.drain == Drain::Removal && row.life == Life::Up);
    assert_eq!(bed.registry.held(old), Held { owned, receiving: 0 });
    assert_eq!(bed.abort(moving), Some(not_moving(moving)));
    assert_eq!(bed.registry.node_by_name("b").map(|(id, _)| id), Some(new));
    bed.register_anew(new);
    let renewed = bed.node(new).renewed;
    bed.ok(join("b", 98, &[(old, current), (new, renewed)]));
    assert_eq!(bed.changes.nodes, [new, NodeId(bed.index)], "marked already");
}

#[test]
fn a_removed_id_is_never_used_again_and_its_directory_stays_out() {
    let (mut bed, ids) = Bed::serving(2);
    let node = ids[1];
    let incarnation = bed.incarnation(node);
    let remove = Command::Remove { node, incarnation };
    assert_eq!(bed.apply(remove.clone()), Err(Refused::NotRemovable(node)));
    bed.fence(node);
    assert_eq!(bed.apply(remove.clone()), Err(Refused::NotRemovable(node)));
    bed.ok(Command::DrainRemoval { node });
    bed.ok(remove.clone());
    assert_eq!(bed.apply(remove), Err(Refused::NodeLeft(node)));
    let register = bed.register(node);
    assert_eq!(bed.apply(Command::Register(register)), Err(Refused::NodeLeft(node)));
    let directory = bed.node(node).directory;
    assert_eq!(bed.apply(join("b", directory, &[])), Err(Refused::NodeLeft(node)));
    let again = bed.join("b");
    assert!(again > node);
}

/// A node joins and leaves again.
fn pass_through(bed: &mut Bed, name: &str) -> NodeId {
    let node = bed.join(name);
    bed.ok(Command::Mark { node });
    bed.ok(Command::Remove { node, incarnation: Incarnation::default() });
    node
}

#[test]
fn of_nodes_that_left_the_latest_are_kept_and_older_ids_still_count_as_left() {
    let (mut bed, ids) = Bed::serving(2);
    let mut routes = crate::route::RouteTable::from_registry(&bed.registry);
    let mut left = Vec::new();
    for i in 0..LEFT_KEPT + 2 {
        left.push(pass_through(&mut bed, &format!("x{i}")));
        routes.update(&bed.registry, &bed.changes);
    }
    assert_eq!(bed.registry.nodes().count(), ids.len() + LEFT_KEPT);
    let (first, third) = (left[0], left[2]);
    assert_eq!((bed.registry.node(first), bed.registry.has_left(first)), (None, true));
    assert!(bed.registry.node(third).is_some() && bed.registry.has_left(third));
    assert!(!bed.registry.has_left(ids[0]) && !bed.registry.has_left(NodeId(bed.index + 1)));
    let register = Register { node: first, ..bed.register(ids[0]) };
    assert_eq!(bed.apply(Command::Register(register)), Err(Refused::NodeLeft(first)));
    assert_eq!(bed.apply(Command::Mark { node: first }), Err(Refused::NodeLeft(first)));
    let from_the_future = NodeId(bed.index + 9);
    let unknown = Err(Refused::UnknownNode(from_the_future));
    assert_eq!(bed.apply(Command::Mark { node: from_the_future }), unknown);
    assert!(routes.peer(first).is_none() && routes.peer(third).is_some());
}

#[test]
fn a_watcher_forgets_whom_the_log_forgot_however_far_it_lags() {
    let (mut bed, _) = Bed::serving(2);
    let gone = bed.join("gone");
    let mut watchers = Vec::new();
    for i in 0..2 * LEFT_KEPT {
        if i % 100 == 0 {
            watchers.push(bed.registry.clone());
        }
        if i == 50 {
            bed.ok(Command::Mark { node: gone });
            bed.ok(Command::Remove { node: gone, incarnation: Incarnation::default() });
        }
        pass_through(&mut bed, &format!("x{i}"));
    }
    assert!(watchers[0].node(gone).is_some_and(|node| node.life == Life::Joining));
    for mut watcher in watchers {
        let mut routes = crate::route::RouteTable::from_registry(&watcher);
        let delta = bed.registry.rows_since(watcher.applied());
        let changes = watcher.install_delta(delta).expect("a delta");
        assert_eq!(watcher, bed.registry);
        routes.update(&watcher, &changes);
        assert_eq!(routes, crate::route::RouteTable::from_registry(&bed.registry));
    }
}

#[test]
fn a_restart_is_no_reason_to_remove_and_a_mark_is() {
    let (mut bed, ids) = Bed::serving(3);
    let node = ids[2];
    bed.drain_restart(node);
    let incarnation = bed.incarnation(node);
    bed.ok(Command::CloseInPlace { node, incarnation });
    let remove = Command::Remove { node, incarnation };
    assert_eq!(bed.apply(remove.clone()), Err(Refused::NotRemovable(node)));
    bed.ok(Command::Mark { node });
    bed.ok(remove);
    assert_eq!(bed.node(node).life, Life::Left);
}

#[test]
fn s19_mark_takes_no_shard_from_a_live_incarnation() {
    let (mut bed, ids) = Bed::serving(2);
    let node = ids[0];
    let owned = bed.registry.held(node).owned;
    let moving = bed.begin(ShardId(1), node);
    bed.ok(Command::Mark { node });
    assert_eq!(bed.registry.held(node), Held { owned, receiving: 0 });
    assert_eq!(bed.row(ShardId(1)).epoch, moving.epoch);
    assert_eq!(bed.renew(&[node]), [node], "its right runs out from here on");
    let register = bed.register(node);
    assert_eq!(bed.apply(Command::Register(register)), Err(Refused::Marked(node)));
    assert_eq!(bed.fence(node), Event::Unassigned { shards: owned });
    bed.ok(Command::Mark { node });
    assert_eq!(bed.changes, Changes::default(), "marked already");
}

#[test]
fn a_marked_node_closes_in_place_by_itself() {
    let (mut bed, ids) = Bed::serving(2);
    let node = ids[0];
    let incarnation = bed.incarnation(node);
    bed.ok(Command::Mark { node });
    let shards = bed.registry.held(node).owned;
    let closed = bed.ok(Command::CloseInPlace { node, incarnation });
    assert_eq!(closed, Event::Unassigned { shards });
    bed.ok(Command::Remove { node, incarnation });
}

#[test]
fn s10_a_node_below_the_level_is_refused_with_both_levels_named() {
    let mut bed = Bed::founded();
    let old = NodeInfo { feature_level: 0, ..info("b") };
    let refused = bed.apply(Command::Join { info: old, directory: 2, replaces: Vec::new() });
    let refused = refused.expect_err("below the level").to_string();
    assert_eq!(refused, "node b knows feature level 0, this cluster is at 1");
}

fn not_moving(item: MoveRef) -> Refused {
    Refused::NotMoving { shard: item.shard, id: item.id }
}
