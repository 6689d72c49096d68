//! A cluster whose nodes each have a network namespace, a disk and clocks of their own, and what
//! may be done to all of these. Clients and questions come from a namespace of theirs, in which
//! the thread lives that made the scene.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;
use shoal_proto::shoal::admin::v1 as pb;
use tokio::{runtime, time};

use super::{
    net::Net,
    opens,
    preload::{self, Control},
};
use crate::{Node, Space, command, space::build_directory};

/// Names of the nodes in their order.
const NAMES: [&str; 6] = ["node-a", "node-b", "node-c", "node-d", "node-e", "node-f"];
/// Each has a namespace of its own, so all have the same.
const PORT: u16 = 11_000;
/// Enough for every node to own several, few enough for a quick hand-over.
const SHARDS: &str = "64";
/// One question to one node.
const ASK: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Until a cluster of empty directories serves, also beside a build.
const FORMS: Duration = Duration::from_secs(60);
/// Until a process that was told to leave has ended: its budget of 20 s, and room.
const LEAVES: Duration = Duration::from_secs(40);

/// Declared so that nodes end before their directories and networks go.
pub struct Scene {
    pub nodes: Vec<Node>,
    pub controls: Vec<Control>,
    pub net: Net,
    pub space: Space,
    /// Nodes that are meant to be in the cluster.
    pub members: Vec<usize>,
    library: PathBuf,
    program: PathBuf,
    runtime: runtime::Runtime,
}

impl Scene {
    /// `size` nodes that have formed a cluster, and room for `more`. The calling thread lives
    /// among its clients from then on.
    pub fn new(size: usize, more: usize, program: PathBuf) -> anyhow::Result<Self> {
        Self::with(size, more, program, &[])
    }

