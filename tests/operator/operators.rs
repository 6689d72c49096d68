//! Several operators, dead ones, paused ones, and an API server that goes away: one acts at a
//! time, and whoever was overtaken is refused by the registry itself.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::DeleteParams;
use rustix::process::Signal;
use serde_json::json;
use shoal_tests::{
    fault_proxy::{Fault, Point},
    kube::{self as harness, Cluster, Component, Tier},
    standin::Knobs,
};
use tokio::time::{Instant, sleep};

use super::{
    PATIENCE,
    chance::Chance,
    is_sweep,
    process::{Operator, send},
    scene::{NAME, Scene, prepare, run, run_on, shown, spec, until_within},
};

/// Of the operator, until another may take over.
const LEASE: Duration = Duration::from_secs(15);

#[test]
fn an_operator_killed_anywhere_is_followed_by_one_that_goes_on() {
    run("killed", async |cluster, namespace| {
        let mut scene = Scene::new(cluster, namespace, Knobs::default()).await;
        let mut chance = Chance::new(u64::from(std::process::id()));
        let roll = json!({ "metadata": { "annotations": { "rolled": "once" } } });
        scene.create(spec(3)).await;
        let story = [
            json!({ "replicas": 5 }),
            json!({ "replicas": 2, "podTemplate": roll }),
            json!({ "replicas": 4, "podTemplate": null }),
        ];
        let rounds = if is_sweep() { 6 } else { 1 };
        for change in story.iter().cycle().take(story.len() * rounds) {
            sleep(chance.up_to(Duration::from_secs(3))).await;
            scene.operator.as_mut().unwrap().kill();
            scene.start_operator();
            scene.change(change.clone()).await;
        }
        scene.ready_within(PATIENCE + LEASE).await;
        assert_eq!(scene.standin.seen().founded.len(), 1);
        // Nothing was kept in the memory of those that died.
        scene.rests(Duration::from_secs(3)).await;
    });
}

#[test]
fn a_paused_operator_is_refused_by_the_registry_and_ends() {
    run("paused", async |cluster, namespace| {
        let mut scene = Scene::new(cluster, namespace, Knobs::default()).await;
        scene.create(spec(4)).await;
        scene.ready().await;
        let mut first = scene.operator.take().unwrap();
        let second = scene.another_operator("second", namespace);
        let id = first.id();
        // It is paused while a worker holds its call.
        let calls = scene.standin.calls().clone();
        calls.on_kill(move || send(id, Signal::STOP));
        calls.arm(Point { name: "Drain".to_owned(), nth: 1 }, Fault::Hold);
        scene.change(json!({ "replicas": 2 })).await;
        until_within("the first is paused", PATIENCE, async || {
            if calls.has_fired() { Ok(()) } else { Err(second.last_words()) }
        })
        .await;
        assert_eq!(scene.standin.seen().operator_epoch, 1);
        scene.ready_within(PATIENCE + LEASE).await;
        assert_eq!(scene.standin.seen().operator_epoch, 2, "the second acquired its own");
        if is_sweep() {
            sleep(Duration::from_secs(30)).await;
        }
        let refused = scene.standin.seen().refused_epochs;
        calls.release();
        until_within("the held call is refused", PATIENCE, async || {
            let now = scene.standin.seen().refused_epochs;
            if now > refused { Ok(()) } else { Err(format!("{now} refusals")) }
        })
        .await;
        first.signal(Signal::CONT);
        let code = ends(&mut first).await;
        assert_eq!(code, Some(1), "{}", first.last_words());
        scene.operator = Some(second);
        scene.change(json!({ "replicas": 3 })).await;
        scene.ready().await;
        assert_eq!(scene.standin.seen().operator_epoch, 2, "nobody came between");
    });
}

