//! What the API server's own rules cannot say about a ShardCluster: a pod template that reaches
//! into the operator's part, and values whose behaviour this version does not have.
//!
//! Pure. What the API server itself refuses is found by the dry run, not here.

pub mod quantity;
mod template;

use std::fmt;

use crate::{
    build::{Children, Cluster, stateful_set},
    crd::{MaintenanceTaints, ShardCluster, ShardClusterSpec, TlsMode, condition::Stalled},
    pki,
};

/// What exists already and cannot be had otherwise.
#[derive(Clone, Debug, Default)]
pub struct Existing {
    /// Size in the claim template of the StatefulSet, if there is one.
    pub volume_size: Option<String>,
}

/// Something in the spec that is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, as a path from the root of the object.
    pub path: String,
    /// The reason of the condition Stalled.
    pub reason: Stalled,
    /// Why, and what to write instead.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.path, self.message)
    }
}

/// A ShardCluster that can be acted upon.
#[derive(Clone, Debug)]
pub struct Valid<'a> {
    pub cluster: Cluster<'a>,
    /// What is asked for and not done, though all the rest is. It cannot be reverted by the user,
    /// so it must not stand in the way of anything else.
    pub withheld: Vec<Problem>,
}

impl Valid<'_> {
    /// All that needs no knowledge of the pods.
    pub fn children(&self) -> Children {
        self.cluster.children()
    }

    /// The StatefulSet with this many pods.
    pub fn stateful_set(&self, replicas: i32) -> serde_json::Value {
        stateful_set::stateful_set(&self.cluster, replicas)
    }
}

/// The cluster as the builders take it, or everything that is wrong with it.
pub fn validate<'a>(
    cluster: &'a ShardCluster,
    existing: &Existing,
) -> Result<Valid<'a>, Vec<Problem>> {
    let Some(mut seen) = Cluster::of(cluster) else {
        return Err(vec![Problem {
            path: "metadata".to_owned(),
            reason: Stalled::InvalidSpec,
            message: "the object has no name, namespace or uid".to_owned(),
        }]);
    };
    let mut problems = not_supported(&cluster.spec);
    problems.extend(too_many_certificates(&seen));
    problems.extend(template::problems(&cluster.spec.pod_template.0));
    if !problems.is_empty() {
        return Err(problems);
    }
    let withheld = keep_volume_size(&mut seen, existing);
    Ok(Valid { cluster: seen, withheld: withheld.into_iter().collect() })
}

fn not_supported(spec: &ShardClusterSpec) -> Vec<Problem> {
    let drain = match spec.disruption.node_taints {
        MaintenanceTaints::Drain => true,
        MaintenanceTaints::Ignore => false,
    };
    let asked = [
        (spec.app.is_some(), "spec.app", "apps are not supported yet; leave it out"),
        (
            spec.tls.mode == TlsMode::CertManager,
            "spec.tls.mode",
            "CertManager is not supported yet; use BuiltIn",
        ),
        (drain, "spec.disruption.nodeTaints", "Drain is not supported yet; use Ignore"),
    ];
    let asked = asked.into_iter().filter(|(is_asked, ..)| *is_asked);
    asked
        .map(|(_, path, message)| Problem {
            path: path.to_owned(),
            reason: Stalled::NotSupported,
            message: message.to_owned(),
        })
        .collect()
}

fn too_many_certificates(cluster: &Cluster<'_>) -> Option<Problem> {
    let most = pki::most_nodes(&cluster.names, cluster.namespace);
    let asked = usize::try_from(cluster.spec.replicas).unwrap_or_default();
    let one_secret = cluster.spec.tls.mode == TlsMode::BuiltIn;
    (one_secret && asked > most).then(|| Problem {
        path: "spec.replicas".to_owned(),
        reason: Stalled::InvalidSpec,
        message: format!(
            "certificates of {asked} nodes do not fit one Secret, at most {most} do with tls.mode BuiltIn and these names"
        ),
    })
}

/// The claim template of a StatefulSet cannot change: a larger size is shown as withheld.
fn keep_volume_size(cluster: &mut Cluster<'_>, existing: &Existing) -> Option<Problem> {
    let wanted = cluster.volume_size.clone()?;
    let present = existing.volume_size.clone()?;
    let grows = quantity::bytes(&wanted) > quantity::bytes(&present);
    let message = format!(
        "volumes of {present} cannot grow to {wanted} yet; new ones have {present} as well"
    );
    cluster.volume_size = Some(present);
    grows.then(|| Problem {
        path: "spec.storage.persistent.size".to_owned(),
        reason: Stalled::NotSupported,
        message,
    })
}

#[cfg(test)]
mod tests;
