//! Members that go for good: drained, closed, removed, and only then without a pod.
//!
//! A removal is keyed by node id and survives restarts. A change of mind takes it back until
//! `Close` has committed; after that the member leaves, and its successor joins anew.

use super::{
    Activity, Decision, Deletion, Drain, Halt, Life, Member, Members, OnTimeout, Scene, Step,
};

/// Members wanted again, and restarts that nobody asks for any more.
pub(super) fn cancel(scene: &Scene<'_>) -> Option<Decision> {
    let members = scene.members()?;
    let stays = |name: &str| scene.is_wanted(name) && !scene.is_given_up(name);
    let revocable = |node: &&Member| node.is_revocable() && stays(&node.name);
    let node = members.nodes.iter().filter(revocable).find(|node| match node.drain {
        Drain::None | Drain::Own => false,
        Drain::Removal => is_newest(scene, node),
        Drain::Restart => scene.pod(&node.name).is_some_and(|pod| {
            let rolls = scene.is_outdated(pod) && scene.desired.rolls;
            // All were told to stop, and then not: one of them has to stay first.
            let goes = pod.deleting || (rolls && !scene.lacks_takers(node));
            !goes && pod.uid == node.pod_uid
        }),
    })?;
    let step = Step::CancelDrain { node: node.id, name: node.name.clone() };
    Some(Decision::step(Activity::Idle, step))
}

/// A name whose directory was lost has a newer node; the older one goes.
fn is_newest(scene: &Scene<'_>, node: &Member) -> bool {
    scene.member(&node.name).is_some_and(|newest| newest.id == node.id)
}

/// Wanted again too late: it parks until it is removed, and its successor joins anew.
fn is_past_return(node: &Member) -> bool {
    node.marked || (node.life == Life::Closed && node.drain == Drain::Removal)
}

pub(super) fn remove(scene: &Scene<'_>) -> Option<Decision> {
    let members = scene.members()?;
    let mut leavers: Vec<&Member> = members
        .nodes
        .iter()
        .filter(|node| node.life != Life::Left)
        .filter(|node| {
            let stays = scene.is_wanted(&node.name) && !scene.is_given_up(&node.name);
            !stays || !is_newest(scene, node) || is_past_return(node)
        })
        .collect();
    // Highest ordinals first, so that a change of mind half-way saves the most.
    leavers.sort_by_key(|node| (std::cmp::Reverse(scene.ordinal(&node.name)), node.id));
    let parallel = scene.desired.parallel_removals.max(1) as usize;
    let mut first = None;
    for node in leavers.iter().take(parallel) {
        match leaver(scene, members, node) {
            decision if decision.step.is_some() => return Some(decision),
            decision => first = first.or(Some(decision)),
        }
    }
    let last = || joining(scene);
    shrink(scene).or_else(|| claims(scene)).or_else(|| parked(scene)).or(first).or_else(last)
}

/// Without a look at it between its join and its end it would be deleted with the shards it got.
fn joining(scene: &Scene<'_>) -> Option<Decision> {
    let mut beyond = scene.desired.replicas..scene.set().replicas;
    let ordinal = beyond.rfind(|ordinal| scene.is_about_to_join(*ordinal))?;
    let text = format!("{} joins at this moment: it is drained first", scene.pod_name(ordinal));
    Some(Decision::wait(Activity::Removing, text))
}

/// The one act that this leaver needs next.
fn leaver(scene: &Scene<'_>, members: &Members, node: &Member) -> Decision {
    let name = node.name.clone();
    if node.drain != Drain::Removal && !node.marked {
        // Nothing leaves by choice while something is missing among those who stay.
        if let Some(text) = unfit(scene, node) {
            return Decision::blocked(Activity::Draining, None, &name, text);
        }
        let step = Step::DrainForRemoval { node: node.id, name };
        return Decision::step(Activity::Draining, step);
    }
    match node.life {
        Life::Up if node.is_empty() => {
            let incarnation = node.incarnation.clone();
            Decision::step(Activity::Removing, Step::Close { node: node.id, name, incarnation })
        }
        Life::Up => draining(scene, node),
        Life::Closed | Life::Fenced | Life::Joining if node.voter => {
            let text = format!("the vote of {name} is to pass to another node");
            Decision::wait(Activity::Removing, text)
        }
        Life::Closed | Life::Fenced | Life::Joining if !node.is_empty() => {
            debug_assert!(members.shards.total > 0);
            Decision::wait(Activity::Removing, format!("shards of {name} are to be assigned"))
        }
        Life::Closed | Life::Fenced | Life::Joining => {
            let step = Step::Remove { node: node.id, name, force: false };
            Decision::step(Activity::Removing, step)
        }
        Life::Left => Decision::default(),
    }
}

