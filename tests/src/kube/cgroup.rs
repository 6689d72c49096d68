//! The cgroups of a cluster: those below which its kubelets put pods, and that of its components.
//! They are the one thing of a cluster that no namespace holds, so they are made and removed by
//! name.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;

use super::process::within;

const ROOT: &str = "/sys/fs/cgroup";
/// Processes of pods have ended by then; the kernel takes a moment to forget them.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a cluster gets of a processor that others want too, in the units of either version:
/// nearly all. Pods ask for little, and what a suite waits for must not starve beside a build.
const CPU: [(&str, &str); 2] = [("cpu.shares", "200000"), ("cpu.weight", "10000")];
/// Of the components.
const SYSTEM: &str = "system";

/// Makes `/<name>` in every hierarchy, and below it one for the components and one for each node.
pub(crate) fn create(name: &str, nodes: &[&str]) -> anyhow::Result<()> {
    for hierarchy in hierarchies()? {
        let whole = hierarchy.join(name);
        for path in [SYSTEM].iter().chain(nodes).map(|child| whole.join(child)) {
            fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
            inherit_cpus(&hierarchy, &whole)?;
            inherit_cpus(&whole, &path)?;
            prefer(&path)?;
        }
        prefer(&whole)?;
    }
    Ok(())
}

fn prefer(path: &Path) -> anyhow::Result<()> {
    for (file, share) in CPU {
        let path = path.join(file);
        if path.exists() {
            fs::write(&path, share).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// Puts a component, and what it will start, where components are.
pub(crate) fn adopt(name: &str, process: i32) -> anyhow::Result<()> {
    for hierarchy in hierarchies()? {
        let path = hierarchy.join(name).join(SYSTEM).join("cgroup.procs");
        // It may have ended at once, which its log says.
        let _ = fs::write(&path, process.to_string());
    }
    Ok(())
}

/// Nothing runs in a cpuset of version 1 that names no processors.
fn inherit_cpus(parent: &Path, child: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let unset = fs::read_to_string(child.join(file)).is_ok_and(|text| text.trim().is_empty());
        if unset && let Ok(inherited) = fs::read(parent.join(file)) {
            fs::write(child.join(file), inherited)?;
        }
    }
    Ok(())
}

/// Removes `/<name>` from every hierarchy. Its processes must have been told to end.
pub(crate) fn remove(name: &str) -> anyhow::Result<()> {
    for hierarchy in hierarchies()? {
        let path = hierarchy.join(name);
        within(PATIENCE, || remove_tree(&path).with_context(|| path.display().to_string()))?;
    }
    Ok(())
}

/// Whether any hierarchy still has `/<name>`.
pub(crate) fn exists(name: &str) -> anyhow::Result<bool> {
    Ok(hierarchies()?.iter().any(|hierarchy| hierarchy.join(name).exists()))
}

/// Processes below `/<name>`.
pub(crate) fn processes(name: &str) -> anyhow::Result<Vec<i32>> {
    Ok(tree(name)?.iter().flat_map(|path| members(path)).collect())
}

/// Processes of the container of this id, below `/<name>`: its main process first.
pub(crate) fn container(name: &str, id: &str) -> anyhow::Result<Vec<i32>> {
    let tree = tree(name)?;
    let path = tree.iter().find(|path| path.ends_with(id));
    Ok(members(path.with_context(|| format!("container {id} has no cgroup"))?))
}

/// `/<name>` and all below it, in the first hierarchy: every one knows all processes.
fn tree(name: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = vec![hierarchies()?.first().context("no cgroups")?.join(name)];
    let mut looked = 0;
    while let Some(path) = found.get(looked) {
        looked += 1;
        // A pod may end while this looks.
        let below = fs::read_dir(path).into_iter().flatten().flatten();
        let below: Vec<_> = below.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        found.extend(below);
    }
    Ok(found)
}

fn members(path: &Path) -> Vec<i32> {
    let list = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    list.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// The one of version 2, or those of version 1 side by side.
fn hierarchies() -> anyhow::Result<Vec<PathBuf>> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root.to_owned()]);
    }
    let entries = fs::read_dir(root).context(ROOT)?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        // Links are second names of controllers that share a hierarchy.
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}
