//! Leaders, voters and sessions.

use std::{collections::BTreeMap, time::Duration};

use shoal_worker::env::sim::{self, Crash, Place};

use super::{FIVE, Played, THREE, flawless, formed, judge, settles};
use crate::world::{Shape, World};

const TWO: Shape = Shape { founders: 2, joiners: 0, late: false, shards: 16, keys: 48 };
/// Long enough for all that follows a crash.
const HEALS: Duration = Duration::from_secs(15);

pub fn leader(world: &World) -> Place {
    world.sight.lock().leader().expect("a settled cluster is led")
}

/// Steps for `span` and says of each shard of `shards` how long it did not answer at most.
fn gaps(world: &mut World, span: Duration, shards: &[u32]) -> BTreeMap<u32, Duration> {
    let mut gaps = BTreeMap::new();
    let until = world.now() + span;
    let begun = world.now();
    while world.now() < until {
        world.step();
        let history = world.history.lock();
        for shard in shards {
            let last = history.answered.get(shard).map_or(begun, |at| (*at).max(begun));
            let gap = gaps.entry(*shard).or_insert(Duration::ZERO);
            *gap = (*gap).max(world.now() - last);
        }
    }
    gaps
}

/// L1: the leader is killed, and no other owner goes dark.
pub fn leader_killed() -> Played {
    // A client that sat at the leader needs its ping and another connection.
    const DARK: Duration = Duration::from_millis(2_500);
    let (mut world, mut problems) = (formed(THREE), Vec::new());
    world.run_for(Duration::from_secs(3));
    let leader = leader(&world);
    let owners = world.history.lock().owners();
    let others: Vec<_> =
        owners.iter().filter(|(_, owner)| **owner != leader).map(|(shard, _)| *shard).collect();
    if others.is_empty() {
        problems.push("the leader owns everything".to_owned());
    }
    world.history.lock().avoid(|shard| !others.contains(&shard));
    world.crash(leader, Crash::Process, Duration::from_secs(12));
    for (shard, gap) in gaps(&mut world, Duration::from_secs(10), &others) {
        if gap > DARK {
            problems.push(format!("shard {shard} of another owner did not answer for {gap:?}"));
        }
    }
    let kept = world.history.lock().owners();
    let moved = others.iter().filter(|shard| kept.get(shard) == Some(&leader)).count();
    if moved > 0 {
        problems.push(format!("{moved} shards are owned by who was killed"));
    }
    world.history.lock().avoid(|_| false);
    settles(&mut world, HEALS, "after the kill", &mut problems);
    problems
}

/// Leaders are killed one after the other, and each is followed by another before the time is over
/// for which a voter vouches for one that it no longer hears.
pub fn leaders_killed() -> Played {
    const KILLS: usize = 7;
    /// That time, the shortest wait for an election after it less the age of the last heartbeat.
    const VOUCHED: Duration = Duration::from_millis(600 + 300 - 100);
    let (mut world, mut problems) = (formed(THREE), Vec::new());
    let mut took = Vec::new();
    for _ in 0..KILLS {
        world.run_for(Duration::from_secs(2));
        let (old, killed) = (leader(&world), world.now());
        world.crash(old, Crash::Process, Duration::from_secs(2));
        if !world.run_until(HEALS, |world| world.sight.lock().leader() != Some(old)) {
            problems.push("nobody leads".to_owned());
        }
        took.push(world.now() - killed);
        settles(&mut world, HEALS, "after a kill", &mut problems);
    }
    took.sort();
    if took[KILLS / 2] > VOUCHED {
        problems.push(format!("another leads only after {took:?}"));
    }
    problems
}

/// L2: of two nodes the one that does not lead dies, and the other takes all.
pub fn two_nodes_one_dies() -> Played {
    let (mut world, mut problems) = (formed(TWO), Vec::new());
    world.run_for(Duration::from_secs(3));
    let dies = 1 - leader(&world);
    let owned = world.history.lock().owners().len();
    world.crash(dies, Crash::Power, Duration::from_secs(20));
    let since = world.now() + Duration::from_secs(1);
    let all = move |world: &World| {
        let history = world.history.lock();
        let owners = history.owners();
        owners.len() == owned
            && owners.values().all(|owner| *owner != dies)
            && history.answered.values().all(|at| *at > since)
    };
    if !world.run_until(HEALS, all) {
        problems.push(format!("not all taken over: {:?}", world.history.lock().owners()));
    }
    world.run_for(Duration::from_secs(20));
    settles(&mut world, HEALS, "after the reboot", &mut problems);
    problems
}

