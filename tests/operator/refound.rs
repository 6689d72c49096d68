//! A registry that all pods have lost: given up and founded anew where that was asked for, and
//! kept wherever one pod still holds it.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod},
    jiff::{SignedDuration, Timestamp},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use shoal_operator::{
    build::identity::{IDENTITY_FILE, Identity},
    rollout::RIGHTS_END,
};
use shoal_tests::{
    fault_proxy::{Fault, Point},
    standin::Knobs,
};
use tokio::time::sleep;

use super::{
    PATIENCE,
    scene::{NAME, Scene, condition, run, shown, spec, until_within},
};

/// Time for the operator to do what it must not do.
const WHILE: Duration = Duration::from_secs(3);
/// An operator that is killed has its successor wait for the Lease.
const LEASE: Duration = Duration::from_secs(15);

fn ephemeral(on_loss: &str) -> Value {
    let mut spec = spec(3);
    spec["storage"] = json!({ "type": "Ephemeral", "ephemeral": { "onRegistryLoss": on_loss } });
    spec
}

fn pod(ordinal: u32) -> String {
    format!("{NAME}-{ordinal}")
}

fn maps(scene: &Scene<'_>) -> Api<ConfigMap> {
    scene.api()
}

async fn identity(scene: &Scene<'_>) -> Identity {
    let map = maps(scene).get(&format!("{NAME}-identity")).await.expect("an identity");
    Identity::read(&map).expect("as the operator writes it")
}

/// As somebody would who edits it by hand.
async fn write(scene: &Scene<'_>, identity: &Identity) {
    let text = serde_json::to_string(identity).expect("JSON");
    let patch = Patch::Merge(json!({ "data": { IDENTITY_FILE: text } }));
    let name = format!("{NAME}-identity");
    maps(scene).patch(&name, &PatchParams::default(), &patch).await.expect("written");
}

/// As if the mark had been there for long enough.
async fn age(scene: &Scene<'_>) {
    let mut identity = identity(scene).await;
    let span = SignedDuration::try_from(RIGHTS_END).expect("a span");
    identity.abandoning_since = Some((Timestamp::now() - span).to_string());
    write(scene, &identity).await;
}

async fn marked(scene: &Scene<'_>, cluster: &str) {
    until_within("the cluster is marked", PATIENCE + LEASE, async || {
        let identity = identity(scene).await;
        if identity.abandoning.as_deref() == Some(cluster) && identity.abandoning_since.is_some() {
            return Ok(());
        }
        Err(format!("{identity:?}; {}", shown(&scene.get().await?)))
    })
    .await;
}

/// What the status says, once the cluster is as specified.
async fn cluster_id(scene: &Scene<'_>) -> String {
    scene.ready().await;
    let status = scene.get().await.expect("a ShardCluster").status.expect("a status");
    status.cluster_id.expect("it is formed")
}

/// These pods are gone at once, with what they held unless a volume keeps it.
async fn lose(scene: &Scene<'_>, ordinals: impl IntoIterator<Item = u32>) {
    scene.standin.allow_deletions(true);
    let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    for ordinal in ordinals {
        scene.api::<Pod>().delete(&pod(ordinal), &at_once).await.expect("deleted");
    }
}

/// And the volumes of all.
async fn lose_volumes(scene: &Scene<'_>) {
    let claims = scene.api::<PersistentVolumeClaim>();
    let before = claims.list(&ListParams::default()).await.expect("claims").items;
    for claim in scene.claims().await {
        claims.delete(&claim, &DeleteParams::default()).await.expect("deleted");
    }
    lose(scene, 0..3).await;
    until_within("the volumes are others", PATIENCE, async || {
        let now = claims.list(&ListParams::default()).await.map_err(|e| e.to_string())?.items;
        let uids = |all: &[PersistentVolumeClaim]| -> Vec<_> {
            all.iter().filter_map(|claim| claim.metadata.uid.clone()).collect()
        };
        let (old, new) = (uids(&before), uids(&now));
        let others = new.len() == old.len() && new.iter().all(|uid| !old.contains(uid));
        if others { Ok(()) } else { Err(format!("{old:?} {new:?}")) }
    })
    .await;
}

async fn annotate(scene: &Scene<'_>, cluster: Option<&str>) {
    let patch = json!({ "metadata": { "annotations": { "shoal.dev/recover": cluster } } });
    let patched = scene.clusters().patch(NAME, &PatchParams::default(), &Patch::Merge(patch)).await;
    patched.expect("annotated");
}