fn draining(scene: &Scene<'_>, node: &Member) -> Decision {
    let text = format!("{} is draining: {} shards left", node.name, node.owned + node.receiving);
    if node.draining < scene.desired.drain_timeout || node.marked {
        return Decision::wait(Activity::Draining, text);
    }
    match scene.desired.on_drain_timeout {
        OnTimeout::Remove => {
            let step = Step::Remove { node: node.id, name: node.name.clone(), force: true };
            Decision::step(Activity::Removing, step)
        }
        OnTimeout::Wait => {
            let halt = Some(Halt::DrainTimedOut);
            Decision::blocked(Activity::Draining, halt, &node.name, text)
        }
    }
}

/// Why nobody may leave by choice now.
fn unfit(scene: &Scene<'_>, leaver: &Member) -> Option<String> {
    let members = scene.members()?;
    let stays = |node: &&Member| node.drain != Drain::Removal && node.id != leaver.id;
    if !members.nodes.iter().filter(stays).any(|node| node.life == Life::Up && node.target) {
        return Some(format!("nobody could take the shards of {}", leaver.name));
    }
    // Who is down himself takes nothing away.
    if leaver.voter && leaver.life == Life::Up && !scene.spares_or_must(leaver.id) {
        return Some(format!("without {} the voters would have no live majority", leaver.name));
    }
    if members.shards.unassigned > 0 && leaver.life == Life::Up {
        return Some(format!("{} shards wait for an owner first", members.shards.unassigned));
    }
    None
}

/// Lowers the StatefulSet past the members that have left, and never past another.
fn shrink(scene: &Scene<'_>) -> Option<Decision> {
    let set = scene.set();
    let finished = |ordinal: &u32| {
        scene.member(&scene.pod_name(*ordinal)).is_none() && !scene.is_about_to_join(*ordinal)
    };
    let kept = (scene.desired.replicas..set.replicas).rev().take_while(finished).count() as u32;
    let replicas = set.replicas - kept;
    if kept == 0 || set.former.is_some() {
        return None;
    }
    let step = Step::Resize { replicas, former: None };
    Some(Decision::step(Activity::Removing, step))
}

/// Volumes of members that have left, once no pod holds them.
fn claims(scene: &Scene<'_>) -> Option<Decision> {
    let set = scene.set();
    if !scene.desired.deletes_claims || set.former.is_some() {
        return None;
    }
    let claim = scene.observed.claims.iter().find(|claim| {
        let beyond = claim.ordinal >= scene.desired.replicas && claim.ordinal >= set.replicas;
        let name = scene.pod_name(claim.ordinal);
        beyond
            && !claim.deleting
            && !scene.observed.pods.contains_key(&claim.ordinal)
            && scene.member(&name).is_none()
    })?;
    let step = Step::DeleteClaim { name: claim.name.clone(), uid: claim.uid.clone() };
    Some(Decision::step(Activity::Removing, step))
}

/// A parked pod that is wanted again: its successor joins anew.
fn parked(scene: &Scene<'_>) -> Option<Decision> {
    let members = scene.members()?;
    let pod = scene.observed.pods.values().find(|pod| {
        let left = |node: &Member| node.pod_uid == pod.uid && node.life == Life::Left;
        let newest = members.nodes.iter().filter(|n| n.pod_uid == pod.uid).max_by_key(|n| n.id);
        scene.is_wanted(&pod.name) && !pod.deleting && newest.is_some_and(left)
    })?;
    let step =
        Step::DeletePod { name: pod.name.clone(), uid: pod.uid.clone(), why: Deletion::Parked };
    Some(Decision::step(Activity::ScalingUp, step))
}