    /// As `new`; every node gets these settings too.
    pub fn with(
        size: usize,
        more: usize,
        program: PathBuf,
        settings: &[(&'static str, &str)],
    ) -> anyhow::Result<Self> {
        let mut scene = Self::prepared(size, more, program)?;
        settings.iter().for_each(|(name, value)| scene.set(name, value));
        scene.begin()?;
        Ok(scene)
    }

    /// For every node, from its next start on.
    pub fn set(&mut self, name: &'static str, value: &str) {
        self.nodes.iter_mut().for_each(|node| _ = node.set(name, value));
    }

    /// Starts the founders of a scene and waits until they serve.
    pub fn begin(&mut self) -> anyhow::Result<()> {
        self.members.clone().into_iter().try_for_each(|at| self.start(at))?;
        self.wait("the cluster serves", FORMS, Self::whole)
    }

    /// As `new`, before any node was started.
    pub fn prepared(size: usize, more: usize, program: PathBuf) -> anyhow::Result<Self> {
        let (net, space) = (Net::new(size + more)?, Space::new());
        net.enter()?;
        let runtime =
            runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let library = preload::library()?;
        let (nodes, controls, members) = (Vec::new(), Vec::new(), (0..size).collect());
        let mut scene = Self { nodes, controls, net, space, members, library, program, runtime };
        let addresses: Vec<_> =
            (0..size).map(|at| format!("{}:{PORT}", Net::address(at))).collect();
        for at in 0..size + more {
            let mut node = scene.node(at)?;
            if at < size {
                node.set("PEER_ADDRESSES", &addresses.join(","));
            } else {
                node.set("JOIN_ADDRESS", &addresses[0]);
            }
            scene.nodes.push(node);
        }
        Ok(scene)
    }

    fn node(&mut self, at: usize) -> anyhow::Result<Node> {
        let name = NAMES[at];
        let control = Control::new(&self.space.path().join(format!("{name}.control")))?;
        let mut node = Node::at(&self.space, name, &Net::address(at), PORT);
        // With its slash: logs lie beside it under names that begin alike.
        let data = format!("{}/", node.data().display());
        node.set("SHARDS", SHARDS)
            .set("TLS_MODE", "disabled")
            .set("LOG_LEVEL", opens::LOG_LEVEL)
            .set("LD_PRELOAD", &self.library.display().to_string())
            .set("FAULTS_CONTROL", &control.path().display().to_string())
            .set("FAULTS_DATA", &data)
            .program(&self.program);
        self.controls.push(control);
        Ok(node)
    }

    /// Starts a node where it lives.
    pub fn start(&mut self, at: usize) -> anyhow::Result<()> {
        let node = &mut self.nodes[at];
        self.net.nodes[at].within(|| {
            node.start();
            Ok(())
        })
    }

    /// From now on this node starts as another program.
    pub fn becomes(&mut self, at: usize, program: &Path) {
        self.nodes[at].program(program);
    }

    /// SIGTERM, and an end in good order.
    pub fn leave(&mut self, at: usize) -> anyhow::Result<()> {
        self.nodes[at].terminate();
        let code = self.ends(at, LEAVES)?;
        ensure!(code == Some(0), "{} left with {code:?}", self.nodes[at].name);
        Ok(())
    }

    /// Waits until a process has ended, by itself or as it was told: its exit code.
    pub fn ends(&mut self, at: usize, patience: Duration) -> anyhow::Result<Option<i32>> {
        let what = format!("the end of {}", self.nodes[at].name);
        self.wait(&what, patience, |scene| {
            let ended = scene.nodes[at].has_ended();
            ended.context("it still runs")
        })
    }

    pub fn signal(&self, at: usize, signal: Signal) {
        self.nodes[at].signal(signal);
    }

    pub fn pid(&self, at: usize) -> u32 {
        self.nodes[at].pid()
    }

    pub fn named(&self, name: &str) -> anyhow::Result<usize> {
        let at = self.nodes.iter().position(|node| node.name == name);
        at.with_context(|| format!("{name} is no node of this scene"))
    }

    /// What one node says.
    pub fn status_of(&self, at: usize) -> anyhow::Result<pb::StatusResponse> {
        let asked = self
            .ask(at, |mut admin| async move { admin.status(pb::StatusRequest::default()).await });
        asked.map(tonic::Response::into_inner)
    }

    /// One request to the admin port of a node.
    pub fn ask<T, F>(
        &self,
        at: usize,
        request: impl FnOnce(pb::admin_client::AdminClient<tonic::transport::Channel>) -> F,
    ) -> anyhow::Result<T>
    where
        F: Future<Output = Result<T, tonic::Status>>,
    {
        let address = format!("http://{}", self.nodes[at].admin_address());
        self.runtime.block_on(async {
            let endpoint = tonic::transport::Endpoint::from_shared(address)?;
            let admin = pb::admin_client::AdminClient::new(endpoint.connect_lazy());
            Ok(time::timeout(ASK, request(admin)).await.context("no answer")??)
        })
    }

    /// What the first node says that knows of a leader.
    pub fn status(&self) -> anyhow::Result<pb::StatusResponse> {
        let mut last = anyhow::anyhow!("no node runs");
        for at in self.members.iter().copied().filter(|at| self.nodes[*at].runs()) {
            match self.status_of(at) {
                Ok(status) if status.leader_id != 0 => return Ok(status),
                Ok(_) => last = anyhow::anyhow!("{} knows no leader", self.nodes[at].name),
                Err(error) => last = error.context(self.nodes[at].name.clone()),
            }
        }
        Err(last)
    }

    /// Place of the node that leads.
    pub fn leader(&self) -> anyhow::Result<usize> {
        let status = self.status()?;
        let leads = status.nodes.iter().find(|node| node.id == status.leader_id);
        self.named(&leads.context("nobody leads")?.name)
    }

    /// Every member runs and is up, every shard rests on one, and each knows the same leader.
    pub fn whole(&mut self) -> anyhow::Result<()> {
        let members = self.members.clone();
        let mut leaders = Vec::new();
        for &at in &members {
            // One that ends by itself runs no more from this look on.
            let _ = self.nodes[at].has_ended();
            ensure!(self.nodes[at].runs(), "{} does not run", self.nodes[at].name);
            let status = self.status_of(at).with_context(|| self.nodes[at].name.clone())?;
            let shards = status.shards.unwrap_or_default();
            let up = status.nodes.iter().filter(|node| node.life == "up" && node.drain == "none");
            let up = up.count();
            ensure!(status.formed, "not formed");
            ensure!(up == members.len(), "{up} nodes are up");
            ensure!(shards.unassigned == 0 && shards.moving == 0, "{shards:?}");
            leaders.push(status.leader_id);
        }
        leaders.dedup();
        ensure!(leaders.len() == 1 && leaders[0] != 0, "nodes know the leaders {leaders:?}");
        Ok(())
    }

    /// Looks until it succeeds; past `patience`, the last error.
    pub fn wait<T>(
        &mut self,
        what: &str,
        patience: Duration,
        mut look: impl FnMut(&mut Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let began = Instant::now();
        loop {
            match look(self) {
                Ok(value) => return Ok(value),
                Err(error) if began.elapsed() > patience => {
                    bail!("{what}: not within {patience:?}: {error:#}")
                }
                Err(_) => thread::sleep(LOOK_AGAIN),
            }
        }
    }

    /// `shoal <arguments>`, asked of one node: what it printed.
    pub fn shoal(&self, at: usize, arguments: &[&str]) -> anyhow::Result<String> {
        let address = self.nodes[at].address();
        let output = std::process::Command::new(&self.program)
            .args(arguments)
            .env_clear()
            .env("NODE_ADDRESS", &address)
            .output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "shoal {arguments:?}: {told}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What nodes run unless they were told otherwise.
    pub fn program(&self) -> &Path {
        &self.program
    }

    pub fn address(&self, at: usize) -> String {
        self.nodes[at].address()
    }
}

/// The program under test of all suites.
pub fn program() -> PathBuf {
    command::shoal().to_owned()
}

/// The program of the next version: the one that SHOAL_NEXT names, else the one that
/// `tests/faults/next.sh` has built.
pub fn next() -> Option<PathBuf> {
    let built = || build_directory().join("next/shoal");
    let path = std::env::var_os("SHOAL_NEXT").map_or_else(built, PathBuf::from);
    path.exists().then_some(path)
}

/// A fault on purpose that every node is to have, from the settings of this process.
pub fn inherited() -> Vec<(&'static str, String)> {
    const MUTANT: &str = "SHOAL_MUTANT";
    std::env::var(MUTANT).map(|mutant| (MUTANT, mutant)).into_iter().collect()
}
