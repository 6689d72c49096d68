//! One node as a child process: started with its settings alone, signalled by its id, always
//! reaped; what it printed stays in a file.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Space, authority::Paths, command, http, kube::children, wait};

/// Sends a signal to a process that this one started and has not reaped.
pub fn signal(id: u32, signal: Signal) {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(id, signal).expect("a child that is not reaped can be signalled");
}

#[derive(Debug)]
pub struct Node {
    pub name: String,
    host: String,
    port: u16,
    settings: BTreeMap<&'static str, String>,
    space: PathBuf,
    /// Another program than the one under test of all suites.
    program: Option<PathBuf>,
    contained: bool,
    starts: u32,
    child: Option<Child>,
}

impl Node {
    /// On localhost; how it starts is still to be set.
    pub fn new(space: &Space, name: &str, port: u16) -> Self {
        Self::at(space, name, "localhost", port)
    }

    /// `host` as addresses spell it.
    pub fn at(space: &Space, name: &str, host: &str, port: u16) -> Self {
        let mut node = Self {
            name: name.to_owned(),
            host: host.to_owned(),
            port,
            settings: BTreeMap::new(),
            space: space.path().to_owned(),
            program: None,
            contained: false,
            starts: 0,
            child: None,
        };
        let (address, data) = (node.address(), node.data().display().to_string());
        node.set("NODE_ADDRESS", &address).set("RAFT_ID", name).set("RAFT_DIR", &data);
        node
    }

    pub fn set(&mut self, setting: &'static str, value: &str) -> &mut Self {
        self.settings.insert(setting, value.to_owned());
        self
    }

    /// Runs as this program from its next start on.
    pub fn program(&mut self, path: &Path) -> &mut Self {
        self.program = Some(path.to_owned());
        self
    }

    /// Runs with process ids of its own, as in a container. Needs root.
    pub fn contained(&mut self) -> &mut Self {
        self.contained = true;
        self
    }

    /// TLS with these files.
    pub fn secure(&mut self, paths: &Paths) -> &mut Self {
        for (setting, path) in
            [("TLS_CERT", &paths.cert), ("TLS_KEY", &paths.key), ("TLS_CA", &paths.ca)]
        {
            self.set(setting, &path.display().to_string());
        }
        self
    }

    /// The settings TLS_* for a command beside it.
    pub fn tls(&self) -> Vec<(&'static str, &str)> {
        let files = self
            .settings
            .iter()
            .filter(|(setting, _)| ["TLS_CERT", "TLS_KEY", "TLS_CA"].contains(*setting));
        files.map(|(setting, value)| (*setting, value.as_str())).collect()
    }

    pub fn unset(&mut self, setting: &'static str) -> &mut Self {
        self.settings.remove(setting);
        self
    }

    pub fn address(&self) -> String {
        self.offset(0)
    }

    pub fn raft_address(&self) -> String {
        self.offset(1_000)
    }

    pub fn admin_address(&self) -> String {
        self.offset(2_000)
    }

    pub fn http_address(&self) -> String {
        self.offset(3_000)
    }

    fn offset(&self, offset: u16) -> String {
        format!("{}:{}", self.host, self.port + offset)
    }

    /// Its data directory, also where the setting names another.
    pub fn data(&self) -> PathBuf {
        self.space.join(&self.name)
    }

    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    pub fn start(&mut self) {
        assert!(!self.runs(), "{} runs already", self.name);
        self.starts += 1;
        let log = File::create(self.log_path()).expect("a log file can be made");
        let program = self.program.as_deref().unwrap_or_else(|| command::shoal());
        let mut command = Command::new(if self.contained { Path::new("unshare") } else { program });
        if self.contained {
            command.args(["--pid", "--fork", "--kill-child"]).arg(program);
        }
        command.arg("run").env_clear().envs(&self.settings).current_dir(&self.space);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.child = Some(command.spawn().expect("shoal starts"));
    }

    fn log_path(&self) -> PathBuf {
        self.space.join(format!("{}.{}.log", self.name, self.starts))
    }

