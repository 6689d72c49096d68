//! Settings, leases not yet settled, feature levels and operator epochs.

use super::*;

fn lease(lease_ms: u32) -> Command {
    Command::Configure(Configure { lease_ms: Some(lease_ms), ..Configure::default() })
}

#[test]
fn s9_the_largest_lease_not_yet_settled_is_kept() {
    let mut bed = Bed::founded();
    bed.ok(lease(10_000));
    let first = LogIndex(bed.index);
    assert_eq!(bed.registry.settings().previous_lease, Some((3_000, first)));
    bed.ok(lease(2_000));
    let second = LogIndex(bed.index);
    let previous = bed.registry.settings().previous_lease;
    assert_eq!(previous, Some((10_000, second)));
    assert_eq!(bed.registry.settings().longest_lease_ms(), 10_000);
    bed.ok(lease(2_000));
    assert_eq!(bed.registry.settings().previous_lease, previous);
    assert!(!bed.changes.settings && !bed.changes.map_version_changed);

    let settle = |since| Command::SettleLease { previous_since: since };
    assert_eq!(bed.apply(settle(first)), Err(Refused::NothingToSettle));
    bed.ok(settle(second));
    assert_eq!(bed.registry.settings().longest_lease_ms(), 2_000);
    assert_eq!(bed.apply(settle(second)), Err(Refused::NothingToSettle));
}

#[test]
fn settings_never_move_the_map_version() {
    let mut bed = Bed::founded();
    let version = bed.registry.map_version();
    bed.ok(Command::Configure(Configure {
        max_moves: Some(8),
        rebalance: Some(Rebalance::Paused),
        ..Configure::default()
    }));
    assert!(bed.changes.settings);
    assert_eq!(bed.registry.map_version(), version);
    assert_eq!(bed.registry.settings().max_moves, 8);
    assert_eq!(bed.registry.settings().rebalance, Rebalance::Paused);
}

#[test]
fn a_setting_out_of_bounds_changes_none() {
    let none = Configure::default();
    let cases = [
        Configure { lease_ms: Some(1_999), ..none.clone() },
        Configure { lease_ms: Some(60_001), ..none.clone() },
        Configure { max_moves: Some(0), ..none.clone() },
        Configure { max_moves_per_node: Some(4_097), ..none.clone() },
        Configure { cooldown_ms: Some(3_600_001), ..none.clone() },
        Configure { max_voters: Some(2), ..none.clone() },
        Configure { max_voters: Some(9), ..none.clone() },
        Configure { max_learners: Some(65), ..none },
    ];
    let mut bed = Bed::founded();
    let before = bed.registry.settings().clone();
    for case in cases {
        let case = Configure { rebalance: Some(Rebalance::Paused), ..case };
        let refused = bed.apply(Command::Configure(case));
        assert!(matches!(refused, Err(Refused::OutOfRange { .. })));
        assert_eq!(*bed.registry.settings(), before);
    }
}

#[test]
fn the_shard_count_is_fixed_at_founding() {
    let mut bed = Bed::founded();
    let shards =
        |count| Command::Configure(Configure { shard_count: Some(count), ..Configure::default() });
    bed.ok(shards(SHARDS));
    let refused = bed.apply(shards(32)).expect_err("fixed").to_string();
    let expected = "SHARDS is 16 since the cluster was founded and cannot become 32";
    assert_eq!(refused, expected);
    for count in [0, 8, 17, 131_072] {
        let mut bed = Bed::default();
        let refused = bed.apply(Command::Found {
            cluster: CLUSTER,
            founder: info("a"),
            directory: 1,
            shard_count: count,
            lease_ms: 3_000,
        });
        assert!(matches!(refused, Err(Refused::OutOfRange { .. })));
    }
}

#[test]
fn s10_the_level_rises_only_when_every_node_that_has_not_left_knows_it() {
    let mut bed = Bed::founded();
    let raise = |level| Command::RaiseLevel { level };
    let old = bed.join("old");
    let newer = |bed: &Bed, node| Register {
        info: NodeInfo { feature_level: 2, ..bed.node(node).info.clone() },
        ..bed.register(node)
    };
    let register = newer(&bed, NodeId(1));
    bed.ok(Command::Register(register));
    let refused = Refused::Level { asked: 2, current: 1 };
    assert_eq!(bed.apply(raise(2)), Err(refused));
    bed.ok(Command::Mark { node: old });
    bed.ok(Command::Remove { node: old, incarnation: Incarnation::default() });
    bed.ok(raise(2));
    assert_eq!(bed.registry.settings().feature_level, 2);
    assert!(bed.apply(raise(2)).is_err());
    let register = bed.register(NodeId(1));
    let downgraded = Register { info: info("a"), ..register };
    let refused = Refused::LevelTooLow { node: "a".into(), known: 1, required: 2 };
    assert_eq!(bed.apply(Command::Register(downgraded)), Err(refused));
}

#[test]
fn a_command_of_an_operator_counts_only_under_the_epoch_in_force() {
    let mut bed = Bed::founded();
    let guarded = |operator_epoch| Command::Guarded {
        operator_epoch,
        command: Box::new(Command::DrainRemoval { node: NodeId(1) }),
    };
    for epoch in 1..=2 {
        let event = bed.ok(Command::AcquireOperatorEpoch);
        assert_eq!(event, Event::OperatorEpoch { epoch });
    }
    for seen in [1, 3] {
        let refused = Refused::OperatorEpoch { seen, current: 2 };
        assert_eq!(bed.apply(guarded(seen)), Err(refused));
    }
    assert_eq!(bed.node(NodeId(1)).drain, Drain::None);
    bed.ok(guarded(2));
    assert_eq!(bed.node(NodeId(1)).drain, Drain::Removal);
}
