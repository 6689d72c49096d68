//! Where a cluster keeps what it knows: `target/kube/<name>`, seen inside as `/run/shoal`.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::ensure;

use crate::space::{build_directory, profile_directory};

/// Longest name of a cluster: it becomes part of names that the kernel and containerd limit.
const MAX_NAME: usize = 20;
/// What a cluster needs to find in its directory.
const LAYOUT: [&str; 7] = ["bin", "etc", "log", "pids", "pki", "var-lib", "var-log"];

#[derive(Debug, Clone)]
pub(crate) struct Place {
    name: String,
    directory: PathBuf,
}

impl Place {
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        ensure!(
            !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(plain),
            "a cluster's name is 1 to {MAX_NAME} of a-z, 0-9 and -: {name:?}"
        );
        ensure!(name != "bin", "\"bin\" is where the programs lie");
        Ok(Self { name: name.to_owned(), directory: root().join(name) })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn pid(&self, process: &str) -> PathBuf {
        self.directory.join("pids").join(process)
    }

    pub fn log(&self, process: &str) -> PathBuf {
        self.directory.join("log").join(format!("{process}.log"))
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("pki/admin.kubeconfig")
    }

    /// What the running cluster was made from.
    pub fn stamp(&self) -> PathBuf {
        self.directory.join("stamp")
    }

    /// The name of its cgroup, which no cluster of another build directory shares.
    pub fn cgroup(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.directory.hash(&mut hasher);
        format!("shoal-{}-{:08x}", self.name, hasher.finish() as u32)
    }

    /// An empty place.
    pub fn lay_out(&self) -> io::Result<()> {
        self.clear()?;
        fs::remove_dir_all(self.directory.join("log")).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        for name in LAYOUT {
            fs::create_dir_all(self.directory.join(name))?;
        }
        Ok(())
    }

    /// Removes everything but the logs, which the next cluster of this name removes.
    pub fn clear(&self) -> io::Result<()> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Ok(()) };
        for entry in entries {
            let path = entry?.path();
            if path.ends_with("log") {
                continue;
            }
            if path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(path)?;
            } else {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// A file to lock, beside the directory: whoever removes the one keeps the other.
    pub fn lock_file(&self, what: &str) -> io::Result<File> {
        fs::create_dir_all(root())?;
        let path = root().join(format!(".{}.{what}", self.name));
        File::options().create(true).truncate(false).write(true).open(path)
    }
}

/// Programs, built by `tests/kube/build.sh`.
pub(crate) fn tools() -> PathBuf {
    root().join("bin")
}

/// A new place for a copy of the kubeconfig of a cluster of the user.
pub(crate) fn named_kubeconfig() -> io::Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    fs::create_dir_all(root())?;
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = root().join(format!(".named.{}.{number}", process::id()));
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        // Left by a process of the same id.
        Ok(()) | Err(_) => Ok(path),
    }
}

/// Names of all clusters that were ever made here.
pub(crate) fn names() -> Vec<String> {
    let Ok(entries) = fs::read_dir(root()) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| Place::new(name).is_ok());
    names.sort();
    names
}

fn root() -> PathBuf {
    build_directory().join("kube")
}

/// The harness as a program, which keeps the volumes: cargo has put it beside this one.
pub(crate) fn harness() -> anyhow::Result<PathBuf> {
    let path = profile_directory().join("shoal-kube");
    ensure!(path.exists(), "run cargo build -p shoal-tests --bin shoal-kube: {path:?} is missing");
    Ok(path)
}
