//! The handle by which a test uses a cluster, and the faults it can cause.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use ::kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use anyhow::Context as _;
use rustix::process::Signal;
use tokio::runtime;

use super::{
    cgroup,
    component::{self, Backoff, Component, Node, Tier},
    lifecycle::{self, Running, run, run_with},
    named::Named,
    namespace::Namespace,
    place::{self, Place},
    process::{Process, within},
    sandbox::{Sandbox, path_with},
};
use crate::image::{self, Built};

/// For a component that is started again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of the log of one that has ended: a program says why at the end.
const LAST_LINES: usize = 8;

/// A cluster that answered when this was made. While it lives no test has the cluster alone.
#[derive(Debug)]
pub struct Cluster {
    kind: Kind,
    claim: Option<Claim>,
}

#[derive(Debug)]
enum Kind {
    Own(Running),
    Named(Named),
}

/// A locked file: who uses a cluster of our own, and how.
#[derive(Debug)]
struct Claim {
    _file: File,
    alone: bool,
}

/// What of a container is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// Its first process, with which all others end.
    Container,
    /// What its first process has started.
    Child,
}

impl Cluster {
    /// The user's, if one is named; else our own of this tier, brought up if it is not whole.
    /// Tests share it: nobody breaks it meanwhile.
    pub fn shared(tier: Tier) -> anyhow::Result<Self> {
        match Named::from_environment()? {
            Some(named) => Ok(Self { kind: Kind::Named(named), claim: None }),
            None => Self::up(tier.name(), tier),
        }
    }

    /// As [`Cluster::shared`], once nobody else uses it, and nobody does until this is dropped:
    /// for tests that stop what others need. Whoever already holds the cluster waits for ever.
    pub fn alone(tier: Tier) -> anyhow::Result<Self> {
        match Named::from_environment()? {
            Some(named) => Ok(Self { kind: Kind::Named(named), claim: None }),
            None => Self::own(tier.name(), tier, true),
        }
    }

    /// A cluster of our own with a name of its own.
    pub fn up(name: &str, tier: Tier) -> anyhow::Result<Self> {
        Self::own(name, tier, false)
    }

    fn own(name: &str, tier: Tier, alone: bool) -> anyhow::Result<Self> {
        let place = Place::new(name)?;
        let file = place.lock_file("use")?;
        if alone { file.lock() } else { file.lock_shared() }?;
        let lock = place.lock_file("lock")?;
        lock.lock()?;
        let kind = Kind::Own(lifecycle::up(&place, tier)?);
        Ok(Self { kind, claim: Some(Claim { _file: file, alone }) })
    }

    /// For `kubectl` and clients that are in the network of the cluster.
    pub fn kubeconfig(&self) -> PathBuf {
        match &self.kind {
            Kind::Own(running) => running.place.kubeconfig(),
            Kind::Named(named) => named.kubeconfig().to_owned(),
        }
    }

    /// Whether the user has named it: it cannot be broken, and its pods may be out of reach.
    pub fn is_users(&self) -> bool {
        matches!(self.kind, Kind::Named(_))
    }

    /// Moves the calling thread into the network of the cluster, and with it every thread and
    /// process that it starts from now on: a runtime must be built after it.
    pub fn enter(&self) -> anyhow::Result<()> {
        match &self.kind {
            Kind::Own(running) => running.sandbox.enter(),
            Kind::Named(_) => Ok(()),
        }
    }

