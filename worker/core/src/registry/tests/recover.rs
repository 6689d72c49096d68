//! What a recovery makes of a registry, whatever had happened to it.

use proptest::prelude::*;

use super::{
    random::{history, run},
    *,
};
use crate::route::RouteTable;

const NEXT: ClusterId = ClusterId(8);

fn recovery(unix_seconds: u32) -> Recovery {
    Recovery {
        cluster: NEXT,
        info: info("c"),
        directory: 900,
        unix_seconds,
        highest_epoch_found: Epoch(0),
    }
}

/// The one node of a recovered registry registers and takes every shard.
fn served(node: NodeId, registry: Registry) -> Bed {
    let index = registry.applied().0;
    let mut bed = Bed { registry, index, ..Bed::default() };
    bed.register_anew(node);
    let incarnation = bed.incarnation(node);
    let items = bed.registry.shards();
    let items =
        items.map(|(shard, row)| Assign { shard, epoch: row.epoch, target: node, incarnation });
    let items = items.collect();
    bed.ok(Command::Assign { items });
    bed
}

#[test]
fn one_node_goes_on_under_a_new_id_and_nobody_else_is_known() {
    let (mut bed, _) = Bed::serving(3);
    bed.begin(S0, NodeId(3));
    let (node, recovered) = bed.registry.recover(&recovery(2_000)).unwrap();
    assert_eq!(node.0, bed.index + 1);
    assert_eq!(recovered.applied(), LogIndex(node.0));
    assert_eq!(recovered.nodes().map(|(id, _)| id).collect::<Vec<_>>(), [node]);
    assert_eq!(recovered.cluster().id, NEXT);
    assert_eq!(recovered.cluster().recovered_from, Some(CLUSTER));
    assert_eq!(recovered.settings(), bed.registry.settings());
    assert!(recovered.has_left(NodeId(1)) && recovered.is_untouched_since_recovery());
    let bed = served(node, recovered);
    assert_eq!(bed.registry.held(node).owned, SHARDS);
    assert!(!bed.registry.is_untouched_since_recovery());
}

#[test]
fn others_join_anew_by_the_names_they_had() {
    let (bed, _) = Bed::serving(3);
    let (node, recovered) = bed.registry.recover(&recovery(2_000)).unwrap();
    let mut bed = served(node, recovered);
    for name in ["a", "b"] {
        let joined = bed.join(name);
        bed.register_anew(joined);
        assert!(joined > node, "no id of before is used again");
    }
    assert!(matches!(bed.apply(join("c", 5, &[])), Err(Refused::NameInUse { .. })));
}

#[test]
fn what_cannot_be_recovered_is_refused_with_the_remedy() {
    let (bed, _) = Bed::serving(3);
    let line = |registry: &Registry, recovery: &Recovery| {
        registry.recover(recovery).unwrap_err().to_string()
    };
    assert_eq!(
        line(&Bed::founded().registry, &recovery(1)),
        format!(
            "cluster {CLUSTER} was never formed and never served: give its nodes empty \
             directories, and they found another"
        )
    );
    assert_eq!(
        line(&Registry::new(), &recovery(1)),
        "it belongs to no cluster: start the node, and it founds or joins one"
    );
    let same = Recovery { cluster: CLUSTER, ..recovery(1) };
    assert_eq!(
        line(&bed.registry, &same),
        format!("a recovered cluster needs an id of its own, not {CLUSTER}")
    );
    let old = Recovery { info: NodeInfo { feature_level: 0, ..info("c") }, ..recovery(1) };
    assert_eq!(
        line(&bed.registry, &old),
        "the cluster is at feature level 1, this build knows 0: take the version of shoal that \
         its nodes ran"
    );
    let weightless = Recovery { info: NodeInfo { weight: 0, ..info("c") }, ..recovery(1) };
    assert_eq!(line(&bed.registry, &weightless), "node c has weight 0, allowed: 1 to 1000");
}

#[test]
fn s13_an_era_with_nothing_above_it_is_not_recovered() {
    let (bed, _) = Bed::serving(1);
    let found = Recovery { highest_epoch_found: Epoch(u64::MAX - 5), ..recovery(1) };
    let refused = bed.registry.recover(&found).unwrap_err();
    assert_eq!(refused, Unrecoverable::NoEraLeft(u32::MAX));
}

#[test]
fn a_lease_that_is_not_settled_stays_so() {
    let (mut bed, _) = Bed::serving(2);
    let lower = Configure { lease_ms: Some(2_000), ..Configure::default() };
    bed.ok(Command::Configure(lower));
    let (_, recovered) = bed.registry.recover(&recovery(1)).unwrap();
    assert_eq!(recovered.settings().longest_lease_ms(), 3_000);
}

