//! Carries one step out, and says so to whoever reads the events.

use k8s_openapi::jiff::Timestamp;
use kube::{
    Resource as _, ResourceExt as _,
    runtime::events::{Event, EventType},
};
use tracing::warn;

use super::{Error, pass::Pass};
use crate::{
    build::identity::Identity,
    rollout::{Deletion, Step},
};

pub(super) async fn perform(pass: &Pass<'_>, step: &Step) -> Result<(), Error> {
    match step {
        Step::CreateIdentity { .. } => {
            let built = pass.built()?;
            let mut identity = Identity::of_first(&built, pass.cluster.spec.wanted());
            // Somebody deleted it: the cluster is the same.
            let status = pass.cluster.status.as_ref();
            identity.formed_cluster_id = status.and_then(|status| status.cluster_id.clone());
            pass.applier.create_identity(&identity.config_map(&built, None)).await?;
        }
        Step::RecordCluster { cluster } => {
            amend(pass, |identity| identity.formed_cluster_id = Some(cluster.clone())).await?;
        }
        Step::Abandon { cluster, .. } => {
            let since = Timestamp::now().to_string();
            amend(pass, |identity| {
                identity.abandoning = Some(cluster.clone());
                identity.abandoning_since = Some(since.clone());
            })
            .await?;
        }
        Step::Keep { .. } => amend(pass, unmark).await?,
        Step::Forget { .. } => {
            amend(pass, |identity| {
                unmark(identity);
                identity.formed_cluster_id = None;
            })
            .await?;
        }
        Step::Resize { replicas, former } => {
            let set = pass.set(*replicas, *former)?;
            pass.applier.ensure_set(&set).await?;
        }
        Step::DeletePod { name, uid, why } => {
            let at_once = matches!(why, Deletion::NodeLost);
            pass.applier.delete_pod(name, uid, at_once).await?;
        }
        Step::DeleteClaim { name, uid } => pass.applier.delete_claim(name, uid).await?,
        Step::AdoptClaim { name } => pass.applier.adopt_claim(name).await?,
        Step::ConfirmFounding { .. }
        | Step::Configure(_)
        | Step::ReportDeath { .. }
        | Step::CancelDrain { .. }
        | Step::StopAll
        | Step::DrainForRemoval { .. }
        | Step::DrainForRestart { .. }
        | Step::Close { .. }
        | Step::Remove { .. } => {
            let cluster = match &pass.observed.registry {
                crate::rollout::Registry::Known(members) => members.cluster.as_str(),
                crate::rollout::Registry::Unknown { .. }
                | crate::rollout::Registry::Founding { .. } => "",
            };
            pass.workers.perform(cluster, step).await?;
            return Ok(());
        }
    }
    pass.context.metrics.wrote();
    Ok(())
}

fn unmark(identity: &mut Identity) {
    (identity.abandoning, identity.abandoning_since) = (None, None);
}

/// Over the very version that was read and decided on.
async fn amend(pass: &Pass<'_>, change: impl FnOnce(&mut Identity)) -> Result<(), Error> {
    let built = pass.built()?;
    let Some(map) = &pass.live.identity else { return Ok(()) };
    let Ok(mut identity) = Identity::read(map) else { return Ok(()) };
    change(&mut identity);
    let map = identity.config_map(&built, map.metadata.resource_version.as_deref());
    pass.applier.replace_identity(&map).await?;
    Ok(())
}

/// Short and fixed: a label of metrics.
pub(super) fn kind(step: &Step) -> &'static str {
    match step {
        Step::CreateIdentity { .. } => "create_identity",
        Step::Resize { .. } => "resize",
        Step::RecordCluster { .. } => "record_cluster",
        Step::ConfirmFounding { .. } => "confirm_founding",
        Step::Abandon { .. } => "abandon",
        Step::Keep { .. } => "keep",
        Step::Forget { .. } => "forget",
        Step::Configure(_) => "configure",
        Step::ReportDeath { .. } => "report_death",
        Step::CancelDrain { .. } => "cancel_drain",
        Step::StopAll => "stop_all",
        Step::DrainForRemoval { .. } => "drain_for_removal",
        Step::DrainForRestart { .. } => "drain_for_restart",
        Step::Close { .. } => "close",
        Step::Remove { .. } => "remove",
        Step::DeletePod { .. } => "delete_pod",
        Step::DeleteClaim { .. } => "delete_claim",
        Step::AdoptClaim { .. } => "adopt_claim",
    }
}