    /// Runs a future on a runtime whose threads are in the network of the cluster.
    pub fn block_on<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        let run = || {
            self.enter().expect("the cluster runs");
            let runtime = runtime::Builder::new_multi_thread().enable_all().build();
            runtime.expect("a runtime starts").block_on(future)
        };
        thread::scope(|scope| match scope.spawn(run).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// For use within [`Cluster::block_on`].
    pub async fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::try_from(self.config().await?)?)
    }

    /// What a client is made from, for one that differs.
    pub async fn config(&self) -> anyhow::Result<Config> {
        let config = Kubeconfig::read_from(self.kubeconfig())?;
        Ok(Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?)
    }

    /// A program in the network of the cluster, with its kubeconfig, and with `kubectl` and
    /// `helm` on its path.
    pub fn command(&self, program: &str) -> anyhow::Result<Command> {
        let mut command = match &self.kind {
            Kind::Own(running) => running.sandbox.network_command(program),
            Kind::Named(_) => Command::new(program),
        };
        command.env("KUBECONFIG", self.kubeconfig()).env("PATH", path_with(&place::tools())?);
        if !self.is_users() {
            // No proxy of the outside is reached from there.
            for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
                command.env_remove(name);
            }
        }
        Ok(command)
    }

    /// What `kubectl` prints; an error where it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        run(self.command("kubectl")?.args(arguments))
    }

    pub fn helm(&self, arguments: &[&str]) -> anyhow::Result<String> {
        run(self.command("helm")?.args(arguments))
    }

    /// Applies manifests on the server's side.
    pub fn apply(&self, manifests: &str) -> anyhow::Result<String> {
        self.apply_in(None, manifests)
    }

    pub(crate) fn apply_in(
        &self,
        namespace: Option<&str>,
        manifests: &str,
    ) -> anyhow::Result<String> {
        let mut command = self.command("kubectl")?;
        command.args(["apply", "--server-side", "--force-conflicts", "-f", "-"]);
        command.args(namespace.map(|name| format!("--namespace={name}")));
        run_with(&mut command, manifests)
    }

    /// A new namespace that only takes pods without any privilege, ready for them.
    pub fn namespace(&self, prefix: &str) -> anyhow::Result<Namespace<'_>> {
        let accounts = match &self.kind {
            Kind::Own(running) => running.tier >= Tier::Kcm,
            Kind::Named(_) => true,
        };
        Namespace::new(self, prefix, accounts)
    }

    /// Gives an archive of [`image`] to every node.
    pub fn load(&self, archive: &Path) -> anyhow::Result<Built> {
        match &self.kind {
            Kind::Own(running) => running.load(archive)?,
            Kind::Named(named) => named.load(archive)?,
        }
        image::read(archive)
    }

    /// Ends a component as a crash would. [`Cluster::start`] brings it back.
    pub fn kill(&self, component: Component) -> anyhow::Result<()> {
        self.breakable()?.end(component, Signal::KILL)
    }

    /// Starts a component that does not run, and waits for those that others need at once.
    pub fn start(&self, component: Component) -> anyhow::Result<()> {
        let running = self.breakable()?;
        running.start(component)?;
        match component {
            Component::ApiServer => within(PATIENCE, || running.api_ready()),
            Component::Dns => within(PATIENCE, || running.dns_ready()),
            Component::Kubelet(node) => running.kubelet_ready(node),
            Component::Containerd(node) => {
                within(PATIENCE, || run(running.containers(node).arg("version")).map(drop))
            }
            Component::Etcd
            | Component::ControllerManager
            | Component::Scheduler
            | Component::Proxy
            | Component::Volumes => Ok(()),
        }
    }

    /// Ends processes of a container as a crash would: they have ended when this returns. Says when
    /// the signal was sent.
    pub fn kill_in(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        victim: Victim,
    ) -> anyhow::Result<Instant> {
        let path = format!(
            "jsonpath={{.status.containerStatuses[?(@.name==\"{container}\")].containerID}}"
        );
        let told = self.kubectl(&["get", "pod", pod, "-n", namespace, "-o", &path])?;
        let id = told.trim().strip_prefix("containerd://").context("it does not run")?;
        let processes = cgroup::container(&self.breakable()?.place.cgroup(), id)?;
        let first = processes.into_iter().find_map(Process::of).context("it does not run")?;
        let process = match victim {
            Victim::Container => first,
            Victim::Child => {
                let child = first.children().into_iter().find_map(Process::of);
                child.context("its first process has no child")?
            }
        };
        let sent = Instant::now();
        process.end(Signal::KILL, PATIENCE)?;
        Ok(sent)
    }

    /// Ends a node as a loss of power would: its pods too. Starting its containerd and its kubelet
    /// brings it back.
    pub fn kill_node(&self, node: Node) -> anyhow::Result<()> {
        let running = self.breakable()?;
        for component in [Component::Kubelet(node), Component::Containerd(node)] {
            running.end(component, Signal::KILL)?;
        }
        for id in cgroup::processes(&format!("{}/{}", running.place.cgroup(), node.name()))? {
            Process::of(id).map_or(Ok(()), |process| process.end(Signal::KILL, PATIENCE))?;
        }
        Ok(())
    }

    /// How long containers of a node that end again and again wait.
    pub fn set_backoff(&self, node: Node, backoff: Backoff) -> anyhow::Result<()> {
        component::write_kubelet(&self.breakable()?.place, node, backoff)?;
        self.kill(Component::Kubelet(node))?;
        self.start(Component::Kubelet(node))
    }

    /// How long the name server keeps answers, also those that there is no such name: 30 s on
    /// many clusters, not at all on ours unless asked.
    pub fn set_dns_cache(&self, seconds: Option<u32>) -> anyhow::Result<()> {
        component::write_corefile(&self.breakable()?.place.directory().join("etc"), seconds)?;
        self.kill(Component::Dns)?;
        self.start(Component::Dns)
    }

    /// The components of our own that do not run, each with what it said last.
    pub(crate) fn ended(&self) -> String {
        let Kind::Own(running) = &self.kind else { return String::new() };
        let told = |component: Component| {
            let name = component.name();
            let log = fs::read_to_string(running.place.log(&name)).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
            format!("-- {name} does not run:\n{last}\n")
        };
        running.ended().map(told).collect()
    }

    fn breakable(&self) -> anyhow::Result<&Running> {
        match &self.kind {
            Kind::Own(running) => Ok(running),
            Kind::Named(_) => anyhow::bail!("nothing of a cluster of the user is broken"),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let broken = self.claim.as_ref().is_some_and(|claim| claim.alone) && thread::panicking();
        if let (Kind::Own(running), true) = (&self.kind, broken) {
            // Nobody knows what the test has left: the next one makes the cluster anew.
            let _ = fs::remove_file(running.place.stamp());
        }
    }
}

/// Ends a cluster of our own and removes all of it but its logs.
pub fn down(name: &str) -> anyhow::Result<()> {
    let place = Place::new(name)?;
    let lock = place.lock_file("lock")?;
    lock.lock()?;
    lifecycle::down(&place)
}

/// What is there of a cluster of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    Nothing,
    /// Its processes ended without [`down`].
    Traces,
    Running,
}

pub fn left(name: &str) -> anyhow::Result<Left> {
    let place = Place::new(name)?;
    Ok(if Sandbox::find(&place).is_some() {
        Left::Running
    } else if cgroup::exists(&place.cgroup())? || place.kubeconfig().exists() {
        Left::Traces
    } else {
        Left::Nothing
    })
}

/// All clusters of our own of which there is anything.
pub fn all() -> anyhow::Result<Vec<(String, Left)>> {
    let known = place::names().into_iter();
    let known = known.map(|name| left(&name).map(|left| (name, left)));
    let known: anyhow::Result<Vec<_>> = known.collect();
    Ok(known?.into_iter().filter(|(_, left)| *left != Left::Nothing).collect())
}
