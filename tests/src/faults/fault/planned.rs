//! Changes in good order: no call may fail, and nothing acknowledged may be lost.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use super::{super::scene::Scene, Held, Means};

/// Until a node that came back serves among the others.
const SETTLES: Duration = Duration::from_secs(60);

pub fn restart(scene: &mut Scene, at: usize, held: &mut Held) -> anyhow::Result<()> {
    let before = scene.nodes[at].pid();
    scene.leave(at)?;
    scene.start(at)?;
    settled(scene)?;
    let after = scene.nodes[at].pid();
    ensure!(before != after, "{} is the same process", scene.nodes[at].name);
    held.told = format!("process {before} was replaced by {after}");
    Ok(())
}

pub fn drain(scene: &mut Scene, at: usize, through: usize, held: &mut Held) -> anyhow::Result<()> {
    let name = scene.nodes[at].name.clone();
    asked(scene, through, &["drain", &name])?;
    let status = scene.status()?;
    let row = status.nodes.iter().find(|node| node.name == name).context("the drained node")?;
    ensure!(row.shards_owned == 0, "{name} still owns {} shards", row.shards_owned);
    held.told = format!("{name} owned nothing");
    asked(scene, through, &["drain", &name, "--cancel"])?;
    settled(scene)
}

/// The first node that is no member joins, and is removed for good.
pub fn join_and_remove(scene: &mut Scene, through: usize, held: &mut Held) -> anyhow::Result<()> {
    let spare = (0..scene.nodes.len()).find(|at| !scene.members.contains(at));
    let spare = spare.context("this scene has no node to spare")?;
    scene.start(spare)?;
    scene.members.push(spare);
    let name = scene.nodes[spare].name.clone();
    scene.wait("the new node serves", SETTLES, |scene| {
        scene.whole()?;
        let status = scene.status()?;
        let row = status.nodes.iter().find(|node| node.name == name).context("no such node")?;
        ensure!(row.shards_owned > 0, "it owns nothing");
        held.told = format!("{name} owned {} shards", row.shards_owned);
        Ok(())
    })?;
    asked(scene, through, &["drain", &name, "--remove"])?;
    scene.members.retain(|at| *at != spare);
    scene.leave(spare)?;
    fs::remove_dir_all(scene.nodes[spare].data())?;
    settled(scene)
}

/// In any order up, and in any order back.
pub fn versions(
    scene: &mut Scene,
    means: &Means,
    seed: u64,
    held: &mut Held,
) -> anyhow::Result<()> {
    let next = means.next.as_deref().context(
        "there is no next version: build it with tests/faults/next.sh, or name it with SHOAL_NEXT",
    )?;
    let now = scene.program().to_owned();
    let mut chance = StdRng::seed_from_u64(seed);
    let mut orders = Vec::new();
    for program in [next, &now] {
        let mut order = scene.members.clone();
        order.shuffle(&mut chance);
        roll(scene, &order, program)?;
        orders.push(format!("{order:?} to {}", version(scene)?));
    }
    held.told = format!("rolled {}", orders.join(", "));
    Ok(())
}

fn roll(scene: &mut Scene, order: &[usize], program: &Path) -> anyhow::Result<()> {
    for &at in order {
        scene.leave(at)?;
        scene.becomes(at, program);
        scene.start(at)?;
        settled(scene)?;
    }
    Ok(())
}

/// The one version that all nodes run.
fn version(scene: &Scene) -> anyhow::Result<String> {
    let versions = scene.members.iter().map(|at| Ok(scene.status_of(*at)?.version));
    let mut versions = versions.collect::<anyhow::Result<Vec<_>>>()?;
    versions.dedup();
    ensure!(versions.len() == 1, "nodes run the versions {versions:?}");
    Ok(versions.remove(0))
}

/// A command that asks its caller to try again is tried again.
fn asked(scene: &mut Scene, through: usize, arguments: &[&str]) -> anyhow::Result<()> {
    scene.wait("the command", SETTLES, |scene| scene.shoal(through, arguments).map(|_| ()))
}

fn settled(scene: &mut Scene) -> anyhow::Result<()> {
    scene.wait("the cluster is whole", SETTLES, Scene::whole)
}
