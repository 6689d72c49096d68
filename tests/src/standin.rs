//! In place of kubelet and workers, for suites of the operator on a control plane without a node:
//! the pods of one ShardCluster get an address, an admin API on it and a status, and all of their
//! workers share one real registry with a coarse leader.
//!
//! What it leaves out: Raft's log, hand-over between processes, anything a client would call. It
//! judges as well: what the operator must never do is noted in [`Standin::findings`].

mod admin;
mod kubelet;
mod leader;
mod process;
mod serve;
mod world;

use std::{sync::Arc, time::Duration};

use ::kube::Client;
use parking_lot::Mutex;
use shoal_core::registry::{Command, Event, Refused};
use tokio::{task::JoinHandle, time::Instant};

use crate::fault_proxy::Script;
use process::Process;
pub use world::Violation;
use world::World;

/// Makes the addresses of all pods this machine's own, in the network of this cluster.
pub fn open_addresses(cluster: &crate::kube::Cluster) -> anyhow::Result<()> {
    let words = ["route", "replace", "local", "10.201.0.0/16", "dev", "lo"];
    let output = cluster.command("ip")?.args(words).output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Everything that a worker or a kubelet may do otherwise than usual.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// Each process sees its peers only after a time of up to this, drawn anew for each.
    pub blind: Duration,
    /// From start of the container to the registration, at least.
    pub boot: Duration,
    /// A shard that moves arrives after it.
    pub move_takes: Duration,
    /// A container that ended is started again after it.
    pub restart_after: Duration,
    /// Pods whose shards never arrive anywhere.
    pub hang_in_drain: Vec<String>,
    /// Pods that no node is found for.
    pub unschedulable: Vec<String>,
    /// Pods whose mounted files stay as they are.
    pub stale: Vec<String>,
    /// A founding that was confirmed does not form.
    pub never_forms: bool,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            blind: Duration::ZERO,
            boot: Duration::from_millis(100),
            move_takes: Duration::from_millis(40),
            restart_after: Duration::from_millis(500),
            hang_in_drain: Vec::new(),
            unschedulable: Vec::new(),
            stale: Vec::new(),
            never_forms: false,
        }
    }
}

/// Images by which a template says what its pods do.
pub const IMAGE: &str = "shoal:1";
/// There is no such image.
pub const IMAGE_MISSING: &str = "shoal:missing";
/// Its process ends at once, again and again.
pub const IMAGE_CRASHES: &str = "shoal:crashes";

/// Kubelet and workers of one ShardCluster, until it is dropped.
pub struct Standin {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

struct Shared {
    client: Client,
    namespace: String,
    cluster: String,
    world: Mutex<World>,
    calls: Arc<Script>,
}

/// What a test looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Every cluster that was ever founded.
    pub founded: Vec<String>,
    pub formed: bool,
    /// Nodes that have not left, with the shards that they own.
    pub owned: Vec<(String, u32)>,
    pub voters: usize,
    pub unassigned: u32,
    pub operator_epoch: u64,
    pub max_moves: u32,
    /// Commands that the registry refused for an older operator epoch.
    pub refused_epochs: u32,
    /// Pods whose process runs.
    pub running: Vec<String>,
}

impl Standin {
    /// Takes over the pods of the ShardCluster of this name.
    pub async fn start(client: Client, namespace: &str, cluster: &str, knobs: Knobs) -> Self {
        let shared = Arc::new(Shared {
            client,
            namespace: namespace.to_owned(),
            cluster: cluster.to_owned(),
            world: Mutex::new(World::new(knobs)),
            calls: Arc::default(),
        });
        let tasks = vec![
            tokio::spawn(kubelet::run(shared.clone())),
            tokio::spawn(leader::run(shared.clone())),
        ];
        Self { shared, tasks }
    }

    /// Changes what pods and workers do from now on.
    pub fn set(&self, change: impl FnOnce(&mut Knobs)) {
        change(&mut self.shared.world.lock().knobs);
    }

    /// The calls that change something, and what becomes of them.
    pub fn calls(&self) -> &Arc<Script> {
        &self.shared.calls
    }

    /// What the operator, or the registry under it, did against the rules.
    pub fn findings(&self) -> Vec<Violation> {
        self.shared.world.lock().findings.clone()
    }

    /// Panics where anything was found.
    #[track_caller]
    pub fn assert_clean(&self) {
        let findings = self.findings();
        assert!(findings.is_empty(), "against the rules: {findings:#?}");
    }

    /// A test itself takes pods away from now on, or no longer.
    pub fn allow_deletions(&self, allowed: bool) {
        self.shared.world.lock().deletions_allowed = allowed;
    }

    /// The process in this pod ends at once, as by SIGKILL; its container is started again.
    pub fn kill(&self, pod: &str) {
        self.shared.world.lock().kill(pod, Instant::now());
    }

    /// One change of the registry that nobody else hears of.
    pub fn order(&self, command: &Command) -> Result<Event, Refused> {
        self.shared.world.lock().apply(command)
    }

    pub fn seen(&self) -> Seen {
        self.shared.world.lock().seen()
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.shared.world.lock().processes.clear();
    }
}
