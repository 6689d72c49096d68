//! What the operator answers in `status`: pure, from what was observed and decided.
//!
//! It holds nothing that changes while nothing happens, and a time only where something flipped.

mod conditions;
mod members;
#[cfg(test)]
mod tests;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use crate::{
    crd::{
        Blocked, ShardCluster, ShardClusterStatus, ShardCounts,
        condition::Stalled,
        status::{MAX_MEMBERS, MAX_NEXT_STEPS},
    },
    names::Names,
    rollout::{Decision, Halt, Observed, Registry},
};

/// Longest sentence taken over from elsewhere: conditions allow 32 KiB, people read less.
const MAX_WORDS: usize = 1_000;

/// Why nothing may be done at all, found before anything was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Stalled,
    pub message: String,
}

/// Everything that a status is made of.
pub struct Scene<'a> {
    pub cluster: &'a ShardCluster,
    pub observed: &'a Observed,
    pub decision: &'a Decision,
    pub refusal: Option<&'a Refusal>,
    pub version: Option<&'a str>,
    /// A certificate that nobody renews, in words.
    pub overdue: Option<&'a str>,
    pub now: Timestamp,
}

pub fn status(scene: &Scene<'_>) -> ShardClusterStatus {
    let names = Names::of(scene.cluster);
    let before = scene.cluster.status.clone().unwrap_or_default();
    let pods = scene.observed.pods.values();
    let revision = scene.observed.set.as_ref().and_then(|set| set.revision.as_ref());
    let updated = pods.clone().filter(|pod| Some(&pod.revision) == revision).count();
    let mut members = members::members(scene, &before.members);
    let truncated = members.len().saturating_sub(MAX_MEMBERS);
    members.truncate(MAX_MEMBERS);
    let known = match &scene.observed.registry {
        Registry::Known(known) => Some(known),
        Registry::Unknown { .. } | Registry::Founding { .. } => None,
    };
    let leader = known.and_then(|known| {
        known.nodes.iter().find(|node| node.id == known.leader).map(|node| node.name.clone())
    });
    ShardClusterStatus {
        observed_generation: scene.cluster.metadata.generation,
        replicas: scene.observed.pods.len() as i32,
        ready_replicas: pods.filter(|pod| pod.ready).count() as i32,
        updated_replicas: updated as i32,
        selector: names.selector_text(),
        version: scene.version.map(str::to_owned).or_else(|| before.version.clone()),
        // One that was given up is no more.
        cluster_id: known
            .map(|known| known.cluster.clone())
            .or_else(|| before.cluster_id.clone().filter(|_| scene.observed.formed)),
        leader,
        shards: known.map(|known| ShardCounts {
            total: known.shards.total as i32,
            assigned: known.shards.assigned as i32,
            moving: known.shards.moving as i32,
            unassigned: known.shards.unassigned as i32,
        }),
        members,
        members_truncated: truncated as i32,
        next_steps: next_steps(scene),
        blocked: blocked(scene, before.blocked.as_ref()),
        conditions: conditions::conditions(scene, &before.conditions),
    }
}

fn next_steps(scene: &Scene<'_>) -> Vec<String> {
    let step = scene.decision.step.as_ref().map(ToString::to_string);
    let all = step.into_iter().chain(scene.decision.waits.iter().map(|text| shorten(text)));
    all.take(MAX_NEXT_STEPS).collect()
}

fn blocked(scene: &Scene<'_>, before: Option<&Blocked>) -> Option<Blocked> {
    let blocked = scene.decision.blocked.as_ref()?;
    let reason = match blocked.halt {
        Some(Halt::RollStuck) => Stalled::RollStuck,
        Some(Halt::DrainTimedOut) => Stalled::DrainTimedOut,
        Some(Halt::QuorumLost) => Stalled::QuorumLost,
        None => Stalled::None,
    };
    let reason = match reason {
        Stalled::None => "Waiting".to_owned(),
        stalled => crate::crd::condition::Condition::from(stalled).reason().to_owned(),
    };
    let member = Some(blocked.member.clone()).filter(|member| !member.is_empty());
    let same = before.filter(|before| before.reason == reason && before.member == member);
    let since = same.map_or(Time(scene.now), |before| before.since.clone());
    Some(Blocked { reason, member, message: shorten(&blocked.message), since })
}

fn shorten(text: &str) -> String {
    text.chars().take(MAX_WORDS).collect()
}

/// Is the difference one that people or programs wait for? Everything else may wait a little.
pub fn is_urgent(before: Option<&ShardClusterStatus>, now: &ShardClusterStatus) -> bool {
    let Some(before) = before else { return true };
    let flips = |status: &ShardClusterStatus| -> Vec<_> {
        let rows = status.conditions.iter();
        rows.map(|row| (row.type_.clone(), row.status.clone(), row.reason.clone())).collect()
    };
    let states = |status: &ShardClusterStatus| -> Vec<_> {
        status.members.iter().map(|member| (member.name.clone(), member.state)).collect()
    };
    before.observed_generation != now.observed_generation
        || before.replicas != now.replicas
        || before.ready_replicas != now.ready_replicas
        || before.cluster_id != now.cluster_id
        || flips(before) != flips(now)
        || states(before) != states(now)
}
