//! Every kind of fault once, on real processes under load: it must have met its node, break no
//! rule, and heal within a bound. Each line that is printed holds the longest time in which a key
//! did not answer. Needs root.
// Everything here is a test, outside of the product.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod container;
mod disk;
mod soak;
mod volume;

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use shoal_tests::faults::{Kind, Plan, Run, scene, store::Fenced};

/// Chooses nodes; the same in every run.
const SEED: u64 = 1;

/// Each scene has three nodes and a hundred clients: two at a time would starve each other on a
/// small machine, and their figures would be those of the other one's load.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn plan() -> Plan {
    Plan::new(&scene::program(), SEED)
}

/// Plays these faults one after another, and judges all that clients saw.
fn play(plan: &Plan, kinds: &[Kind]) {
    let mut run = Run::start(plan).unwrap();
    let mut wrong = Vec::new();
    for kind in kinds {
        let episode = run.play(*kind).unwrap();
        println!("{episode}");
        if !episode.flawless() {
            wrong.push(episode.to_string());
        }
    }
    run.end().unwrap();
    println!("         {}", run.judge.tally);
    assert_eq!(run.judge.violations(), 0, "{}", run.judge.told());
    assert!(wrong.is_empty(), "{}; calls that failed: {:?}", wrong.join("\n"), run.told);
    assert!(run.judge.tally.acknowledged > 0, "nothing was called");
}

#[test]
fn killed_nodes() {
    let _alone = alone();
    play(&plan(), &[Kind::Kill, Kind::KillLeader]);
}

#[test]
fn stopped_processes() {
    let _alone = alone();
    play(&plan(), &[Kind::PauseShort, Kind::PauseLong, Kind::PauseLeader]);
}

#[test]
fn nodes_that_are_cut_off() {
    let _alone = alone();
    play(&plan(), &[Kind::Isolate, Kind::CutPeers, Kind::CutLeader, Kind::CutClients]);
}

#[test]
fn cuts_one_way_and_between_two() {
    let _alone = alone();
    play(&plan(), &[Kind::CutIn, Kind::CutOut, Kind::CutPair]);
}

#[test]
fn slow_and_lossy_links() {
    let _alone = alone();
    play(&plan(), &[Kind::SlowLink, Kind::LossyLink]);
}

#[test]
fn slow_hung_failing_and_full_disks() {
    let _alone = alone();
    play(&plan(), &[Kind::SlowDisk, Kind::FailingSync, Kind::FullDisk, Kind::HungSync]);
}

#[test]
fn clocks_that_jump_and_run_apart() {
    let _alone = alone();
    play(&plan(), &[Kind::ClockJump, Kind::ClockRate, Kind::WallClock]);
}

#[test]
fn a_flood_of_calls_at_a_memory_limit() {
    let _alone = alone();
    play(&plan(), &[Kind::Overload, Kind::OverloadLarge, Kind::OverloadAnswers]);
}

#[test]
fn clients_that_mean_no_good() {
    let _alone = alone();
    let kinds = [
        Kind::SlowClients,
        Kind::RapidReset,
        Kind::SettingsFlood,
        Kind::PingFlood,
        Kind::HugeHeaders,
        Kind::ZeroWindow,
    ];
    play(&plan(), &kinds);
}

#[test]
fn planned_changes_fail_no_call_and_lose_nothing() {
    let _alone = alone();
    let plan = Plan { planned: true, spare: 1, ..plan() };
    play(&plan, &[Kind::Restart, Kind::Drain, Kind::JoinRemove]);
}

#[test]
fn rolls_to_the_next_version_and_back_fail_no_call_and_lose_nothing() {
    let _alone = alone();
    let plan = Plan { planned: true, next: scene::next(), ..plan() };
    play(&plan, &[Kind::Versions]);
}

/// The host of `shoal-stored` writes to a store before it acknowledges and reads from memory: all
/// epochs of a key are one history of one cell.
#[test]
fn with_a_host_that_writes_to_a_fenced_store_a_failover_loses_nothing_either() {
    let _alone = alone();
    let stored = Path::new(env!("CARGO_BIN_EXE_shoal-stored"));
    let mut run = Run::start(&Plan { stored: true, ..Plan::new(stored, SEED) }).unwrap();
    for kind in [Kind::KillLeader, Kind::PauseLong, Kind::CutPeers, Kind::Isolate, Kind::Drain] {
        println!("{}", run.play(kind).unwrap());
    }
    run.end().unwrap();
    let (written, refused) = run.store.as_ref().unwrap().told();
    println!("         {}; store: {written} writes, {refused} refused", run.judge.tally);
    assert_eq!(run.judge.violations(), 0, "{}", run.judge.told());
    assert!(run.episodes.iter().all(shoal_tests::faults::Episode::flawless));
    assert!(written > 0 && run.judge.tally.acknowledged > 0, "nothing was called");
}

#[test]
fn a_store_that_compares_tokens_takes_no_stale_write() {
    let _alone = alone();
    let mut run = Run::start(&plan()).unwrap();
    let fenced = Fenced::start(&run.scene).unwrap();
    for kind in [Kind::PauseLong, Kind::ClockRate] {
        println!("{}", run.play(kind).unwrap());
    }
    println!("         {}", fenced.end().unwrap());
    run.end().unwrap();
    assert_eq!(run.judge.violations(), 0, "{}", run.judge.told());
    assert!(run.episodes.iter().all(shoal_tests::faults::Episode::flawless));
}
