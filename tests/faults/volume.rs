//! Data directories on small volumes, which nobody sees but the nodes of one test: they are mounted
//! in a namespace of its thread, and are gone with it however it ends.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    time::Duration,
};

use rustix::{
    fs::statvfs,
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::UnshareFlags,
};
use shoal_proto::shoal::admin::v1::ConfigureRequest;
use shoal_tests::{
    Load,
    faults::scene::{self, Scene},
};

use crate::alone;

/// Of 16 MiB, of which others than the log take so much that a sixth is left.
const SIZE: &std::ffi::CStr = c"size=16m";
const OTHERS_PERCENT: u64 = 84;
/// Entries between two looks.
const ENTRIES: u32 = 200;
const AT_A_TIME: u32 = 20;
/// A cut drops more than that: its entries are worth a snapshot.
const WORTH: u64 = 500;
const PATIENCE: Duration = Duration::from_secs(180);
const AGAIN: Duration = Duration::from_secs(60);

#[allow(unsafe_code)] // the only way to mount what no other process sees
fn own_mounts() {
    // SAFETY: of what threads share it takes the working directory apart, which no test changes.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.expect("this needs root");
    let apart = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    mount_change("/", apart).expect("mounts can be made private");
}

fn used_percent(volume: &Path) -> u64 {
    let seen = statvfs(volume).expect("it is mounted");
    (seen.f_blocks - seen.f_bfree) * 100 / seen.f_blocks
}

fn fill(volume: &Path) {
    let mut others = File::create(volume.join("others")).unwrap();
    while used_percent(volume) < OTHERS_PERCENT {
        others.write_all(&[1; 64 << 10]).unwrap();
    }
}

/// So many changes of the registry, some at a time.
fn change(scene: &Scene) -> anyhow::Result<()> {
    let leader = scene.leader()?;
    for _ in 0..ENTRIES / AT_A_TIME {
        scene.ask(leader, |admin| async move {
            let changes = (0..AT_A_TIME).map(|more| {
                let cooldown_ms = Some(60_000 + more);
                let request = ConfigureRequest { cooldown_ms, ..ConfigureRequest::default() };
                let mut admin = admin.clone();
                async move { admin.configure(request).await }
            });
            futures::future::try_join_all(changes).await
        })?;
    }
    Ok(())
}

/// L12: what the registry is told fills a small volume, unless the log is cut.
#[test]
fn l12_a_log_on_a_small_volume_is_cut_before_it_fills_it() {
    let _alone = alone();
    own_mounts();
    let mut scene = Scene::prepared(3, 0, scene::program()).unwrap();
    let volumes: Vec<_> = scene.nodes.iter().map(shoal_tests::Node::data).collect();
    for volume in &volumes {
        fs::create_dir_all(volume).unwrap();
        mount("tmpfs", volume, "tmpfs", MountFlags::empty(), SIZE).unwrap();
    }
    scene.begin().unwrap();
    volumes.iter().for_each(|volume| fill(volume));
    let addresses: Vec<_> = scene.nodes.iter().map(shoal_tests::Node::address).collect();
    let load = Load::start(&addresses);
    let first = |scene: &Scene, at: usize| {
        let node = &scene.nodes[at];
        // In this order: between the two looks the log only grows.
        let entries = node.figure("shoal_raft_log_entries");
        node.figure("shoal_raft_last_log_index") + 1 - entries
    };
    let mut cuts = vec![Vec::new(); scene.nodes.len()];
    let cut = |scene: &mut Scene| {
        change(scene)?;
        for (at, cuts) in cuts.iter_mut().enumerate() {
            let first = first(scene, at);
            if first > cuts.last().unwrap_or(&0) + WORTH {
                cuts.push(first);
            }
        }
        let used: Vec<_> = volumes.iter().map(|volume| used_percent(volume)).collect();
        println!("         logs were cut to {cuts:?}, volumes are filled to {used:?} %");
        anyhow::ensure!(cuts.iter().all(|cuts| cuts.len() > 1), "logs were cut to {cuts:?}");
        Ok(())
    };
    scene.wait("every log was cut more than once", PATIENCE, cut).unwrap();
    load.end().flawless();
    scene.wait("nobody ended", AGAIN, Scene::whole).unwrap();
    // What is left of the log and the snapshot are enough to begin again.
    for at in 0..3 {
        scene.nodes[at].kill();
        scene.start(at).unwrap();
        scene.wait("it is back", AGAIN, Scene::whole).unwrap();
    }
}
