//! One ShardCluster under one operator: what a test does to it, and what it waits for.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use k8s_openapi::api::events::v1::Event;
use kube::{
    Api, Client, ResourceExt as _,
    api::{
        ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
    },
};
use serde_json::{Value, json};
use shoal_operator::crd::{ShardCluster, definition};
use shoal_tests::{
    Space,
    fault_proxy::FaultProxy,
    kube::{Cluster, Namespace, Tier},
    standin::{self, Knobs, Standin},
};
use tokio::time::{Instant, sleep};

use super::{
    PATIENCE,
    process::{Operator, Place},
};

/// Of the one ShardCluster of a test.
pub const NAME: &str = "orders";
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The control plane with the definition, and addresses for pods.
pub fn control_plane() -> Arc<Cluster> {
    static CLUSTER: OnceLock<Arc<Cluster>> = OnceLock::new();
    let begin = || {
        // Never the user's: the pods of these tests are run by nobody but the stand-in.
        let cluster = Cluster::up(Tier::Kcm.name(), Tier::Kcm).expect("a control plane");
        prepare(&cluster);
        Arc::new(cluster)
    };
    CLUSTER.get_or_init(begin).clone()
}

pub fn prepare(cluster: &Cluster) {
    cluster.apply(&definition::yaml().expect("a definition")).expect("it is accepted");
    let established = ["wait", "--for=condition=Established", "crd/shardclusters.shoal.dev"];
    cluster.kubectl(&established).expect("it is served");
    standin::open_addresses(cluster).expect("addresses for pods");
}

