//! A memory limit around one node: it starts inside, as in a pod that has one.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// Where groups of either version are made.
fn root() -> (PathBuf, bool) {
    let unified = Path::new("/sys/fs/cgroup");
    let second = unified.join("cgroup.controllers").exists();
    (if second { unified.to_owned() } else { unified.join("memory") }, second)
}

/// What it holds together, also after its process was started again, until `release`.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// How often the kernel ended a process for lack of memory is told here.
    kills: PathBuf,
}

impl Cgroup {
    pub fn new(name: &str, limit: u64) -> anyhow::Result<Self> {
        let (root, second) = root();
        let path = root.join(format!("shoal-faults-{}-{name}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("{}: run this as root", path.display()))?;
        let (file, kills) = if second {
            ("memory.max", "memory.events")
        } else {
            ("memory.limit_in_bytes", "memory.oom_control")
        };
        let cgroup = Self { kills: path.join(kills), path };
        fs::write(cgroup.path.join(file), limit.to_string())
            .with_context(|| cgroup.path.display().to_string())?;
        Ok(cgroup)
    }

    /// A program that enters the group and then becomes `program`.
    pub fn entrance(&self, program: &Path, script: &Path) -> anyhow::Result<PathBuf> {
        let (procs, program) = (self.path.join("cgroup.procs"), program.display());
        let procs = procs.display();
        fs::write(script, format!("#!/bin/sh\necho $$ >{procs} && exec {program} \"$@\"\n"))?;
        fs::set_permissions(script, fs::Permissions::from_mode(0o755))?;
        Ok(script.to_owned())
    }

    /// Processes that the kernel ended here.
    pub fn kills(&self) -> anyhow::Result<u64> {
        let told = fs::read_to_string(&self.kills)?;
        let count = told.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
        Ok(count.unwrap_or(0))
    }

    /// Lets the process go on without a limit.
    pub fn release(self, pid: u32) -> anyhow::Result<()> {
        fs::write(root().0.join("cgroup.procs"), pid.to_string())?;
        // What it has allocated is still counted here, in version 1 until it is moved up.
        fs::remove_dir(&self.path).with_context(|| self.path.display().to_string())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // After a failure its process still ends first, with the scene; an empty one is no harm.
        let _ = fs::remove_dir(&self.path);
    }
}

/// Bytes of a process in memory at most, since it started or `forget_peak`.
pub fn peak(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.context("no such field of a process")? << 10)
}

pub fn forget_peak(pid: u32) -> anyhow::Result<()> {
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}
