//! A machine that dies without a word, and with it the volume of a member: whoever is left takes the
//! shards; once the machine is known to be gone the member is replaced, as the spec says.

use std::fs;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use shoal_operator::crd::{Member, MemberState};
use shoal_tests::{
    deploy::{Site, condition, name, node_of, uid},
    kube::{self, Cluster, Node, Tier, within},
};

use crate::stage::{PATIENCE, Stage};

const CLASS: &str = "pinned";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Of the machine that dies, and of the one that stays: the members, and the successor.
const VOLUMES: [(Node, usize); 2] = [(Node::Two, 1), (Node::One, 3)];

#[test]
fn a_member_whose_machine_died_without_a_word_is_replaced_with_its_volume() {
    let stage = Stage::of(Tier::Nodes2);
    if stage.cluster.is_users() {
        println!("left out: a node of a cluster of the user is not killed");
        return;
    }
    pin(&stage.cluster);
    for node in Node::ALL {
        let zone = format!("{ZONE}={}", zone(node));
        stage.cluster.kubectl(&["label", "node", node.name(), "--overwrite", &zone]).unwrap();
    }
    stage.operator();
    let namespace = stage.namespace("machine");
    let site = stage.site(&namespace);
    let mut spec = stage.spec();
    spec["storage"] =
        json!({ "persistent": { "storageClassName": CLASS, "onVolumeLost": "Replace" } });
    site.apply(&spec).unwrap();
    site.ready(PATIENCE).unwrap();
    let pods = site.pods().unwrap();
    let lost = pods
        .iter()
        .find(|pod| node_of(pod) == Node::Two.name())
        .expect("it has the only volume there");
    let before = member(&site, name(lost)).unwrap();
    assert_eq!(before.zone, Some(zone(Node::Two)), "as the API server labels the pod");

    stage.cluster.kill_node(Node::Two).unwrap();
    within(PATIENCE, || {
        let now = member(&site, name(lost))?;
        ensure!(now.state == MemberState::Fenced && now.shards == 0, "{now:?}");
        is(&site, "Available", "Serving")?;
        is(&site, "Degraded", "MemberDown")?;
        let ready = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        let ready = stage.cluster.kubectl(&["get", "node", Node::Two.name(), "-o", ready])?;
        ensure!(ready == "Unknown", "{} is {ready}", Node::Two.name());
        Ok(())
    })
    .unwrap();
    let now = site.pods().unwrap();
    assert!(now.iter().any(|pod| uid(pod) == uid(lost)), "it may come back: nothing is deleted");

    // As the controller of a cloud does for a machine that is no more.
    stage.cluster.kubectl(&["delete", "node", Node::Two.name(), "--wait=false"]).unwrap();
    within(PATIENCE, || {
        let now = member(&site, name(lost))?;
        ensure!(now.node_id.is_some() && now.node_id != before.node_id, "{now:?}");
        Ok(())
    })
    .unwrap();
    site.ready(PATIENCE).unwrap();
    let pods = site.pods().unwrap();
    assert!(
        pods.iter().all(|pod| node_of(pod) == Node::One.name()),
        "a pod is on a machine that is gone"
    );
    assert_eq!(member(&site, name(lost)).unwrap().zone, Some(zone(Node::One)));
    let told = site.events().unwrap();
    for wanted in ["NodeLost", "Removed", "VolumeDeleted"] {
        assert!(told.iter().any(|event| event.reason.as_deref() == Some(wanted)), "{wanted}");
    }
    drop(namespace);
    drop(stage);
    kube::down(Tier::Nodes2.name()).unwrap();
}

/// A class of volumes that stay with their machines.
fn pin(cluster: &Cluster) {
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": CLASS },
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    });
    cluster.apply(&class.to_string()).unwrap();
    let kubeconfig = cluster.kubeconfig();
    let place = kubeconfig.ancestors().nth(2).expect("it lies in the cluster's directory");
    for (node, count) in VOLUMES {
        for number in 0..count {
            let name = format!("{CLASS}-{}-{number}", node.name());
            fs::create_dir_all(place.join("volumes").join(&name)).unwrap();
            cluster.apply(&volume(&name, node).to_string()).unwrap();
        }
    }
}

fn volume(name: &str, node: Node) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": name },
        "spec": {
            "capacity": { "storage": "10Gi" },
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": CLASS,
            "local": { "path": format!("/run/shoal/volumes/{name}") },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [{
                "key": "kubernetes.io/hostname", "operator": "In", "values": [node.name()],
            }] }] } },
        },
    })
}

fn zone(node: Node) -> String {
    format!("zone-of-{}", node.name())
}

fn member(site: &Site<'_>, name: &str) -> anyhow::Result<Member> {
    let members = site.status()?.members;
    members.into_iter().find(|member| member.name == name).context("no such member")
}

fn is(site: &Site<'_>, kind: &str, reason: &str) -> anyhow::Result<()> {
    let seen = site.get()?;
    let row = condition(&seen, kind).context("nothing is said of it yet")?;
    ensure!(row.reason == reason, "{kind}: {} {}", row.reason, row.message);
    Ok(())
}
