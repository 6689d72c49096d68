//! The operator goes, comes and moves; the workers do not notice. `helm test` says that it works.

use std::thread;

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use shoal_tests::{
    deploy::{Site, restarts, uid},
    kube::Tier,
    wait,
};

use crate::{
    calls::Calls,
    stage::{PATIENCE, SYSTEM, Stage},
};

const ELSEWHERE: &str = "shoal-elsewhere";

#[test]
fn an_operator_is_tested_upgraded_robbed_of_its_lease_and_moved() {
    let stage = Stage::of(Tier::Node);
    let (repository, tag) = stage.images.worker.name.rsplit_once(':').unwrap();
    let image =
        [format!("worker.image.repository={repository}"), format!("worker.image.tag={tag}")];
    let operator = stage.operator_in(SYSTEM, &[&image[0], &image[1]]);
    let namespace = stage.namespace("operators");
    let (site, tested) = thread::scope(|scope| {
        let tested = scope.spawn(|| operator.test().unwrap());
        (stage.founded(&namespace), tested.join().unwrap())
    });
    assert!(tested.contains("Phase:          Succeeded"), "{tested}");
    let calls = Calls::start(&site);
    let before = site.pods().unwrap();

    stage.operator_in(SYSTEM, &["logLevel=debug"]);
    untouched(&site, &before);

    let lease = ["delete", "lease", "--all", "--namespace", SYSTEM];
    stage.cluster.kubectl(&lease).unwrap();
    site.scale(4).unwrap();
    site.ready(PATIENCE).unwrap();

    logs_in_json(&stage);
    nothing_is_left_of_the_test(&stage);
    operator.uninstall().unwrap();
    // The definition stays, and stays the first release's, as the chart's README says. What it may do
    // there is all that it may do.
    let watched = format!("watchNamespaces={{{}}}", &*namespace);
    let moved = stage.operator_in(ELSEWHERE, &["crd.install=false", &watched]);
    site.scale(3).unwrap();
    site.ready(PATIENCE).unwrap();
    untouched(&site, &before);
    calls.end();
    moved.uninstall().unwrap();
    stage.cluster.kubectl(&["delete", "namespace", ELSEWHERE]).unwrap();
}

/// Each line, with time, level and message.
fn logs_in_json(stage: &Stage) {
    let words = ["logs", "--selector=app.kubernetes.io/name=shoal-operator", "--tail=-1"];
    let log = stage.cluster.kubectl(&[&words[..], &["--namespace", SYSTEM]].concat()).unwrap();
    assert!(log.lines().count() > 0, "nobody says anything");
    for line in log.lines() {
        let told: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let has = |field| told[field].as_str().is_some_and(|text: &str| !text.is_empty());
        assert!(["timestamp", "level", "message"].into_iter().all(has), "{line}");
    }
}

/// Of what `helm test` made.
fn nothing_is_left_of_the_test(stage: &Stage) {
    let all = "shardclusters,statefulsets,pods,persistentvolumeclaims,secrets,configmaps";
    let all = ["get", all, "--namespace", SYSTEM, "--output", "name"];
    wait::until_within("nothing of the test is left", PATIENCE, || {
        let names = stage.cluster.kubectl(&all).map_err(|error| error.to_string())?;
        let left: Vec<_> = names.lines().filter(|name| name.contains("/shoal-test")).collect();
        if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
    });
}

/// The same pods, and no container started again.
fn untouched(site: &Site<'_>, before: &[Pod]) {
    let state = |pods: &[Pod]| -> Vec<(String, i32)> {
        pods.iter().map(|pod| (uid(pod).to_owned(), restarts(pod))).collect()
    };
    assert_eq!(state(&site.pods().unwrap()), state(before));
}
