//! What is broken is repaired whatever the health of the rest; only a volume is not given up without a
//! quorum.

use super::{
    Activity, Claim, Decision, Deletion, Life, Lost, NOT_RUNNING, Pod, Registry, Scene, Step,
};
use crate::crd::annotation;

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

/// The volume of a member that was given up goes once the member has left: its successor begins with
/// an empty one. Like all that leaves, it is drained and removed first.
pub(super) fn lost_volumes(scene: &Scene<'_>) -> Option<Decision> {
    scene.members()?;
    let claim = scene.observed.claims.iter().find(|claim| {
        let name = scene.pod_name(claim.ordinal);
        claim.lost.is_some()
            && !claim.deleting
            && scene.is_given_up(&name)
            && scene.member(&name).is_none()
    })?;
    let step = Step::DeleteClaim { name: claim.name.clone(), uid: claim.uid.clone() };
    Some(Decision::step(Activity::Idle, step))
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
        useless && !pod.deleting && scene.is_outdated(pod) && scene.may_lose(pod)
    })?;
    let step =
        Step::DeletePod { name: pod.name.clone(), uid: pod.uid.clone(), why: Deletion::NotRunning };
    Some(Decision::step(Activity::Rolling, step))
}

impl Scene<'_> {
    /// Without volumes a pod that has run takes its directory along. While no quorum answers, one of
    /// them at most is given up: the others may be all that is left of the registry.
    fn may_lose(&self, pod: &Pod) -> bool {
        let holds = self.desired.ephemeral && self.observed.formed && pod.down < pod.age;
        let pods = &self.observed.pods;
        let is_first = || {
            let untouched = |other: &Pod| !other.deleting && self.is_outdated(other);
            pods.len() == self.set().replicas as usize && pods.values().all(untouched)
        };
        !holds || self.members().is_some() || is_first()
    }

    /// Wanted, and its pod finds no place because of this claim.
    fn lost_claim(&self, name: &str) -> Option<&Claim> {
        let ordinal = self.ordinal(name).filter(|_| self.is_wanted(name))?;
        let mut claims = self.observed.claims.iter();
        claims.find(|claim| claim.ordinal == ordinal && claim.lost.is_some())
    }

    /// Somebody has said that a successor is to begin with an empty volume: in the spec for one that
    /// is gone, by name for any.
    pub(super) fn is_given_up(&self, name: &str) -> bool {
        let down = self.pod(name).is_some_and(|pod| !pod.ready && pod.down >= NOT_RUNNING);
        let asked = self.desired.replace.as_deref() == Some(name);
        let lost = self.lost_claim(name).and_then(|claim| claim.lost);
        down && match lost {
            Some(Lost::Gone) => asked || self.desired.replaces_lost,
            Some(Lost::Unreachable) => asked,
            None => false,
        }
    }

    /// Volumes that wait for a human, with what he can do.
    pub(super) fn volumes_to_give_up(&self) -> Vec<String> {
        let wanted = (0..self.desired.replicas).map(|ordinal| self.pod_name(ordinal));
        let kept = wanted.filter(|name| !self.is_given_up(name));
        kept.filter_map(|name| {
            let claim = self.lost_claim(&name)?;
            Some(format!(
                "no Kubernetes node can mount the volume of claim {}: bring its node back, or give the \
                 volume up with the annotation {}={name}",
                claim.name,
                annotation::REPLACE
            ))
        })
        .collect()
    }
}