/// Reason and text of the event of a step; what is repeated each pass has none.
fn event(step: &Step) -> Option<(EventType, &'static str, String)> {
    let normal = |reason, text: String| Some((EventType::Normal, reason, text));
    let warning = |reason, text: String| Some((EventType::Warning, reason, text));
    match step {
        Step::CreateIdentity { founding } => {
            normal("Founding", format!("{} found the cluster", founding.join(", ")))
        }
        Step::RecordCluster { cluster } => normal("Founded", format!("cluster {cluster}")),
        Step::ConfirmFounding { .. } => None,
        Step::Abandon { cluster, because } => warning(
            "Abandoning",
            format!("no pod holds cluster {cluster}, and {because}: it is given up once all agree"),
        ),
        Step::Keep { cluster, because } => {
            warning("Kept", format!("cluster {cluster} is not given up: {because}"))
        }
        Step::Forget { cluster } => {
            warning("Abandoned", format!("cluster {cluster} is given up; the pods found another"))
        }
        Step::Resize { replicas, .. } => normal("Scaled", format!("runs {replicas} pods")),
        Step::Configure(_) => normal("Configured", "settings reached the registry".to_owned()),
        Step::ReportDeath { name, incarnation, .. } => {
            warning("ProcessEnded", format!("process {incarnation} of {name} has ended"))
        }
        Step::CancelDrain { name, .. } => normal("DrainCancelled", format!("{name} stays")),
        Step::StopAll => normal("Hibernating", "all shards close in place".to_owned()),
        Step::DrainForRemoval { name, .. } => {
            normal("Draining", format!("{name} hands its shards over, to be removed"))
        }
        Step::DrainForRestart { name, .. } => {
            normal("Restarting", format!("{name} hands its shards over, to be restarted"))
        }
        Step::Close { name, .. } => normal("Closed", format!("{name} owns nothing any more")),
        Step::Remove { name, force: false, .. } => {
            normal("Removed", format!("{name} has left the cluster"))
        }
        Step::Remove { name, force: true, .. } => {
            warning("RemovedByForce", format!("{name} did not drain in time: its shards fail over"))
        }
        Step::DeletePod { name, why, .. } => match why {
            Deletion::Rolled => normal("Rolled", format!("{name} is replaced")),
            Deletion::Alone => warning(
                "UnavoidableDowntime",
                format!("{name} is replaced, and nobody can take its shards meanwhile"),
            ),
            Deletion::NotRunning => {
                normal("ReplacedOutdated", format!("{name} does not run, and is outdated"))
            }
            Deletion::NodeLost => {
                warning("NodeLost", format!("the machine of {name} is gone, it is replaced"))
            }
            Deletion::Parked => normal("Rejoining", format!("{name} had left, and joins anew")),
        },
        Step::DeleteClaim { name, .. } => normal("VolumeDeleted", format!("claim {name}")),
        Step::AdoptClaim { name } => normal("VolumeAdopted", format!("claim {name}")),
    }
}

pub(super) async fn tell(pass: &Pass<'_>, step: &Step) {
    let Some((type_, reason, note)) = event(step) else { return };
    let mut secondary = pass.cluster.object_ref(&());
    // Events of one reason about several objects would become one otherwise.
    if let Some((kind, name)) = subject(step) {
        secondary.kind = Some(kind.to_owned());
        secondary.api_version = Some("v1".to_owned());
        secondary.name = Some(name.to_owned());
        secondary.uid = None;
        secondary.resource_version = None;
    }
    let action = match step {
        // Nor is one size another.
        Step::Resize { replicas, .. } => format!("{}_{replicas}", kind(step)),
        other => kind(other).to_owned(),
    };
    let event = Event {
        type_,
        reason: reason.to_owned(),
        note: Some(note),
        action,
        secondary: Some(secondary),
    };
    let published = pass.context.recorder.publish(&event, &pass.cluster.object_ref(&())).await;
    if let Err(error) = published {
        warn!(cluster = %pass.cluster.name_any(), %error, "an event was not published");
    }
}

/// Kind and name of what a step is about, beside the cluster.
fn subject(step: &Step) -> Option<(&'static str, &str)> {
    match step {
        Step::ReportDeath { name, .. }
        | Step::CancelDrain { name, .. }
        | Step::DrainForRemoval { name, .. }
        | Step::DrainForRestart { name, .. }
        | Step::Close { name, .. }
        | Step::Remove { name, .. }
        | Step::DeletePod { name, .. } => Some(("Pod", name)),
        Step::DeleteClaim { name, .. } | Step::AdoptClaim { name } => {
            Some(("PersistentVolumeClaim", name))
        }
        Step::CreateIdentity { .. }
        | Step::Resize { .. }
        | Step::RecordCluster { .. }
        | Step::ConfirmFounding { .. }
        | Step::Abandon { .. }
        | Step::Keep { .. }
        | Step::Forget { .. }
        | Step::Configure(_)
        | Step::StopAll => None,
    }
}
