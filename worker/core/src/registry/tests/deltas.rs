//! Snapshots, deltas, and registries that are wrong on purpose.

use super::*;

#[test]
fn an_idle_clusters_delta_is_a_bare_progress_mark() {
    let (mut bed, ids) = Bed::serving(2);
    let mut watcher = Registry::from_parts(bed.registry.parts()).expect("a snapshot");
    let have = watcher.applied();
    bed.renew(&ids);
    let delta = bed.registry.rows_since(have);
    assert!(delta.nodes.is_empty() && delta.shards.is_empty() && delta.settings.is_none());
    let changes = watcher.install_delta(delta).expect("progress");
    assert_eq!(changes, Changes::default());
    assert_eq!(watcher.applied(), bed.registry.applied());
}

#[test]
fn a_watcher_never_goes_back_nor_leaves_a_gap() {
    let (mut bed, ids) = Bed::serving(2);
    let behind = bed.registry.rows_since(LogIndex(0));
    let start = bed.registry.applied();
    bed.fence(ids[0]);
    let mut watcher = Registry::from_parts(bed.registry.parts()).expect("a snapshot");
    let have = watcher.applied();
    let refused = Error::Behind { have, offered: start };
    assert_eq!(watcher.install_delta(behind), Err(refused));
    let since = LogIndex(have.0 + 1);
    bed.index += 2;
    bed.registry.advance(LogIndex(bed.index));
    let gap = bed.registry.rows_since(since);
    assert_eq!(watcher.install_delta(gap), Err(Error::Gap { have, since }));
    let overlapping = bed.registry.rows_since(start);
    watcher.install_delta(overlapping).expect("overlap");
    assert_eq!(watcher, bed.registry);
}

#[test]
fn rows_of_another_cluster_are_refused() {
    let (bed, _) = Bed::serving(1);
    let mut delta = bed.registry.rows_since(bed.registry.applied());
    delta.cluster.id = ClusterId(8);
    let mut watcher = bed.registry.clone();
    let refused = Error::Foreign { ours: CLUSTER, theirs: ClusterId(8) };
    assert_eq!(watcher.install_delta(delta), Err(refused));
}

#[test]
fn a_whole_table_leaves_no_shard_with_a_node_that_it_forgets() {
    let (bed, ids) = Bed::serving(2);
    let mut watcher = Registry::from_parts(bed.registry.parts()).expect("a snapshot");
    let mut whole = bed.registry.parts();
    whole.nodes.retain(|(id, _)| *id == ids[0]);
    whole.shards.clear();
    let refused = Err(Error::Malformed("a whole table without all shards"));
    assert_eq!(watcher.install_delta(whole), refused);
    assert_eq!(watcher, bed.registry);
}

#[test]
fn malformed_rows_change_nothing() {
    let (bed, ids) = Bed::serving(2);
    let whole = bed.registry.parts();
    let mut cases = Vec::new();
    let mut case = |change: fn(&mut Delta)| {
        let mut delta = whole.clone();
        change(&mut delta);
        cases.push(delta);
    };
    case(|delta| delta.settings = None);
    case(|delta| delta.shards.truncate(SHARDS as usize - 1));
    case(|delta| delta.shards.swap(0, 1));
    case(|delta| delta.nodes.truncate(1));
    case(|delta| delta.cluster.formed = None);
    case(|delta| {
        if let Some((settings, _)) = &mut delta.settings {
            settings.shard_count = 0;
        }
    });
    case(|delta| delta.shards[0].0 = ShardId(SHARDS));
    case(|delta| delta.shards[0].1.changed = LogIndex(0));
    case(|delta| delta.nodes[0].1.changed = LogIndex(0));
    case(|delta| delta.settings.iter_mut().for_each(|(_, changed)| *changed = LogIndex(0)));
    for delta in cases {
        let refused = Registry::from_parts(delta);
        assert!(matches!(refused, Err(Error::Malformed(_))), "{refused:?}");
    }
    let mut contradicting = whole.clone();
    contradicting.nodes[0].1.life = Life::Fenced;
    let refused = Registry::from_parts(contradicting);
    assert!(
        matches!(refused, Err(Error::Invalid(Violation::OwnerNotUp { node, .. })) if node == ids[0])
    );
    let partial = bed.registry.rows_since(LogIndex(1));
    let refused = Registry::from_parts(partial);
    assert_eq!(refused, Err(Error::NotASnapshot(LogIndex(1))));
}

