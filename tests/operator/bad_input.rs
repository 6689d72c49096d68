//! What people write by mistake, and what they change behind the operator's back: named in a
//! condition, no pod touched, and mended by taking it back.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, Service},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
    storage::v1::StorageClass,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use shoal_tests::standin::{IMAGE, IMAGE_CRASHES, IMAGE_MISSING, Knobs};

use super::{
    PATIENCE,
    scene::{NAME, Scene, condition, run, shown, spec, until_within},
};

/// Time for the operator to do what it must not do.
const WHILE: Duration = Duration::from_secs(1);

fn worker(fields: Value) -> Value {
    let mut container = json!({ "name": "worker" });
    for (name, value) in fields.as_object().expect("fields") {
        container[name] = value.clone();
    }
    json!({ "spec": { "containers": [container] } })
}

#[test]
fn a_wrong_template_is_named_by_its_path_and_no_pod_is_touched() {
    run("template", async |cluster, namespace| {
        let scene = Scene::new(cluster, namespace, Knobs::default()).await;
        scene.create(spec(3)).await;
        scene.ready().await;
        let pods = scene.pods().await;
        for (template, words) in [
            (json!({ "spec": { "tolerationz": [] } }), "tolerationz"),
            (json!({ "tolerations": [{ "key": "a" }] }), "tolerations"),
            (worker(json!({ "memory": "1Gi" })), "memory"),
            (json!({ "spec": { "securityContext": { "fsGroup": "1" } } }), "fsGroup"),
            (json!({ "spec": { "hostNetwork": "true" } }), "hostNetwork"),
            (json!({ "spec": { "priorityClassName": 7 } }), "priorityClassName"),
            (json!({ "spec": { "dnsPolicy": "Nowhere" } }), "dnsPolicy"),
            (worker(json!({ "resources": { "limits": { "memory": "lots" } } })), "quantities"),
            (worker(json!({ "image": "x" })), "spec.podTemplate.spec.containers[0].image"),
            (
                worker(json!({ "env": [{ "name": "RAFT_ID", "value": "x" }] })),
                "containers[0].env[0]",
            ),
            (
                json!({ "spec": { "restartPolicy": "Never" } }),
                "spec.podTemplate.spec.restartPolicy",
            ),
            (
                json!({ "metadata": { "labels": { "app.kubernetes.io/name": "x" } } }),
                "metadata.labels",
            ),
        ] {
            scene.change(json!({ "podTemplate": template })).await;
            let message = scene.reason("Stalled", "InvalidPodTemplate").await;
            assert!(message.contains(words), "{template}: {message}");
            assert_eq!(scene.reason("Ready", "Stalled").await, message);
            tokio::time::sleep(WHILE / 4).await;
            assert_eq!(scene.pods().await, pods, "{template}");
            scene.change(json!({ "podTemplate": null })).await;
            scene.ready().await;
        }
        assert_eq!(scene.pods().await, pods);
    });
}

#[test]
fn what_the_api_server_spells_otherwise_is_no_difference() {
    run("spelling", async |cluster, namespace| {
        let scene = Scene::new(cluster, namespace, Knobs::default()).await;
        let resources = json!({
            "requests": { "cpu": "1000m", "memory": "1024Mi" }, "limits": { "memory": "1.5Gi" },
        });
        let mut spelled = spec(3);
        spelled["podTemplate"] = worker(json!({ "resources": resources }));
        scene.create(spelled).await;
        scene.ready().await;
        scene.rests(WHILE * 3).await;
        let resources = json!({ "requests": { "cpu": "2000m" } });
        scene.change(json!({ "podTemplate": worker(json!({ "resources": resources })) })).await;
        scene.ready().await;
        scene.rests(WHILE * 3).await;
    });
}

