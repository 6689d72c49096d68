//! Every write of a learned story, and every call to a worker, with every fault: each time the
//! story goes on to its end. A fault that did not fire is a failure, and so is a story that
//! writes too little to be worth it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::{
    apps::v1::StatefulSet, coordination::v1::Lease, core::v1::Pod, policy::v1::PodDisruptionBudget,
};
use kube::api::{DeleteParams, ListParams};
use rustix::process::Signal;
use serde_json::json;
use shoal_tests::{
    fault_proxy::{Fault, Point, Script},
    kube::Cluster,
    standin::Knobs,
};
use tokio::time::sleep;

use super::{
    chance::Chance,
    is_sweep,
    process::send,
    scene::{NAME, Scene, condition, run, shown, spec, until_within},
};

/// Fewer would mean that the story does not reach what it should.
const LEAST_WRITES: usize = 25;
/// Of what comes again and again the first ones stand for all.
const MOST_OF_ONE_NAME: usize = 2;
/// A write that is never answered holds a pass up for a minute.
const PATIENCE: Duration = Duration::from_secs(200);
/// Stories side by side: they mostly wait.
const AT_ONCE: usize = 3;

/// Where a fault strikes.
#[derive(Clone, Debug)]
enum Target {
    Write(Point),
    Call(Point),
}

impl Target {
    fn point(&self) -> &Point {
        match self {
            Self::Write(point) | Self::Call(point) => point,
        }
    }
}

/// What a story wrote and asked for.
struct Learned {
    writes: Vec<Point>,
    calls: Vec<Point>,
}

impl Learned {
    fn shared_with(self, other: &Self) -> Self {
        let keep = |mine: Vec<Point>, theirs: &[Point]| {
            mine.into_iter().filter(|point| theirs.contains(point)).collect()
        };
        Self { writes: keep(self.writes, &other.writes), calls: keep(self.calls, &other.calls) }
    }
}

#[test]
fn every_write_may_fail_in_every_way() {
    run("sweep", async |cluster, _| {
        // What a pass writes only where it is late is in one of them at most.
        let (one, other) = futures::join!(story(cluster, None), story(cluster, None));
        let learned = one.and_then(|one| Ok(one.shared_with(&other?)));
        let learned = learned.expect("the story without a fault");
        let all = pairs(&learned);
        println!(
            "learned {} writes and {} calls: {} pairs with faults",
            learned.writes.len(),
            learned.calls.len(),
            all.len()
        );
        assert!(learned.writes.len() >= LEAST_WRITES, "{:#?}", learned.writes);
        let chosen = if is_sweep() { all } else { sample(all) };
        let outcomes = Mutex::new(BTreeMap::new());
        stream::iter(chosen)
            .for_each_concurrent(AT_ONCE, async |(target, fault)| {
                let began = Instant::now();
                let outcome = story(cluster, Some((&target, fault))).await.map(drop);
                let key = format!("{} {fault:?}", target.point());
                let took = began.elapsed().as_secs();
                println!(
                    "{key}: {} in {took} s",
                    outcome.as_ref().err().map_or("converges", |e| e)
                );
                outcomes.lock().unwrap().insert(key, outcome);
            })
            .await;
        let outcomes = outcomes.into_inner().unwrap();
        let bad: Vec<_> = outcomes
            .iter()
            .filter_map(|(key, o)| Some(format!("{key}: {}", o.as_ref().err()?)))
            .collect();
        println!("{} of {} pairs converge", outcomes.len() - bad.len(), outcomes.len());
        assert!(bad.is_empty(), "{}", bad.join("\n"));
    });
}

fn pairs(learned: &Learned) -> Vec<(Target, Fault)> {
    let writes = learned.writes.iter().flat_map(|point| {
        Fault::ALL.into_iter().map(|fault| (Target::Write(point.clone()), fault))
    });
    let calls = learned.calls.iter().flat_map(|point| {
        Fault::OF_CALLS.into_iter().map(|fault| (Target::Call(point.clone()), fault))
    });
    writes.chain(calls).collect()
}

/// A few by seed; a stalled write takes a minute and is left to the sweep.
fn sample(mut all: Vec<(Target, Fault)>) -> Vec<(Target, Fault)> {
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("sampled by SEED={seed}");
    let mut chance = Chance::new(seed);
    all.retain(|(_, fault)| *fault != Fault::Stall);
    (0..6).map(|_| all.swap_remove(chance.below(all.len() as u64) as usize)).collect()
}

