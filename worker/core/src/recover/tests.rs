//! Which directory is taken, whom to ask, and what may be lost.

use super::*;
use crate::{
    id::LogIndex,
    registry::{Addresses, Command, NodeInfo},
};

fn info(name: &str) -> NodeInfo {
    let addresses = Addresses { data: format!("{name}:11000"), ..Addresses::default() };
    NodeInfo { name: name.into(), addresses, weight: 100, feature_level: 1, ..NodeInfo::default() }
}

/// Nodes a (n1), b (n2) and c (n3), formed as the fourth entry.
fn formed() -> Registry {
    let mut registry = founded();
    for (name, index) in [("b", 2_u64), ("c", 3)] {
        let directory = u128::from(index);
        let join = Command::Join { info: info(name), directory, replaces: Vec::new() };
        registry.apply(LogIndex(index), &join).0.unwrap();
    }
    let form = Command::Form { unix_seconds: 5, highest_epoch_found: Epoch(0) };
    registry.apply(LogIndex(4), &form).0.unwrap();
    registry
}

fn founded() -> Registry {
    let mut registry = Registry::new();
    let found = Command::Found {
        cluster: ClusterId(7),
        founder: info("a"),
        directory: 1,
        shard_count: 16,
        lease_ms: 3_000,
    };
    registry.apply(LogIndex(1), &found).0.unwrap();
    registry
}

fn held(node: u64, term: u64, index: u64) -> Held {
    Held {
        cluster: ClusterId(7),
        node: NodeId(node),
        last: Position { term, leader: NodeId(1), index },
        registry: formed(),
        voters: vec![NodeId(1), NodeId(2), NodeId(3)],
        highest_epoch: Epoch(0),
    }
}

#[test]
fn the_greatest_term_wins_then_the_greatest_index_then_the_first() {
    let at = |logs: &[(u64, u64)]| {
        let held: Vec<_> =
            logs.iter().zip(1..).map(|((term, index), node)| held(node, *term, *index)).collect();
        newest(&held)
    };
    assert_eq!(at(&[(3, 900), (4, 20), (3, 901)]), Ok(1));
    assert_eq!(at(&[(4, 20), (4, 21), (4, 21)]), Ok(1));
    assert_eq!(at(&[(4, 20)]), Ok(0));
    assert_eq!(newest(&[]), Err(Error::Nothing));
}

#[test]
fn directories_of_two_clusters_are_refused_with_both_named() {
    let mut other = held(2, 9, 9);
    other.cluster = ClusterId(8);
    let refused = newest(&[held(1, 1, 1), other]).unwrap_err().to_string();
    let line = format!(
        "directories 1 and 2 belong to clusters {} and {}: give those of one cluster",
        ClusterId(7),
        ClusterId(8)
    );
    assert_eq!(refused, line);
}

#[test]
fn a_cluster_that_never_formed_is_refused() {
    let mut never = held(1, 1, 1);
    never.registry = founded();
    assert_eq!(newest(&[never.clone()]), Err(Unrecoverable::NeverFormed(ClusterId(7)).into()));
    // What counts is the newest log.
    assert_eq!(newest(&[never, held(2, 1, 4)]), Ok(1));
    let mut empty = held(1, 0, 0);
    empty.registry = Registry::new();
    assert_eq!(newest(&[empty]), Err(Unrecoverable::NeverFounded.into()));
}

#[test]
fn tokens_count_whichever_directory_knows_them() {
    let mut high = held(2, 1, 1);
    high.highest_epoch = Epoch::new(77, 3);
    assert_eq!(highest_epoch(&[held(1, 4, 20), high]), Epoch::new(77, 3));
    assert_eq!(highest_epoch(&[held(1, 4, 20)]), Epoch::new(5, 0));
}

#[test]
fn every_member_of_any_directory_is_asked_and_none_that_left() {
    let mut registry = formed();
    registry.apply(LogIndex(5), &Command::DrainRemoval { node: NodeId(3) }).0.unwrap();
    let remove = Command::Remove { node: NodeId(3), incarnation: Default::default() };
    registry.apply(LogIndex(6), &remove).0.unwrap();
    let ask = |registries: &[&Registry]| {
        to_ask(registries.iter().copied()).into_keys().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(ask(&[&registry]), ["a:11000", "b:11000"]);
    assert_eq!(ask(&[&registry, &formed()]), ["a:11000", "b:11000", "c:11000"]);
}

#[test]
fn voters_whose_directories_are_not_given_are_told() {
    let all = [held(3, 4, 20), held(1, 4, 21)];
    assert_eq!(missing_voters(&all, 1), [NodeId(2)]);
    assert_eq!(missing_voters(&all[..1], 0), [NodeId(1), NodeId(2)]);
}
