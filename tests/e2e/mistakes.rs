//! Specs whose pods cannot run: at most one pod is down for them, and an edit alone repairs it.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use shoal_tests::{
    deploy::{Site, condition, uid},
    kube::{Tier, within},
};

use crate::{
    calls::Calls,
    stage::{PATIENCE, Stage},
    watch::most_down,
};

/// What is wrong, the spec that says so, and what the operator says of it.
type Mistake = (&'static str, Value, &'static str);

fn mistakes(stage: &Stage) -> [Mistake; 4] {
    let with = |field: &str, value: Value| {
        let mut spec = spec(stage);
        spec[field] = value;
        spec
    };
    let template = |field: &str, value: Value| with("podTemplate", json!({"spec": {field: value}}));
    let requests = json!({"requests": {"cpu": "1000"}});
    // A volume that no container mounts would hold nothing up.
    let missing = json!({"spec": {
        "volumes": [{"name": "none", "secret": {"secretName": "none"}}],
        "containers": [
            {"name": "worker", "volumeMounts": [{"name": "none", "mountPath": "/none"}]},
        ],
    }});
    let fails = json!([{
        "name": "fails",
        "image": stage.images.worker.name,
        "command": ["/usr/local/bin/shoal", "recover", "--data-dir=/none"],
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": true,
        },
    }]);
    [
        ("image that does not exist", with("image", json!("localhost/none:1")), "localhost/none:1"),
        (
            "request that no node satisfies",
            template("containers", json!([{"name": "worker", "resources": requests}])),
            "Insufficient cpu",
        ),
        // Its name is in an event of the kubelet alone.
        ("secret that is missing", with("podTemplate", missing), "kubectl describe pod orders-"),
        (
            "init container that fails",
            template("initContainers", fails),
            "container fails: ended with exit code 1",
        ),
    ]
}

/// Without a mistake; a roll that is stuck says so soon.
fn spec(stage: &Stage) -> Value {
    let mut spec = stage.spec();
    spec["update"] = json!({"progressDeadlineSeconds": 10});
    spec
}

#[test]
fn mistakes_in_a_healthy_cluster_take_one_pod_and_no_call() {
    let stage = Stage::of(Tier::Node);
    stage.operator();
    let namespace = stage.namespace("mistakes");
    let site = stage.site(&namespace);
    site.apply(&spec(&stage)).unwrap();
    site.ready(PATIENCE).unwrap();
    let calls = Calls::start(&site);
    for (what, wrong, said) in mistakes(&stage) {
        let before = site.pods().unwrap();
        let ((), down) = most_down(&site, before.len(), || {
            site.apply(&wrong).unwrap();
            let words = stalled(&site, said);
            println!("{what}: {words}");
            site.apply(&spec(&stage)).unwrap();
            site.ready(PATIENCE).unwrap();
        });
        assert_eq!(down, 1, "{what}: pods that were down at once");
        let after = site.pods().unwrap();
        let replaced = before.iter().zip(&after).filter(|(old, new)| uid(old) != uid(new));
        assert_eq!(replaced.count(), 1, "{what}: pods that were replaced");
    }
    calls.end();
}

#[test]
fn mistakes_at_creation_are_repaired_by_an_edit() {
    let stage = Stage::of(Tier::Node);
    stage.operator();
    let namespace = stage.namespace("misbegun");
    let site = stage.site(&namespace);
    for (what, wrong, _) in mistakes(&stage) {
        site.apply(&wrong).unwrap();
        within(PATIENCE, || all_at(&site)).expect(what);
        assert!(site.status().unwrap().cluster_id.is_none(), "{what}: nothing can have formed");
    }
    site.apply(&spec(&stage)).unwrap();
    site.ready(PATIENCE).unwrap();
}

/// What the operator says once it can do no more, with these words in it.
fn stalled(site: &Site<'_>, said: &str) -> String {
    let seen = within(PATIENCE, || {
        let seen = site.get()?;
        let stalled = condition(&seen, "Stalled").context("nothing is said yet")?;
        let observed = stalled.observed_generation == seen.metadata.generation;
        ensure!(observed && stalled.status == "True", "{}: {}", stalled.reason, stalled.message);
        ensure!(stalled.message.contains(said), "{}", stalled.message);
        Ok(format!("{}: {}", stalled.reason, stalled.message))
    });
    seen.unwrap()
}

/// Every founding pod was made from what is asked for now, and has not become ready.
fn all_at(site: &Site<'_>) -> anyhow::Result<()> {
    let seen = site.get()?;
    let status = seen.status.as_ref().context("no status")?;
    ensure!(status.observed_generation == seen.metadata.generation, "not observed");
    ensure!(status.updated_replicas == 3, "{} pods are up to date", status.updated_replicas);
    ensure!(status.ready_replicas == 0, "{} pods are ready", status.ready_replicas);
    Ok(())
}