/// One fault each, and the violation that must name it.
#[test]
fn check_sees_every_kind_of_fault() {
    let (mut bed, ids) = Bed::serving(2);
    bed.begin(S0, ids[1]);
    let sees = |break_it: &dyn Fn(&mut Registry), names: fn(&Violation) -> bool| {
        let mut registry = bed.registry.clone();
        break_it(&mut registry);
        let violations = registry.check();
        assert!(violations.iter().any(names), "{violations:?}");
    };
    let edit = |registry: &mut Registry, id, change: &dyn Fn(&mut Node)| {
        let mut node = registry.node(id).expect("a node").clone();
        change(&mut node);
        registry.put_node(id, node);
    };
    let held = |registry: &mut Registry| {
        if let Some(entry) = registry.nodes.get_mut(&ids[0]) {
            entry.held.owned += 1;
        }
    };
    let fence = |r: &mut Registry| edit(r, ids[0], &|n| n.life = Life::Fenced);
    let drain = |r: &mut Registry| edit(r, ids[1], &|n| n.drain = Drain::Removal);
    let rename = |r: &mut Registry| edit(r, ids[1], &|n| n.info.name = "a".into());
    let copy = |r: &mut Registry| edit(r, ids[1], &|n| n.directory = 1);
    let ahead = |r: &mut Registry| edit(r, ids[1], &|n| n.renewed = LogIndex(9_999));
    let joining = |r: &mut Registry| edit(r, ids[0], &|n| n.life = Life::Joining);
    sees(&held, |v| matches!(v, Violation::Count { .. }));
    sees(&fence, |v| matches!(v, Violation::OwnerNotUp { .. }));
    sees(&drain, |v| matches!(v, Violation::NotATarget { .. }));
    sees(&rename, |v| matches!(v, Violation::SharedName(..)));
    sees(&copy, |v| matches!(v, Violation::SharedDirectory(..)));
    sees(&ahead, |v| matches!(v, Violation::BeyondApplied(_)));
    sees(&joining, |v| matches!(v, Violation::Node { .. }));
    let lost = |r: &mut Registry| r.shards = Shards::default();
    sees(&lost, |v| matches!(v, Violation::ShardRows { found: 0, .. }));
    let low = |r: &mut Registry| r.cluster.first_epoch = Epoch(u64::MAX);
    sees(&low, |v| matches!(v, Violation::EpochBelowFirst { .. }));
    let version = |r: &mut Registry| r.map_version = MapVersion(3);
    sees(&version, |v| matches!(v, Violation::MapVersion { .. }));
    let lease = |r: &mut Registry| r.settings.lease_ms = 1;
    sees(&lease, |v| matches!(v, Violation::Settings(_)));
}

#[test]
fn check_step_sees_what_no_entry_may_do() {
    let (bed, ids) = Bed::serving(2);
    let before = &bed.registry;
    let sees = |break_it: &dyn Fn(&mut Registry), expected: &str| {
        let mut after = before.clone();
        after.advance(LogIndex(bed.index + 1));
        break_it(&mut after);
        let violations = check_step(before, &after);
        let texts: Vec<_> = violations.iter().map(ToString::to_string).collect();
        assert!(texts.iter().any(|t| t.contains(expected)), "{texts:?}");
    };
    let index = LogIndex(bed.index + 1);
    let row = bed.row(S0);
    let taken = owned_by(ids[1], bed.incarnation(ids[1]), None);
    let put = |epoch: Epoch, holding, changed| {
        move |r: &mut Registry| r.put_shard(S0, ShardRow { epoch, holding, changed })
    };
    let lower = Epoch(row.epoch.0 - 1);
    sees(&put(lower, row.holding, index), "its epoch falls");
    sees(&put(row.epoch.next(), taken, index), "taken from a live incarnation");
    sees(&put(row.epoch, taken, index), "another owner under the same epoch");
    sees(&put(row.epoch.next(), row.holding, index), "a new epoch under the same owner");
    sees(&put(row.epoch.next(), taken, row.changed), "changed without its index");
    let first = ids[0];
    let edit = |change: fn(&mut Node)| {
        move |r: &mut Registry| {
            let mut node = r.node(first).expect("a node").clone();
            change(&mut node);
            node.changed = index;
            r.put_node(first, node);
        }
    };
    sees(&edit(|n| n.incarnation.counter = 0), "an older incarnation");
    sees(&edit(|n| n.directory = 77), "another directory");
    sees(&edit(|n| n.renewed = LogIndex(0)), "an index goes back");
    let lease = |r: &mut Registry| r.settings.lease_ms = 60_000;
    sees(&lease, "a lease that may still be held is forgotten");
    let version = |r: &mut Registry| r.map_version = MapVersion(index.0);
    sees(&version, "a map version without a change");
    let forgotten = |r: &mut Registry| drop(r.nodes.remove(&ids[0]));
    sees(&forgotten, "forgotten");
}
