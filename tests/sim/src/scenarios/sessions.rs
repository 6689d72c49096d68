//! Sessions and rights: while nobody leads, under another lease, and of nodes that are to go.

use std::time::Duration;

use shoal_worker::env::{
    random::below,
    sim::{self, Place},
};

use super::{Played, THREE, formed, judge, leaders::leader, settles};
use crate::{people::Order, world::World};

const HEALS: Duration = Duration::from_secs(20);

/// The process that has a machine's session, by its incarnation.
fn incarnation(world: &World, place: Place) -> Option<String> {
    world.sight.lock().row(place).map(|row| row.incarnation.clone())
}

/// Machines but this one.
fn others(world: &World, place: Place) -> Vec<Place> {
    (0..world.nodes.len()).filter(|other| *other != place).collect()
}

/// Asks for something and steps until it was carried out.
fn ask(world: &mut World, order: Order, problems: &mut Played) {
    world.desk.lock().ask(order);
    if !world.run_until(HEALS, |world| world.desk.lock().is_idle()) {
        problems.push(format!("{order:?} was not carried out"));
    }
}

/// L3: nobody hears another for three seconds, and then somebody else is elected: whoever leads then
/// fences nobody, also where it hears one node later than the others.
pub fn election_gap() -> Played {
    const GAP: Duration = Duration::from_secs(3);
    const LATE: Duration = Duration::from_millis(150);
    let (mut world, mut problems) = (formed(THREE), Vec::new());
    world.run_for(Duration::from_millis(3_000 + below(1_000)));
    let all: Vec<_> = (0..world.nodes.len()).collect();
    let before: Vec<_> = all.iter().map(|place| incarnation(&world, *place)).collect();
    let term = |world: &World| world.sight.lock().latest().map_or(0, |seen| seen.term);
    let (led, leader) = (term(&world), leader(&world));
    sim::wires(|wires, _| {
        for from in &all {
            others(&world, *from).into_iter().for_each(|to| wires.cut(*from, to));
        }
    });
    world.run_for(GAP);
    // The former leader last, or it would lead on.
    sim::wires(|wires, now| {
        for from in others(&world, leader) {
            others(&world, from).into_iter().for_each(|to| wires.mend(from, to, now));
        }
    });
    let elected = |world: &World| term(world) > led;
    if !world.run_until(HEALS, elected) {
        problems.push("nobody was elected".to_owned());
    }
    // It does not vote, so that no election waits for it.
    let late = THREE.founders;
    sim::wires(|wires, now| {
        wires.mend_all(now);
        for other in others(&world, late) {
            wires.slow(other, late, LATE);
            wires.slow(late, other, LATE);
        }
    });
    // Whoever is to be fenced is by then.
    world.run_for(Duration::from_secs(6));
    for (place, before) in all.iter().zip(before) {
        let now = incarnation(&world, *place);
        if before.is_none() || now != before {
            problems.push(format!("machine {place} was {before:?} and is {now:?}"));
        }
    }
    sim::wires(|wires, _| wires.quicken());
    settles(&mut world, HEALS, "after the gap", &mut problems);
    if world.history.lock().emptied() > 0 {
        problems.push("a shard lost its state".to_owned());
    }
    judge(&world, &mut problems);
    problems
}

/// S9: the lease is lowered from 10 s to 3 s while one owner is told nothing any more; what it says
/// is heard a little longer. Its right lasts as long as it was given, and so does its session.
pub fn lease_lowered_unheard() -> Played {
    const TURNS: usize = 6;
    let (mut world, mut problems) = (formed(THREE), Vec::new());
    let mut taken = 0;
    for turn in 0..TURNS {
        ask(&mut world, Order::LeaseOf(10_000), &mut problems);
        // Every right is one under the longer lease.
        world.run_for(Duration::from_millis(6_000 + below(2_000)));
        let leader = leader(&world);
        let deaf = others(&world, leader)[turn % (THREE.nodes() - 1)];
        let rest = others(&world, deaf);
        // Clients that enter at the deaf one ask for nothing that it would have to ask others for.
        let owners = world.history.lock().owners();
        world.history.lock().avoid(|shard| owners.get(&shard) != Some(&deaf));
        sim::wires(|wires, _| rest.iter().for_each(|other| wires.cut(*other, deaf)));
        ask(&mut world, Order::LeaseOf(3_000), &mut problems);
        // Some renewal may still be applied under the shorter lease.
        world.run_for(Duration::from_millis(below(3_000)));
        sim::wires(|wires, _| rest.iter().for_each(|other| wires.cut(deaf, *other)));
        let opened = world.history.lock().opened.len();
        world.run_for(Duration::from_secs(14));
        taken += world.history.lock().opened.len() - opened;
        world.history.lock().avoid(|_| false);
        sim::wires(|wires, now| wires.mend_all(now));
        settles(&mut world, HEALS, "after the cut", &mut problems);
    }
    if taken == 0 {
        problems.push("nobody took a shard over: nothing was tried".to_owned());
    }
    judge(&world, &mut problems);
    problems
}

/// S19: a node is removed by force while its table lags, or stands still: until it has read so, or
/// its right is over, its shards are nobody else's.
pub fn marked_while_it_lags() -> Played {
    const TURNS: usize = 6;
    let (mut world, mut problems) = (formed(THREE), Vec::new());
    let mut served = 0;
    for turn in 0..TURNS {
        world.run_for(Duration::from_secs(2));
        let leader = leader(&world);
        let marked = others(&world, leader)[turn % (THREE.nodes() - 1)];
        let late = Duration::from_millis(200 + below(400));
        sim::wires(|wires, _| {
            for other in others(&world, marked) {
                match turn % 2 {
                    0 => wires.slow(other, marked, late),
                    _ => wires.cut(other, marked),
                }
            }
        });
        // What was sent before has arrived.
        world.run_for(Duration::from_millis(50));
        let id = world.sight.lock().row(marked).map(|row| row.id);
        world.desk.lock().ask(Order::Force(marked));
        let is_marked = |world: &World| {
            let sight = world.sight.lock();
            sight
                .latest()
                .is_some_and(|seen| seen.nodes.iter().any(|row| Some(row.id) == id && row.marked))
        };
        if !world.run_until(HEALS, is_marked) {
            problems.push(format!("turn {turn}: nobody was marked"));
        }
        let acknowledged = world.history.lock().acknowledged_at(marked);
        let gone = |world: &World| world.sight.lock().row(marked).is_none();
        if !world.run_until(HEALS, gone) {
            problems.push(format!("turn {turn}: who was marked stays up"));
        }
        served += world.history.lock().acknowledged_at(marked) - acknowledged;
        sim::wires(|wires, now| wires.mend_all(now));
        world.run_until(HEALS, |world| world.desk.lock().is_idle());
        settles(&mut world, HEALS, "after the removal", &mut problems);
    }
    if served == 0 {
        problems.push("who was marked answered nothing: nothing was tried".to_owned());
    }
    judge(&world, &mut problems);
    problems
}
