//! A volume that no Kubernetes node can mount: kept until somebody gives it up, and then replaced.

use anyhow::{Context as _, ensure};
use serde_json::json;
use shoal_tests::{
    deploy::{Site, condition},
    kube::{Cluster, Node, Tier, within},
};

use crate::{
    calls::Calls,
    stage::{PATIENCE, Stage},
};

const MEMBER: &str = "orders-1";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Volumes are tied to the name of their machine: under another one it is not theirs. Pods that run
/// go on.
struct Renamed<'a>(&'a Cluster);

impl<'a> Renamed<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        label(cluster, "elsewhere");
        Self(cluster)
    }
}

impl Drop for Renamed<'_> {
    fn drop(&mut self) {
        label(self.0, Node::One.name());
    }
}

fn label(cluster: &Cluster, hostname: &str) {
    let label = format!("{HOSTNAME}={hostname}");
    cluster.kubectl(&["label", "node", Node::One.name(), "--overwrite", &label]).unwrap();
}

/// Uid of the claim, where there is one, and id of the node.
fn identity(site: &Site<'_>) -> anyhow::Result<(Option<String>, Option<String>)> {
    let name = format!("shoal-data-{MEMBER}");
    let claims = site.claims()?.into_iter();
    let mut claims = claims.filter(|claim| claim.metadata.name.as_ref() == Some(&name));
    let members = site.status()?.members;
    let member = members.into_iter().find(|member| member.name == MEMBER);
    let uid = claims.next().and_then(|claim| claim.metadata.uid);
    Ok((uid, member.and_then(|member| member.node_id)))
}

#[test]
fn a_lost_volume_is_kept_until_it_is_given_up_and_then_replaced() {
    let stage = Stage::of(Tier::Node);
    if stage.cluster.is_users() {
        println!("left out: a node of a cluster of the user is not renamed");
        return;
    }
    stage.operator();
    let namespace = stage.namespace("volumes");
    let site = stage.founded(&namespace);
    let before = identity(&site).unwrap();
    let calls = Calls::start(&site);
    let renamed = Renamed::new(&stage.cluster);
    namespace.kubectl(&["delete", "pod", MEMBER]).unwrap();
    within(PATIENCE, || {
        let seen = site.get()?;
        let degraded = condition(&seen, "Degraded").context("no condition")?;
        ensure!(degraded.reason == "VolumeLost", "{}: {}", degraded.reason, degraded.message);
        let steps = seen.status.context("no status")?.next_steps;
        let remedy = format!("annotation shoal.dev/replace={MEMBER}");
        ensure!(steps.iter().any(|step| step.contains(&remedy)), "{steps:?}");
        Ok(())
    })
    .unwrap();
    assert_eq!(identity(&site).unwrap(), before, "nobody has given it up");
    site.patch(&json!({"metadata": {"annotations": {"shoal.dev/replace": MEMBER}}})).unwrap();
    within(PATIENCE, || {
        let (claim, _) = identity(&site)?;
        ensure!(claim != before.0, "the claim is still that of the lost volume");
        Ok(())
    })
    .unwrap();
    drop(renamed);
    site.ready(PATIENCE).unwrap();
    calls.end();
    let after = identity(&site).unwrap();
    assert!(after.0 != before.0 && after.1 != before.1, "{before:?}, {after:?}");
    let told = site.events().unwrap();
    for wanted in ["Removed", "VolumeDeleted"] {
        assert!(told.iter().any(|event| event.reason.as_deref() == Some(wanted)), "{wanted}");
    }
}
