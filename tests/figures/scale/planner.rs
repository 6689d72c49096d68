//! The planner: how long one run takes, and what it moves beside the fewest moves there are.

use std::time::Instant;

use anyhow::ensure;
use shoal_core::{
    id::NodeId,
    registry::{Assign, Command, Configure, Drain, MAX_BATCH},
};

use super::{
    Size, growth, sizes,
    world::{REVISIONS, World},
};
use crate::figure::{Row, Target};

/// Name of its file, title, and what runs.
pub const TOLD: (&str, &str, &str) = (
    "scale-planner",
    "Scale: the planner",
    "One run of the planner, its reading of the registry included, on registries of shards x nodes with the default settings; each plan is carried out and planned again until nothing is left to do.",
);

/// PROMISE: a run of the planner, whatever the cluster is in.
const LONGEST_MS: f64 = 100.0;
/// Runs on one state; what is carried out adds more.
const RUNS: usize = 15;
const RUNS_OF_A_TEST: usize = 2;
/// Nodes that go at once, half of the nodes at most.
const LEAVERS: usize = 10;

/// One thing that happens to a cluster at rest.
#[derive(Clone, Copy, Debug)]
enum Change {
    Nothing,
    First,
    Join,
    AllOnOne,
    Leaver,
    Dead,
    Leavers,
    Roll,
}

const CHANGES: [(Change, &str); 8] = [
    (Change::Nothing, "nothing to do"),
    (Change::First, "first owners of all shards"),
    (Change::Join, "a node joins"),
    (Change::AllOnOne, "all others join one that owns everything"),
    (Change::Leaver, "a node leaves"),
    (Change::Dead, "a node died"),
    (Change::Leavers, "ten nodes leave at once (half of the nodes at most)"),
    (Change::Roll, "the second node of a roll"),
];

/// What a change took.
struct Taken {
    runs_ms: Vec<f64>,
    /// Moves and first assignments together, beside the fewest that could do.
    changes: usize,
    fewest: usize,
}

pub fn run(small: bool) -> anyhow::Result<Vec<Row>> {
    let sizes = sizes(small);
    let shards: Vec<f64> = sizes.iter().map(|size| f64::from(size.shards)).collect();
    let mut rows = Vec::new();
    let (mut changes, mut fewest) = (0, 0);
    for (change, what) in CHANGES {
        let mut medians = Vec::new();
        for size in sizes {
            let runs = if small { RUNS_OF_A_TEST } else { RUNS };
            let taken = change.measure(*size, runs)?;
            changes += taken.changes;
            fewest += taken.fewest;
            let row = Row::worst(format!("{size}: {what}"), &taken.runs_ms, "ms");
            medians.push(row.spread.as_ref().map_or(0.0, |spread| spread.median));
            let row = row.target(Target::AtMost(LONGEST_MS));
            let last = size == &sizes[sizes.len() - 1] && sizes.len() > 1;
            let grew = || format!("its median {}", growth(&medians, &shards, "shards"));
            rows.push(if last { row.note(grew()) } else { row });
        }
    }
    let beyond = changes.abs_diff(fewest) as f64;
    let told = format!("{changes} changes of owner, {fewest} are the fewest");
    let what = "changes of owner beyond the fewest, all of these changes at all sizes";
    rows.push(Row::new(what, beyond, "").target(Target::Exactly(0.0)).note(told));
    Ok(rows)
}

impl Change {
    fn measure(self, size: Size, runs: usize) -> anyhow::Result<Taken> {
        let (mut world, fewest) = self.happen(size)?;
        let mut taken = Taken { runs_ms: Vec::new(), changes: 0, fewest };
        let mut plan = world.plan();
        for _ in 0..runs {
            plan = taken.time(&world);
        }
        while !plan.is_empty() {
            ensure!(taken.changes <= size.shards as usize, "{self:?}: moves without end");
            taken.changes += plan.assigns.len() + plan.moves.len();
            world.carry_out(&plan)?;
            plan = taken.time(&world);
        }
        ensure!(world.registry.check().is_empty(), "{self:?}: the registry contradicts itself");
        ensure!(uneven(&world) <= 1 || matches!(self, Self::Roll), "{self:?} ends unevenly");
        Ok(taken)
    }

