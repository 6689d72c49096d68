//! An ephemeral cluster whose pods all go, hibernated or lost at once: it is founded anew by itself, and
//! its tokens go on above those of before.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use shoal_tests::{
    deploy::{Site, name},
    kube::{Tier, within},
};

use crate::stage::{PATIENCE, Stage};

/// Until the kubelets have brought the mark and its end, with the wait between them.
const REFOUNDED: Duration = Duration::from_secs(480);

#[test]
fn an_ephemeral_cluster_that_slept_or_lost_all_pods_is_founded_anew_with_higher_tokens() {
    let stage = Stage::of(Tier::Node);
    stage.operator();
    let namespace = stage.namespace("refound");
    let site = stage.site(&namespace);
    let mut spec = stage.spec();
    spec["storage"] = json!({ "type": "Ephemeral", "ephemeral": { "onRegistryLoss": "Refound" } });
    site.apply(&spec).unwrap();
    site.ready(PATIENCE).unwrap();
    let first = (id(&site).unwrap(), epochs(&site).unwrap());
    site.scale(0).unwrap();
    within(PATIENCE, || {
        ensure!(site.pods()?.is_empty(), "pods are left");
        Ok(())
    })
    .unwrap();
    site.scale(3).unwrap();
    site.ready(PATIENCE).unwrap();
    let (lost, before) = (id(&site).unwrap(), epochs(&site).unwrap());
    assert_ne!(first.0, lost);
    assert!(before.iter().min() > first.1.iter().max(), "{:?} {before:?}", first.1);
    let pods = site.pods().unwrap();
    let mut words = vec!["delete", "pod", "--grace-period=0", "--force", "--wait=false"];
    words.extend(pods.iter().map(name));
    namespace.kubectl(&words).unwrap();
    within(REFOUNDED, || {
        let status = site.status()?;
        let id = status.cluster_id.with_context(|| format!("{:?}", status.next_steps))?;
        ensure!(id != lost, "{:?}", status.next_steps);
        Ok(())
    })
    .unwrap();
    site.ready(PATIENCE).unwrap();
    let after = epochs(&site).unwrap();
    assert!(after.iter().min() > before.iter().max(), "{before:?} {after:?}");
    let events = site.events().unwrap();
    assert!(events.iter().any(|event| event.reason.as_deref() == Some("Abandoned")));
}

fn id(site: &Site<'_>) -> anyhow::Result<String> {
    site.status()?.cluster_id.context("it is formed")
}

/// The token of each shard.
fn epochs(site: &Site<'_>) -> anyhow::Result<Vec<u64>> {
    let pods = site.pods()?;
    let told = site.shoal(name(&pods[0]), &["shards", "-o", "json"])?;
    let told: Value = serde_json::from_str(&told)?;
    let shards = told.as_array().or_else(|| told["shards"].as_array());
    let shards = shards.context("it says no shards")?.iter();
    shards.map(|shard| shard["epoch"].as_u64().context("a shard has an epoch")).collect()
}