/// Formed anew, with nothing left of what was given up.
async fn is_another(scene: &Scene<'_>, lost: &str) -> String {
    let second = cluster_id(scene).await;
    let identity = identity(scene).await;
    assert_ne!(second, lost);
    assert_eq!(identity.formed_cluster_id.as_deref(), Some(second.as_str()));
    assert_eq!((identity.abandoning, identity.abandoning_since), (None, None));
    second
}

#[test]
fn an_ephemeral_registry_that_all_pods_lost_is_founded_anew_and_any_kill_of_the_operator_is_survived()
 {
    run("refound", async |cluster, namespace| {
        let mut scene = Scene::new(cluster, namespace, Knobs::default()).await;
        scene.create(ephemeral("Refound")).await;
        let first = cluster_id(&scene).await;
        // One reads late; the operator dies before and after each of its writes.
        scene.standin.set(|knobs| knobs.stale = vec![pod(1)]);
        lose(&scene, 0..3).await;
        marked(&scene, &first).await;
        scene.operator.as_mut().unwrap().kill();
        scene.start_operator();
        age(&scene).await;
        let words = until_within("one pod is waited for", PATIENCE + LEASE, async || {
            let cluster = scene.get().await?;
            let waits = cluster.status.iter().flat_map(|status| status.next_steps.clone());
            let waits: Vec<_> = waits.collect();
            let abandons = condition(&cluster, "Progressing")
                == Some(("True".to_owned(), "Abandoning".to_owned()));
            match waits.first() {
                Some(words) if abandons && words.starts_with(&pod(1)) => Ok(words.clone()),
                _ => Err(shown(&cluster)),
            }
        })
        .await;
        assert!(words.contains(&first), "{words}");
        sleep(WHILE).await;
        assert_eq!(identity(&scene).await.formed_cluster_id, Some(first.clone()), "it waits");
        for fault in [Fault::KillBefore, Fault::KillAfter] {
            let name = format!("PUT configmaps/{NAME}-identity");
            let writes = scene.proxy.writes().writes();
            let nth = 1 + writes.iter().filter(|write| write.point.name == name).count();
            scene.proxy.writes().arm(Point { name, nth }, fault);
            let id = scene.operator.as_ref().unwrap().id();
            scene.proxy.writes().on_kill(move || {
                super::process::send(id, rustix::process::Signal::KILL);
            });
            scene.standin.set(|knobs| knobs.stale.clear());
            until_within("the operator is killed at a write", PATIENCE, async || {
                if scene.proxy.writes().has_fired() { Ok(()) } else { Err("not yet".to_owned()) }
            })
            .await;
            scene.start_operator();
        }
        let second = is_another(&scene, &first).await;
        assert_eq!(scene.standin.seen().founded, [first, second]);
        scene.standin.allow_deletions(false);
        scene.rests(WHILE).await;
    });
}

#[test]
fn without_volumes_a_hibernated_cluster_wakes_as_another() {
    run("asleep", async |cluster, namespace| {
        let scene = Scene::new(cluster, namespace, Knobs::default()).await;
        scene.create(ephemeral("Wait")).await;
        let mut lost = cluster_id(&scene).await;
        let sleeps = [json!({ "replicas": 0 }), json!({ "state": "Stopped" })];
        let wakes = [json!({ "replicas": 4 }), json!({ "state": "Running" })];
        for (asleep, awake) in sleeps.into_iter().zip(wakes) {
            scene.change(asleep).await;
            marked(&scene, &lost).await;
            assert_eq!(scene.pods().await.len(), 0, "all pods are gone first");
            scene.reason("Ready", "Hibernated").await;
            age(&scene).await;
            until_within("it is given up", PATIENCE, async || {
                let id = identity(&scene).await.formed_cluster_id;
                let shown = scene.get().await?.status.and_then(|status| status.cluster_id);
                if (&id, &shown) == (&None, &None) {
                    Ok(())
                } else {
                    Err(format!("{id:?} {shown:?}"))
                }
            })
            .await;
            scene.rests(WHILE).await;
            scene.change(awake).await;
            lost = is_another(&scene, &lost).await;
        }
        assert_eq!(scene.standin.seen().founded.len(), 3);
    });
}

