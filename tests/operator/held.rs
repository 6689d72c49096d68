//! What a spec holds back: volumes of nodes that left, rolls, and everything.

use std::time::Duration;

use serde_json::{Value, json};
use shoal_tests::standin::Knobs;
use tokio::time::Instant;

use super::scene::{Scene, is_lease, run, spec};

/// Time for the operator to do what it must not do.
const WHILE: Duration = Duration::from_secs(3);

fn template(number: u32) -> Value {
    json!({ "metadata": { "annotations": { "number": number.to_string() } } })
}

#[test]
fn what_a_spec_holds_back_stays_until_it_lets_go() {
    run("held", async |cluster, namespace| {
        let scene = Scene::new(cluster, namespace, Knobs::default()).await;
        let mut first = spec(3);
        first["storage"] = json!({ "persistent": { "retention": { "whenScaled": "Retain" } } });
        scene.create(first).await;
        scene.ready().await;
        let claims = scene.claims().await;
        for replicas in [1, 3] {
            scene.change(json!({ "replicas": replicas })).await;
            scene.ready().await;
            assert_eq!(scene.claims().await, claims, "at {replicas}");
        }

        let pods = scene.pods().await;
        scene.change(json!({ "update": { "mode": "Paused" }, "podTemplate": template(1) })).await;
        scene.reason("Ready", "Rolling").await;
        scene.rests(WHILE).await;
        assert_eq!(scene.pods().await, pods);
        assert_eq!(scene.get().await.unwrap().status.unwrap().updated_replicas, 0);

        let begin = Instant::now();
        let all = json!({
            "state": "Paused", "update": { "mode": "Automatic" }, "podTemplate": template(2),
            "replicas": 1, "networkPolicy": { "mode": "Disabled" },
        });
        scene.change(all).await;
        scene.reason("Ready", "Paused").await;
        scene.rests(WHILE).await;
        assert_eq!(scene.pods().await, pods);
        let written = scene.proxy.writes().since(begin);
        let may = ["shardclusters/", "poddisruptionbudgets/", "events"];
        let may = |write: &String| is_lease(write) || may.iter().any(|of| write.contains(of));
        assert!(written.iter().all(may), "{written:?}");
        let budget = |write: &String| write.starts_with("DELETE poddisruptionbudgets/");
        assert!(written.iter().any(budget), "the budget would hold up a drain: {written:?}");

        scene.change(json!({ "state": "Running" })).await;
        scene.ready().await;
        let now = scene.pods().await;
        assert!(now.len() == 1 && now.values().all(|uid| !pods.values().any(|old| old == uid)));
    });
}
