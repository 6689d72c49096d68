//! A disk that hangs for longer than the lease, and comes back.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use shoal_proto::shoal::admin::v1 as pb;
use shoal_tests::{
    Load,
    faults::{
        preload::Disk,
        scene::{self, Scene},
    },
};

use crate::alone;

/// Ten leases without a slow probe, and room.
const WELL_AGAIN: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(30);

/// What the leader says of a node.
fn row(scene: &Scene, at: usize) -> anyhow::Result<pb::Node> {
    let name = &scene.nodes[at].name;
    let nodes = scene.status()?.nodes;
    nodes.into_iter().find(|node| node.name == *name).with_context(|| format!("no {name}"))
}

/// L6: what the node asks for while its disk hangs it takes back by itself, and not at once.
#[test]
fn l6_a_node_with_a_hung_disk_gives_its_shards_away_and_has_them_back_once_it_is_well() {
    let _alone = alone();
    // The shortest there is: the disk is dead after three of them.
    let mut scene = Scene::with(3, 0, scene::program(), &[("LEASE", "2")]).unwrap();
    let at = (scene.leader().unwrap() + 1) % 3;
    let addresses: Vec<_> = scene.nodes.iter().map(shoal_tests::Node::address).collect();
    let load = Load::start(&addresses);
    scene.controls[at].disk(Disk::Hung).unwrap();
    let given_away = |scene: &mut Scene| {
        let row = row(scene, at)?;
        ensure!(row.drain == "own" && row.shards_owned == 0, "{row:?}");
        Ok(())
    };
    scene.wait("its shards are elsewhere", PATIENCE, given_away).unwrap();
    scene.controls[at].disk(Disk::Well).unwrap();
    let back = |scene: &mut Scene| {
        let row = row(scene, at)?;
        ensure!(row.life == "up" && row.drain == "none" && row.shards_owned > 0, "{row:?}");
        Ok(())
    };
    scene.wait("it has shards again", WELL_AGAIN, back).unwrap();
    let log = scene.nodes[at].log();
    assert!(log.contains("the disk is well again"), "not by a new session: {log}");
    load.end().flawless();
}