    /// The state to plan, and how few changes of owner can mend it.
    fn happen(self, size: Size) -> anyhow::Result<(World, usize)> {
        let fewer = Size { nodes: size.nodes - 1, ..size };
        let share = (size.shards / size.nodes) as usize;
        Ok(match self {
            Self::Nothing => (World::owned(size)?, 0),
            Self::First => (World::unowned(size)?, size.shards as usize),
            Self::Join => {
                let mut world = World::owned(fewer)?;
                world.join(fewer.nodes)?;
                (world, share)
            }
            Self::AllOnOne => {
                let mut world = World::unowned(size)?;
                give_all(&mut world)?;
                // Who owns everything keeps a share that is rounded up.
                (world, (size.shards - size.shards.div_ceil(size.nodes)) as usize)
            }
            Self::Leaver => leavers(size, 1)?,
            Self::Leavers => leavers(size, LEAVERS.min(size.nodes as usize / 2))?,
            Self::Dead => {
                let mut world = World::owned(size)?;
                let node = world.nodes[1];
                let owned = held(&world, node);
                let incarnation = world.incarnation(node);
                world.apply(&Command::ReportDeath { node, incarnation })?;
                (world, owned)
            }
            Self::Roll => {
                let mut world = World::owned(size)?;
                let (first, second) = (world.nodes[1], world.nodes[2]);
                drain(&mut world, first)?;
                settle(&mut world)?;
                let incarnation = world.incarnation(first);
                world.apply(&Command::Close { node: first, incarnation })?;
                let register = world.next_register(first, 1, REVISIONS[1])?;
                world.apply(&Command::Register(register))?;
                settle(&mut world)?;
                ensure!(held(&world, first) == 0, "it came back and was given shards");
                let owned = held(&world, second);
                drain(&mut world, second)?;
                (world, owned)
            }
        })
    }
}

impl Taken {
    fn time(&mut self, world: &World) -> shoal_core::planner::Plan {
        let began = Instant::now();
        let plan = world.plan();
        self.runs_ms.push(began.elapsed().as_secs_f64() * 1e3);
        plan
    }
}

fn leavers(size: Size, count: usize) -> anyhow::Result<(World, usize)> {
    let mut world = World::owned(size)?;
    let leavers: Vec<NodeId> = world.nodes.iter().skip(1).take(count).copied().collect();
    let mut owned = 0;
    for leaver in leavers {
        owned += held(&world, leaver);
        drain(&mut world, leaver)?;
    }
    Ok((world, owned))
}

fn held(world: &World, node: NodeId) -> usize {
    world.registry.held(node).owned as usize
}

fn drain(world: &mut World, node: NodeId) -> anyhow::Result<()> {
    let incarnation = world.incarnation(node);
    world.apply(&Command::DrainRestart { node, incarnation }).map(drop)
}

fn settle(world: &mut World) -> anyhow::Result<()> {
    loop {
        let plan = world.plan();
        if plan.is_empty() {
            return Ok(());
        }
        world.carry_out(&plan)?;
    }
}

/// The first node owns every shard, and as many moves run at once as may.
fn give_all(world: &mut World) -> anyhow::Result<()> {
    let most = Some(MAX_BATCH as u32);
    world.apply(&Command::Configure(Configure {
        max_moves: most,
        max_moves_per_node: most,
        ..Configure::default()
    }))?;
    let target = world.nodes[0];
    let incarnation = world.incarnation(target);
    let assign = |(shard, epoch)| Assign { shard, epoch, target, incarnation };
    let rows: Vec<_> = world.registry.shards().map(|(shard, row)| (shard, row.epoch)).collect();
    for rows in rows.chunks(MAX_BATCH) {
        let items = rows.iter().copied().map(assign).collect();
        world.apply(&Command::Assign { items })?;
    }
    Ok(())
}

/// Most minus least shards of the nodes that stay.
fn uneven(world: &World) -> u32 {
    let stay =
        world.registry.nodes().filter(|(_, row)| row.life.is_up() && row.drain == Drain::None);
    let owned: Vec<u32> = stay.map(|(id, _)| world.registry.held(id).owned).collect();
    let least = owned.iter().min().copied().unwrap_or_default();
    owned.iter().max().copied().unwrap_or_default() - least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_is_planned_at_the_smallest_size() {
        let rows = run(true).unwrap();
        assert_eq!(rows.len(), CHANGES.len() + 1);
        for row in &rows[..CHANGES.len()] {
            assert!(row.value.is_some_and(|ms| ms > 0.0), "{row:?}");
        }
        assert_eq!(rows[CHANGES.len()].value, Some(0.0), "{rows:?}");
    }
}
