//! What is there now, read live: an answer of a cache never leads to a step.
//!
//! Reads alone, and turns Kubernetes objects into what the rules speak of. Decides nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, ContainerStatus, Node, PersistentVolumeClaim, Pod, Secret},
    },
    jiff::Timestamp,
};
use kube::{
    Client,
    api::{Api, ListParams},
};

use crate::{
    build::{ADMIN_PORT, identity::Identity, pod::WORKER},
    crd::{ShardCluster, annotation},
    names::Names,
    rollout::{self, Trouble},
    worker_client::Place,
};

#[cfg(test)]
mod tests;
mod volumes;

/// How many members there were before a hibernation; on the StatefulSet.
pub const FORMER: &str = "shoal.dev/former-replicas";
/// Set by a person or a cloud provider once a machine is known to be off.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Objects of one cluster as they are, for whoever writes them next.
pub struct Live {
    pub set: Option<StatefulSet>,
    pub identity: Option<ConfigMap>,
    pub claims: Vec<PersistentVolumeClaim>,
    pub pods: Vec<Pod>,
    pub secrets: BTreeMap<String, Secret>,
    pub lost_nodes: Vec<String>,
    /// Names of claims whose volume no Kubernetes node can mount.
    pub lost_claims: BTreeMap<String, rollout::Lost>,
}

impl Live {
    pub async fn read(client: &Client, cluster: &ShardCluster) -> kube::Result<Self> {
        let names = Names::of(cluster);
        let namespace = cluster.metadata.namespace.as_deref().unwrap_or_default();
        let selected = ListParams::default().labels(&names.selector_text());
        let sets = Api::<StatefulSet>::namespaced(client.clone(), namespace);
        let maps = Api::<ConfigMap>::namespaced(client.clone(), namespace);
        let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
        let pods = Api::<Pod>::namespaced(client.clone(), namespace);
        let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
        let (set_name, identity_name) = (names.set(), names.identity());
        let (set, map, pods, claims) = tokio::try_join!(
            sets.get_opt(&set_name),
            maps.get_opt(&identity_name),
            pods.list(&selected),
            claims.list(&selected),
        )?;
        let mut found = BTreeMap::new();
        for name in [names.ca_secret(), names.tls_secret(), names.operator_tls_secret()] {
            if let Some(secret) = secrets.get_opt(&name).await? {
                found.insert(name, secret);
            }
        }
        let (pods, claims) = (pods.items, claims.items);
        let lost_nodes = lost_nodes(client, &pods).await;
        let lost_claims = volumes::lost(client, &pods, &claims).await;
        Ok(Self { set, identity: map, claims, pods, secrets: found, lost_nodes, lost_claims })
    }

    /// Uids of former clusters that volumes of this name were made for.
    pub fn foreign_owners(&self, cluster: &ShardCluster) -> BTreeSet<String> {
        let owner = |claim: &PersistentVolumeClaim| {
            claim.metadata.annotations.as_ref()?.get(annotation::OWNER_UID).cloned()
        };
        let owners = self.claims.iter().filter_map(owner);
        owners.filter(|owner| Some(owner) != cluster.metadata.uid.as_ref()).collect()
    }

    /// Where the admin APIs are, the ones that most likely answer first.
    pub fn places(&self) -> Vec<Place> {
        let mut running: Vec<&Pod> =
            self.pods.iter().filter(|pod| address(pod).is_some()).collect();
        running.sort_by_key(|pod| (!is_ready(pod), pod.metadata.deletion_timestamp.is_some()));
        running
            .into_iter()
            .filter_map(|pod| {
                Some(Place { pod: pod.metadata.name.clone()?, address: address(pod)? })
            })
            .collect()
    }

    /// As the rules see it; the registry is asked for elsewhere.
    pub fn observed(&self, cluster: &ShardCluster, now: Timestamp) -> rollout::Observed {
        let names = Names::of(cluster);
        let pods = self.pods.iter().filter_map(|pod| {
            let name = pod.metadata.name.as_deref()?;
            Some((names.ordinal(name)?, self.pod(pod, now)))
        });
        let claims = self.claims.iter().filter_map(|claim| {
            let name = claim.metadata.name.clone()?;
            let ordinal = names.ordinal_of_claim(&name)?;
            let uid = claim.metadata.uid.clone()?;
            let deleting = claim.metadata.deletion_timestamp.is_some();
            let owner = claim.metadata.annotations.as_ref();
            let owner = owner.and_then(|all| all.get(annotation::OWNER_UID));
            let foreign = owner != cluster.metadata.uid.as_ref();
            let lost = self.lost_claims.get(&name).copied();
            Some(rollout::Claim { name, uid, ordinal, deleting, foreign, lost })
        });
        let identity = self.identity.as_ref().and_then(|map| Identity::read(map).ok());
        let formed = was_formed(cluster, identity.as_ref());
        let identity = identity.map(|identity| rollout::Identity {
            abandoning: mark(&identity, now),
            founding: identity.founding,
            cluster: identity.formed_cluster_id,
        });
        rollout::Observed {
            set: self.set.as_ref().map(set),
            pods: pods.collect(),
            claims: claims.collect(),
            identity,
            formed,
            registry: rollout::Registry::default(),
        }
    }

