//! Scaling to and fro and rolling, under calls.

use serde_json::json;
use shoal_tests::{
    deploy::{is_ready, uid},
    kube::{Tier, within},
};

use crate::{
    calls::Calls,
    stage::{PATIENCE, SHARDS, Stage, setting},
};

/// Times 3 → 5 → 3.
const FLAPS: u32 = 2;
const NODES: u32 = 3;

#[test]
fn scaled_to_and_fro_and_rolled_without_a_failed_call() {
    let stage = Stage::of(Tier::Node);
    stage.operator();
    let _cached = stage.names_cached();
    let namespace = stage.namespace("flap");
    let site = stage.founded(&namespace);
    let calls = Calls::start(&site);
    for _ in 0..setting("E2E_FLAPS", FLAPS) {
        for replicas in [5, NODES] {
            site.scale(replicas).unwrap();
            site.ready(PATIENCE).unwrap();
            let pods = site.pods().unwrap();
            assert_eq!(pods.len(), replicas as usize);
            assert!(pods.iter().all(is_ready));
            within(PATIENCE, || {
                let claims = site.claims()?.len();
                anyhow::ensure!(claims == replicas as usize, "{claims} claims of {replicas} pods");
                Ok(())
            })
            .unwrap();
        }
    }
    let (before, pods) = (site.owner_changes().unwrap(), site.pods().unwrap());
    site.patch(&json!({"spec": {"image": stage.images.next.name}})).unwrap();
    site.ready(PATIENCE).unwrap();
    for (old, new) in pods.iter().zip(&site.pods().unwrap()) {
        assert_ne!(uid(old), uid(new), "a pod that was not replaced");
    }
    assert_eq!(site.status().unwrap().version.as_deref(), Some("0.2.0"));
    calls.end();
    let moves = site.owner_changes().unwrap() - before;
    let most = f64::from(SHARDS) * (1.0 + 2.0 / f64::from(NODES)) + f64::from(NODES);
    println!("a roll of {NODES} nodes with {SHARDS} shards made {moves} moves");
    assert!(moves as f64 <= most, "{moves} moves, at most {most:.0} are needed");
}
