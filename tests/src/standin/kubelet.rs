//! The kubelet's part: pods get a node, an address, a process and a status, and go when their
//! process has ended. What a pod does is told by its image.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use ::kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{ConfigMap, Container, Namespace, Node, PersistentVolumeClaim, Pod, Secret},
        storage::v1::StorageClass,
    },
    jiff::Timestamp,
};
use rand::RngExt as _;
use serde_json::{Value, json};
use shoal_operator::{
    build::{ADMIN_PORT, identity::Identity},
    observe::is_ready,
};
use tokio::{task::JoinHandle, time::Instant};

use super::{
    IMAGE_CRASHES, IMAGE_MISSING, Process, Shared, admin::Server, leader, serve, world::World,
};

const SYNC_EVERY: Duration = Duration::from_millis(150);
/// A node counts as lost after 16 s of silence.
const HEARTBEAT: Duration = Duration::from_secs(4);
const NODE_LEASES: &str = "kube-node-lease";

pub(super) async fn run(shared: Arc<Shared>) {
    let mut kubelet = Kubelet {
        node: format!("standin-{}-{}", shared.namespace, shared.cluster),
        shared,
        beat: None,
        servers: BTreeMap::new(),
        shown: BTreeMap::new(),
    };
    let mut syncs = tokio::time::interval(SYNC_EVERY);
    loop {
        syncs.tick().await;
        // The API server is stopped and started below us; the next look begins anew.
        let _ = kubelet.sync().await;
    }
}

struct Kubelet {
    shared: Arc<Shared>,
    node: String,
    beat: Option<Instant>,
    /// By the uid of the pod: its admin port, and the incarnation of the process behind it.
    servers: BTreeMap<String, JoinHandle<()>>,
    /// The status last written, by the uid of the pod.
    shown: BTreeMap<String, Value>,
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.servers.values().for_each(JoinHandle::abort);
    }
}