/// Runs a test on a thread in the network of this cluster, with a namespace of its own.
pub fn run_on(
    cluster: &Cluster,
    prefix: &str,
    test: impl AsyncFnOnce(&Cluster, &Namespace<'_>) + Send,
) {
    let begin = || {
        cluster.enter().expect("the cluster runs");
        let namespace = cluster.namespace(prefix).expect("a namespace");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.expect("a runtime starts").block_on(test(cluster, &namespace));
    };
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(begin).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// As [`run_on`], on the control plane that the suites share.
pub fn run(prefix: &str, test: impl AsyncFnOnce(&Cluster, &Namespace<'_>) + Send) {
    run_on(&control_plane(), prefix, test);
}

/// Looks until there is a value; panics with the last reason past `patience`.
#[track_caller]
pub fn until_within<T>(
    what: &str,
    patience: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> impl Future<Output = T> {
    let what = what.to_owned();
    let at = std::panic::Location::caller();
    async move {
        let began = Instant::now();
        loop {
            match look().await {
                Ok(value) => return value,
                Err(last) if began.elapsed() > patience => {
                    panic!("{at}: {what}: not within {patience:?}; the last state was: {last}")
                }
                Err(_) => sleep(LOOK_AGAIN).await,
            }
        }
    }
}

/// What most tests begin with: small, quick, unencrypted.
pub fn spec(replicas: u32) -> Value {
    json!({
        "replicas": replicas,
        "shards": 64,
        "image": standin::IMAGE,
        "session": { "leaseSeconds": 2 },
        "rebalance": { "cooldownSeconds": 0, "maxMoves": 64, "maxMovesPerNode": 32 },
        "tls": { "mode": "Disabled" },
    })
}

/// Everything of one test.
pub struct Scene<'a> {
    pub cluster: &'a Cluster,
    pub namespace: &'a Namespace<'a>,
    pub client: Client,
    pub proxy: FaultProxy,
    pub standin: Standin,
    pub operator: Option<Operator>,
    space: Space,
}

impl<'a> Scene<'a> {
    /// With an operator that watches this namespace alone, through the proxy.
    pub async fn new(cluster: &'a Cluster, namespace: &'a Namespace<'a>, knobs: Knobs) -> Self {
        let client = cluster.client().await.expect("a client");
        let proxy = FaultProxy::start(client.clone()).await.expect("a proxy");
        let standin = Standin::start(client.clone(), namespace, NAME, knobs).await;
        let space = Space::new();
        let mut scene = Self { cluster, namespace, client, proxy, standin, operator: None, space };
        let kubeconfig = scene.kubeconfig();
        scene.proxy.write_kubeconfig(&kubeconfig).expect("a kubeconfig");
        scene.start_operator();
        scene
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.space.path().join("kubeconfig")
    }

    /// In place of the one before, which ends without a word.
    pub fn start_operator(&mut self) {
        self.operator = None;
        self.operator = Some(self.another_operator("operator", self.namespace));
    }

    /// With its Lease in `namespace`.
    pub fn another_operator(&self, name: &str, namespace: &str) -> Operator {
        let place = Place {
            kubeconfig: &self.kubeconfig(),
            watches: self.namespace,
            namespace,
            name,
            log: &self.space.path().join(format!("{name}.log")),
        };
        Operator::start(self.cluster, &place)
    }

    pub fn clusters(&self) -> Api<ShardCluster> {
        Api::namespaced(self.client.clone(), self.namespace)
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), self.namespace)
    }

    pub async fn create(&self, spec: Value) {
        let object = json!({
            "apiVersion": "shoal.dev/v1alpha1", "kind": "ShardCluster",
            "metadata": { "name": NAME }, "spec": spec,
        });
        let object = serde_json::from_value(object).expect("a ShardCluster");
        self.clusters().create(&PostParams::default(), &object).await.expect("created");
    }

    /// Merges into the spec.
    pub async fn change(&self, spec: Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        let patched = self.clusters().patch(NAME, &PatchParams::default(), &patch).await;
        patched.expect("changed");
    }

    pub async fn get(&self) -> Result<ShardCluster, String> {
        self.clusters().get(NAME).await.map_err(|error| error.to_string())
    }

    /// Waits until this generation is what there is.
    pub async fn ready(&self) {
        self.ready_within(PATIENCE).await;
    }

    pub async fn ready_within(&self, patience: Duration) {
        until_within("the cluster is as specified", patience, async || {
            let cluster = self.get().await?;
            match condition(&cluster, "Ready") {
                Some((status, _)) if status == "True" => Ok(()),
                _ => Err(self.picture(&cluster)),
            }
        })
        .await;
        self.standin.assert_clean();
    }

    /// Waits until a condition of this generation has this reason; its message.
    pub async fn reason(&self, kind: &str, reason: &str) -> String {
        let what = format!("{kind} says {reason}");
        until_within(&what, PATIENCE, async || {
            let cluster = self.get().await?;
            let row = cluster.status.iter().flat_map(|status| &status.conditions);
            let row = row.into_iter().find(|row| row.type_ == kind && row.reason == reason);
            let current = row.filter(|row| row.observed_generation == cluster.metadata.generation);
            current.map(|row| row.message.clone()).ok_or_else(|| self.picture(&cluster))
        })
        .await
    }

    /// For people: what is shown, and what there is.
    fn picture(&self, cluster: &ShardCluster) -> String {
        format!("{}\n{:?}", shown(cluster), self.standin.seen())
    }

    /// Waits until there is an event of this reason.
    pub async fn has_event(&self, reason: &str) {
        until_within(&format!("there is an event {reason}"), PATIENCE, async || {
            let events = self.api::<Event>().list(&ListParams::default()).await;
            let events = events.map_err(|error| error.to_string())?.items;
            let reasons: Vec<_> = events.iter().filter_map(|event| event.reason.clone()).collect();
            if reasons.iter().any(|other| other == reason) {
                Ok(())
            } else {
                Err(format!("{reasons:?}"))
            }
        })
        .await;
    }

    /// Names and uids of the pods.
    pub async fn pods(&self) -> BTreeMap<String, String> {
        let pods = self.api::<k8s_openapi::api::core::v1::Pod>();
        let pods = pods.list(&selected()).await.expect("pods").items;
        pods.iter().map(|pod| (pod.name_any(), pod.uid().unwrap_or_default())).collect()
    }

    pub async fn claims(&self) -> Vec<String> {
        let claims = self.api::<k8s_openapi::api::core::v1::PersistentVolumeClaim>();
        let claims = claims.list(&selected()).await.expect("claims").items;
        claims.iter().map(kube::ResourceExt::name_any).collect()
    }

    /// Nothing is written for so long. A status may come a little late: up to ten seconds.
    pub async fn rests(&self, span: Duration) {
        let writes = self.proxy.writes();
        until_within("nothing more is written", PATIENCE, async || {
            let begin = Instant::now();
            sleep(span).await;
            let written: Vec<_> =
                writes.since(begin).into_iter().filter(|w| !is_lease(w)).collect();
            if written.is_empty() { Ok(()) } else { Err(format!("{written:?}")) }
        })
        .await;
    }

    /// What there is, without what differs between two installations by its nature.
    pub async fn end_state(&self) -> Value {
        let mut all = BTreeMap::new();
        for (group, version, kind) in [
            ("apps", "v1", "StatefulSet"),
            ("", "v1", "Service"),
            ("", "v1", "ServiceAccount"),
            ("", "v1", "PersistentVolumeClaim"),
            ("policy", "v1", "PodDisruptionBudget"),
            ("rbac.authorization.k8s.io", "v1", "Role"),
            ("rbac.authorization.k8s.io", "v1", "RoleBinding"),
            ("networking.k8s.io", "v1", "NetworkPolicy"),
        ] {
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), self.namespace, &resource);
            for object in api.list(&selected()).await.expect(kind).items {
                all.insert(format!("{kind} {}", object.name_any()), content(&object));
            }
        }
        let status = self.get().await.expect("a ShardCluster").status.expect("a status");
        all.insert(
            "conditions".to_owned(),
            status.conditions.iter().map(|c| json!([c.type_, c.status, c.reason])).collect(),
        );
        all.insert(
            "ready".to_owned(),
            json!([status.replicas, status.ready_replicas, status.updated_replicas]),
        );
        all.insert(
            "members".to_owned(),
            status.members.iter().map(|m| json!([m.name, m.state])).collect(),
        );
        json!(all)
    }
}

