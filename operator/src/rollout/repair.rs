//! What is broken is repaired whatever the health of the rest, and without a quorum.

use super::{Activity, Decision, Deletion, Life, NOT_RUNNING, Registry, Scene, Step};

/// A pod of a Node that is gone never ends by itself.
pub(super) fn lost_nodes(scene: &Scene<'_>) -> Option<Decision> {
    let lost = scene.observed.pods.values().find(|pod| pod.node_lost)?;
    let step =
        Step::DeletePod { name: lost.name.clone(), uid: lost.uid.clone(), why: Deletion::NodeLost };
    Some(Decision::step(Activity::Idle, step))
}

/// The leader need not wait for the session of a process that is known to have ended.
pub(super) fn deaths(scene: &Scene<'_>) -> Option<Decision> {
    scene.observed.pods.values().find_map(|pod| {
        let node = scene.node_of(pod)?;
        let ended = pod.ended.as_ref()?;
        if node.life != Life::Up || node.incarnation != *ended {
            return None;
        }
        let step =
            Step::ReportDeath { node: node.id, name: pod.name.clone(), incarnation: ended.clone() };
        Some(Decision::step(Activity::Idle, step))
    })
}

/// What does not run is not a member to protect: a template that never worked must not need
/// a person to get rid of its pods.
pub(super) fn outdated_and_down(scene: &Scene<'_>) -> Option<Decision> {
    let pod = scene.observed.pods.values().find(|pod| {
        let runs_unregistered = || match &scene.observed.registry {
            Registry::Known(_) => !pod.ready && scene.node_of(pod).is_none(),
            // What has never formed serves nobody: its directories are on the volumes.
            Registry::Founding { .. } => !pod.ready && !scene.observed.formed,
            Registry::Unknown { .. } => false,
        };
        let useless = pod.down >= NOT_RUNNING || (pod.age >= NOT_RUNNING && runs_unregistered());
        useless && !pod.deleting && scene.is_outdated(pod)
    })?;
    let step =
        Step::DeletePod { name: pod.name.clone(), uid: pod.uid.clone(), why: Deletion::NotRunning };
    Some(Decision::step(Activity::Rolling, step))
}
