//! The conditions, each with the reason of the table that fits.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition as Shown, Time};

use super::{Scene, shorten};
use crate::{
    crd::{
        State,
        condition::{Available, Condition, Degraded, Paused, Progressing, Ready, Stalled, Status},
    },
    names::Names,
    rollout::{Activity, Halt, Life, Lost, Members, Pod, Registry, Trouble},
};

pub(super) fn conditions(scene: &Scene<'_>, before: &[Shown]) -> Vec<Shown> {
    let facts = Facts::of(scene);
    let rows = [
        facts.ready(),
        facts.available(),
        facts.progressing(),
        facts.degraded(),
        facts.stalled(),
        facts.paused(),
    ];
    rows.map(|(condition, message)| shown(scene, before, condition, &message)).into()
}

fn shown(scene: &Scene<'_>, before: &[Shown], condition: Condition, message: &str) -> Shown {
    let (kind, status) = (condition.kind().as_str(), condition.status().as_str());
    let same = before.iter().find(|row| row.type_ == kind && row.status == status);
    let message = if message.is_empty() { condition.meaning() } else { message };
    Shown {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: condition.reason().to_owned(),
        message: shorten(message),
        last_transition_time: same.map_or(Time(scene.now), |row| row.last_transition_time.clone()),
        observed_generation: scene.cluster.metadata.generation,
    }
}

type Row = (Condition, String);

fn row(condition: impl Into<Condition>, message: impl Into<String>) -> Row {
    (condition.into(), message.into())
}

/// What several conditions look at.
struct Facts<'a> {
    scene: &'a Scene<'a>,
    wanted: u32,
    known: Option<&'a Members>,
    /// Wanted members that do not serve.
    down: Vec<String>,
    /// Wanted pods that are there and at the newest revision.
    outdated: usize,
}

impl<'a> Facts<'a> {
    fn of(scene: &'a Scene<'a>) -> Self {
        let wanted = scene.cluster.spec.wanted().max(0) as u32;
        let known = match &scene.observed.registry {
            Registry::Known(known) => Some(known),
            Registry::Unknown { .. } | Registry::Founding { .. } => None,
        };
        let revision = scene.observed.set.as_ref().and_then(|set| set.revision.clone());
        let pods = (0..wanted).filter_map(|ordinal| scene.observed.pods.get(&ordinal));
        let outdated = |pod: &&Pod| revision.as_ref().is_none_or(|wanted| *wanted != pod.revision);
        let down = known.map_or_else(Vec::new, |known| down(scene, known, wanted));
        Self { scene, wanted, known, down, outdated: pods.filter(outdated).count() }
    }

    /// Every shard has an owner whose session lives.
    fn serves(&self) -> bool {
        self.known.is_some_and(|known| {
            let up = known.nodes.iter().filter(|node| node.life == Life::Up);
            let held: u32 = up.map(|node| node.owned).sum();
            known.shards.unassigned == 0 && known.shards.total > 0 && held >= known.shards.total
        })
    }

    fn ready(&self) -> Row {
        let wait = || self.scene.decision.waits.first().cloned().unwrap_or_default();
        let (stalled, why) = self.stalled();
        if stalled.status() == Status::True {
            return row(Ready::Stalled, why);
        }
        if self.wanted == 0 {
            return row(Ready::Hibernated, "");
        }
        if self.scene.cluster.spec.state == State::Paused && !self.is_as_specified() {
            return row(Ready::Paused, "");
        }
        if self.is_as_specified() {
            let total = self.known.map_or(0, |known| known.shards.total);
            return row(Ready::AsSpecified, format!("{} nodes own {total} shards", self.wanted));
        }
        if !self.scene.observed.formed && self.known.is_none() {
            return row(Ready::Creating, wait());
        }
        match self.scene.decision.activity {
            Activity::Rolling => row(Ready::Rolling, wait()),
            Activity::Creating => row(Ready::Creating, wait()),
            Activity::Abandoning => row(Ready::ShardsUnowned, wait()),
            Activity::ScalingUp | Activity::Draining | Activity::Removing => {
                row(Ready::Scaling, wait())
            }
            Activity::Idle if !self.down.is_empty() => row(Ready::MemberDown, self.down.join(", ")),
            Activity::Idle if self.known.is_some() && !self.serves() => {
                row(Ready::ShardsUnowned, wait())
            }
            Activity::Idle if self.outdated > 0 => row(Ready::Rolling, wait()),
            Activity::Idle if self.known.is_none() => row(Ready::MemberDown, wait()),
            Activity::Idle => row(Ready::Scaling, wait()),
        }
    }

    fn is_as_specified(&self) -> bool {
        let pods = &self.scene.observed.pods;
        let ready =
            |ordinal| pods.get(&ordinal).is_some_and(|pod: &Pod| pod.ready && !pod.deleting);
        let quiet = self.known.is_some_and(|known| {
            let mut nodes = known.nodes.iter().filter(|node| node.life != Life::Left);
            nodes.all(|node| node.drain == crate::rollout::Drain::None)
        });
        self.scene.decision.step.is_none()
            && self.scene.decision.activity == Activity::Idle
            && pods.len() == self.wanted as usize
            && (0..self.wanted).all(ready)
            && self.outdated == 0
            && self.serves()
            && quiet
            && self.down.is_empty()
    }

