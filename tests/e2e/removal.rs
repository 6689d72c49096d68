//! Nodes that leave, or are to leave and stay after all.

use anyhow::ensure;
use serde_json::{Value, json};
use shoal_tests::{
    deploy::{Site, name, restarts, uid},
    kube::{Tier, Victim, within},
};

use crate::{
    calls::Calls,
    stage::{PATIENCE, Stage},
};

/// The one that leaves.
const LEAVER: &str = "orders-2";
const KILLS: i32 = 5;

#[test]
fn a_drain_that_is_called_off_touches_no_pod() {
    let stage = Stage::of(Tier::Node);
    stage.operator();
    let namespace = stage.namespace("cancel");
    let site = stage.site(&namespace);
    let mut spec = stage.spec();
    // Slow enough to be seen half-way.
    spec["shards"] = 1024.into();
    spec["rebalance"] = json!({"maxMoves": 1, "maxMovesPerNode": 1});
    site.apply(&spec).unwrap();
    site.ready(PATIENCE).unwrap();
    let before = site.pods().unwrap();
    let calls = Calls::start(&site);
    site.scale(2).unwrap();
    within(PATIENCE, || {
        let status = site.status()?;
        let leaver = status.members.iter().find(|member| member.name == LEAVER);
        let half = leaver.is_some_and(|leaver| leaver.drain.is_some() && leaver.shards > 0);
        ensure!(half, "not half-way: {leaver:?}");
        Ok(())
    })
    .unwrap();
    site.scale(3).unwrap();
    let seen = site.ready(PATIENCE).unwrap();
    calls.end();
    let shards = seen.status.unwrap().shards.unwrap();
    assert_eq!((shards.assigned, shards.unassigned), (shards.total, 0));
    for (old, new) in before.iter().zip(&site.pods().unwrap()) {
        assert_eq!((uid(old), restarts(old)), (uid(new), restarts(new)), "{}", name(new));
    }
}

#[test]
fn a_removed_node_that_is_killed_again_and_again_stays_out() {
    let stage = Stage::of(Tier::Node);
    stage.operator();
    let namespace = stage.namespace("removed");
    let site = stage.founded(&namespace);
    let calls = Calls::start(&site);
    // The pod must stay while the operator would take it away: it looks on.
    site.patch(&json!({"spec": {"state": "Paused", "replicas": 2}})).unwrap();
    within(PATIENCE, || {
        let shown = site.get()?;
        let observed = shown.status.and_then(|status| status.observed_generation);
        ensure!(observed == shown.metadata.generation, "not paused yet");
        Ok(())
    })
    .unwrap();
    site.shoal("orders-0", &["drain", LEAVER, "--remove"]).unwrap();
    stays_out(&site, 0);
    // It stays an entry for calls, and kills of an entry are no planned change.
    calls.end();
    for kill in 1..=KILLS {
        site.kill(LEAVER, Victim::Container).unwrap();
        stays_out(&site, kill);
    }
    site.patch(&json!({"spec": {"state": "Running"}})).unwrap();
    site.ready(PATIENCE).unwrap();
    assert_eq!(site.pods().unwrap().len(), 2);
}

/// Its container runs for the `times`-th time, and nobody counts on it.
fn stays_out(site: &Site<'_>, times: i32) {
    within(PATIENCE, || {
        let pods = site.pods()?;
        let pod = pods.iter().find(|pod| name(pod) == LEAVER);
        let runs = pod.is_some_and(|pod| restarts(pod) == times && parked(site));
        ensure!(runs, "it is not started for time {times}");
        Ok(())
    })
    .unwrap();
    let told = site.shoal("orders-0", &["status", "--linearizable", "-o", "json"]).unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    let nodes = told["nodes"].as_array().unwrap();
    let leavers: Vec<_> = nodes.iter().filter(|node| node["name"] == LEAVER).collect();
    for node in leavers {
        assert_eq!((&node["life"], &node["shards_owned"]), (&json!("left"), &json!(0)), "{node}");
        let votes = told["voters"].as_array().unwrap().contains(&node["id"]);
        assert!(!votes, "it votes: {told}");
    }
    assert_eq!(told["shards"]["unassigned"], 0, "{told}");
}

/// The process says itself that it waits to be taken away.
fn parked(site: &Site<'_>) -> bool {
    site.shoal(LEAVER, &["status", "-o", "json"]).is_ok()
}
