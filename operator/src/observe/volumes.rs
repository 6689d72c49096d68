//! Volumes that no Kubernetes node can mount any more, by what they say of where they may be.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume,
    PersistentVolumeClaim, Pod,
};
use kube::{
    Client,
    api::{Api, ListParams},
};

use crate::rollout::Lost;

/// Labels of Nodes that name more than one machine end so, whoever has given them.
const PLACES: [&str; 2] = ["/zone", "/region"];

/// The claims of pods that find no place, as far as their volumes are the reason. Where Nodes and
/// volumes may not be read, nothing is lost.
pub(super) async fn lost(
    client: &Client,
    pods: &[Pod],
    claims: &[PersistentVolumeClaim],
) -> BTreeMap<String, Lost> {
    let placeless: Vec<_> = pods.iter().filter(|pod| finds_no_place(pod)).collect();
    let held = |claim: &&PersistentVolumeClaim| placeless.iter().any(|pod| holds(pod, claim));
    let claims: Vec<_> =
        claims.iter().filter(held).filter(|claim| volume(claim).is_some()).collect();
    if claims.is_empty() {
        return BTreeMap::new();
    }
    let nodes = Api::<Node>::all(client.clone()).list_metadata(&ListParams::default()).await;
    let Ok(nodes) = nodes else { return BTreeMap::new() };
    let nodes: Vec<Place> = nodes
        .items
        .into_iter()
        .map(|node| Place {
            name: node.metadata.name.unwrap_or_default(),
            labels: node.metadata.labels.unwrap_or_default(),
        })
        .collect();
    let volumes = Api::<PersistentVolume>::all(client.clone());
    let mut lost = BTreeMap::new();
    for claim in claims {
        let (Some(name), Some(volume)) = (&claim.metadata.name, volume(claim)) else { continue };
        let Ok(volume) = volumes.get_opt(volume).await else { continue };
        if let Some(how) = how(volume.as_ref(), &nodes) {
            lost.insert(name.clone(), how);
        }
    }
    lost
}

fn finds_no_place(pod: &Pod) -> bool {
    let placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let refused = conditions
        .is_some_and(|all| all.iter().any(|c| c.type_ == "PodScheduled" && c.status == "False"));
    refused && !placed
}

fn holds(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    let claimed = volumes.into_iter().flatten().filter_map(|v| v.persistent_volume_claim.as_ref());
    claimed.into_iter().any(|held| Some(&held.claim_name) == claim.metadata.name.as_ref())
}

fn volume(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

/// What is known of a Node.
struct Place {
    name: String,
    labels: BTreeMap<String, String>,
}

fn how(volume: Option<&PersistentVolume>, nodes: &[Place]) -> Option<Lost> {
    let Some(volume) = volume else { return Some(Lost::Gone) };
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required.as_ref())?;
    let reached = |zones| nodes.iter().any(|node| reaches(required, node, zones));
    match (reached(true), reached(false)) {
        (true, _) => None,
        (false, true) => Some(Lost::Unreachable),
        (false, false) => Some(Lost::Gone),
    }
}

/// Whether one of the terms fits; without `zones` as if the machine were in the right one.
fn reaches(selector: &NodeSelector, node: &Place, zones: bool) -> bool {
    let counts = |wanted: &&NodeSelectorRequirement| {
        zones || !PLACES.iter().any(|place| wanted.key.ends_with(place))
    };
    let fits = |term: &NodeSelectorTerm| {
        let labels = term.match_expressions.iter().flatten().filter(counts);
        let fields = term.match_fields.iter().flatten();
        labels.into_iter().all(|wanted| is_met(wanted, node.labels.get(&wanted.key)))
            && fields.into_iter().all(|wanted| is_met(wanted, Some(&node.name)))
    };
    selector.node_selector_terms.iter().any(fits)
}

