//! Faults of processes: killed and stopped.

use std::fs;

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

use super::{super::scene::Scene, Held};

pub fn kill(scene: &mut Scene, at: usize, held: &mut Held) -> anyhow::Result<()> {
    let node = &mut scene.nodes[at];
    let pid = node.pid();
    node.kill();
    held.told = format!("process {pid} was reaped");
    Ok(())
}

pub fn pause(scene: &Scene, at: usize) -> anyhow::Result<()> {
    scene.nodes[at].signal(Signal::STOP);
    Ok(())
}

/// The kernel says that it is stopped.
pub fn paused(scene: &Scene, at: usize) -> anyhow::Result<String> {
    let pid = scene.nodes[at].pid();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("the state of a process")?;
    ensure!(fields.starts_with('T'), "process {pid} is not stopped: {fields}");
    Ok(format!("process {pid} is stopped"))
}

pub fn go_on(scene: &Scene, at: usize) -> anyhow::Result<()> {
    scene.nodes[at].signal(Signal::CONT);
    Ok(())
}