#[test]
fn what_is_not_done_yet_is_said_and_stands_in_no_ones_way() {
    run("later", async |cluster, namespace| {
        let scene = Scene::new(cluster, namespace, Knobs::default()).await;
        scene.create(spec(3)).await;
        scene.ready().await;
        let pods = scene.pods().await;
        scene.change(json!({ "disruption": { "nodeTaints": "Drain" } })).await;
        let message = scene.reason("Stalled", "NotSupported").await;
        assert!(message.contains("spec.disruption.nodeTaints"), "{message}");
        scene.change(json!({ "disruption": null })).await;
        scene.ready().await;
        assert_eq!(scene.pods().await, pods);
        // It cannot be taken back: everything else must go on.
        scene
            .change(json!({ "storage": { "persistent": { "size": "2Gi" } }, "replicas": 4 }))
            .await;
        let message = scene.reason("Stalled", "NotSupported").await;
        assert!(message.contains("spec.storage.persistent.size"), "{message}");
        until_within("a fourth node owns shards", PATIENCE, async || {
            let seen = scene.standin.seen();
            let serves = seen.owned.len() == 4 && seen.owned.iter().all(|(_, owned)| *owned > 0);
            if serves { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
        scene.standin.assert_clean();
        remove(&scene).await;
        for (spec, path) in [
            (json!({ "app": { "protocol": "Sidecar", "port": 9 } }), "spec.app"),
            (
                json!({ "tls": { "mode": "CertManager", "certManager": { "issuerRef": { "name": "x" } } } }),
                "spec.tls.mode",
            ),
        ] {
            let mut whole = spec.clone();
            whole["image"] = json!(IMAGE);
            scene.create(whole).await;
            let message = scene.reason("Stalled", "NotSupported").await;
            assert!(message.starts_with(path), "{message}");
            assert!(scene.pods().await.is_empty(), "{spec}");
            remove(&scene).await;
        }
    });
}

/// Deletes the ShardCluster, and waits until its pods are gone.
async fn remove(scene: &Scene<'_>) {
    scene.standin.allow_deletions(true);
    scene.clusters().delete(NAME, &DeleteParams::default()).await.expect("deleted");
    until_within("everything but volumes is gone", PATIENCE, async || {
        let pods = scene.pods().await;
        let set = scene.api::<StatefulSet>().get_opt(NAME).await.map_err(|e| e.to_string())?;
        let here = scene.clusters().get_opt(NAME).await.map_err(|e| e.to_string())?;
        if pods.is_empty() && set.is_none() && here.is_none() {
            Ok(())
        } else {
            Err(format!("{pods:?}"))
        }
    })
    .await;
    scene.standin.allow_deletions(false);
}

#[test]
fn what_belongs_to_somebody_else_stays_as_it_is() {
    run("foreign", async |cluster, namespace| {
        let scene = Scene::new(cluster, namespace, Knobs::default()).await;
        let sets = scene.api::<StatefulSet>();
        let labels = json!({ "app": "theirs" });
        let theirs = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": NAME },
            "spec": {
                "replicas": 0, "serviceName": "theirs", "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": { "containers": [{ "name": "c", "image": "x" }] },
                },
            },
        });
        let theirs = serde_json::from_value(theirs).unwrap();
        let theirs = sets.create(&PostParams::default(), &theirs).await.unwrap();
        scene.create(spec(3)).await;
        let message = scene.reason("Stalled", "ForeignObject").await;
        assert!(message.contains(&format!("StatefulSet {NAME}")), "{message}");
        tokio::time::sleep(WHILE).await;
        let now = sets.get(NAME).await.unwrap();
        assert_eq!(now.spec, theirs.spec, "it was written");
        sets.delete(NAME, &DeleteParams::default()).await.unwrap();
        scene.ready().await;
        remove(&scene).await;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": format!("{NAME}-peers") },
            "spec": { "ports": [{ "port": 1 }] },
        });
        let services = scene.api::<Service>();
        let service = serde_json::from_value(service).unwrap();
        services.create(&PostParams::default(), &service).await.unwrap();
        scene.create(spec(3)).await;
        let message = scene.reason("Stalled", "ForeignObject").await;
        assert!(message.contains(&format!("Service {NAME}-peers")), "{message}");
        services.delete(&format!("{NAME}-peers"), &DeleteParams::default()).await.unwrap();
        scene.ready().await;
    });
}