/// What this does not know counts as met: nothing is lost for want of understanding.
fn is_met(wanted: &NodeSelectorRequirement, found: Option<&String>) -> bool {
    let among = || {
        let mut values = wanted.values.iter().flatten();
        found.is_some_and(|found| values.any(|value| value == found))
    };
    match wanted.operator.as_str() {
        "In" => among(),
        "NotIn" => !among(),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(terms: &Value) -> PersistentVolume {
        let affinity = json!({ "required": { "nodeSelectorTerms": terms } });
        serde_json::from_value(json!({ "spec": { "nodeAffinity": affinity } })).unwrap()
    }

    fn place(name: &str, zone: &str) -> Place {
        let labels = [("kubernetes.io/hostname", name), ("topology.kubernetes.io/zone", zone)];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        Place { name: name.to_owned(), labels }
    }

    fn among(key: &str, values: &[&str]) -> Value {
        json!({ "key": key, "operator": "In", "values": values })
    }

    #[test]
    fn a_volume_is_lost_with_its_machine_and_waits_for_its_zone() {
        const HOST: &str = "kubernetes.io/hostname";
        const ZONE: &str = "topology.kubernetes.io/zone";
        const EBS: &str = "topology.ebs.csi.aws.com/zone";
        let nodes = [place("one", "a"), place("two", "b")];
        let on = |expressions: &[Value]| volume(&json!([{ "matchExpressions": expressions }]));
        for (volume, expected) in [
            (on(&[among(HOST, &["one"])]), None),
            (on(&[among(HOST, &["gone"])]), Some(Lost::Gone)),
            (on(&[among(HOST, &["gone", "two"])]), None),
            (on(&[among(ZONE, &["b"])]), None),
            (on(&[among(ZONE, &["c"])]), Some(Lost::Unreachable)),
            (on(&[among(EBS, &["c"])]), Some(Lost::Unreachable)),
            (on(&[among(ZONE, &["a"]), among(HOST, &["gone"])]), Some(Lost::Gone)),
            // The machine is there, in another zone than it was.
            (on(&[among(ZONE, &["c"]), among(HOST, &["one"])]), Some(Lost::Unreachable)),
            (on(&[json!({ "key": HOST, "operator": "NotIn", "values": ["one"] })]), None),
            (on(&[json!({ "key": "disk", "operator": "Exists" })]), Some(Lost::Gone)),
            (on(&[json!({ "key": "disk", "operator": "DoesNotExist" })]), None),
            (on(&[json!({ "key": "disk", "operator": "Gt", "values": ["1"] })]), None),
            (
                volume(&json!([{ "matchFields": [among("metadata.name", &["gone"])] }])),
                Some(Lost::Gone),
            ),
            (
                volume(&json!([
                    { "matchExpressions": [among(HOST, &["gone"])] },
                    { "matchFields": [among("metadata.name", &["two"])] },
                ])),
                None,
            ),
            (serde_json::from_value(json!({ "spec": {} })).unwrap(), None),
        ] {
            assert_eq!(how(Some(&volume), &nodes), expected, "{volume:?}");
        }
        assert_eq!(how(None, &nodes), Some(Lost::Gone), "the volume itself was deleted");
    }

    #[test]
    fn only_a_pod_that_the_scheduler_refused_finds_no_place() {
        let pod = |spec: Value, status: &str| -> Pod {
            let conditions = json!([{ "type": "PodScheduled", "status": status }]);
            serde_json::from_value(json!({ "spec": spec, "status": { "conditions": conditions } }))
                .unwrap()
        };
        let spec = |node: Option<&str>| json!({ "containers": [], "nodeName": node });
        assert!(finds_no_place(&pod(spec(None), "False")));
        assert!(!finds_no_place(&pod(spec(None), "True")));
        assert!(!finds_no_place(&pod(spec(Some("one")), "False")));
        assert!(!finds_no_place(&Pod::default()), "nobody has looked at it yet");
    }
}
