//! Nodes as child processes: started, waited for, signalled, always reaped.
//!
//! Each has a process group of its own, so that Ctrl-C reaches the parent alone. What a
//! child prints goes to a file beside its data.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use tokio::{
    process::{Child, Command},
    time::{self, Instant},
};

use crate::{
    cli::http,
    config::{ADMIN_PORT_OFFSET, HTTP_PORT_OFFSET},
    env::disk,
};

const POLL: Duration = Duration::from_millis(50);
/// A readyz that takes longer is asked again.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);
/// The settings of `shoal run`: a child gets those given to it and no inherited ones.
const SETTINGS: [&str; 26] = [
    "NODE_ADDRESS",
    "RAFT_ADDRESS",
    "ADMIN_ADDRESS",
    "HTTP_ADDRESS",
    "BIND_ADDRESS",
    "RAFT_ID",
    "RAFT_DIR",
    "EPHEMERAL",
    "JOIN_ADDRESS",
    "PEER_ADDRESSES",
    "DISCOVERY",
    "BOOTSTRAP_EXPECT",
    "SHARDS",
    "LEASE",
    "WEIGHT",
    "ZONE",
    "MAX_PAYLOAD",
    "CALL_MEMORY",
    "SHUTDOWN_BUDGET",
    "LOG_FORMAT",
    "TLS_MODE",
    "TLS_CERT",
    "TLS_KEY",
    "TLS_CA",
    "NODE_IP",
    "POD_UID",
];

/// How a node gets into the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    Peers(String),
    Join(String),
}

/// One node on this machine, running or not.
pub struct Node {
    pub name: String,
    pub port: u16,
    dir: PathBuf,
    start: Start,
    extra: Vec<(&'static str, String)>,
    starts: u32,
    child: Option<Child>,
}

impl Node {
    pub fn new(name: &str, port: u16, root: &Path, start: Start) -> Self {
        let (name, dir) = (name.to_owned(), root.join(name));
        Self { name, port, dir, start, extra: Vec::new(), starts: 0, child: None }
    }

    /// Passes a setting on.
    pub fn set(&mut self, setting: &'static str, value: Option<String>) {
        self.extra.extend(value.map(|value| (setting, value)));
    }

    pub fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }

    pub fn admin_address(&self) -> String {
        format!("localhost:{}", self.port + ADMIN_PORT_OFFSET)
    }

    pub fn http_address(&self) -> String {
        format!("localhost:{}", self.port + HTTP_PORT_OFFSET)
    }

    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    pub fn log(&self) -> PathBuf {
        self.dir.with_extension(format!("{}.log", self.starts))
    }

    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let (setting, value) = match &self.start {
            Start::Peers(peers) => ("PEER_ADDRESSES", peers.clone()),
            Start::Join(address) => ("JOIN_ADDRESS", address.clone()),
        };
        let mut environment = vec![
            ("NODE_ADDRESS", self.address()),
            ("RAFT_ID", self.name.clone()),
            ("RAFT_DIR", self.dir.display().to_string()),
            (setting, value),
        ];
        environment.extend(self.extra.iter().cloned());
        environment
    }

    pub fn spawn(&mut self) -> anyhow::Result<()> {
        disk::create_dir_all(&self.dir)?;
        loop {
            self.starts += 1;
            if !disk::exists(&self.log())? {
                break;
            }
        }
        let log = disk::open_or_create(&self.log())?;
        let program = std::env::current_exe().context("the path of this program")?;
        let mut command = Command::new(program);
        command.arg("run").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        for setting in SETTINGS {
            command.env_remove(setting);
        }
        command.envs(self.environment()).process_group(0).kill_on_drop(true);
        self.child = Some(command.spawn().with_context(|| format!("starting {}", self.name))?);
        Ok(())
    }

    /// Until /readyz says 200; the end of the process or `patience` is an error.
    pub async fn ready(&mut self, patience: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + patience;
        let address = self.http_address();
        let mut last = "no answer".to_owned();
        while Instant::now() < until {
            self.check()?;
            match http::get(&address, "/readyz", PROBE_PATIENCE).await {
                Ok((200, _)) => return Ok(()),
                Ok((code, text)) => last = format!("{code} {}", text.trim()),
                Err(error) => last = error.to_string(),
            }
            time::sleep(POLL).await;
        }
        bail!("{} is not ready after {patience:?}: {last}; see {}", self.name, self.log().display())
    }

    /// An error if the process ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_some(), "{} does not run", self.name);
        match self.died()? {
            Some(status) => Err(self.why(status)),
            None => Ok(()),
        }
    }

    /// How the process ended, if it did so since this was asked last; it is reaped then.
    pub fn died(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let Some(child) = self.child.as_mut() else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// With the last that it said.
    pub fn why(&self, status: ExitStatus) -> anyhow::Error {
        let log = disk::read(&self.log()).ok().flatten().unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let last = log.lines().last().unwrap_or_default();
        anyhow!("{} ended with {status}: {last}; see {}", self.name, self.log().display())
    }

    /// Asks the process to leave.
    #[allow(unsafe_code)] // kill(2): std can only kill hard
    pub fn terminate(&self) {
        if let Some(id) = self.child.as_ref().and_then(Child::id) {
            // SAFETY: a plain system call; the process is ours and not yet reaped.
            unsafe { libc::kill(id as libc::pid_t, libc::SIGTERM) };
        }
    }

    /// Kills it hard and reaps it: from then on it is known to have ended.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// Waits for its end; past `patience` it is killed and that is an error.
    pub async fn ended(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let mut child = self.child.take().with_context(|| format!("{} does not run", self.name))?;
        match time::timeout(patience, child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => {
                child.kill().await?;
                bail!("{} did not end within {patience:?}; see {}", self.name, self.log().display())
            }
        }
    }

    /// A leave in good order: SIGTERM, exit code 0.
    pub async fn leave(&mut self, patience: Duration) -> anyhow::Result<()> {
        self.terminate();
        let status = self.ended(patience).await?;
        ensure!(status.success(), "{} left with {status}; see {}", self.name, self.log().display());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_its_own_settings() {
        let peers = Start::Peers("localhost:1,localhost:2".to_owned());
        let mut node = Node::new("node-b", 11_001, Path::new("data"), peers);
        node.set("SHARDS", Some("64".to_owned()));
        node.set("LEASE", None);
        let expected = [
            ("NODE_ADDRESS", "localhost:11001"),
            ("RAFT_ID", "node-b"),
            ("RAFT_DIR", "data/node-b"),
            ("PEER_ADDRESSES", "localhost:1,localhost:2"),
            ("SHARDS", "64"),
        ];
        assert_eq!(node.environment(), expected.map(|(name, value)| (name, value.to_owned())));
        assert_eq!(node.admin_address(), "localhost:13001");
    }
}
