//! While a cluster is founded.

use std::{collections::BTreeSet, time::Duration};

use shoal_worker::env::{
    random::below,
    sim::{self, Crash},
};

use super::{FORMS, Played, THREE, judge};
use crate::world::World;

/// A founder loses its disk at some moment of the founding, and a link between the other two takes
/// nothing for a while: one cluster forms, and no second one.
pub fn founder_loses_its_disk() -> Played {
    const WITHIN: Duration = Duration::from_secs(45);
    let (mut world, mut problems) = (World::new(THREE), Vec::new());
    let founder = below(3) as usize;
    let (one, two) = ((founder + 1) % 3, (founder + 2) % 3);
    world.run_for(Duration::from_millis(200 + below(4_000)));
    let cut = below(2) == 0;
    if cut {
        sim::wires(|wires, _| {
            wires.cut(one, two);
            wires.cut(two, one);
        });
    }
    world.crash(founder, Crash::Power, Duration::from_millis(100 + below(3_000)));
    sim::storage(founder, sim::Storage::wipe);
    world.run_for(Duration::from_millis(below(6_000)));
    sim::wires(|wires, now| wires.mend_all(now));
    if !world.run_until(WITHIN, |world| world.sight.lock().settled()) {
        problems.push(format!("not formed within {WITHIN:?}; ends {:?}", world.ends));
    }
    world.run_for(FORMS);
    let ids: BTreeSet<_> = world.sight.lock().clusters();
    if ids.len() != 1 {
        problems.push(format!("clusters {ids:?}"));
    }
    judge(&world, &mut problems);
    problems
}