    fn available(&self) -> Row {
        if self.wanted == 0 {
            return row(Available::Hibernated, "");
        }
        match &self.scene.observed.registry {
            Registry::Known(_) if self.serves() => row(Available::Serving, ""),
            Registry::Known(known) => {
                let text = format!("{} of {} shards", known.shards.unassigned, known.shards.total);
                row(Available::ShardsUnowned, text)
            }
            Registry::Founding { .. } | Registry::Unknown { .. } if !self.scene.observed.formed => {
                row(Available::NotFormed, "")
            }
            // Pods answer, and none of them holds what they served.
            Registry::Founding { .. } => row(Available::QuorumLost, ""),
            Registry::Unknown { why } => row(Available::QuorumLost, why.clone()),
        }
    }

    fn progressing(&self) -> Row {
        let decision = self.scene.decision;
        let step = decision.step.as_ref().map(ToString::to_string);
        let text = step.or_else(|| decision.waits.first().cloned()).unwrap_or_default();
        if self.wanted == 0 && decision.activity == Activity::Removing {
            return row(Progressing::Stopping, text);
        }
        match decision.activity {
            Activity::Creating => row(Progressing::Creating, text),
            Activity::Abandoning => row(Progressing::Abandoning, text),
            Activity::ScalingUp => row(Progressing::ScalingUp, text),
            Activity::Draining => row(Progressing::Draining, text),
            Activity::Removing => row(Progressing::Removing, text),
            Activity::Rolling => row(Progressing::Rolling, text),
            Activity::Idle if decision.step.is_some() => row(Progressing::Repairing, text),
            Activity::Idle => row(Progressing::Idle, ""),
        }
    }

    fn degraded(&self) -> Row {
        let mut wanted = self.scene.observed.claims.iter().filter(|c| c.ordinal < self.wanted);
        if let Some((claim, lost)) = wanted.find_map(|claim| Some((claim, claim.lost?))) {
            let text = match lost {
                Lost::Gone => "is gone with its machine, or was deleted",
                Lost::Unreachable => "is in a zone without Kubernetes nodes",
            };
            return row(Degraded::VolumeLost, format!("the volume of claim {} {text}", claim.name));
        }
        if !self.down.is_empty() {
            return row(Degraded::MemberDown, self.down.join(", "));
        }
        if let Some(certificate) = self.scene.overdue {
            return row(Degraded::CertificateExpiring, certificate);
        }
        match self.known.and_then(shared_zone) {
            Some(zone) => row(Degraded::VotersShareZone, zone),
            None => row(Degraded::None, ""),
        }
    }

    fn stalled(&self) -> Row {
        if let Some(refusal) = self.scene.refusal {
            return row(refusal.reason, refusal.message.clone());
        }
        let blocked = self.scene.decision.blocked.as_ref();
        if let Some(halt) = blocked.and_then(|blocked| blocked.halt) {
            let text = blocked.map(|blocked| blocked.message.clone()).unwrap_or_default();
            return match halt {
                Halt::RollStuck => row(Stalled::RollStuck, text),
                Halt::DrainTimedOut => row(Stalled::DrainTimedOut, text),
                Halt::QuorumLost => row(Stalled::QuorumLost, text),
            };
        }
        let image = self.scene.observed.pods.values().find_map(|pod| match &pod.trouble {
            Some(Trouble::Image(words)) => Some(format!("pod {}: {words}", pod.name)),
            Some(Trouble::Other(_)) | None => None,
        });
        match image {
            Some(words) => row(Stalled::ImagePull, words),
            None => row(Stalled::None, ""),
        }
    }

    fn paused(&self) -> Row {
        match self.scene.cluster.spec.state {
            State::Running => row(Paused::Running, ""),
            State::Paused => row(Paused::Paused, ""),
            State::Stopped => row(Paused::Stopped, ""),
        }
    }
}

/// Wanted members that are not up, in words.
fn down(scene: &Scene<'_>, known: &Members, wanted: u32) -> Vec<String> {
    let names = Names::of(scene.cluster);
    // One that never was a member is not missing yet.
    let is_down = |name: &String| {
        let mut nodes =
            known.nodes.iter().filter(|n| n.name == *name && n.life != Life::Left).peekable();
        nodes.peek().is_some() && nodes.all(|node| node.life != Life::Up)
    };
    (0..wanted)
        .map(|ordinal| names.pod(ordinal))
        .filter(is_down)
        .map(|name| {
            let pod = names.ordinal(&name).and_then(|n| scene.observed.pods.get(&n));
            match pod.and_then(|pod| pod.trouble.as_ref()) {
                Some(trouble) => format!("{name} is down: {trouble}"),
                None => format!("{name} is down"),
            }
        })
        .collect()
}

/// Where there are three zones or more, the one whose loss would cost the quorum.
fn shared_zone(known: &Members) -> Option<String> {
    let voters: Vec<_> = known.nodes.iter().filter(|node| node.voter).collect();
    let zones: std::collections::BTreeSet<&str> =
        known.nodes.iter().filter(|n| n.life == Life::Up).map(|n| n.zone.as_str()).collect();
    if voters.len() < 3 || zones.len() < 3 || zones.contains("") {
        return None;
    }
    let mut counts = BTreeMap::<&str, usize>::new();
    for voter in &voters {
        *counts.entry(&voter.zone).or_default() += 1;
    }
    let worst = counts.into_iter().max_by_key(|(_, count)| *count)?;
    (worst.1 * 2 > voters.len())
        .then(|| format!("{} of {} voters are in zone {}", worst.1, voters.len(), worst.0))
}
