//! Executions that seeds have found, played on purpose: what a seed means changes with the code.

mod founding;
mod leaders;
mod moves;
mod sessions;

use std::time::Duration;

use shoal_worker::env::{
    random,
    sim::{self, Crash, Place},
};

use crate::world::{Shape, World};

const FIVE: Shape = Shape { founders: 5, joiners: 0, late: false, shards: 16, keys: 48 };
const THREE: Shape = Shape { founders: 3, joiners: 1, late: false, shards: 16, keys: 48 };
const FORMS: Duration = Duration::from_secs(20);

/// A played execution: problems, one line each.
type Played = Vec<String>;

/// By name.
type Scenario = (&'static str, fn() -> Played);

pub const ALL: [Scenario; 16] = [
    ("stopped-while-starting", stopped_while_starting),
    ("rebooted", rebooted),
    ("power-cycle-and-a-lost-disk", power_cycle_and_a_lost_disk),
    ("slewed-clocks-at-founding", slewed_clocks_at_founding),
    ("founder-loses-its-disk", founding::founder_loses_its_disk),
    ("leader-killed", leaders::leader_killed),
    ("two-nodes-one-dies", leaders::two_nodes_one_dies),
    ("slow-disk", leaders::slow_disk),
    ("ring", leaders::ring),
    ("leaders-killed", leaders::leaders_killed),
    ("everybody-told-to-stop", leaders::everybody_told_to_stop),
    ("one-of-three-crashes", leaders::one_of_three_crashes),
    ("target-dies", moves::target_dies),
    ("election-gap", sessions::election_gap),
    ("lease-lowered-unheard", sessions::lease_lowered_unheard),
    ("marked-while-it-lags", sessions::marked_while_it_lags),
];

pub fn play(name: &str, seed: u64) -> Played {
    random::seed(seed);
    match ALL.iter().find(|(known, _)| *known == name) {
        Some((_, scenario)) => scenario(),
        None => vec![format!("no scenario {name:?}; there are {:?}", ALL.map(|(name, _)| name))],
    }
}

fn formed(shape: Shape) -> World {
    let mut world = World::new(shape);
    assert!(world.run_until(FORMS, |world| world.sight.lock().settled()), "it forms");
    world
}

fn settles(world: &mut World, within: Duration, what: &str, problems: &mut Played) {
    if !world.run_until(within, |world| world.sight.lock().settled()) {
        problems.push(format!("not settled within {within:?} {what}"));
    }
}

/// What nothing may do.
fn judge(world: &World, problems: &mut Played) {
    let history = &mut *world.history.lock();
    history.judge();
    problems.append(&mut history.violations);
    if history.acknowledged == 0 {
        problems.push("nothing was acknowledged".to_owned());
    }
}

/// What no planned change may do.
fn flawless(world: &World, problems: &mut Played) {
    judge(world, problems);
    let history = world.history.lock();
    problems.extend(history.failed().iter().take(3).map(|op| format!("failed: {op:?}")));
    if history.emptied() > 0 {
        problems.push(format!("{} shards lost their state", history.emptied()));
    }
}

/// A process is told to stop at any moment of its start: while it registers, and while it is
/// given its first shards.
fn stopped_while_starting() -> Played {
    const TURNS: u64 = 32;
    // Closer together while Raft and the session begin.
    let delay = |turn: u64| if turn < 12 { 2 * turn } else { 15 * (turn - 10) };
    let (mut world, mut problems) = (formed(THREE), Vec::new());
    let place: Place = 3;
    for turn in 0..TURNS {
        world.stop(place);
        let gone = |world: &World| !world.nodes[place].is_running();
        if !world.run_until(Duration::from_secs(20), gone) {
            problems.push(format!("turn {turn}: it does not end"));
        }
        world.back_at[place] = Some(world.now() + Duration::from_millis(100));
        let started = |world: &World| world.nodes[place].is_running();
        world.run_until(Duration::from_secs(1), started);
        world.run_for(Duration::from_millis(delay(turn)));
    }
    settles(&mut world, Duration::from_secs(15), "after the last stop", &mut problems);
    flawless(&world, &mut problems);
    problems
}

/// One of five machines loses power: its node is back one look at the others after its start,
/// not one look at each of them.
fn rebooted() -> Played {
    let (mut world, mut problems) = (formed(FIVE), Vec::new());
    world.crash(2, Crash::Power, Duration::from_millis(500));
    world.run_for(Duration::from_millis(600));
    settles(&mut world, Duration::from_secs(7), "after the reboot", &mut problems);
    problems
}

/// All lose power and one its disk as well: shards do not wait for an id that is gone.
fn power_cycle_and_a_lost_disk() -> Played {
    let (mut world, mut problems) = (formed(THREE), Vec::new());
    for place in 0..world.nodes.len() {
        world.crash(place, Crash::Power, Duration::from_millis(1_000 + 400 * place as u64));
    }
    sim::storage(3, sim::Storage::wipe);
    world.run_for(Duration::from_secs(3));
    settles(&mut world, Duration::from_secs(15), "after the power cycle", &mut problems);
    problems
}

/// A machine whose one clock runs 8 % behind founds and joins without a loop that takes no time.
fn slewed_clocks_at_founding() -> Played {
    for place in 0..THREE.nodes() {
        sim::clocks(place, |clocks, now| clocks.set_rates(now, 0.92 + 0.04 * place as f64, 1.0));
    }
    let (world, mut problems) = (formed(THREE), Vec::new());
    if world.history.lock().failed().len() > 1 {
        problems.push("calls failed".to_owned());
    }
    problems
}
