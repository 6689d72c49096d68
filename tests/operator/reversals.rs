//! Changes of mind at any moment: one cluster is founded, and every sequence ends as a fresh
//! installation of its last word would.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};
use shoal_tests::{
    kube::{Cluster, Namespace},
    standin::{IMAGE, IMAGE_CRASHES, IMAGE_MISSING, Knobs},
};
use tokio::time::sleep;

use super::{
    bad_input::difference,
    chance::Chance,
    is_sweep,
    scene::{NAME, Scene, run, spec},
};

/// A sequence waits for lists, leases and rolls on a machine that others use.
const PATIENCE: Duration = Duration::from_secs(240);

#[test]
fn sizes_changed_before_forming_found_one_cluster() {
    let (seeds, blind) = if is_sweep() { (0..30, 10_000) } else { (0..3, 2_500) };
    run("founding", async |cluster, _| {
        for seed in seeds {
            let namespace = cluster.namespace("founding").expect("a namespace");
            found(cluster, &namespace, seed, Duration::from_millis(blind)).await;
        }
    });
}

async fn found(cluster: &Cluster, namespace: &Namespace<'_>, seed: u64, blind: Duration) {
    let mut chance = Chance::new(seed);
    let knobs = Knobs { blind, ..Knobs::default() };
    let scene = Scene::new(cluster, namespace, knobs).await;
    let mut sizes = vec![3, 7, 1];
    if seed % 3 == 2 {
        sizes = vec![1 + chance.below(3), 7, 0, 1 + chance.below(5)]
            .into_iter()
            .map(|n| n as u32)
            .collect();
    }
    scene.create(spec(sizes[0])).await;
    for size in &sizes[1..] {
        sleep(chance.up_to(blind)).await;
        scene.change(json!({ "replicas": size })).await;
    }
    scene.ready_within(PATIENCE).await;
    let seen = scene.standin.seen();
    println!("seed {seed}: {sizes:?} founded {:?}", seen.founded);
    assert_eq!(seen.founded.len(), 1, "seed {seed}: {seen:?}");
    let revisions = scene.api::<ControllerRevision>().list(&ListParams::default()).await.unwrap();
    assert_eq!(revisions.items.len(), 1, "seed {seed}: more than one template");
    let set = scene.api::<StatefulSet>().get(NAME).await.unwrap();
    assert!(set.annotations().contains_key("shoal.dev/template-hash"));
    assert_eq!(scene.claims().await.len() as u32, *sizes.last().unwrap(), "seed {seed}");
}

#[test]
fn every_sequence_ends_as_a_fresh_installation_would() {
    let seeds: Vec<u64> =
        if is_sweep() { (0..40).collect() } else { vec![first_seed(), first_seed() + 1] };
    run("reversals", async |cluster, _| {
        for seed in seeds {
            println!("seed {seed}: SEED={seed} repeats it");
            let namespace = cluster.namespace("reversal").expect("a namespace");
            let fresh = cluster.namespace("fresh").expect("a namespace");
            reverse(cluster, &namespace, &fresh, seed).await;
        }
    });
}

fn first_seed() -> u64 {
    std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

async fn reverse(cluster: &Cluster, namespace: &Namespace<'_>, fresh: &Namespace<'_>, seed: u64) {
    let mut chance = Chance::new(seed);
    let scene = Scene::new(cluster, namespace, Knobs::default()).await;
    let mut wanted = spec(1 + chance.below(4) as u32);
    wanted["update"] = json!({ "progressDeadlineSeconds": 10 });
    scene.create(wanted.clone()).await;
    // Some from the first moment on, some on a formed cluster.
    if chance.one_in(2) {
        scene.ready().await;
    }
    for number in 0..if is_sweep() { 12 } else { 7 } {
        let act = change(&scene, &mut wanted, &mut chance, number).await;
        println!("seed {seed}: {act}");
        sleep(chance.up_to(Duration::from_secs(4))).await;
    }
    scene.standin.allow_deletions(false);
    wanted["replicas"] = json!(1 + chance.below(5));
    wanted["image"] = json!(IMAGE);
    wanted["state"] = json!("Running");
    scene.change(wanted.clone()).await;
    scene.ready_within(PATIENCE).await;
    scene.rests(Duration::from_secs(if is_sweep() { 60 } else { 5 })).await;
    let seen = scene.standin.seen();
    let replicas = wanted["replicas"].as_u64().unwrap() as usize;
    assert_eq!(seen.founded.len(), 1, "seed {seed}: {seen:?}");
    assert_eq!(scene.claims().await.len(), replicas, "seed {seed}: volumes are left");
    let state = scene.end_state().await;
    drop(scene);

    let scene = Scene::new(cluster, fresh, Knobs::default()).await;
    scene.create(wanted).await;
    scene.ready().await;
    scene.rests(Duration::from_secs(2)).await;
    let fresh = scene.end_state().await;
    assert_eq!(state, fresh, "seed {seed}: {}", difference(&fresh, &state));
}

/// One change of mind, or of the world.
async fn change(scene: &Scene<'_>, wanted: &mut Value, chance: &mut Chance, number: u64) -> String {
    let pod = format!("{NAME}-{}", chance.below(3));
    match chance.below(12) {
        0..=4 => {
            let sizes = [0, 1, 2, 3, 4, 5, 7];
            wanted["replicas"] = json!(sizes[chance.below(7) as usize]);
        }
        5 | 6 => {
            let labels = json!({ "metadata": { "annotations": { "number": number.to_string() } } });
            wanted["podTemplate"] = labels;
        }
        7 => wanted["image"] = json!([IMAGE_CRASHES, IMAGE_MISSING][chance.below(2) as usize]),
        8 => wanted["image"] = json!(IMAGE),
        9 => wanted["state"] = json!(["Paused", "Stopped", "Running"][chance.below(3) as usize]),
        10 => {
            scene.standin.kill(&pod);
            return format!("{pod} is killed");
        }
        _ => {
            scene.standin.allow_deletions(true);
            let pods = scene.api::<k8s_openapi::api::core::v1::Pod>();
            let _ = pods.delete(&pod, &DeleteParams::default()).await;
            return format!("{pod} is deleted");
        }
    }
    scene.change(wanted.clone()).await;
    let word = |name: &str| wanted.get(name).map_or(Value::Null, Clone::clone);
    format!("{} {} {} {}", word("replicas"), word("image"), word("state"), word("podTemplate"))
}
