//! The `shoal` command under test: where it is, and one run of it to its end.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use crate::{space::build_directory, wait};

/// No command of these suites takes longer by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program that SHOAL names, else the one of this workspace, built now.
pub fn shoal() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match env::var_os("SHOAL") {
        Some(path) => Path::new(&path).canonicalize().expect("SHOAL names a program"),
        None => build(),
    })
}

fn build() -> PathBuf {
    let cargo = env::var_os("CARGO").unwrap_or("cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--bin", "shoal", "--features", "shoal-worker/mutants"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "shoal does not build");
    build_directory().join("debug/shoal")
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// None: by a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub lasted: Duration,
}

impl Ended {
    /// What it printed, if it succeeded.
    #[track_caller]
    pub fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// Its one line to a person. Panics unless it ended with `code`.
    #[track_caller]
    pub fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        let lines: Vec<_> =
            self.stderr.lines().filter(|line| line.starts_with("shoal: ")).collect();
        assert_eq!(lines.len(), 1, "one line for people: {self:?}");
        lines[0].to_owned()
    }
}

/// Runs `shoal` with these arguments and settings, and no inherited ones, to its end.
#[track_caller]
pub fn run(arguments: &[&str], settings: &[(&str, &str)]) -> Ended {
    run_within(arguments, settings, PATIENCE)
}

#[track_caller]
pub fn run_within(arguments: &[&str], settings: &[(&str, &str)], patience: Duration) -> Ended {
    let began = Instant::now();
    let child = Command::new(shoal())
        .args(arguments)
        .env_clear()
        .envs(settings.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("shoal starts");
    let id = child.id();
    let output = std::thread::spawn(move || child.wait_with_output());
    let finished = wait_for(&output, patience);
    if !finished {
        crate::node::signal(id, rustix::process::Signal::KILL);
    }
    let output = output.join().expect("its output is read").expect("its output is read");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let ended = Ended {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
        lasted: began.elapsed(),
    };
    assert!(finished, "{arguments:?} did not end within {patience:?}: {ended:?}");
    ended
}

fn wait_for<T>(running: &std::thread::JoinHandle<T>, patience: Duration) -> bool {
    let began = Instant::now();
    while !running.is_finished() {
        if began.elapsed() > patience {
            return false;
        }
        std::thread::sleep(wait::LOOK_AGAIN);
    }
    true
}
