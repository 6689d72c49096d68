//! Nodes that are to leave and do not hand over, crash again and again, or lead.

use serde_json::json;
use shoal_tests::standin::Knobs;

use super::{
    PATIENCE,
    scene::{NAME, Scene, run, shown, spec, until_within},
};

#[test]
fn leavers_that_hang_crash_or_lead_leave() {
    run("leavers", async |cluster, namespace| {
        let scene = Scene::new(cluster, namespace, Knobs::default()).await;
        let mut first = spec(5);
        first["scaleDown"] = json!({ "drainTimeoutSeconds": 3 });
        scene.create(first).await;
        scene.ready().await;
        hangs(&scene).await;
        crashes(&scene).await;
        leads(&scene).await;
    });
}

/// Somebody is asked, and then its shards fail over.
async fn hangs(scene: &Scene<'_>) {
    let leaver = format!("{NAME}-4");
    scene.standin.set(|knobs| knobs.hang_in_drain = vec![leaver.clone()]);
    scene.change(json!({ "replicas": 4 })).await;
    let words = scene.reason("Stalled", "DrainTimedOut").await;
    assert!(words.starts_with(&format!("{leaver} is draining")), "{words}");
    let blocked = scene.get().await.unwrap().status.unwrap().blocked.expect("it is blocked");
    assert_eq!((blocked.reason.as_str(), blocked.member), ("DrainTimedOut", Some(leaver)));
    assert_eq!(scene.pods().await.len(), 5, "nobody has said that it may go");
    scene.change(json!({ "scaleDown": { "onTimeout": "Remove" } })).await;
    scene.ready().await;
    scene.has_event("RemovedByForce").await;
}

async fn crashes(scene: &Scene<'_>) {
    let leaver = format!("{NAME}-3");
    scene.change(json!({ "replicas": 3 })).await;
    until_within("it leaves however often it is killed", PATIENCE, async || {
        scene.standin.kill(&leaver);
        if scene.pods().await.len() == 3 { Ok(()) } else { Err(shown(&scene.get().await?)) }
    })
    .await;
    scene.ready().await;
}

async fn leads(scene: &Scene<'_>) {
    let stays = format!("{NAME}-0");
    let leader = async || {
        let cluster = scene.get().await?;
        cluster.status.and_then(|status| status.leader).ok_or_else(|| "none".to_owned())
    };
    until_within("one that leaves leads", PATIENCE, async || {
        let leader = leader().await?;
        if leader != stays {
            return Ok(());
        }
        scene.standin.kill(&leader);
        Err(leader)
    })
    .await;
    scene.ready().await;
    scene.change(json!({ "replicas": 1 })).await;
    scene.ready().await;
    assert_eq!(leader().await, Ok(stays));
    assert_eq!(scene.claims().await.len(), 1);
}