/// Create 3, up to 5, down to 2, roll, delete; the operator is started again whenever it ends.
async fn story(cluster: &Cluster, fault: Option<(&Target, Fault)>) -> Result<Learned, String> {
    let namespace = cluster.namespace("story").map_err(|error| error.to_string())?;
    let mut scene = Scene::new(cluster, &namespace, Knobs::default()).await;
    let script = |scene: &Scene<'_>, target: &Target| match target {
        Target::Write(_) => scene.proxy.writes().clone(),
        Target::Call(_) => scene.standin.calls().clone(),
    };
    let armed = fault.map(|(target, fault)| {
        let script = script(&scene, target);
        let id = scene.operator.as_ref().expect("it runs").id();
        script.on_kill(move || send(id, Signal::KILL));
        script.arm(target.point().clone(), fault);
        script
    });
    let mut first = spec(3);
    first["tls"] = json!({ "mode": "BuiltIn" });
    scene.create(first).await;
    as_specified(&mut scene, "create 3").await?;
    let roll = json!({ "metadata": { "annotations": { "rolled": "once" } } });
    for (what, change) in [
        ("up to 5", json!({ "replicas": 5 })),
        ("down to 2", json!({ "replicas": 2 })),
        ("roll", json!({ "podTemplate": roll })),
    ] {
        scene.change(change).await;
        as_specified(&mut scene, what).await?;
    }
    if scene.claims().await.len() != 2 {
        return Err(format!("volumes are left: {:?}", scene.claims().await));
    }
    // A pass that is under way while all is deleted may make again what it misses: chance.
    let learned =
        Learned { writes: points(scene.proxy.writes()), calls: points(scene.standin.calls()) };
    delete(&mut scene).await?;
    let findings = scene.standin.findings();
    if !findings.is_empty() {
        return Err(format!("against the rules: {findings:?}"));
    }
    if armed.is_some_and(|script| !script.has_fired()) {
        return Err("the fault did not fire".to_owned());
    }
    Ok(learned)
}

fn points(script: &Arc<Script>) -> Vec<Point> {
    let all = script.writes().into_iter().map(|write| write.point);
    // Events tell people; how many there are depends on the moment.
    all.filter(|point| {
        let most = if point.name.contains(" events") { 1 } else { MOST_OF_ONE_NAME };
        point.nth <= most
    })
    .collect()
}

async fn as_specified(scene: &mut Scene<'_>, what: &str) -> Result<(), String> {
    let began = Instant::now();
    loop {
        restart_ended(scene).await;
        let last = match scene.get().await {
            Ok(cluster) => match condition(&cluster, "Ready") {
                Some((status, _)) if status == "True" => return Ok(()),
                _ => shown(&cluster),
            },
            Err(error) => error,
        };
        if began.elapsed() > PATIENCE {
            let words = scene.operator.as_ref().map(|o| o.last_words()).unwrap_or_default();
            return Err(format!(
                "{what}: not as specified: {last}\n{:?}\n{words}",
                scene.standin.seen()
            ));
        }
        sleep(Duration::from_millis(150)).await;
    }
}

/// As a kubelet would. The Lease of the dead one goes with it, to save its fifteen seconds.
async fn restart_ended(scene: &mut Scene<'_>) {
    if scene.operator.as_mut().is_some_and(|operator| operator.ended().is_some()) {
        let leases = scene.api::<Lease>();
        let _ = leases.delete("shoal-operator", &DeleteParams::default()).await;
        scene.start_operator();
    }
}

async fn delete(scene: &mut Scene<'_>) -> Result<(), String> {
    scene.standin.allow_deletions(true);
    let deleted = scene.clusters().delete(NAME, &DeleteParams::default()).await;
    deleted.map_err(|error| error.to_string())?;
    let all = ListParams::default();
    until_within("nothing but volumes is left", PATIENCE, async || {
        let error = |error: kube::Error| error.to_string();
        let pods = scene.api::<Pod>().list(&all).await.map_err(error)?.items.len();
        let sets = scene.api::<StatefulSet>().list(&all).await.map_err(error)?.items.len();
        let budgets =
            scene.api::<PodDisruptionBudget>().list(&all).await.map_err(error)?.items.len();
        let left = (pods, sets, budgets);
        if left == (0, 0, 0) { Ok(()) } else { Err(format!("pods, sets, budgets: {left:?}")) }
    })
    .await;
    Ok(())
}