#[test]
fn what_is_edited_by_hand_is_mended() {
    run("hands", async |cluster, namespace| {
        let scene = Scene::new(cluster, namespace, Knobs::default()).await;
        scene.create(spec(3)).await;
        scene.ready().await;
        let (pods, before) = (scene.pods().await, scene.end_state().await);
        let merge = |spec: Value| Patch::Merge(json!({ "spec": spec }));
        let params = PatchParams::default();
        let sets = scene.api::<StatefulSet>();
        sets.patch(NAME, &params, &merge(json!({ "updateStrategy": { "type": "RollingUpdate" } })))
            .await
            .unwrap();
        mended(&scene, &before, "the strategy of the StatefulSet").await;
        let template =
            json!({ "template": { "spec": { "priorityClassName": "system-node-critical" } } });
        sets.patch(NAME, &params, &merge(template)).await.unwrap();
        mended(&scene, &before, "the template of the StatefulSet").await;
        let services = scene.api::<Service>();
        let ports =
            json!({ "ports": [{ "port": 1, "name": "grpc" }, { "port": 2, "name": "more" }] });
        services.patch(NAME, &params, &merge(ports)).await.unwrap();
        mended(&scene, &before, "the ports of a Service").await;
        let selector = json!({ "selector": { "app.kubernetes.io/instance": "another" } });
        services.patch(NAME, &params, &merge(selector)).await.unwrap();
        mended(&scene, &before, "the selector of a Service").await;
        let budgets = scene.api::<PodDisruptionBudget>();
        budgets.patch(NAME, &params, &merge(json!({ "maxUnavailable": 3 }))).await.unwrap();
        mended(&scene, &before, "the budget").await;
        budgets.delete(NAME, &DeleteParams::default()).await.unwrap();
        mended(&scene, &before, "the deleted budget").await;
        services.delete(&format!("{NAME}-peers"), &DeleteParams::default()).await.unwrap();
        mended(&scene, &before, "the deleted Service").await;
        scene.api::<NetworkPolicy>().delete(NAME, &DeleteParams::default()).await.unwrap();
        mended(&scene, &before, "the deleted NetworkPolicy").await;
        assert_eq!(scene.pods().await, pods);
        scene.standin.assert_clean();
    });
}

/// Nobody touches the ShardCluster: the operator notices by itself.
async fn mended(scene: &Scene<'_>, before: &Value, what: &str) {
    until_within(&format!("{what} is mended"), PATIENCE, async || {
        let now = scene.end_state().await;
        if now == *before { Ok(()) } else { Err(difference(before, &now)) }
    })
    .await;
}

