//! Replicas 0 and state Stopped: everything closes in place, and nothing is lost.

use super::{Activity, Decision, Drain, Life, Registry, Scene, Step, found};

pub(super) fn stop(scene: &Scene<'_>) -> Option<Decision> {
    if scene.desired.replicas > 0 {
        return None;
    }
    let Some(set) = &scene.observed.set else { return Some(Decision::default()) };
    if set.replicas == 0 {
        let gone = scene.observed.pods.is_empty();
        return Some(match gone {
            true => Decision::default(),
            false => Decision::wait(Activity::Removing, "the last pods are to end"),
        });
    }
    let to_zero = Step::Resize { replicas: 0, former: Some(set.replicas) };
    let nobody_runs = scene.observed.pods.values().all(|pod| !pod.down.is_zero());
    match &scene.observed.registry {
        Registry::Known(members) => {
            let serves = members.nodes.iter().any(|n| n.life == Life::Up && n.drain == Drain::None);
            let step = if serves { Step::StopAll } else { to_zero };
            Some(Decision::step(Activity::Removing, step))
        }
        Registry::Founding { .. } | Registry::Unknown { .. } if nobody_runs => {
            Some(Decision::step(Activity::Removing, to_zero))
        }
        // Its founders hold nothing that a quorum agreed on: it is helped to form before it stops.
        Registry::Founding { .. } => found::form(scene).or_else(|| {
            let text = "the cluster is to form before it can be hibernated";
            Some(Decision::wait(Activity::Creating, text))
        }),
        Registry::Unknown { why } => {
            let text = format!("cannot be hibernated while no quorum answers: {why}");
            Some(Decision::blocked(Activity::Idle, None, "", text))
        }
    }
}

/// The former members first: they hold the registry.
pub(super) fn resume(scene: &Scene<'_>) -> Option<Decision> {
    let former = scene.set().former?;
    if scene.set().replicas == 0 {
        let step = Step::Resize { replicas: former, former: Some(former) };
        return Some(Decision::step(Activity::ScalingUp, step));
    }
    match &scene.observed.registry {
        // A quorum of them is back; whoever is missing is missing as at any other time.
        Registry::Known(_) => {
            let step = Step::Resize { replicas: scene.set().replicas, former: None };
            Some(Decision::step(Activity::ScalingUp, step))
        }
        Registry::Founding { .. } => None,
        Registry::Unknown { why } => {
            let text = format!("{former} former members are to come back: {why}");
            Some(Decision::wait(Activity::ScalingUp, text))
        }
    }
}
