//! From nothing to a formed cluster, and more pods than before.

use super::{Activity, Decision, Life, Registry, Scene, Step, abandon};

/// A founding set is never larger: three tolerate the loss of one directory.
const FOUNDERS: u32 = 3;

/// The identity is written once, before any pod is there; its set of names never changes.
pub(super) fn begin(scene: &Scene<'_>) -> Option<Decision> {
    let replicas = scene.desired.replicas;
    if replicas == 0 {
        return None;
    }
    if scene.observed.identity.is_none() {
        let founding = (0..replicas.min(FOUNDERS)).map(|ordinal| scene.pod_name(ordinal));
        let step = Step::CreateIdentity { founding: founding.collect() };
        return Some(Decision::step(Activity::Creating, step));
    }
    None
}

/// Until formed the founding pods stay; growing waits for nobody.
pub(super) fn form(scene: &Scene<'_>) -> Option<Decision> {
    let identity = scene.observed.identity.as_ref()?;
    let set = scene.set();
    let least = if scene.observed.formed { 1 } else { identity.founding.len() as u32 };
    let wanted = scene.desired.replicas.max(least);
    if scene.observed.set.is_none() {
        let step = Step::Resize { replicas: wanted, former: None };
        return Some(Decision::step(Activity::Creating, step));
    }
    if set.replicas < wanted {
        let step = Step::Resize { replicas: wanted, former: None };
        return Some(Decision::step(Activity::ScalingUp, step));
    }
    let Registry::Founding { joined } = &scene.observed.registry else { return None };
    if let Some(cluster) = &identity.cluster {
        let holds = |pod: &&String| joined.get(*pod) == Some(cluster);
        let pods: Vec<String> = identity.founding.iter().filter(holds).cloned().collect();
        if abandon::is_lost(scene, cluster) {
            return None;
        }
        if pods.is_empty() {
            let text = format!("no founding pod has joined the recorded cluster {cluster} yet");
            return Some(scene.founding(text));
        }
        let step = Step::ConfirmFounding { cluster: cluster.clone(), pods };
        return Some(Decision::step(Activity::Creating, step));
    }
    // One that only its founder holds could be lost with a single directory.
    let mut clusters = identity.founding.iter().map(|pod| joined.get(pod));
    match clusters.next().flatten() {
        Some(first) if !first.is_empty() && clusters.all(|other| other == Some(first)) => {
            let step = Step::RecordCluster { cluster: first.clone() };
            Some(Decision::step(Activity::Creating, step))
        }
        Some(_) | None => {
            let text = format!("{} are to join one cluster", identity.founding.join(", "));
            Some(scene.founding(text))
        }
    }
}

/// Kept volumes brought an older cluster back: it is recorded, and they are this one's.
pub(super) fn adopt(scene: &Scene<'_>) -> Option<Decision> {
    let (identity, members) = (scene.observed.identity.as_ref()?, scene.members()?);
    if identity.cluster.is_none() {
        let step = Step::RecordCluster { cluster: members.cluster.clone() };
        return Some(Decision::step(Activity::Creating, step));
    }
    let claim = scene.observed.claims.iter().find(|claim| {
        let member = scene.member(&scene.pod_name(claim.ordinal));
        claim.foreign && !claim.deleting && member.is_some_and(|node| node.life == Life::Up)
    })?;
    let step = Step::AdoptClaim { name: claim.name.clone() };
    Some(Decision::step(Activity::Idle, step))
}