#[test]
fn a_founding_that_died_after_its_record_is_given_up_on_volumes_as_well() {
    run("died", async |cluster, namespace| {
        let knobs = Knobs { never_forms: true, ..Knobs::default() };
        let scene = Scene::new(cluster, namespace, knobs).await;
        scene.create(spec(3)).await;
        let lost = until_within("an id is recorded", PATIENCE, async || {
            let map = maps(&scene).get(&format!("{NAME}-identity")).await;
            let identity = Identity::read(&map.map_err(|error| error.to_string())?);
            let identity = identity.map_err(|error| error.to_string())?;
            identity.formed_cluster_id.ok_or_else(|| "none".to_owned())
        })
        .await;
        lose_volumes(&scene).await;
        scene.standin.set(|knobs| knobs.never_forms = false);
        marked(&scene, &lost).await;
        scene.has_event("Abandoning").await;
        // The whole wait, by the operator's own mark.
        scene.ready_within(PATIENCE + RIGHTS_END).await;
        is_another(&scene, &lost).await;
    });
}

#[test]
fn volumes_that_are_all_lost_are_given_up_for_the_annotation_alone() {
    run("annotation", async |cluster, namespace| {
        let scene = Scene::new(cluster, namespace, Knobs::default()).await;
        scene.create(spec(3)).await;
        let lost = cluster_id(&scene).await;
        annotate(&scene, Some(&lost)).await;
        let words = scene.reason("Stalled", "RecoveryRefused").await;
        assert!(
            words.contains("a quorum of cluster") && words.contains("shoal recover"),
            "{words}"
        );
        annotate(&scene, None).await;
        scene.ready().await;
        lose_volumes(&scene).await;
        let words = scene.reason("Stalled", "QuorumLost").await;
        assert!(words.contains(&format!("shoal.dev/recover={lost}")), "{words}");
        scene.reason("Available", "QuorumLost").await;
        annotate(&scene, Some("7777")).await;
        let words = scene.reason("Stalled", "RecoveryRefused").await;
        assert!(words.contains(&format!("the one that is lost is {lost}")), "{words}");
        assert_eq!(identity(&scene).await.abandoning, None);
        annotate(&scene, Some(&lost)).await;
        marked(&scene, &lost).await;
        // A change of mind, and back.
        annotate(&scene, None).await;
        scene.reason("Stalled", "QuorumLost").await;
        assert_eq!(identity(&scene).await.abandoning, None);
        annotate(&scene, Some(&lost)).await;
        marked(&scene, &lost).await;
        age(&scene).await;
        // The annotation is left, and asks for nothing any more.
        is_another(&scene, &lost).await;
        scene.has_event("Abandoned").await;
    });
}

#[test]
fn s20_empty_pods_beside_one_that_holds_the_cluster_found_nothing() {
    run("holder", async |cluster, namespace| {
        let scene = Scene::new(cluster, namespace, Knobs::default()).await;
        scene.create(ephemeral("Refound")).await;
        let living = cluster_id(&scene).await;
        // Beside a quorum it joins again.
        lose(&scene, [1]).await;
        assert_eq!(cluster_id(&scene).await, living);
        // Without one it waits, for one pod holds what the others lost.
        lose(&scene, [0, 1]).await;
        scene.reason("Available", "QuorumLost").await;
        until_within("the empty pods run", PATIENCE, async || {
            let running = scene.standin.seen().running;
            if running.len() == 3 { Ok(()) } else { Err(format!("{running:?}")) }
        })
        .await;
        sleep(WHILE).await;
        assert_eq!(identity(&scene).await.abandoning, None);
        // Marked all the same, by whomever: the mark is removed.
        let mut by_hand = identity(&scene).await;
        by_hand.abandoning = Some(living.clone());
        by_hand.abandoning_since = Some("2026-01-01T00:00:00Z".to_owned());
        write(&scene, &by_hand).await;
        scene.has_event("Kept").await;
        let kept = identity(&scene).await;
        assert_eq!((kept.formed_cluster_id, kept.abandoning), (Some(living.clone()), None));
        annotate(&scene, Some(&living)).await;
        let words = scene.reason("Stalled", "RecoveryRefused").await;
        assert!(words.contains(&format!("holds cluster {living}")), "{words}");
        assert_eq!(scene.standin.seen().founded, std::slice::from_ref(&living));
        // The empty ones have asked the last one to admit them: that keeps nothing once it is gone.
        annotate(&scene, None).await;
        lose(&scene, [2]).await;
        marked(&scene, &living).await;
        age(&scene).await;
        is_another(&scene, &living).await;
    });
}
