//! The handle by which a test uses a cluster, and the faults it can cause.

use std::{
    fs::File,
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

/// A cluster that answered when this was made. While it lives no test has the cluster alone.
#[derive(Debug)]
pub struct Cluster {
    kind: Kind,
    /// Who uses the cluster, and how: see [`Cluster::shared`].
    _claim: Option<File>,
}

#[derive(Debug)]
enum Kind {
    Own(Running),
    Named(Named),
}

impl Cluster {
    /// The user's, if one is named; else our own of this tier, brought up if it is not whole.
    /// Tests share it: nobody breaks it meanwhile.
    pub fn shared(tier: Tier) -> anyhow::Result<Self> {
        Self::claim(tier, File::lock_shared)
    }

    /// As [`Cluster::shared`], once no other test uses it, and none does until this is dropped:
    /// for tests that stop what others need.
    pub fn alone(tier: Tier) -> anyhow::Result<Self> {
        Self::claim(tier, File::lock)
    }

    fn claim(tier: Tier, lock: fn(&File) -> std::io::Result<()>) -> anyhow::Result<Self> {
        if let Some(named) = Named::from_environment()? {
            return Ok(Self { kind: Kind::Named(named), _claim: None });
        }
        let claim = Place::new(tier.name())?.lock_file("use")?;
        lock(&claim)?;
        Ok(Self { _claim: Some(claim), ..Self::up(tier.name(), tier)? })
    }

    /// A cluster of our own of this name, which others may end and break.
    pub fn up(name: &str, tier: Tier) -> anyhow::Result<Self> {
        let place = Place::new(name)?;
        let lock = place.lock_file("lock")?;
        lock.lock()?;
        Ok(Self { kind: Kind::Own(lifecycle::up(&place, tier)?), _claim: None })
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
        self.own()?.end(component, Signal::KILL)
    }

    /// Starts a component that does not run, and waits for the API server if it is that.
    pub fn start(&self, component: Component) -> anyhow::Result<()> {
        let running = self.own()?;
        running.start(component)?;
        match component {
            Component::ApiServer => within(PATIENCE, || running.api_ready()),
            Component::Dns => within(PATIENCE, || running.dns_ready()),
            Component::Etcd
            | Component::ControllerManager
            | Component::Scheduler
            | Component::Containerd(_)
            | Component::Kubelet(_)
            | Component::Proxy
            | Component::Volumes => Ok(()),
        }
    }

    /// Ends the main process of a container, as the kernel would for want of memory: it has
    /// ended when this returns. Says when the signal was sent.
    pub fn kill_container(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> anyhow::Result<Instant> {
        let path = format!(
            "jsonpath={{.status.containerStatuses[?(@.name==\"{container}\")].containerID}}"
        );
        let told = self.kubectl(&["get", "pod", pod, "-n", namespace, "-o", &path])?;
        let id = told.trim().strip_prefix("containerd://").context("it does not run")?;
        let processes = cgroup::processes(&self.own()?.place.cgroup(), id)?;
        let main = processes.into_iter().find_map(Process::of).context("it does not run")?;
        let sent = Instant::now();
        main.end(Signal::KILL, PATIENCE)?;
        Ok(sent)
    }

    /// How long containers of a node that end again and again wait.
    pub fn set_backoff(&self, node: Node, backoff: Backoff) -> anyhow::Result<()> {
        component::write_kubelet(&self.own()?.place, node, backoff)?;
        self.kill(Component::Kubelet(node))?;
        self.start(Component::Kubelet(node))
    }

    /// How long the name server keeps answers, also those that there is no such name: 30 s on
    /// many clusters, not at all on ours unless asked.
    pub fn set_dns_cache(&self, seconds: Option<u32>) -> anyhow::Result<()> {
        component::write_corefile(&self.own()?.place.directory().join("etc"), seconds)?;
        self.kill(Component::Dns)?;
        self.start(Component::Dns)
    }

    fn own(&self) -> anyhow::Result<&Running> {
        match &self.kind {
            Kind::Own(running) => Ok(running),
            Kind::Named(_) => anyhow::bail!("nothing of a cluster of the user is broken"),
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

/// Whether anything of a cluster of our own is there: running, or left behind.
pub fn exists(name: &str) -> anyhow::Result<bool> {
    let place = Place::new(name)?;
    Ok(Sandbox::find(&place).is_some() || cgroup::exists(&place.cgroup())?)
}

/// All clusters of our own that there are.
pub fn names() -> Vec<String> {
    let mut names = place::names();
    names.retain(|name| exists(name).unwrap_or(true));
    names
}
