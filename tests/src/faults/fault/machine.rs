//! Faults of a node's disk and clocks, through the library that is loaded into it.

use std::time::Duration;

use anyhow::ensure;

use super::{
    super::{
        kind::Kind,
        preload::{Clock, Disk, Met},
        scene::Scene,
    },
    Fault, Held,
};

/// What a sync takes on a slow disk.
const SLOW: Duration = Duration::from_millis(300);
/// What a suspend takes.
const SUSPENDED_NS: i64 = 30_000_000_000;
const HOUR_NS: i64 = 3_600_000_000_000;
/// The most by which chrony slews, and by which oscillators of two machines differ: in
/// millionths.
const SLEW: i64 = 83_333;
const DRIFT: i64 = 200;
/// Exit code of a node whose Raft or disk has failed.
const EXIT_DISK: i32 = 70;

fn disk(kind: Kind) -> Option<Disk> {
    match kind {
        Kind::SlowDisk => Some(Disk::Slow(SLOW)),
        Kind::HungSync => Some(Disk::Hung),
        Kind::FailingSync => Some(Disk::Failing),
        Kind::FullDisk => Some(Disk::Full),
        _ => None,
    }
}

/// What the library counts for this kind.
fn counted(kind: Kind) -> Met {
    match kind {
        Kind::SlowDisk | Kind::HungSync | Kind::FailingSync => Met::Syncs,
        Kind::FullDisk => Met::Writes,
        _ => Met::Clocks,
    }
}

pub fn inject(fault: Fault, scene: &Scene, held: &mut Held) -> anyhow::Result<()> {
    let control = &scene.controls[fault.node];
    held.before = control.met(counted(fault.kind))?;
    if let Some(disk) = disk(fault.kind) {
        return control.disk(disk);
    }
    match fault.kind {
        Kind::ClockRate => {
            for (at, sign) in [(fault.node, 1), (fault.other, -1)] {
                scene.controls[at].rate(Clock::Boot, sign * SLEW)?;
                scene.controls[at].rate(Clock::Raw, sign * DRIFT)?;
            }
            Ok(())
        }
        Kind::WallClock => control.jump(Clock::Wall, HOUR_NS),
        _ => control.jump(Clock::Boot, SUSPENDED_NS),
    }
}

pub fn met(fault: Fault, scene: &mut Scene, held: &mut Held) -> anyhow::Result<String> {
    let met = scene.controls[fault.node].met(counted(fault.kind))? - held.before;
    ensure!(met > 0, "the node met it in no call");
    if matches!(fault.kind, Kind::FailingSync | Kind::FullDisk) {
        let node = &mut scene.nodes[fault.node];
        if let Some(code) = node.has_ended() {
            ensure!(code == Some(EXIT_DISK), "{} ended with {code:?}", node.name);
            held.told = format!(", and the process ended with code {EXIT_DISK}");
        }
        ensure!(!node.runs(), "{} still runs", node.name);
    }
    Ok(format!("{met} calls met it{}", held.told))
}

pub fn heal(fault: Fault, scene: &mut Scene) -> anyhow::Result<()> {
    let control = &scene.controls[fault.node];
    match fault.kind {
        Kind::ClockRate => {
            for at in [fault.node, fault.other] {
                scene.controls[at].rate(Clock::Boot, 0)?;
                scene.controls[at].rate(Clock::Raw, 0)?;
            }
        }
        Kind::WallClock => control.jump(Clock::Wall, -HOUR_NS)?,
        // What a clock has jumped it keeps: it never goes back.
        Kind::ClockJump => {}
        _ => control.disk(Disk::Well)?,
    }
    if scene.nodes[fault.node].runs() { Ok(()) } else { scene.start(fault.node) }
}