impl Kubelet {
    fn client(&self) -> Client {
        self.shared.client.clone()
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client(), &self.shared.namespace)
    }

    /// What the pods mount.
    async fn identity(&self) -> anyhow::Result<Option<Identity>> {
        let maps = Api::<ConfigMap>::namespaced(self.client(), &self.shared.namespace);
        let map = maps.get_opt(&format!("{}-identity", self.shared.cluster)).await?;
        Ok(map.as_ref().and_then(|map| Identity::read(map).ok()))
    }

    async fn sync(&mut self) -> anyhow::Result<()> {
        self.heartbeat().await?;
        let selector = format!("app.kubernetes.io/instance={}", self.shared.cluster);
        let selected = ListParams::default().labels(&selector);
        let pods = self.pods().list(&selected).await?.items;
        let claims =
            Api::<PersistentVolumeClaim>::namespaced(self.client(), &self.shared.namespace);
        let claims = claims.list(&selected).await?.items;
        let present: BTreeSet<String> = pods.iter().filter_map(|pod| pod.uid()).collect();
        let volumes = claims.iter().filter_map(|claim| claim.uid()).chain(present.iter().cloned());
        {
            let mut world = self.shared.world.lock();
            world.keep_directories(&volumes.collect());
            world.processes.retain(|uid, _| present.contains(uid));
        }
        self.servers.retain(|uid, server| {
            let stays = present.contains(uid);
            if !stays {
                server.abort();
            }
            stays
        });
        let identity = self.identity().await?;
        self.shared.world.lock().bring(identity.as_ref());
        for pod in &pods {
            // One that was changed under us is looked at again.
            let _ = self.look_after(pod, &claims).await;
        }
        Ok(())
    }

    async fn look_after(
        &mut self,
        pod: &Pod,
        claims: &[PersistentVolumeClaim],
    ) -> anyhow::Result<()> {
        let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
        let known = self.shared.world.lock().processes.contains_key(&uid);
        if pod.metadata.deletion_timestamp.is_some() {
            self.shared.world.lock().stop(&uid);
            let ended = self.shared.world.lock().processes.get(&uid).is_none_or(|p| p.ended);
            return if ended { self.end(&name, &uid).await } else { Ok(()) };
        }
        let spec = pod.spec.as_ref();
        if spec.is_none_or(|spec| spec.node_name.is_none()) {
            let claim =
                claims.iter().find(|claim| claim.name_any() == format!("shoal-data-{name}"));
            if self.has_place(&name, claim).await? {
                self.bind(&name).await?;
            }
            return Ok(());
        }
        let Some(worker) = spec.and_then(|s| s.containers.iter().find(|c| c.name == "worker"))
        else {
            return Ok(());
        };
        match worker.image.as_deref().unwrap_or_default() {
            IMAGE_MISSING => {
                return self.show(pod, &waits(pod, "ErrImagePull", "no such image")).await;
            }
            IMAGE_CRASHES => {
                return self
                    .show(pod, &waits(pod, "CrashLoopBackOff", "it ends again and again"))
                    .await;
            }
            _ => {}
        }
        if !known && !self.begin(pod, worker, claims).await? {
            return self.show(pod, &waits(pod, "ContainerCreating", "")).await;
        }
        let status = {
            let mut world = self.shared.world.lock();
            world.restart(&uid, Instant::now());
            running(&world, pod, &uid)
        };
        match status {
            Some(status) => self.show(pod, &status).await,
            None => Ok(()),
        }
    }

    /// As a scheduler finds, which waits for the storage class of a volume.
    async fn has_place(
        &self,
        pod: &str,
        claim: Option<&PersistentVolumeClaim>,
    ) -> anyhow::Result<bool> {
        if self.shared.world.lock().knobs.unschedulable.iter().any(|name| name == pod) {
            return Ok(false);
        }
        let class = claim.and_then(|claim| claim.spec.as_ref()?.storage_class_name.clone());
        let Some(class) = class.filter(|class| !class.is_empty()) else { return Ok(true) };
        Ok(Api::<StorageClass>::all(self.client()).get_opt(&class).await?.is_some())
    }

    async fn bind(&self, pod: &str) -> anyhow::Result<()> {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": { "name": pod },
            "target": { "apiVersion": "v1", "kind": "Node", "name": self.node },
        });
        let bound = self
            .pods()
            .create_subresource::<Value, Value>("binding", pod, &PostParams::default(), &binding)
            .await;
        bound?;
        Ok(())
    }

    /// The process of a pod, once what it mounts is there.
    async fn begin(
        &mut self,
        pod: &Pod,
        worker: &Container,
        claims: &[PersistentVolumeClaim],
    ) -> anyhow::Result<bool> {
        let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
        let Some(identity) = self.identity().await? else { return Ok(false) };
        let claim = claims.iter().find(|claim| claim.name_any() == format!("shoal-data-{name}"));
        let volume = claim.and_then(|claim| claim.uid()).unwrap_or_else(|| uid.clone());
        let setting = |key: &str| {
            let all = worker.env.iter().flatten();
            all.filter(|env| env.name == key).find_map(|env| env.value.clone()).unwrap_or_default()
        };
        let tls = match setting("TLS_MODE").as_str() {
            "mutual" => {
                let secrets = Api::<Secret>::namespaced(self.client(), &self.shared.namespace);
                let secret = secrets.get(&format!("{}-tls", self.shared.cluster)).await?;
                Some(serve::acceptor(&secret, &name)?)
            }
            _ => None,
        };
        let server = Server::new(self.shared.clone(), uid.clone());
        let (address, server) = listen(server, tls).await?;
        self.servers.insert(uid.clone(), server);
        let revision = pod.labels().get("controller-revision-hash").cloned().unwrap_or_default();
        let address = address.to_string();
        let mut world = self.shared.world.lock();
        let blind = rand::rng().random_range(Duration::ZERO..=world.knobs.blind);
        let process = Process {
            info: leader::info(&name, &uid, &address, &revision),
            pod: name,
            uid: uid.clone(),
            volume,
            address,
            version: worker.image.clone().unwrap_or_default(),
            shards: setting("SHARDS").parse()?,
            runs: true,
            since: Instant::now(),
            ended_at: None,
            restarts: 0,
            incarnation: Default::default(),
            registered: false,
            stopping: false,
            ended: false,
            blind,
            identity: Some(identity),
            confirmed: false,
        };
        world.directory(&process.volume);
        world.processes.insert(uid, process);
        Ok(true)
    }

    async fn end(&mut self, pod: &str, uid: &str) -> anyhow::Result<()> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        self.pods().delete(pod, &params).await?;
        self.shared.world.lock().forget(uid);
        self.shown.remove(uid);
        if let Some(server) = self.servers.remove(uid) {
            server.abort();
        }
        Ok(())
    }

    async fn show(&mut self, pod: &Pod, status: &Value) -> anyhow::Result<()> {
        let uid = pod.uid().unwrap_or_default();
        // Whoever took this node for lost has said that its pods are not ready.
        let stands = is_ready(pod) == says_ready(status);
        if stands && self.shown.get(&uid) == Some(status) {
            return Ok(());
        }
        // One of the same name may be there by now; with this address it would never get its own.
        let patch = Patch::Strategic(json!({ "metadata": { "uid": uid }, "status": status }));
        self.pods().patch_status(&pod.name_any(), &PatchParams::default(), &patch).await?;
        self.shown.insert(uid, status.clone());
        Ok(())
    }

    /// The node of these pods: it is there and well, and the scheduler gives it nothing.
    async fn heartbeat(&mut self) -> anyhow::Result<()> {
        if self.beat.is_some_and(|at| at.elapsed() < HEARTBEAT) {
            return Ok(());
        }
        let leases = Api::<Lease>::namespaced(self.client(), NODE_LEASES);
        let owner = if self.beat.is_none() { Some(self.make_node().await?) } else { None };
        let mut lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": self.node },
            "spec": {
                "holderIdentity": self.node, "leaseDurationSeconds": 40,
                "renewTime": format!("{:.6}", Timestamp::now()),
            },
        });
        if let Some(owner) = owner {
            lease["metadata"]["ownerReferences"] = owner;
        }
        let params = PatchParams::apply("standin").force();
        leases.patch(&self.node, &params, &Patch::Apply(&lease)).await?;
        self.beat = Some(Instant::now());
        Ok(())
    }

    /// It goes with the namespace of the test.
    async fn make_node(&self) -> anyhow::Result<Value> {
        let namespaces = Api::<Namespace>::all(self.client());
        let namespace = namespaces.get(&self.shared.namespace).await?;
        let owner = json!([{
            "apiVersion": "v1", "kind": "Namespace",
            "name": self.shared.namespace, "uid": namespace.uid(),
        }]);
        let nodes = Api::<Node>::all(self.client());
        let params = PatchParams::apply("standin").force();
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": self.node, "ownerReferences": owner },
            "spec": { "unschedulable": true },
        });
        nodes.patch(&self.node, &params, &Patch::Apply(&node)).await?;
        let now = Timestamp::now().to_string();
        let status = json!({ "status": { "conditions": [{
            "type": "Ready", "status": "True", "reason": "Standin", "message": "",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        }]}});
        nodes.patch_status(&self.node, &PatchParams::default(), &Patch::Strategic(status)).await?;
        Ok(json!([{ "apiVersion": "v1", "kind": "Node", "name": self.node,
            "uid": nodes.get(&self.node).await?.uid() }]))
    }
}

