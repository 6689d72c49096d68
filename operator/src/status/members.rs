//! One row for each node: from its pod, from the registry, or both.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Scene;
use crate::{
    crd::{Drain, Member, MemberRole, MemberState},
    names::Names,
    rollout::{self, Life, Registry},
};

/// Unhealthy ones first, then by ordinal.
pub(super) fn members(scene: &Scene<'_>, before: &[Member]) -> Vec<Member> {
    let names = Names::of(scene.cluster);
    let known = match &scene.observed.registry {
        Registry::Known(known) => Some(known),
        Registry::Unknown { .. } | Registry::Founding { .. } => None,
    };
    // Of a cluster that was given up nothing is known any more.
    let before = if scene.observed.formed { before } else { &[] };
    let nodes = known.map_or(&[][..], |known| &known.nodes);
    let pods = scene.observed.pods.values();
    let mut all: BTreeSet<String> = pods.map(|pod| pod.name.clone()).collect();
    let alive = nodes.iter().filter(|node| node.life != Life::Left);
    all.extend(alive.map(|node| node.name.clone()));
    let mut rows: Vec<Member> = all
        .into_iter()
        .map(|name| {
            let pod = names.ordinal(&name).and_then(|n| scene.observed.pods.get(&n));
            let of_name = nodes.iter().filter(|node| node.name == name);
            let node = of_name.max_by_key(|node| (node.life != Life::Left, node.id));
            let leads = node.is_some_and(|node| known.is_some_and(|k| k.leader == node.id));
            let before = before.iter().find(|row| row.name == name);
            // Nobody who knows was reached: what was known stays, but for the pod.
            match (node, before) {
                (None, Some(before)) if known.is_none() => {
                    Member { pod_uid: pod.map(|pod| pod.uid.clone()), ..before.clone() }
                }
                (node, before) => member(scene, name, pod, node, leads, before),
            }
        })
        .collect();
    rows.sort_by_key(|row| (row.state, names.ordinal(&row.name)));
    rows
}

fn member(
    scene: &Scene<'_>,
    name: String,
    pod: Option<&rollout::Pod>,
    node: Option<&rollout::Member>,
    leads: bool,
    before: Option<&Member>,
) -> Member {
    let runs = pod.is_some_and(|pod| pod.down.is_zero());
    Member {
        node_id: node.map(|node| format!("n{}", node.id)),
        pod_uid: pod.map(|pod| pod.uid.clone()),
        zone: node.map(|node| node.zone.clone()).filter(|zone| !zone.is_empty()),
        role: match node {
            None => MemberRole::Unknown,
            Some(_) if leads => MemberRole::Leader,
            Some(node) if node.voter => MemberRole::Voter,
            Some(node) if node.learner => MemberRole::Learner,
            Some(_) => MemberRole::Watcher,
        },
        state: match node.map(|node| node.life) {
            None => MemberState::Pending,
            Some(Life::Joining) => MemberState::Joining,
            Some(Life::Up) if runs => MemberState::Up,
            Some(Life::Up) => MemberState::Down,
            Some(Life::Closed) => MemberState::Closed,
            Some(Life::Fenced) => MemberState::Fenced,
            Some(Life::Left) => MemberState::Left,
        },
        shards: node.map_or(0, |node| node.owned as i32),
        revision: pod.map(|pod| pod.revision.clone()).filter(|revision| !revision.is_empty()),
        drain: node.and_then(|node| drain(scene, node, before)),
        name,
    }
}

fn drain(scene: &Scene<'_>, node: &rollout::Member, before: Option<&Member>) -> Option<Drain> {
    if node.drain == rollout::Drain::None {
        return None;
    }
    let same = before.filter(|row| row.node_id.as_deref() == Some(&format!("n{}", node.id)));
    let since = same.and_then(|row| Some(row.drain.as_ref()?.since.clone()));
    Some(Drain { since: since.unwrap_or(Time(scene.now)), revocable: node.is_revocable() })
}
