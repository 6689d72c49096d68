//! A Kubernetes node that is drained: its pods go elsewhere, one after the other.

use std::time::{Duration, Instant};

use shoal_tests::{
    deploy::node_of,
    kube::{self, Node, Tier},
};

use crate::stage::{PATIENCE, Stage};

/// Promised of `kubectl drain`.
const WITHIN: Duration = Duration::from_secs(60);

#[test]
fn a_kubernetes_node_is_drained_whatever_the_replicas() {
    let stage = Stage::of(Tier::Nodes2);
    if stage.cluster.is_users() {
        println!("left out: a node of a cluster of the user is not drained");
        return;
    }
    stage.operator();
    let namespace = stage.namespace("drain");
    let site = stage.site(&namespace);
    for replicas in [1, 2, 3] {
        let mut spec = stage.spec();
        spec["replicas"] = replicas.into();
        site.apply(&spec).unwrap();
        site.ready(PATIENCE).unwrap();
        let pods = site.pods().unwrap();
        let of = |node: Node| pods.iter().filter(|pod| node_of(pod) == node.name()).count();
        // The one that has more of them.
        let drained = if of(Node::One) > of(Node::Two) { Node::One } else { Node::Two };
        let count = of(drained);
        assert!(count > 0, "no pod runs on {}", drained.name());
        let began = Instant::now();
        let flags = ["--delete-emptydir-data", "--ignore-daemonsets", "--timeout=120s"];
        stage.cluster.kubectl(&[&["drain", drained.name()], &flags[..]].concat()).unwrap();
        let lasted = began.elapsed();
        println!(
            "{replicas} replicas: {count} pods drained off {} in {lasted:.1?}",
            drained.name()
        );
        assert!(lasted <= WITHIN, "{lasted:?}");
        site.ready(PATIENCE).unwrap();
        stage.cluster.kubectl(&["uncordon", drained.name()]).unwrap();
    }
    drop(namespace);
    drop(stage);
    kube::down(Tier::Nodes2.name()).unwrap();
}