fn selected() -> ListParams {
    ListParams::default().labels(&format!("app.kubernetes.io/instance={NAME}"))
}

pub fn is_lease(write: &str) -> bool {
    write.contains(" leases")
}

fn content(object: &DynamicObject) -> Value {
    let mut content = object.data.clone();
    if let Some(spec) = content.get_mut("spec").and_then(Value::as_object_mut) {
        for given in ["clusterIP", "clusterIPs", "volumeName"] {
            spec.remove(given);
        }
    }
    if let Some(object) = content.as_object_mut() {
        object.remove("status");
    }
    // Claims name their owner, volumes the claim, and a binding the namespace of its account.
    let text = content.to_string();
    let namespace = object.namespace().unwrap_or_default();
    let text = text.replace(&format!("\"{namespace}\""), "\"namespace\"");
    let owner = object.metadata.owner_references.iter().flatten().next();
    let uid = owner.map(|owner| owner.uid.clone()).unwrap_or_default();
    let text = if uid.is_empty() { text } else { text.replace(&uid, "uid") };
    serde_json::from_str(&text).expect("JSON")
}

/// Status and reason of a condition, if it is about this generation.
pub fn condition(cluster: &ShardCluster, kind: &str) -> Option<(String, String)> {
    let row = cluster.status.as_ref()?.conditions.iter().find(|row| row.type_ == kind)?;
    let current = row.observed_generation == cluster.metadata.generation;
    current.then(|| (row.status.clone(), row.reason.clone()))
}

/// For people: the conditions and what happens next.
pub fn shown(cluster: &ShardCluster) -> String {
    let Some(status) = &cluster.status else { return "no status".to_owned() };
    let conditions: Vec<_> = status
        .conditions
        .iter()
        .map(|row| format!("{}={} {} {}", row.type_, row.status, row.reason, row.message))
        .collect();
    let members: Vec<_> =
        status.members.iter().map(|m| format!("{} {:?}", m.name, m.state)).collect();
    format!("{}; next {:?}; members {members:?}", conditions.join("; "), status.next_steps)
}
