//! What stops a process in a pod, and with how much time.

use super::*;
use crate::pod::api::{Api, pod};

const BUDGET: Duration = Duration::from_secs(20);
const DEADLINE: Duration = Duration::from_secs(20);

fn deleted(grace: u64) -> serde_json::Value {
    let mut pod = pod("o-0", "10.0.0.1");
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
    pod
}

fn own(api: &Api, uid: &str) -> Own {
    Own::new(api.client(), "ns", "o-0".to_owned(), Some(uid.to_owned()))
}

async fn told(signal: impl Future<Output = ()>, own: Option<&Own>) -> Duration {
    tokio::time::timeout(DEADLINE, told_to_stop(signal, own, BUDGET)).await.unwrap()
}

#[tokio::test]
async fn a_deletion_stops_the_process_before_any_signal() {
    let api = Api::default();
    api.set(vec![pod("o-0", "10.0.0.1")]);
    let own = own(&api, "uid of o-0");
    let delete = async {
        while !api.asked().iter().any(|uri| uri.contains("watch=true")) {
            tokio::task::yield_now().await;
        }
        api.set(vec![deleted(630)]);
        std::future::pending().await
    };
    tokio::select! {
        budget = told(std::future::pending(), Some(&own)) => {
            assert_eq!(budget, Duration::from_secs(625));
        }
        () = delete => {}
    }
    assert!(api.asked()[0].contains("metadata.name%3Do-0"), "its own pod alone");
}

#[tokio::test]
async fn a_signal_counts_with_the_grace_of_the_pod_where_that_goes() {
    let api = Api::default();
    // The watch is deaf, as over a connection that died unseen.
    let gone = async |uid: &str| told(async {}, Some(&own(&api, uid))).await;
    api.set(vec![pod("o-0", "10.0.0.1")]);
    assert_eq!(gone("uid of o-0").await, BUDGET, "a probe, or the container alone");
    api.set(vec![deleted(3)]);
    assert_eq!(gone("another").await, BUDGET, "the pod of that name is another one");
    assert_eq!(gone("uid of o-0").await, Duration::ZERO);
    api.fail(true);
    assert_eq!(gone("uid of o-0").await, BUDGET);
    assert_eq!(told(async {}, None).await, BUDGET);
}