    /// What it printed since its last start.
    pub fn log(&self) -> String {
        let text = fs::read(self.log_path()).expect("a started node has a log");
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Status and text of /readyz; an error if the process has ended by itself.
    pub fn readiness(&mut self) -> Result<(u16, String), String> {
        self.assert_runs();
        http::get(&self.http_address(), "/readyz")
    }

    /// One figure of /metrics, by its name with its labels.
    #[track_caller]
    pub fn figure(&self, name: &str) -> u64 {
        let (_, text) = http::get(&self.http_address(), "/metrics").expect("a node tells figures");
        let prefix = format!("{name} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&prefix));
        let value = value.unwrap_or_else(|| panic!("no {name}:\n{text}"));
        value.parse().expect("a whole number")
    }

    /// As `readiness`, for a node that may end: then its exit code.
    pub fn readiness_or_end(&mut self) -> Result<(u16, String), Option<i32>> {
        let child = self.child.as_mut().expect("the node was started");
        if let Some(status) = child.try_wait().expect("a child can be asked for") {
            self.child = None;
            return Err(status.code());
        }
        self.readiness().map_err(|_| None)
    }

    /// Its exit code (`None`: by a signal) once it has ended, by itself or not.
    pub fn has_ended(&mut self) -> Option<Option<i32>> {
        let child = self.child.as_mut()?;
        let status = child.try_wait().expect("a child can be asked for")?;
        self.child = None;
        Some(status.code())
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    /// Of a contained node: the first process, and what it has started or inherited.
    pub fn family(&self) -> Option<(i32, Vec<i32>)> {
        let first = *children(self.pid().cast_signed()).first()?;
        Some((first, children(first)))
    }

    #[track_caller]
    pub fn assert_runs(&mut self) {
        let child = self.child.as_mut().expect("the node was started");
        let ended = child.try_wait().expect("a child can be asked for");
        assert!(ended.is_none(), "{} ended with {ended:?}:\n{}", self.name, self.log());
    }

    #[track_caller]
    pub fn ready(&mut self) {
        let what = format!("{} is ready", self.name);
        wait::until(&what, || match self.readiness()? {
            (200, _) => Ok(()),
            (code, text) => Err(format!("{code} {text}")),
        });
    }

    /// Until it is not ready and says why, in these words.
    #[track_caller]
    pub fn waits(&mut self, words: &str) -> String {
        let what = format!("{} is not ready: {words}", self.name);
        wait::until(&what, || match self.readiness()? {
            (503, text) if text.contains(words) => Ok(text),
            (code, text) => Err(format!("{code} {text}")),
        })
    }

    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub fn signal(&self, wanted: Signal) {
        signal(self.child.as_ref().expect("the node runs").id(), wanted);
    }

    /// SIGKILL; from the return on the process is known to have ended.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the node runs");
        child.kill().expect("a child can be killed");
        child.wait().expect("a killed child is reaped");
    }

    /// Waits for its end: the exit code.
    #[track_caller]
    pub fn ended(&mut self) -> i32 {
        let what = format!("the end of {}", self.name);
        let child = self.child.as_mut().expect("the node was started");
        let status = wait::until(&what, || {
            let ended = child.try_wait().expect("a child can be asked for");
            ended.ok_or_else(|| "it still runs".to_owned())
        });
        self.child = None;
        status.code().unwrap_or_else(|| panic!("{} ended by {status}", self.name))
    }

    /// SIGTERM, and an end in good order.
    #[track_caller]
    pub fn leave(&mut self) {
        self.terminate();
        let code = self.ended();
        assert_eq!(code, 0, "{} left:\n{}", self.name, self.log());
    }

    /// Waits for its end with `code`: the one line that says why.
    #[track_caller]
    pub fn refuses(&mut self, code: i32) -> String {
        let ended = self.ended();
        let log = self.log();
        assert_eq!(ended, code, "{}:\n{log}", self.name);
        let mut lines = log.lines().filter(|line| line.starts_with("shoal: "));
        let line = lines.next().unwrap_or_else(|| panic!("it does not say why:\n{log}"));
        assert_eq!(lines.next(), None, "one line for people");
        line.to_owned()
    }

    /// A copy of its data directory; the node must not run.
    pub fn copy_data(&self, to: &Path) {
        assert!(!self.runs(), "a directory is copied at rest");
        copy(&self.data(), to);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.runs() {
            self.kill();
        }
    }
}

/// A directory of plain files.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory can be made");
    for entry in fs::read_dir(from).expect("the directory exists") {
        let entry = entry.expect("it can be listed");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a file can be copied");
    }
}
