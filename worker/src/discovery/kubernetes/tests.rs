//! Pods that come, go and move, and an API server that fails, shrinks and comes back.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;

use super::*;
use crate::pod::api::{Api, pod};

const DEADLINE: Duration = Duration::from_secs(20);

fn found(client: Client) -> Kubernetes {
    let (namespace, selector) = ("ns".to_owned(), "app=x,tier=y".to_owned());
    Kubernetes::new(client, namespace, selector, 12_000, AddressBook::default())
}

async fn until(peers: &mut watch::Receiver<PeerSet>, wanted: impl Fn(&PeerSet) -> bool) {
    let waited = tokio::time::timeout(DEADLINE, peers.wait_for(wanted)).await.is_ok();
    assert!(waited, "{:?}", *peers.borrow());
}

fn named(names: &[(&str, &str)]) -> BTreeMap<String, String> {
    names.iter().map(|(name, at)| (name.to_string(), at.to_string())).collect()
}

#[tokio::test]
async fn names_are_added_and_moved_and_never_removed() {
    let api = Api::default();
    let peers = watch::Sender::default();
    let mut seen = peers.subscribe();
    let looking = found(api.client());
    let book = looking.book.clone();
    let story = async {
        until(&mut seen, |peers| peers.listed).await;
        assert!(seen.borrow().named.is_empty());
        api.set(vec![pod("o-0", "10.0.0.1"), pod("o-1", "fd00::1")]);
        let both = named(&[("o-0", "10.0.0.1:12000"), ("o-1", "[fd00::1]:12000")]);
        until(&mut seen, |peers| peers.named == both).await;
        // A list that is empty, or fails, or lacks one.
        api.set(Vec::new());
        api.fail(true);
        // The watch may fail in its own words before the list does.
        until(&mut seen, |peers| peers.trouble.as_deref() == Some("pods is forbidden")).await;
        assert_eq!(seen.borrow().named, both);
        api.fail(false);
        api.set(vec![pod("o-1", "10.0.0.9")]);
        let moved = named(&[("o-0", "10.0.0.1:12000"), ("o-1", "10.0.0.9:12000")]);
        until(&mut seen, |peers| peers.named == moved && peers.trouble.is_none()).await;
        for address in ["[fd00::1]:12000", "10.0.0.9:12000"] {
            assert_eq!(book.named(address).as_deref(), Some("o-1"), "who must answer at {address}");
        }
    };
    tokio::select! {
        () = looking.run(&peers) => panic!("it looks for ever"),
        () = story => {}
    }
    let asked = api.asked();
    let first = asked.first().unwrap();
    assert!(first.contains("/namespaces/ns/pods") && first.contains("app%3Dx%2Ctier%3Dy"));
    assert!(
        asked.iter().any(|uri| uri.contains("watch=true") && uri.contains("timeoutSeconds=60"))
    );
}

#[test]
fn only_a_pod_with_an_address_that_may_run_is_a_node() {
    let of = |pod: serde_json::Value| node(&serde_json::from_value(pod).unwrap(), 1);
    assert_eq!(of(pod("a", "10.0.0.1")), Some(("a".to_owned(), "10.0.0.1:1".to_owned())));
    assert_eq!(of(pod("a", "")), None);
    assert_eq!(of(json!({ "metadata": { "name": "a" } })), None);
    for (phase, counts) in
        [("Pending", true), ("Unknown", true), ("Failed", false), ("Succeeded", false)]
    {
        let mut pod = pod("a", "10.0.0.1");
        pod["status"]["phase"] = phase.into();
        assert_eq!(of(pod).is_some(), counts, "{phase}");
    }
}

#[tokio::test]
async fn names_of_pods_long_gone_give_way_at_last() {
    let peers = watch::Sender::default();
    let mut pods = found(Api::default().client());
    let apply =
        |name: String| Event::Apply(serde_json::from_value(pod(&name, "10.0.0.1")).unwrap());
    for at in 0..MOST {
        pods.on(apply(format!("old-{at}")), &peers);
    }
    pods.on(apply("more".to_owned()), &peers);
    assert!(!peers.borrow().named.contains_key("more"), "all of them are there");
    pods.on(Event::Init, &peers);
    pods.on(Event::InitDone, &peers);
    assert_eq!(peers.borrow().named.len(), MOST, "an empty list removes nobody");
    pods.on(apply("more".to_owned()), &peers);
    assert!(peers.borrow().named.contains_key("more"));
    assert_eq!(peers.borrow().named.len(), MOST);
}