pub fn difference(before: &Value, now: &Value) -> String {
    let empty = serde_json::Map::new();
    let rows = |value: &Value| value.as_object().unwrap_or(&empty).clone();
    let (before, now) = (rows(before), rows(now));
    let all: BTreeMap<_, _> = before.iter().chain(&now).collect();
    let differs = all.keys().filter(|key| before.get(**key) != now.get(**key));
    differs
        .map(|key| format!("{key}:\n  {:?}\n  {:?}", before.get(*key), now.get(*key)))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn kept_volumes_of_one_cluster_bring_it_back_and_of_two_are_refused() {
    run("kept", async |cluster, namespace| {
        let scene = Scene::new(cluster, namespace, Knobs::default()).await;
        scene.create(spec(5)).await;
        scene.ready().await;
        let id = scene.get().await.unwrap().status.unwrap().cluster_id;
        // Deleted in the middle of a scale-down.
        scene.standin.set(|knobs| knobs.hang_in_drain = vec![format!("{NAME}-4")]);
        scene.change(json!({ "replicas": 2 })).await;
        scene.reason("Progressing", "Draining").await;
        remove(&scene).await;
        assert_eq!(scene.claims().await.len(), 5, "all volumes are kept");
        scene.standin.set(|knobs| knobs.hang_in_drain.clear());
        scene.create(spec(3)).await;
        scene.ready().await;
        assert_eq!(scene.get().await.unwrap().status.unwrap().cluster_id, id, "it is the same");
        let claims = ["shoal-data-orders-0", "shoal-data-orders-1", "shoal-data-orders-2"];
        until_within("volumes of nodes that left are gone", PATIENCE, async || {
            let now = scene.claims().await;
            if now == claims { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
        remove(&scene).await;
        let all = scene.api::<PersistentVolumeClaim>();
        let stranger =
            json!({ "metadata": { "annotations": { "shoal.dev/cluster-uid": "another" } } });
        all.patch(claims[2], &PatchParams::default(), &Patch::Merge(stranger)).await.unwrap();
        scene.create(spec(3)).await;
        let message = scene.reason("Stalled", "ForeignVolume").await;
        assert!(message.contains("2 former clusters"), "{message}");
        assert!(scene.pods().await.is_empty());
        all.delete(claims[2], &DeleteParams::default()).await.unwrap();
        scene.ready().await;
        assert_eq!(scene.get().await.unwrap().status.unwrap().cluster_id, id, "it is the same");
        assert_eq!(scene.standin.seen().founded.len(), 1);
    });
}

#[test]
fn pods_that_never_run_hold_nothing_up_and_leave_nothing() {
    run("never", async |cluster, namespace| {
        let scene = Scene::new(cluster, namespace, Knobs::default()).await;
        let class = format!("class-{}", &**namespace);
        let mut first = spec(3);
        first["image"] = json!(IMAGE_MISSING);
        first["storage"] = json!({ "persistent": { "storageClassName": class } });
        first["update"] = json!({ "progressDeadlineSeconds": 10 });
        scene.create(first).await;
        until_within("the missing class is named", PATIENCE, async || {
            let cluster = scene.get().await?;
            let shown = shown(&cluster);
            if shown.contains(&class) { Ok(()) } else { Err(shown) }
        })
        .await;
        let classes = Api::<StorageClass>::all(scene.client.clone());
        let made = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": { "name": class }, "provisioner": "example.com/none",
        });
        classes
            .create(&PostParams::default(), &serde_json::from_value(made).unwrap())
            .await
            .unwrap();
        let message = scene.reason("Stalled", "ImagePull").await;
        assert!(message.contains("no such image"), "{message}");
        scene.change(json!({ "image": IMAGE_CRASHES })).await;
        until_within("the new template is tried", PATIENCE, async || {
            let cluster = scene.get().await?;
            let shown = shown(&cluster);
            if shown.contains("CrashLoopBackOff") { Ok(()) } else { Err(shown) }
        })
        .await;
        scene.change(json!({ "image": IMAGE })).await;
        scene.ready().await;
        never_scheduled(&scene).await;
        roll_that_cannot(&scene).await;
        classes.delete(&class, &DeleteParams::default()).await.unwrap();
    });
}

/// Nodes that were wanted, found no place, and are wanted no more.
async fn never_scheduled(scene: &Scene<'_>) {
    scene.standin.set(|knobs| knobs.unschedulable = vec![format!("{NAME}-4")]);
    scene.change(json!({ "replicas": 5 })).await;
    until_within("one of two comes", PATIENCE, async || {
        let cluster = scene.get().await?;
        let rows = cluster.status.iter().flat_map(|status| &status.members).count();
        let ready = cluster.status.as_ref().map(|status| status.ready_replicas);
        if ready == Some(4) && rows == 5 { Ok(()) } else { Err(shown(&cluster)) }
    })
    .await;
    scene.change(json!({ "replicas": 3 })).await;
    scene.ready().await;
    let claims = scene.claims().await;
    assert_eq!(claims.len(), 3, "{claims:?}");
}

/// The first pod of a template that does not run stops the roll; the old template ends it.
async fn roll_that_cannot(scene: &Scene<'_>) {
    for image in [IMAGE_CRASHES, IMAGE_MISSING] {
        let before = scene.pods().await;
        scene.change(json!({ "image": image })).await;
        until_within("the roll has stopped", PATIENCE, async || {
            let cluster = scene.get().await?;
            let stuck = condition(&cluster, "Stalled").is_some_and(|(status, _)| status == "True");
            let running = scene.standin.seen().running.len();
            assert!(running >= 2, "more than one pod is down");
            let deadline = cluster.status.iter().any(|s| s.blocked.is_some());
            if stuck && deadline { Ok(()) } else { Err(shown(&cluster)) }
        })
        .await;
        let now = scene.pods().await;
        let kept = before.iter().filter(|(name, uid)| now.get(*name) == Some(*uid)).count();
        assert!(kept >= 2, "one pod is tried: {before:?} {now:?}");
        scene.change(json!({ "image": IMAGE })).await;
        scene.ready().await;
    }
}
