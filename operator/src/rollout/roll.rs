//! Outdated pods are replaced: non-voters first, then one voter at a time, the leader last.
//!
//! A pod is drained, its session ended, and only then is it deleted; the next one waits until
//! its successor is caught up and may be given shards again, not until it owns some.

use std::cmp::Reverse;

use super::{Activity, Decision, Deletion, Halt, Life, Member, Members, Pod, Scene, Step};

pub(super) fn roll(scene: &Scene<'_>) -> Option<Decision> {
    let members = scene.members()?;
    if !scene.desired.rolls || scene.observed.set.as_ref()?.revision.is_none() {
        return None;
    }
    let wanted: Vec<&Pod> =
        scene.observed.pods.values().filter(|pod| scene.is_wanted(&pod.name)).collect();
    let outdated: Vec<&Pod> =
        wanted.iter().copied().filter(|pod| scene.is_outdated(pod) && !pod.deleting).collect();
    if outdated.is_empty() {
        return None;
    }
    if let Some(stuck) = stuck(scene, &wanted) {
        return Some(stuck);
    }
    let mut waiting = None;
    for pod in outdated.iter().filter(|pod| is_going(scene, pod)) {
        match going(scene, pod) {
            decision if decision.step.is_some() => return Some(decision),
            decision => waiting = waiting.or(Some(decision)),
        }
    }
    begin(scene, members, &wanted, outdated).or(waiting)
}

/// The first new pod that does not serve in time stops the roll.
fn stuck(scene: &Scene<'_>, wanted: &[&Pod]) -> Option<Decision> {
    let late = |pod: &&&Pod| {
        let serves = pod.ready && scene.node_of(pod).is_some_and(|node| node.life == Life::Up);
        !scene.is_outdated(pod) && !serves && pod.age >= scene.desired.progress_deadline
    };
    let pod = wanted.iter().find(late)?;
    let seconds = scene.desired.progress_deadline.as_secs();
    let why = pod.trouble.as_ref().map_or_else(String::new, |trouble| format!(" ({trouble})"));
    let name = &pod.name;
    let text = format!("{name} does not serve within {seconds} s{why}: the roll has stopped");
    Some(Decision::blocked(Activity::Rolling, Some(Halt::RollStuck), &pod.name, text))
}

fn is_going(scene: &Scene<'_>, pod: &Pod) -> bool {
    scene.node_of(pod).is_some_and(|node| node.drain.is_restart())
}

/// One that has begun to go is brought to its end.
fn going(scene: &Scene<'_>, pod: &Pod) -> Decision {
    let Some(node) = scene.node_of(pod) else { return Decision::default() };
    let name = pod.name.clone();
    match node.life {
        // Its vote still counts: it registers anew if it has to stay.
        Life::Closed | Life::Fenced if node.voter && !scene.spares_or_must(node.id) => {
            let text = format!("{name} is replaced once the other voters are well");
            Decision::wait(Activity::Rolling, text)
        }
        Life::Closed | Life::Fenced => delete(pod, Deletion::Rolled),
        Life::Up if node.is_empty() => {
            let incarnation = node.incarnation.clone();
            Decision::step(Activity::Rolling, Step::Close { node: node.id, name, incarnation })
        }
        // Whoever was to take its shards is gone meanwhile.
        Life::Up if scene.is_alone(node.id) => delete(pod, Deletion::Alone),
        Life::Up | Life::Joining | Life::Left => {
            let left = node.owned + node.receiving;
            Decision::wait(Activity::Rolling, format!("{name} hands over {left} shards"))
        }
    }
}

fn delete(pod: &Pod, why: Deletion) -> Decision {
    let step = Step::DeletePod { name: pod.name.clone(), uid: pod.uid.clone(), why };
    Decision::step(Activity::Rolling, step)
}

/// Begins with the next pod, if the others can do without it.
fn begin(
    scene: &Scene<'_>,
    members: &Members,
    wanted: &[&Pod],
    outdated: Vec<&Pod>,
) -> Option<Decision> {
    let unwell: Vec<&Pod> = wanted
        .iter()
        .copied()
        .filter(|pod| pod.deleting || !scene.node_of(pod).is_some_and(Member::is_well))
        .collect();
    let absent =
        scene.desired.replicas as usize - wanted.len().min(scene.desired.replicas as usize);
    let unavailable = unwell.len() + absent;
    let mut candidates: Vec<(&Pod, &Member)> = outdated
        .into_iter()
        .filter(|pod| !is_going(scene, pod))
        .filter_map(|pod| Some((pod, scene.node_of(pod)?)))
        .collect();
    candidates.sort_by_key(|(pod, node)| {
        (node.id == members.leader, node.voter, Reverse(scene.ordinal(&pod.name)))
    });
    let (pod, node) = *candidates.first()?;
    // One that is unwell itself makes nothing worse by going.
    let others = unavailable - usize::from(unwell.iter().any(|other| other.uid == pod.uid));
    if node.voter {
        if others > 0 {
            let text = format!("{} restarts once the others are well", pod.name);
            return Some(Decision::wait(Activity::Rolling, text));
        }
        if scene.is_alone(node.id) {
            return Some(delete(pod, Deletion::Alone));
        }
        if !scene.spares_or_must(node.id) {
            let name = pod.name.clone();
            let text = format!("without {name} the voters would have no live majority");
            return Some(Decision::blocked(Activity::Rolling, Some(Halt::QuorumLost), &name, text));
        }
    } else if others >= scene.desired.max_unavailable.max(1) as usize {
        let text = format!("{} restarts once another is back", pod.name);
        return Some(Decision::wait(Activity::Rolling, text));
    }
    if scene.lacks_takers(node) {
        let text = format!("{} restarts once another could take its shards", pod.name);
        return Some(Decision::wait(Activity::Rolling, text));
    }
    let step = Step::DrainForRestart {
        node: node.id,
        name: pod.name.clone(),
        incarnation: node.incarnation.clone(),
    };
    Some(Decision::step(Activity::Rolling, step))
}
