//! A cluster that sleeps, is deleted and comes back by its volumes, and one that leaves nothing.

use anyhow::ensure;
use serde_json::json;
use shoal_tests::{
    deploy::Site,
    kube::{Tier, within},
};

use crate::stage::{PATIENCE, Stage};

/// Everything a cluster consists of but its volumes.
const KINDS: &str = "statefulsets,pods,services,endpointslices,configmaps,secrets,serviceaccounts,\
                     roles,rolebindings,poddisruptionbudgets,networkpolicies,controllerrevisions";

#[test]
fn a_cluster_sleeps_comes_back_and_leaves_nothing() {
    let stage = Stage::of(Tier::Node);
    let operator = stage.operator();
    let namespace = stage.namespace("life");
    let site = stage.founded(&namespace);
    let id = id(&site);

    site.scale(0).unwrap();
    within(PATIENCE, || {
        ensure!(site.pods()?.is_empty(), "pods are left");
        Ok(())
    })
    .unwrap();
    assert_eq!(site.claims().unwrap().len(), 3, "a volume was not kept");
    site.scale(3).unwrap();
    site.ready(PATIENCE).unwrap();
    assert_eq!(self::id(&site), id, "another cluster woke up");

    site.delete().unwrap();
    nothing_left(&site, 3);
    site.apply(&stage.spec()).unwrap();
    site.ready(PATIENCE).unwrap();
    assert_eq!(self::id(&site), id, "the volumes were not taken up again");

    // Now the volumes go too, and nobody is there to take anything away.
    let retention = json!({"whenDeleted": "Delete"});
    site.patch(&json!({"spec": {"storage": {"persistent": {"retention": retention}}}})).unwrap();
    site.ready(PATIENCE).unwrap();
    operator.uninstall().unwrap();
    site.delete().unwrap();
    nothing_left(&site, 0);
}

fn id(site: &Site<'_>) -> String {
    site.status().unwrap().cluster_id.unwrap()
}

/// But so many claims of volumes, and what every namespace has.
fn nothing_left(site: &Site<'_>, claims: usize) {
    within(PATIENCE, || {
        let left = site.namespace.kubectl(&["get", KINDS, "-o", "name"])?;
        let of_cluster = |line: &&str| line.contains(&format!("/{}", site.name));
        let left: Vec<_> = left.lines().filter(of_cluster).collect();
        ensure!(left.is_empty(), "{left:?}");
        let kept = site.claims()?.len();
        ensure!(kept == claims, "{kept} claims, not {claims}");
        Ok(())
    })
    .unwrap();
}
