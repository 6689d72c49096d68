//! The directory of one test: data and logs of its nodes, kept and shown when it fails.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

/// Lines of each log that a failed test shows.
const TAIL: usize = 15;

#[derive(Debug)]
pub struct Space {
    path: PathBuf,
    kept: AtomicBool,
}

impl Default for Space {
    fn default() -> Self {
        Self::new()
    }
}

impl Space {
    /// Named after the test that runs in this thread, inside the build directory: on a disk,
    /// not in memory, for what is tested syncs files.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = thread::current().name().unwrap_or("main").replace("::", "-");
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = build_directory()
            .join("processes")
            .join(format!("{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("the directory of a test can be made");
        Self { path, kept: AtomicBool::new(false) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it there, to be looked at.
    pub fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    fn show_logs(&self) {
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        let mut logs: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        logs.retain(|path| path.extension().is_some_and(|ending| ending == "log"));
        logs.sort();
        for log in logs {
            let text = fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines: Vec<_> = text.lines().collect();
            eprintln!("-- {}", log.display());
            eprintln!("{}", lines[lines.len().saturating_sub(TAIL)..].join("\n"));
        }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if thread::panicking() {
            self.show_logs();
            eprintln!("-- kept: {}", self.path.display());
        } else if !self.kept.load(Ordering::Relaxed) {
            // What is left behind is found and named by its directory; no test depends on it.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// `target`, wherever it lies.
pub fn build_directory() -> PathBuf {
    profile_directory().parent().expect("a profile's directory lies in the build directory").into()
}

/// `target/<profile>`: a program lies in it, a test in its `deps`.
pub fn profile_directory() -> PathBuf {
    let program = env::current_exe().expect("this program has a path");
    let directory = program.parent().expect("it lies in a directory");
    if directory.ends_with("deps") {
        return directory.parent().expect("deps lies in a directory").to_owned();
    }
    directory.to_owned()
}
