//! Pods under an operator that gives their recorded cluster up, by the file that it writes: they
//! take no part in it any more, say so, and found another only once it is given up.

use std::fs;

use shoal_proto::shoal::admin::v1::Standing;
use shoal_tests::{Node, wait};

use crate::{
    pods::{FOUNDERS, Pods},
    recovery::FencedStore,
};

/// The process is killed and its directory is gone.
fn lose(node: &mut Node) {
    if node.runs() {
        node.kill();
    }
    fs::remove_dir_all(node.data()).unwrap();
}

/// What this pod says of itself once it says what is wanted.
#[track_caller]
fn says(pods: &Pods, at: usize, wanted: &Standing) {
    wait::until("the pod says where it stands", || {
        let standing = pods.status(at)?.standing;
        if standing.as_ref() == Some(wanted) { Ok(()) } else { Err(format!("{standing:?}")) }
    });
}

/// An empty directory that keeps to a mark, or of which there is none.
fn empty(at: usize, mark: Option<(&str, &str)>) -> Standing {
    let (cluster, since) = mark.unwrap_or_default();
    Standing {
        pod_uid: format!("uid-{at}"),
        abandoning: cluster.to_owned(),
        abandoning_since: since.to_owned(),
        ..Standing::default()
    }
}

#[test]
fn s20_empty_pods_beside_a_living_quorum_join_it_only_once_the_mark_is_gone() {
    let (mut pods, cluster) = Pods::running(FOUNDERS);
    lose(&mut pods.cluster.nodes[2]);
    pods.mark(&cluster, "t1");
    pods.cluster.nodes[2].start();
    says(&pods, 2, &empty(2, Some((&cluster, "t1"))));
    let words = format!("waiting for the operator to abandon cluster {cluster} or to keep it");
    pods.cluster.nodes[2].waits(&words);
    // Its members go on, whoever of them reads the mark, and say that they hold the cluster.
    pods.cluster.nodes[1].kill();
    pods.cluster.nodes[1].start();
    pods.cluster.nodes[1].ready();
    for at in [0, 1] {
        wait::until("the member says that it holds the cluster", || {
            let standing = pods.status(at)?.standing.unwrap_or_default();
            let holds = standing.cluster_id == cluster && standing.formed && !standing.joining;
            let own = standing.pod_uid == format!("uid-{at}");
            if holds && own { Ok(()) } else { Err(format!("{standing:?}")) }
        });
    }
    // The next mark is another, and each is answered by its own word.
    pods.mark(&cluster, "t2");
    says(&pods, 2, &empty(2, Some((&cluster, "t2"))));
    pods.record(Some(&cluster));
    pods.cluster.nodes[2].ready();
    assert_eq!(pods.cluster.settle(FOUNDERS).cluster_id, cluster);
    pods.cluster.client(2).increment("through the pod that waited").unwrap();
}

#[test]
fn s20_a_founding_that_died_after_its_id_was_recorded_is_founded_anew_once_it_is_given_up() {
    let mut pods = Pods::prepared(FOUNDERS);
    pods.record(None);
    pods.start();
    let died = pods.joined();
    pods.record(Some(&died));
    pods.cluster.nodes.iter_mut().for_each(lose);
    pods.start();
    let waits = format!("waiting for a member of cluster {died}, which the operator has recorded");
    pods.cluster.nodes.iter_mut().for_each(|node| drop(node.waits(&waits)));
    (0..FOUNDERS).for_each(|at| says(&pods, at, &empty(at, None)));
    pods.mark(&died, "t");
    (0..FOUNDERS).for_each(|at| says(&pods, at, &empty(at, Some((&died, "t")))));
    // So does the next process of the same pod, from its first answer on.
    pods.cluster.nodes[1].kill();
    pods.cluster.nodes[1].start();
    says(&pods, 1, &empty(1, Some((&died, "t"))));
    pods.record(None);
    assert_ne!(pods.formed(), died);
    pods.cluster.nodes.iter_mut().for_each(Node::ready);
    pods.cluster.settle(FOUNDERS);
}

#[test]
fn s13_a_cluster_founded_anew_after_its_registry_was_lost_issues_higher_tokens() {
    let (mut pods, lost) = Pods::running(FOUNDERS);
    let mut store = FencedStore::default();
    let before = store.takes_all(&mut pods.cluster.client(0));
    pods.cluster.nodes.iter_mut().for_each(lose);
    pods.start();
    pods.mark(&lost, "t");
    (0..FOUNDERS).for_each(|at| says(&pods, at, &empty(at, Some((&lost, "t")))));
    pods.record(None);
    assert_ne!(pods.formed(), lost);
    pods.cluster.nodes.iter_mut().for_each(Node::ready);
    pods.cluster.settle(FOUNDERS);
    store.takes_all(&mut pods.cluster.client(0));
    store.refuses_all(&before);
}
