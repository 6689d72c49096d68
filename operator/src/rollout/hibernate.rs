//! Replicas 0 and state Stopped: everything closes in place, and volumes are kept. Without volumes the
//! registry ends with the last pod, and another is founded later.

use super::{Activity, Decision, Drain, Life, Registry, Scene, Step, abandon, found};

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
            if serves {
                return Some(Decision::step(Activity::Removing, Step::StopAll));
            }
            // Told to stop with the others, it does not take their shards over first.
            let joins = |ordinal: &u32| scene.is_about_to_join(*ordinal);
            Some(match (0..set.replicas).find(joins).map(|ordinal| scene.pod_name(ordinal)) {
                Some(pod) => {
                    Decision::wait(Activity::Removing, format!("{pod} joins at this moment"))
                }
                None => Decision::step(Activity::Removing, to_zero),
            })
        }
        Registry::Founding { .. } | Registry::Unknown { .. } if nobody_runs => {
            Some(Decision::step(Activity::Removing, to_zero))
        }
        // What nobody holds any more cannot form, and there is nothing to keep.
        Registry::Founding { .. } if nobody_holds_it(scene) => {
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

/// What has served is on no pod any more.
fn nobody_holds_it(scene: &Scene<'_>) -> bool {
    let recorded = scene.observed.identity.as_ref().and_then(|identity| identity.cluster.as_ref());
    scene.observed.formed && recorded.is_some_and(|id| abandon::is_held_by_nobody(scene, id))
}

/// The former members first: they hold the registry.
pub(super) fn resume(scene: &Scene<'_>) -> Option<Decision> {
    let former = scene.set().former?;
    if scene.set().replicas == 0 && scene.desired.ephemeral {
        // Beside one that still ends, an empty pod would wait for a quorum that is no more. Once all are
        // gone and their cluster is given up, there are no former members.
        let wait = || Decision::wait(Activity::ScalingUp, "the last pods are to end");
        return (!scene.observed.pods.is_empty()).then(wait);
    }
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