/// At an address that nobody else has: all of 10.201.0.0/16 is this machine's, see
/// [`super::open_addresses`].
async fn listen(
    server: Server,
    tls: Option<tokio_rustls::TlsAcceptor>,
) -> anyhow::Result<(Ipv4Addr, JoinHandle<()>)> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        // Other programs of these suites count from elsewhere.
        let number = std::process::id().wrapping_mul(512) + NEXT.fetch_add(1, Ordering::Relaxed);
        let address = Ipv4Addr::new(10, 201, (number >> 8) as u8, number as u8);
        let socket = SocketAddr::new(IpAddr::V4(address), ADMIN_PORT as u16);
        match serve::serve(socket, server.clone(), tls.clone()).await {
            Ok(server) => return Ok((address, server)),
            Err(error) if in_use(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

fn in_use(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
}

impl World {
    /// A mounted file is brought up to date while its pod runs.
    fn bring(&mut self, identity: Option<&Identity>) {
        let stale = self.knobs.stale.clone();
        for process in self.processes.values_mut().filter(|p| !stale.contains(&p.pod)) {
            process.identity = identity.cloned().or_else(|| process.identity.take());
        }
    }

    /// A container that ended is started again, with the same directory.
    fn restart(&mut self, uid: &str, now: Instant) {
        let after = self.knobs.restart_after;
        let Some(process) = self.processes.get_mut(uid) else { return };
        if !process.runs && !process.stopping && now >= process.since + after {
            process.runs = true;
            process.since = now;
            process.restarts += 1;
            process.registered = false;
            process.incarnation = Default::default();
        }
    }
}

fn conditions(ready: bool) -> Value {
    let row =
        |kind: &str, is: bool| json!({ "type": kind, "status": if is { "True" } else { "False" } });
    json!([
        row("PodScheduled", true),
        row("Initialized", true),
        row("ContainersReady", ready),
        row("Ready", ready)
    ])
}

fn says_ready(status: &Value) -> bool {
    status["containerStatuses"][0]["ready"] == true
}

fn container(pod: &Pod, ready: bool, restarts: u32, state: &Value, last: &Value) -> Value {
    let image = pod.spec.iter().flat_map(|spec| &spec.containers).find(|c| c.name == "worker");
    json!({
        "name": "worker", "ready": ready, "started": ready, "restartCount": restarts,
        "image": image.and_then(|c| c.image.clone()), "imageID": "", "state": state,
        "lastState": last,
    })
}

/// A pod whose container has not begun, or does not get anywhere.
fn waits(pod: &Pod, reason: &str, message: &str) -> Value {
    let state = json!({ "waiting": { "reason": reason, "message": message } });
    let worker = container(pod, false, 0, &state, &json!({}));
    json!({ "phase": "Pending", "conditions": conditions(false), "containerStatuses": [worker] })
}

fn running(world: &World, pod: &Pod, uid: &str) -> Option<Value> {
    let process = world.processes.get(uid)?;
    let ready = world.is_up(process);
    let words = process.registered.then(|| process.incarnation.to_text());
    let state = if process.runs {
        json!({ "running": { } })
    } else {
        json!({ "terminated": { "exitCode": 137, "reason": "Error", "message": words,
            "finishedAt": process.ended_at.map(|at| format!("{at:.0}")) } })
    };
    let worker = container(pod, ready, process.restarts, &state, &json!({}));
    let ip = process.address.clone();
    Some(json!({
        "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }],
        "conditions": conditions(ready), "containerStatuses": [worker],
    }))
}