    /// The claim of this pod that has no volume yet.
    fn unbound_claim(&self, pod: &Pod) -> Option<&PersistentVolumeClaim> {
        let volumes = pod.spec.as_ref()?.volumes.as_ref()?;
        let claimed = |name: &String| {
            let mut claims = volumes.iter().filter_map(|v| v.persistent_volume_claim.as_ref());
            claims.any(|claim| claim.claim_name == *name)
        };
        let bound = |claim: &PersistentVolumeClaim| {
            claim.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"))
        };
        let mut ours = self.claims.iter().filter(|c| c.metadata.name.as_ref().is_some_and(claimed));
        ours.find(|claim| !bound(claim))
    }

    fn pod(&self, pod: &Pod, now: Timestamp) -> rollout::Pod {
        let age = since(pod.metadata.creation_timestamp.as_ref().map(|time| time.0), now);
        let worker = worker(pod);
        let label = annotation::LABEL_REVISION;
        let revision = pod.metadata.labels.as_ref().and_then(|labels| labels.get(label));
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        rollout::Pod {
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            revision: revision.cloned().unwrap_or_default(),
            age,
            ready: is_ready(pod),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            down: worker.map_or(age, |worker| down(worker, age, now)),
            node_lost: node.is_some_and(|node| self.lost_nodes.contains(node)),
            ended: worker.and_then(ended),
            trouble: trouble(pod, self.unbound_claim(pod), age),
            standing: None,
        }
    }
}

/// A status names a cluster only once that was seen to be formed. Of an identity that was made for
/// another ShardCluster, one deleted or restored from a copy, this status tells nothing.
fn was_formed(cluster: &ShardCluster, identity: Option<&Identity>) -> bool {
    let shown = cluster.status.as_ref().and_then(|status| status.cluster_id.as_ref());
    let Some(identity) = identity else { return shown.is_some() };
    let ours = Some(&identity.cr_uid) == cluster.metadata.uid.as_ref();
    let recorded = identity.formed_cluster_id.as_ref();
    recorded.is_some() && (recorded == shown || !ours)
}

fn mark(identity: &Identity, now: Timestamp) -> Option<rollout::Mark> {
    let cluster = identity.abandoning.clone()?;
    let since = identity.abandoning_since.clone().unwrap_or_default();
    let began: Option<Timestamp> = since.parse().ok();
    let age = began.map(|began| self::since(Some(began), now));
    Some(rollout::Mark { cluster, since, age })
}

/// Reasons of the kubelet that mean: there is no such image, or it may not be had.
const IMAGE_REASONS: [&str; 4] =
    ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"];

/// The first complaint: about the place, with the volume that may be what is missing for it; else
/// about a container; else about what containers wait for.
fn trouble(pod: &Pod, unbound: Option<&PersistentVolumeClaim>, age: Duration) -> Option<Trouble> {
    let status = pod.status.as_ref()?;
    let is_false = |type_: &str| {
        let mut all = status.conditions.iter().flatten();
        all.find(|condition| condition.type_ == type_ && condition.status == "False")
    };
    if let Some(refused) = is_false("PodScheduled") {
        let words = refused.message.clone().or_else(|| refused.reason.clone())?;
        return Some(Trouble::Other(match unbound {
            // The scheduler does not say which one, nor what it asks for.
            Some(claim) => format!("{words}; {}", unbound_text(claim)),
            None => words,
        }));
    }
    let containers = status.init_container_statuses.iter().flatten();
    let containers = containers.chain(status.container_statuses.iter().flatten());
    containers.into_iter().find_map(trouble_of).or_else(|| {
        // The kubelet names a Secret that is missing in an event alone.
        (age >= rollout::NOT_RUNNING && is_false("PodReadyToStartContainers").is_some()).then(|| {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            Trouble::Other(format!(
                "a volume of it or its network is not ready: `kubectl describe pod {name}` says why"
            ))
        })
    })
}

