//! The operator goes, comes and moves; the workers do not notice.

use k8s_openapi::api::core::v1::Pod;
use shoal_tests::{
    deploy::{Site, restarts, uid},
    kube::Tier,
};

use crate::{
    calls::Calls,
    stage::{PATIENCE, SYSTEM, Stage},
};

const ELSEWHERE: &str = "shoal-elsewhere";

#[test]
fn an_operator_is_upgraded_robbed_of_its_lease_and_moved() {
    let stage = Stage::of(Tier::Node);
    let operator = stage.operator();
    let namespace = stage.namespace("operators");
    let site = stage.founded(&namespace);
    let calls = Calls::start(&site);
    let before = site.pods().unwrap();

    stage.operator_in(SYSTEM, &["logLevel=debug"]);
    untouched(&site, &before);

    let lease = ["delete", "lease", "--all", "--namespace", SYSTEM];
    stage.cluster.kubectl(&lease).unwrap();
    site.scale(4).unwrap();
    site.ready(PATIENCE).unwrap();

    operator.uninstall().unwrap();
    // The definition stays, and stays the first release's, as the chart's README says.
    let moved = stage.operator_in(ELSEWHERE, &["crd.install=false"]);
    site.scale(3).unwrap();
    site.ready(PATIENCE).unwrap();
    untouched(&site, &before);
    calls.end();
    moved.uninstall().unwrap();
    stage.cluster.kubectl(&["delete", "namespace", ELSEWHERE]).unwrap();
}

/// The same pods, and no container started again.
fn untouched(site: &Site<'_>, before: &[Pod]) {
    let state = |pods: &[Pod]| -> Vec<(String, i32)> {
        pods.iter().map(|pod| (uid(pod).to_owned(), restarts(pod))).collect()
    };
    assert_eq!(state(&site.pods().unwrap()), state(before));
}