/// A store that keeps the highest token it ever saw for each shard, and refuses lower ones.
#[derive(Default)]
struct FencedStore(BTreeMap<ShardId, Epoch>);

impl FencedStore {
    fn write(&mut self, shard: ShardId, token: Epoch) -> bool {
        let seen = self.0.entry(shard).or_default();
        let accepted = token >= *seen;
        *seen = token.max(*seen);
        accepted
    }
}

/// Served, lost, recovered, lost for good, founded anew: the clock of each machine is worse than
/// that of the one before.
#[test]
fn s13_a_fenced_store_refuses_tokens_of_before_a_recovery_and_of_before_a_re_creation() {
    let (mut lost, ids) = Bed::serving(3);
    // What a paused owner of the lost cluster will come back with, grown by many failovers.
    for _ in 0..50 {
        lost.fence(ids[0]);
        lost.register_anew(ids[0]);
        let target = ids[0];
        let incarnation = lost.incarnation(target);
        let rows = lost.registry.shards().filter(|(_, row)| row.owner().is_none());
        let items =
            rows.map(|(shard, row)| Assign { shard, epoch: row.epoch, target, incarnation });
        let items = items.collect();
        lost.ok(Command::Assign { items });
    }
    let (node, recovered) = lost.registry.recover(&recovery(3)).unwrap();
    let recovered = served(node, recovered);
    let mut anew = Bed::founded();
    let highest_epoch_found = recovered.registry.highest_epoch();
    anew.ok(Command::Form { unix_seconds: 2, highest_epoch_found });
    let mut store = FencedStore::default();
    let beds = [&lost, &recovered, &anew];
    for (age, bed) in beds.iter().enumerate() {
        for (shard, row) in bed.registry.shards() {
            assert!(store.write(shard, row.epoch), "the present owner of {shard} is accepted");
            for older in &beds[..age] {
                assert!(!store.write(shard, older.row(shard).epoch), "a former owner is not");
            }
        }
        let highest = bed.registry.highest_epoch();
        let next = beds.get(age + 1).map(|next| next.registry.cluster().first_epoch);
        assert!(next.is_none_or(|next| next.era() > highest.era()), "an era of its own");
    }
}

proptest! {
    #[test]
    fn any_registry_recovers_to_a_sound_one_with_one_node_and_higher_tokens(
        history in history(),
        unix_seconds in 0_u32..4_000_000_000,
        found in any::<u32>(),
    ) {
        let bed = run(&history, |_, _| {});
        let found = Epoch::new(found / 2, found);
        let recovery = Recovery { highest_epoch_found: found, ..recovery(unix_seconds) };
        let (node, recovered) = bed.registry.recover(&recovery).expect("there is an era left");
        prop_assert_eq!(recovered.check(), []);
        prop_assert!(node > NodeId(bed.index));
        prop_assert_eq!(recovered.nodes().count(), 1);
        let row = recovered.node(node).expect("the only node");
        prop_assert_eq!((row.life, row.drain, row.marked), (Life::Joining, Drain::None, false));
        prop_assert_eq!(recovered.shards().count(), bed.registry.shards().count());
        let highest = bed.registry.highest_epoch().max(found);
        for (_, row) in recovered.shards() {
            prop_assert!(row.epoch > highest && row.epoch.era() > highest.era());
            prop_assert!(row.epoch >= Epoch::new(unix_seconds, 0));
            prop_assert_eq!(row.holding, Holding::Unassigned);
        }
        let restored = Registry::from_parts(recovered.parts());
        prop_assert_eq!(restored.as_ref(), Ok(&recovered));
        let mut table = RouteTable::default();
        table.update(&recovered, &recovered.changes_since(LogIndex(0)));
        prop_assert_eq!(table, RouteTable::from_registry(&recovered));
        let bed = served(node, recovered);
        prop_assert_eq!(bed.registry.held(node).owned, SHARDS);
    }

    /// Rows of the lost cluster never reach a table of the recovered one, nor the reverse.
    #[test]
    fn tables_of_the_lost_and_the_recovered_cluster_take_nothing_from_each_other(
        history in history(),
    ) {
        let bed = run(&history, |_, _| {});
        let (_, recovered) = bed.registry.recover(&recovery(2_000)).expect("there is an era left");
        let (mut old, mut new) = (bed.registry.clone(), recovered.clone());
        let foreign = |outcome| matches!(outcome, Err(Error::Foreign { .. }));
        prop_assert!(foreign(old.install_delta(recovered.parts())));
        prop_assert!(foreign(new.install_delta(bed.registry.parts())));
        prop_assert_eq!((old, new), (bed.registry, recovered));
    }
}