fn trouble_of(container: &ContainerStatus) -> Option<Trouble> {
    let state = container.state.as_ref()?;
    let ended = [Some(state), container.last_state.as_ref()].into_iter().flatten();
    let code = ended.filter_map(|state| state.terminated.as_ref()).next().map(|end| end.exit_code);
    let code = code.filter(|code| *code != 0).map(|code| format!("ended with exit code {code}"));
    let Some(waiting) = &state.waiting else {
        let words = code.filter(|_| state.terminated.is_some())?;
        return Some(Trouble::Other(format!("container {}: {words}", container.name)));
    };
    let reason = waiting.reason.as_deref()?;
    if reason == "ContainerCreating" || reason == "PodInitializing" {
        return None;
    }
    let ended = code.map(|code| format!("{code}, ")).unwrap_or_default();
    let words = waiting.message.as_deref().unwrap_or_default();
    let words = format!("container {}: {ended}{reason} {words}", container.name);
    let words = words.trim_end().to_owned();
    Some(if IMAGE_REASONS.contains(&reason) {
        Trouble::Image(words)
    } else {
        Trouble::Other(words)
    })
}

fn unbound_text(claim: &PersistentVolumeClaim) -> String {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    match class {
        Some("") => format!("volume claim {name} without a storage class has no volume"),
        Some(class) => format!("volume claim {name} of storage class {class} has no volume"),
        None => format!("volume claim {name} has no volume: there is no default storage class"),
    }
}

/// Nodes of pods that do not serve are looked up; where that is not allowed, nothing is lost.
async fn lost_nodes(client: &Client, pods: &[Pod]) -> Vec<String> {
    let nodes = Api::<Node>::all(client.clone());
    let mut lost = Vec::new();
    for pod in pods.iter().filter(|pod| !is_ready(pod)) {
        let Some(name) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else {
            continue;
        };
        if lost.contains(&name) {
            continue;
        }
        let out_of_service = |node: &Node| {
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
            taints.is_some_and(|taints| taints.iter().any(|taint| taint.key == OUT_OF_SERVICE))
        };
        if let Ok(node) = nodes.get_opt(&name).await
            && node.as_ref().is_none_or(out_of_service)
        {
            lost.push(name);
        }
    }
    lost
}

fn set(set: &StatefulSet) -> rollout::Set {
    let seen = set.status.as_ref().filter(|status| {
        status.observed_generation.unwrap_or_default() >= set.metadata.generation.unwrap_or(1)
    });
    let annotations = set.metadata.annotations.as_ref();
    let former = annotations.and_then(|all| all.get(FORMER)).and_then(|text| text.parse().ok());
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    rollout::Set {
        replicas: replicas.max(0) as u32,
        revision: seen.and_then(|status| status.update_revision.clone()),
        former,
    }
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

fn address(pod: &Pod) -> Option<String> {
    let ip = pod.status.as_ref()?.pod_ip.as_ref()?;
    worker(pod)?.state.as_ref()?.running.as_ref()?;
    Some(if ip.contains(':') {
        format!("[{ip}]:{ADMIN_PORT}")
    } else {
        format!("{ip}:{ADMIN_PORT}")
    })
}

pub fn worker(pod: &Pod) -> Option<&ContainerStatus> {
    let status = pod.status.as_ref()?;
    let plain = status.container_statuses.iter().flatten();
    plain.chain(status.init_container_statuses.iter().flatten()).find(|c| c.name == WORKER)
}

/// How long it has not run: since its last end, else since there was a pod.
fn down(worker: &ContainerStatus, age: Duration, now: Timestamp) -> Duration {
    let states = [worker.state.as_ref(), worker.last_state.as_ref()];
    if states[0].is_some_and(|state| state.running.is_some()) {
        return Duration::ZERO;
    }
    let ends = states.into_iter().flatten().filter_map(|state| state.terminated.as_ref());
    let end = ends.filter_map(|end| end.finished_at.as_ref()).map(|time| time.0).max();
    // It is down, whatever the clocks say.
    end.map_or(age, |end| since(Some(end), now)).max(Duration::from_millis(1))
}

/// The incarnation that the latest ended process wrote into its termination message.
fn ended(worker: &ContainerStatus) -> Option<String> {
    let states = [worker.state.as_ref(), worker.last_state.as_ref()];
    let ends = states.into_iter().flatten().filter_map(|state| state.terminated.as_ref());
    let messages = ends.filter_map(|end| end.message.as_ref()).map(|text| text.trim().to_owned());
    messages.into_iter().find(|text| !text.is_empty())
}

fn since(time: Option<Timestamp>, now: Timestamp) -> Duration {
    let Some(time) = time else { return Duration::ZERO };
    Duration::try_from(now.duration_since(time)).unwrap_or_default()
}