async fn ends(operator: &mut Operator) -> Option<i32> {
    let began = Instant::now();
    loop {
        if let Some(status) = operator.ended() {
            return status.code();
        }
        assert!(began.elapsed() < PATIENCE, "it does not end:\n{}", operator.last_words());
        sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn a_lost_lease_and_a_second_installation_leave_one_operator() {
    run("leases", async |cluster, namespace| {
        let mut scene = Scene::new(cluster, namespace, Knobs::default()).await;
        scene.create(spec(3)).await;
        scene.ready().await;
        let leases = scene.api::<Lease>();
        leases.delete("shoal-operator", &DeleteParams::default()).await.unwrap();
        scene.change(json!({ "replicas": 4 })).await;
        scene.ready().await;
        until_within("there is a Lease again", PATIENCE, async || {
            let lease =
                leases.get_opt("shoal-operator").await.map_err(|error| error.to_string())?;
            lease.map(drop).ok_or_else(|| "none".to_owned())
        })
        .await;
        let mut first = scene.operator.take().unwrap();
        assert!(first.ended().is_none(), "{}", first.last_words());
        // Its Lease is another one: both lead, and the registry tells them apart.
        let elsewhere = cluster.namespace("elsewhere").unwrap();
        scene.operator = Some(scene.another_operator("reinstalled", &elsewhere));
        scene.change(json!({ "replicas": 2 })).await;
        scene.ready().await;
        scene.change(json!({ "replicas": 3 })).await;
        scene.ready().await;
        until_within("the second has an epoch", PATIENCE, async || {
            let epoch = scene.standin.seen().operator_epoch;
            if epoch >= 2 { Ok(()) } else { Err(format!("epoch {epoch}")) }
        })
        .await;
        let mut second = scene.operator.take().unwrap();
        let began = Instant::now();
        loop {
            // Whichever acquired last stays; the other sees that it was overtaken.
            let ended = [first.ended(), second.ended()];
            if let Some(status) = ended.iter().flatten().next() {
                assert_eq!(status.code(), Some(1));
                assert!(ended.iter().any(Option::is_none), "both have ended");
                break;
            }
            assert!(began.elapsed() < PATIENCE, "both go on:\n{}", first.last_words());
            sleep(Duration::from_millis(100)).await;
        }
        scene.standin.assert_clean();
    });
}

#[test]
fn an_outage_of_the_api_server_is_sat_out() {
    // Its own, which no other test needs meanwhile.
    const CLUSTER: &str = "outage";
    let cluster = Cluster::up(CLUSTER, Tier::Kcm).unwrap();
    prepare(&cluster);
    run_on(&cluster, "outage", async |cluster, namespace| {
        let mut scene = Scene::new(cluster, namespace, Knobs::default()).await;
        scene.create(spec(3)).await;
        scene.ready().await;
        let pods = scene.pods().await;
        scene.change(json!({ "replicas": 5 })).await;
        cluster.kill(Component::ApiServer).unwrap();
        let outage = Duration::from_secs(if is_sweep() { 120 } else { 5 });
        scene.standin.kill(&format!("{NAME}-1"));
        let began = Instant::now();
        while began.elapsed() < outage {
            restart_ended(&mut scene);
            sleep(Duration::from_millis(200)).await;
        }
        cluster.start(Component::ApiServer).unwrap();
        let began = Instant::now();
        loop {
            restart_ended(&mut scene);
            let shown = match scene.get().await {
                Ok(now)
                    if super::scene::condition(&now, "Ready").is_some_and(|(s, _)| s == "True") =>
                {
                    break;
                }
                Ok(now) => shown(&now),
                Err(error) => error,
            };
            assert!(began.elapsed() < PATIENCE + LEASE, "{shown}\n{:?}", scene.standin.seen());
            sleep(Duration::from_millis(200)).await;
        }
        let now = scene.pods().await;
        assert!(pods.iter().all(|(name, uid)| now.get(name) == Some(uid)), "no pod was touched");
        scene.standin.assert_clean();
        println!("as specified {:?} after {outage:?} without an API server", began.elapsed());
    });
    harness::down(CLUSTER).unwrap();
}

/// One that cannot renew its Lease ends, and is started again.
fn restart_ended(scene: &mut Scene<'_>) {
    if scene.operator.as_mut().is_some_and(|operator| operator.ended().is_some()) {
        scene.start_operator();
    }
}
