//! The operator as a process in the network of the cluster.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use shoal_tests::{http, kube::Cluster};

/// The program that SHOAL_OPERATOR names, else the one of this workspace, built now.
fn program() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os("SHOAL_OPERATOR") {
        Some(path) => Path::new(&path).canonicalize().expect("SHOAL_OPERATOR names a program"),
        None => build(),
    })
}

fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--bin", "shoal-operator"]);
    let status = command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).status();
    assert!(status.expect("cargo runs").success(), "shoal-operator does not build");
    // This program lies in the same build directory, below `deps`.
    let here = std::env::current_exe().expect("a program");
    here.parent().and_then(Path::parent).expect("a build directory").join("shoal-operator")
}

/// One process; killed when it is dropped.
pub struct Operator {
    child: Child,
    http: String,
    log: PathBuf,
}

/// Where it looks, and who it is.
pub struct Place<'a> {
    pub kubeconfig: &'a Path,
    /// The only one that it watches.
    pub watches: &'a str,
    /// Where its Lease lies.
    pub namespace: &'a str,
    pub name: &'a str,
    pub log: &'a Path,
}

impl Operator {
    /// To be called in the network of the cluster.
    pub fn start(cluster: &Cluster, place: &Place<'_>) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let http = free.local_addr().expect("an address").to_string();
        drop(free);
        let log = File::options().append(true).create(true).open(place.log).expect("a log");
        let mut command = cluster.command(&program().to_string_lossy()).expect("the cluster runs");
        command.args(["run", "--log-format=text", "--log-level=info,shoal_operator=debug"]);
        command.args(["--pod-namespace", place.namespace, "--pod-name", place.name]);
        command.args(["--watch-namespaces", place.watches, "--http-address", &http]);
        command.env("KUBECONFIG", place.kubeconfig);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("the operator starts");
        Self { child, http, log: place.log.to_owned() }
    }

    /// The id, which is the operator's own: whatever leads into the network becomes it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        send(self.id(), signal);
    }

    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("it was started here");
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it was started here")
    }

    /// A page of its HTTP address; to be asked in the network of the cluster.
    pub fn page(&self, path: &str) -> Result<String, String> {
        http::get_within(&self.http, path, Duration::from_secs(5)).map(|(_, body)| body)
    }

    /// The last lines of its log.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

/// To a process that was started here and may have ended by itself.
pub fn send(id: u32, signal: Signal) {
    let id = Pid::from_raw(id as i32).expect("a process id");
    let _ = kill_process(id, signal);
}

impl Drop for Operator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("-- the operator's last words:\n{}", self.last_words());
            // Whether it still looked.
            let page = self.page("/metrics").unwrap_or_else(|error| error);
            let passes = |line: &&str| line.starts_with("shoal_operator_reconciles_total");
            page.lines().filter(passes).for_each(|line| eprintln!("-- {line}"));
        }
        self.kill();
    }
}
