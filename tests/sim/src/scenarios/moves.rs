//! Moves of shards.

use std::time::Duration;

use shoal_worker::env::{
    random::below,
    sim::{Crash, Place},
};

use super::{Played, THREE, formed, judge, settles};
use crate::{people::Order, world::World};

const HEALS: Duration = Duration::from_secs(15);

/// S11, S12: the target of a move dies at some moment of it. Where the move was not committed the
/// owner still has its state: a shard begins empty only if the process that had it died, or if it
/// was the target's and never opened there.
pub fn target_dies() -> Played {
    const TURNS: usize = 32;
    let (mut world, mut problems) = (formed(THREE), Vec::new());
    let mut deaths: Vec<(Place, Duration)> = Vec::new();
    for turn in 0..TURNS {
        let target: Place = turn % THREE.nodes();
        world.desk.lock().ask(Order::Move(target));
        while world.desk.lock().waits() {
            world.step();
        }
        world.run_for(Duration::from_millis(below(40)));
        deaths.push((target, world.now()));
        world.crash(target, Crash::Process, Duration::from_millis(100 + below(2_000)));
        world.run_for(Duration::from_secs(3));
        settles(&mut world, HEALS, "after the target died", &mut problems);
        world.run_until(HEALS, |world| world.desk.lock().is_idle());
    }
    emptied_with_their_owner(&world, &deaths, &mut problems);
    let moved = world.desk.lock().done.get("moved by hand").copied().unwrap_or_default();
    if moved == 0 || moved == TURNS as u64 {
        problems.push(format!("{moved} of {TURNS} moves came to their end: nothing was tried"));
    }
    judge(&world, &mut problems);
    problems
}

fn emptied_with_their_owner(world: &World, deaths: &[(Place, Duration)], problems: &mut Played) {
    let history = world.history.lock();
    for (at, opened) in history.opened.iter().enumerate().filter(|(_, opened)| opened.empty) {
        let before = history.opened[..at]
            .iter()
            .filter(|last| last.shard == opened.shard && last.epoch < opened.epoch);
        let Some(last) = before.max_by_key(|last| last.epoch) else { continue };
        let died = |(place, when): &(Place, Duration)| {
            *place == last.place && (last.at..=opened.at).contains(when)
        };
        if last.epoch + 1 == opened.epoch && !deaths.iter().any(died) {
            problems.push(format!("{opened:?} began empty, though {last:?} did not die"));
        }
    }
}
