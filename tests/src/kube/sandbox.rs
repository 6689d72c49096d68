//! The namespaces in which all processes of a cluster run: network, mounts and processes of its
//! own. Where they end, all that was made in them ends too; only cgroups are the machine's.

use std::{
    env, fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use rustix::{
    process::Signal,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::{
    place::{Place, tools},
    process::{Process, within},
};

/// Far more than laying out the namespaces takes, and than the kernel needs to end them.
const PATIENCE: Duration = Duration::from_secs(30);
/// Components come first, then what Debian installs.
const PATH: &str = "/run/shoal/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug, Clone, Copy)]
pub(crate) struct Sandbox {
    init: Process,
}

impl Sandbox {
    /// The one recorded at this place, if it still runs.
    pub fn find(place: &Place) -> Option<Self> {
        let init = Process::recorded(&place.pid("sandbox"))?;
        init.runs().then_some(Self { init })
    }

    /// `place` must have been laid out.
    pub fn create(place: &Place) -> anyhow::Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "a cluster of our own needs root: run this as root, or name a cluster of yours with \
             SHOAL_TEST_KUBECONFIG"
        );
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kube/sandbox.sh");
        let log = fs::File::create(place.log("sandbox"))?;
        let unshare =
            "unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private";
        let mut parent = bare("setsid")
            .args(unshare.split(' '))
            .arg("sh")
            .args([&script, place.directory(), &tools()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let ready = place.directory().join("sandbox.ready");
        within(PATIENCE, || {
            if let Some(status) = parent.try_wait()? {
                let told = fs::read_to_string(place.log("sandbox"))?;
                bail!("the namespaces cannot be made ({status}): {told}");
            }
            ensure!(ready.exists(), "the namespaces are not ready");
            Ok(())
        })?;
        let parent = Process::of(i32::try_from(parent.id())?).context("unshare has ended")?;
        let init = parent.children().first().and_then(|&id| Process::of(id));
        let init = init.context("the namespaces have no first process")?;
        init.record(&place.pid("sandbox"))?;
        Ok(Self { init })
    }

    /// Moves the calling thread into the network of the cluster, and with it every thread and
    /// process that it starts from now on.
    pub fn enter(self) -> anyhow::Result<()> {
        let network = fs::File::open(format!("/proc/{}/ns/net", self.init.id))?;
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    }

    /// A program of this machine that sees its files, but the network of the cluster.
    pub fn network_command(self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args([&format!("--net=/proc/{}/ns/net", self.init.id), "--", program]);
        command
    }

    /// A program that runs wholly inside, as the components do.
    pub fn command(self, program: &str) -> Command {
        let mut command = bare("nsenter");
        let target = self.init.id.to_string();
        command.args(["--target", &target, "--net", "--mount", "--pid", "--wdns=/", "--", program]);
        command
    }

    /// Starts a component, which goes on when this program ends.
    pub fn start(self, words: &[String], log: &Path) -> anyhow::Result<Process> {
        let log = fs::File::options().append(true).create(true).open(log)?;
        let script = r#"setsid "$@" >&2 </dev/null & echo $!"#;
        let output = self.command("sh").args(["-c", script, "sh"]).args(words).stderr(log).output();
        let output = output?;
        let inside = String::from_utf8(output.stdout)?.trim().to_owned();
        ensure!(output.status.success() && !inside.is_empty(), "{words:?} does not start");
        // The shell has ended, so the component is a child of the first process: the one that
        // has this id inside.
        within(PATIENCE, || {
            let ours = |id: &i32| inner_id(*id).as_deref() == Some(&inside);
            let id = self.init.children().into_iter().find(ours);
            id.and_then(Process::of).with_context(|| format!("{} ended at once", words[0]))
        })
    }

    /// Ends every process inside, and with them the namespaces.
    pub fn destroy(self) -> anyhow::Result<()> {
        self.init.end(Signal::KILL, PATIENCE)
    }
}

/// Without the settings of whoever runs this: proxies, above all.
fn bare(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).env("HOME", "/run");
    command
}

/// The id that a process has in the innermost namespace.
fn inner_id(id: i32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    ids.split_whitespace().last().map(str::to_owned)
}

/// `PATH` for programs that run outside and use the tools of the cluster.
pub(crate) fn path_with(tools: &Path) -> anyhow::Result<std::ffi::OsString> {
    let inherited = env::var_os("PATH").unwrap_or_default();
    let all: Vec<PathBuf> =
        [tools.to_owned()].into_iter().chain(env::split_paths(&inherited)).collect();
    Ok(env::join_paths(all)?)
}
