//! One ShardCluster in a namespace of its own: what is asked of it, by the commands of its users,
//! and what there is of it.

use std::time::{Duration, Instant};

use ::kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use anyhow::{Context as _, ensure};
use k8s_openapi::{
    api::{
        core::v1::{PersistentVolumeClaim, Pod, Service},
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use serde_json::{Value, json};
use shoal_operator::crd::{ShardCluster, ShardClusterStatus};
use tokio::runtime::{Builder, Runtime};

use crate::{
    kube::{Cluster, Namespace, Victim, within},
    stock::{self, Load, Stock},
};

/// Port of the data, as the operator's Service has it.
const DATA_PORT: u16 = 11_000;
/// The container that runs a node.
pub const CONTAINER: &str = "worker";

/// The calling thread must be in the network of the cluster.
pub struct Site<'a> {
    pub cluster: &'a Cluster,
    pub namespace: &'a Namespace<'a>,
    /// Of the ShardCluster.
    pub name: String,
    runtime: Runtime,
    client: Client,
}

impl<'a> Site<'a> {
    pub fn new(
        cluster: &'a Cluster,
        namespace: &'a Namespace<'a>,
        name: &str,
    ) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = runtime.block_on(cluster.client())?;
        Ok(Self { cluster, namespace, name: name.to_owned(), runtime, client })
    }

    pub fn get(&self) -> anyhow::Result<ShardCluster> {
        let all = Api::<ShardCluster>::namespaced(self.client.clone(), self.namespace);
        Ok(self.runtime.block_on(all.get(&self.name))?)
    }

    pub fn status(&self) -> anyhow::Result<ShardClusterStatus> {
        self.get()?.status.context("it has no status yet")
    }

    /// Asks for a cluster of this spec, as `kubectl apply` does: what is not in it any more is
    /// taken back.
    pub fn apply(&self, spec: &Value) -> anyhow::Result<()> {
        let manifest = json!({
            "apiVersion": "shoal.dev/v1alpha1",
            "kind": "ShardCluster",
            "metadata": {"name": self.name},
            "spec": spec,
        });
        self.namespace.apply(&manifest.to_string()).map(drop)
    }

    /// Deletes it; returns when it is gone, which its pods need not be.
    pub fn delete(&self) -> anyhow::Result<()> {
        let name = format!("shardcluster/{}", self.name);
        self.namespace.kubectl(&["delete", &name, "--wait"]).map(drop)
    }

    /// As `kubectl scale shardcluster/<name> --replicas=…`.
    pub fn scale(&self, replicas: u32) -> anyhow::Result<()> {
        let (name, replicas) =
            (format!("shardcluster/{}", self.name), format!("--replicas={replicas}"));
        self.namespace.kubectl(&["scale", &name, &replicas]).map(drop)
    }

    /// As `kubectl patch --type=merge`.
    pub fn patch(&self, change: &Value) -> anyhow::Result<()> {
        let all = Api::<ShardCluster>::namespaced(self.client.clone(), self.namespace);
        let (params, patch) = (PatchParams::default(), Patch::Merge(change));
        self.runtime.block_on(all.patch(&self.name, &params, &patch))?;
        Ok(())
    }

    /// Returns when what is asked for now is so.
    pub fn ready(&self, patience: Duration) -> anyhow::Result<ShardCluster> {
        within(patience, || {
            let seen = self.get()?;
            let ready = condition(&seen, "Ready").context("nothing is said of it yet")?;
            let observed = ready.observed_generation == seen.metadata.generation;
            ensure!(observed && ready.status == "True", "{}: {}", ready.reason, ready.message);
            Ok(seen)
        })
    }

    /// Its pods, by ordinal.
    pub fn pods(&self) -> anyhow::Result<Vec<Pod>> {
        let all = Api::<Pod>::namespaced(self.client.clone(), self.namespace);
        let labels =
            format!("app.kubernetes.io/name=shoal,app.kubernetes.io/instance={}", self.name);
        let listed = self.runtime.block_on(all.list(&ListParams::default().labels(&labels)))?;
        let mut pods = listed.items;
        pods.sort_by_key(ordinal);
        Ok(pods)
    }

    /// Claims of its volumes, by name.
    pub fn claims(&self) -> anyhow::Result<Vec<PersistentVolumeClaim>> {
        let all = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), self.namespace);
        let listed =
            self.runtime.block_on(all.list(&ListParams::default().labels(&self.labels())))?;
        Ok(listed.items)
    }

    fn labels(&self) -> String {
        format!("app.kubernetes.io/name=shoal,app.kubernetes.io/instance={}", self.name)
    }

    /// What the command says inside of a pod, which must succeed.
    pub fn shoal(&self, pod: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let words = ["exec", pod, "-c", CONTAINER, "--", "shoal"];
        self.namespace.kubectl(&[&words[..], arguments].concat())
    }

    /// How often any shard has had another owner since the cluster was formed.
    pub fn owner_changes(&self) -> anyhow::Result<u64> {
        let pod = format!("{}-0", self.name);
        let told: Value = serde_json::from_str(&self.shoal(&pod, &["shards", "-o", "json"])?)?;
        let shards = told.as_array().or_else(|| told["shards"].as_array());
        let epochs = shards.context("it says no shards")?.iter();
        epochs.map(|shard| shard["epoch_count"].as_u64().context("a shard has an epoch")).sum()
    }

    /// Stock clients that call it through its Service: grpcio and grpc-go, each with so many
    /// connections, counters and calls a second.
    pub fn clients(
        &self,
        connections: usize,
        keys: usize,
        rate: f64,
    ) -> anyhow::Result<Vec<Stock>> {
        let address = self.address()?;
        let addresses = vec![&*address; connections].join(",");
        let load = Load { addresses, calls: 1, keys, rate };
        let start = |words: Vec<String>| {
            let mut program = self.cluster.command(&words[0])?;
            program.args(&words[1..]);
            Stock::start(program, &load)
        };
        stock::programs().into_iter().map(start).collect()
    }

    /// What the operator has said about it, oldest first.
    pub fn events(&self) -> anyhow::Result<Vec<Event>> {
        let all = Api::<Event>::namespaced(self.client.clone(), self.namespace);
        let listed = self.runtime.block_on(all.list(&ListParams::default()))?;
        let regards = |event: &Event| {
            let regarding = event.regarding.as_ref();
            regarding.and_then(|regarding| regarding.kind.as_deref()) == Some("ShardCluster")
        };
        let mut events: Vec<_> = listed.items.into_iter().filter(regards).collect();
        events.sort_by_key(|event| event.event_time.clone());
        Ok(events)
    }

    /// Where clients call: the address of its Service.
    pub fn address(&self) -> anyhow::Result<String> {
        let all = Api::<Service>::namespaced(self.client.clone(), self.namespace);
        let service = self.runtime.block_on(all.get(&self.name))?;
        let spec = service.spec.context("a Service has a spec")?;
        let address = spec.cluster_ip.context("a Service has an address")?;
        let brackets = if address.contains(':') { ("[", "]") } else { ("", "") };
        Ok(format!("{}{address}{}:{DATA_PORT}", brackets.0, brackets.1))
    }

    /// Waits until the Service takes connections: its proxy learns of ready pods a little later
    /// than the operator does.
    pub fn reachable(&self, patience: Duration) -> anyhow::Result<()> {
        let address = self.address()?;
        let answers = async {
            while tokio::net::TcpStream::connect(&address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let waited = self.runtime.block_on(async { tokio::time::timeout(patience, answers).await });
        waited.with_context(|| format!("{address} takes no connection within {patience:?}"))
    }

    /// Ends the process of a node as a crash would, alone or with its container, and says when.
    pub fn kill(&self, pod: &str, victim: Victim) -> anyhow::Result<Instant> {
        self.cluster.kill_in(self.namespace, pod, CONTAINER, victim)
    }
}

/// Whether the pod is ready, as its node says.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.and_then(|all| all.iter().find(|one| one.type_ == "Ready"));
    pod.metadata.deletion_timestamp.is_none() && ready.is_some_and(|ready| ready.status == "True")
}

fn ordinal(pod: &Pod) -> Option<u32> {
    pod.metadata.name.as_deref()?.rsplit_once('-')?.1.parse().ok()
}

pub fn condition<'a>(cluster: &'a ShardCluster, kind: &str) -> Option<&'a Condition> {
    let conditions = &cluster.status.as_ref()?.conditions;
    conditions.iter().find(|condition| condition.type_ == kind)
}

pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The Kubernetes node that it was given to; empty before.
pub fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// What the node says that the worker of this pod was made from.
pub fn digest_of(pod: &Pod) -> &str {
    worker(pod).map_or("", |status| &status.image_id)
}

pub fn restarts(pod: &Pod) -> i32 {
    worker(pod).map_or(0, |status| status.restart_count)
}

fn worker(pod: &Pod) -> Option<&k8s_openapi::api::core::v1::ContainerStatus> {
    let all = pod.status.as_ref()?.container_statuses.as_ref()?;
    all.iter().find(|status| status.name == CONTAINER)
}