/// L6: a disk stalls for 1.6 s, the leader's as well as another's, and nothing changes.
pub fn slow_disk() -> Played {
    const STALL: Duration = Duration::from_millis(1_600);
    let (mut world, mut problems) = (formed(THREE), Vec::new());
    for place in 0..THREE.nodes() {
        sim::storage(place, |disk| disk.slowness = STALL);
        world.run_for(STALL);
        sim::storage(place, |disk| disk.slowness = Duration::ZERO);
        world.run_for(Duration::from_secs(6));
    }
    settles(&mut world, HEALS, "after the stalls", &mut problems);
    flawless(&world, &mut problems);
    problems
}

/// Five nodes of which each reaches its two neighbours alone, for longer than a lease: whoever leads has
/// a bare majority, and nobody has two owners.
pub fn ring() -> Played {
    const TURNS: usize = 3;
    const CUT: Duration = Duration::from_secs(12);
    let (mut world, mut problems) = (formed(FIVE), Vec::new());
    let count = FIVE.nodes();
    let neighbours = |one: Place, two: Place| (one + 1) % count == two || (two + 1) % count == one;
    for turn in 0..TURNS {
        world.run_for(Duration::from_secs(2));
        let before = world.history.lock().acknowledged;
        sim::wires(|wires, _| {
            for from in 0..count {
                let apart = (0..count).filter(|to| *to != from && !neighbours(from, *to));
                apart.for_each(|to| wires.cut(from, to));
            }
        });
        world.run_for(CUT);
        if world.history.lock().acknowledged == before {
            problems.push(format!("turn {turn}: nothing was acknowledged in the ring"));
        }
        sim::wires(|wires, now| wires.mend_all(now));
        settles(&mut world, HEALS, "after the ring", &mut problems);
    }
    judge(&world, &mut problems);
    problems
}

/// L7: everybody is told to stop at once: nobody takes the shards of another, and each process ends
/// well and soon.
pub fn everybody_told_to_stop() -> Played {
    const WITHIN: Duration = Duration::from_secs(20);
    let (mut world, mut problems) = (formed(THREE), Vec::new());
    world.run_for(Duration::from_secs(2));
    let opened = world.history.lock().opened.len();
    let places = world.begun();
    for place in &places {
        world.stop(*place);
    }
    let mut left = places.clone();
    let until = world.now() + WITHIN;
    while !left.is_empty() && world.now() < until {
        world.step();
        left.retain(|place| world.nodes[*place].is_running());
        // None comes back before all have gone.
        for place in places.iter().filter(|place| !left.contains(place)) {
            world.back_at[*place] = Some(world.now() + Duration::from_millis(500));
        }
    }
    if !left.is_empty() {
        problems.push(format!("machines {left:?} still run"));
    }
    problems.extend(world.ends.iter().map(|end| format!("ended badly: {end}")));
    let taken = world.history.lock().opened.len() - opened;
    if taken > 0 {
        problems.push(format!("{taken} shards were opened by others meanwhile"));
    }
    settles(&mut world, HEALS, "after the start", &mut problems);
    problems
}

/// L8: of three voters one crashes for long, and three vote again.
pub fn one_of_three_crashes() -> Played {
    // A minute of silence, and ten seconds of health.
    const WITHIN: Duration = Duration::from_secs(90);
    let (mut world, mut problems) = (formed(THREE), Vec::new());
    world.run_for(Duration::from_secs(5));
    let row = |world: &World, place| world.sight.lock().row(place).map(|row| row.id);
    let votes = |world: &World, place| {
        let id = row(world, place);
        let sight = world.sight.lock();
        sight.latest().zip(id).is_some_and(|(seen, id)| seen.voters.contains(&id))
    };
    let place = (0..THREE.nodes()).find(|at| *at != leader(&world) && votes(&world, *at));
    let Some(place) = place else { return vec!["the leader votes alone".to_owned()] };
    let id = row(&world, place);
    world.crash(place, Crash::Power, Duration::from_secs(120));
    let replaced = |world: &World| {
        let sight = world.sight.lock();
        let gone = |seen: &_| id.is_some_and(|id| !voters(seen).contains(&id));
        sight.latest().is_some_and(|seen| voters(seen).len() == 3 && gone(seen))
    };
    if !world.run_until(WITHIN, replaced) {
        problems.push(format!("no three voters within {WITHIN:?}"));
    }
    problems
}

fn voters(seen: &shoal_proto::shoal::admin::v1::StatusResponse) -> &[u64] {
    &seen.voters
}
