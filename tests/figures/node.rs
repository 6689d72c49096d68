//! One node as a child process of the release build: started, asked, signalled, reaped.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use shoal_proto::shoal::admin::v1::{self as pb, admin_client::AdminClient};
use tokio::{
    process::{Child, Command},
    time,
};
use tonic::transport::{Channel, Endpoint};

/// One request to an admin port.
pub const ASK: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(1);
/// The default budget of a leave and a little more.
pub const LEAVE: Duration = Duration::from_secs(25);
const SIGKILL: i32 = 9;

pub type Admin = AdminClient<Channel>;

pub struct Node {
    pub name: String,
    port: u16,
    dir: PathBuf,
    settings: Vec<(&'static str, String)>,
    child: Option<Child>,
    channel: Channel,
}

impl Node {
    /// `start` is PEER_ADDRESSES or JOIN_ADDRESS with its value.
    pub fn new(
        name: &str,
        port: u16,
        root: &Path,
        start: (&'static str, String),
    ) -> anyhow::Result<Self> {
        let dir = root.join(name);
        let channel = endpoint(&address_of(port + 2_000))?.connect_lazy();
        let settings = vec![
            start,
            ("NODE_ADDRESS", address_of(port)),
            ("RAFT_ID", name.to_owned()),
            ("RAFT_DIR", dir.display().to_string()),
        ];
        Ok(Self { name: name.to_owned(), port, dir, settings, child: None, channel })
    }

    /// One more setting, for every start from now on.
    pub fn set(&mut self, name: &'static str, value: String) {
        self.settings.push((name, value));
    }

    pub fn address(&self) -> String {
        address_of(self.port)
    }

    pub fn http_address(&self) -> String {
        address_of(self.port + 3_000)
    }

    /// Connects by itself, again after a restart.
    pub fn admin(&self) -> Admin {
        AdminClient::new(self.channel.clone())
    }

    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    pub fn pid(&self) -> anyhow::Result<u32> {
        let child = self.child.as_ref().and_then(Child::id);
        child.with_context(|| format!("{} does not run", self.name))
    }

    pub fn spawn(&mut self, program: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let log = self.dir.with_extension("log");
        let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let child = Command::new(program)
            .arg("run")
            .env_clear()
            .envs(self.settings.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        self.child = Some(child.with_context(|| format!("starting {}", self.name))?);
        Ok(())
    }

    /// An error if the process ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        if let Some(status) = child.try_wait()? {
            self.child = None;
            let log = self.dir.with_extension("log");
            let text = fs::read_to_string(&log).unwrap_or_default();
            let last = text.lines().last().unwrap_or_default();
            bail!("{} ended with {status}: {last}; see {}", self.name, log.display());
        }
        Ok(())
    }

    pub async fn status(&self) -> anyhow::Result<pb::StatusResponse> {
        status(self.admin(), ASK).await
    }

    /// From this call on the process runs no more; reaping follows.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.signal(Signal::KILL)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid()?).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no process id")?, signal)?;
        Ok(())
    }

    async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let mut child = self.child.take().with_context(|| format!("{} does not run", self.name))?;
        let status = time::timeout(LEAVE, child.wait()).await;
        Ok(status.with_context(|| format!("{} does not end", self.name))??)
    }

    /// Waits for the end that `kill` brought; another end is an error.
    pub async fn killed(&mut self) -> anyhow::Result<()> {
        let status = self.ended().await?;
        ensure!(status.signal() == Some(SIGKILL), "{} was not killed: {status}", self.name);
        Ok(())
    }

    /// A leave in good order: SIGTERM, exit code 0.
    pub async fn leave(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.ended().await?;
        ensure!(status.success(), "{} left with {status}", self.name);
        Ok(())
    }
}

fn address_of(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn endpoint(address: &str) -> anyhow::Result<Endpoint> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .with_context(|| format!("{address} is no address"))?;
    Ok(endpoint.connect_timeout(CONNECT))
}

/// A connection that is open now.
pub async fn connect(address: &str) -> anyhow::Result<Channel> {
    endpoint(address)?.connect().await.with_context(|| format!("no node answers at {address}"))
}

pub async fn status(mut admin: Admin, patience: Duration) -> anyhow::Result<pb::StatusResponse> {
    let asked = admin.status(pb::StatusRequest::default());
    Ok(time::timeout(patience, asked).await.context("no answer")??.into_inner())
}
