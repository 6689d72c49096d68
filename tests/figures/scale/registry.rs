//! The registry: what applying a command takes, how long its entry is, what a snapshot weighs.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use shoal_core::{
    id::LogIndex,
    registry::{Command, MAX_BATCH, Registry},
    route::RouteTable,
};
use shoal_worker::{raft::MAX_COMMAND, wire::registry as wire};

use super::{Size, growth, memory, sizes, world::World};
use crate::figure::{Row, Spread, Target};

/// Name of its file, title, and what runs.
pub const TOLD: (&str, &str, &str) = (
    "scale-registry",
    "Scale: the registry",
    "Commands applied to registries of shards x nodes, with names and addresses as long as on Kubernetes; batches are of 4,096 items or of all shards. The routes follow within the time. A snapshot is what a follower that lacks the log and a node that watches are sent.",
);

/// PROMISE: a snapshot on the wire.
const SNAPSHOT_MIB: f64 = 4.0;
const MIB: f64 = (1 << 20) as f64;
const RUNS: usize = 15;
const RUNS_OF_A_TEST: usize = 2;

/// A command and the state that it meets.
struct Case {
    what: &'static str,
    world: World,
    command: Command,
    /// Rows that it names or changes.
    items: usize,
}

pub fn run(small: bool) -> anyhow::Result<Vec<Row>> {
    let (sizes, runs) = (sizes(small), if small { RUNS_OF_A_TEST } else { RUNS });
    let mut all = Vec::new();
    for size in sizes {
        all.push(cases(*size)?);
    }
    let count = all.first().map_or(0, Vec::len);
    let mut rows = Vec::new();
    for at in 0..count {
        let (mut medians, mut items) = (Vec::new(), Vec::new());
        for (size, cases) in sizes.iter().zip(&all) {
            let case = &cases[at];
            let bytes = wire::encode_command(&case.command).len();
            ensure!(bytes <= MAX_COMMAND, "{}: an entry of {bytes} bytes", case.what);
            let samples = case.apply(runs)?;
            medians.push(Spread::of(&samples).map_or(0.0, |spread| spread.median));
            items.push(case.items as f64);
            let bytes = crate::figure::number(bytes as f64);
            let mut note = format!("an entry of {bytes} bytes, {} rows", case.items);
            if medians.len() > 1 && medians.len() == sizes.len() {
                note = format!("{note}; {}", growth(&medians, &items, "rows"));
            }
            let what = format!("{size}: applying {}", case.what);
            rows.push(Row::median(what, &samples, "µs").note(note));
        }
    }
    rows.extend(snapshots(sizes, runs)?);
    Ok(rows)
}

fn cases(size: Size) -> anyhow::Result<Vec<Case>> {
    let (unowned, owned) = (World::unowned(size)?, World::owned(size)?);
    let batch = MAX_BATCH.min(size.shards as usize);
    let victim = owned.nodes[1];
    let incarnation = owned.incarnation(victim);
    let renewed = owned.registry.node(victim).context("no such node")?.renewed;
    let held = owned.registry.held(victim).owned as usize;
    let assigns = unowned.plan().assigns.into_iter().take(batch);
    let assigns: Vec<_> = assigns.map(|planned| planned.assign).collect();
    let begins = owned.to_the_next(batch);
    let mut moving = owned.clone();
    moving.apply(&Command::BeginMove { items: begins.clone() })?;
    let ends = moving.moving();
    let sessions: Vec<_> =
        owned.nodes.iter().map(|node| (*node, owned.incarnation(*node))).collect();
    let register = owned.next_register(victim, 1, super::world::REVISIONS[0])?;
    let case =
        |what, world: &World, command, items| Case { what, world: world.clone(), command, items };
    Ok(vec![
        case(
            "Renew of every session",
            &owned,
            Command::Renew { sessions: sessions.clone() },
            sessions.len(),
        ),
        case(
            "Fence of a node with its shards",
            &owned,
            Command::Fence { node: victim, incarnation, renewed },
            held + 1,
        ),
        case("Register that takes its shards again", &owned, Command::Register(register), held + 1),
        case(
            "Assign of a batch",
            &unowned,
            Command::Assign { items: assigns.clone() },
            assigns.len(),
        ),
        case(
            "BeginMove of a batch",
            &owned,
            Command::BeginMove { items: begins.clone() },
            begins.len(),
        ),
        case(
            "CommitMove of a batch",
            &moving,
            Command::CommitMove { items: ends.clone() },
            ends.len(),
        ),
        case("StopAll", &owned, Command::StopAll, sessions.len()),
    ])
}

impl Case {
    /// As a node does: rows that readers still hold are copied, then the routes follow.
    fn apply(&self, runs: usize) -> anyhow::Result<Vec<f64>> {
        let mut samples = Vec::new();
        for _ in 0..runs {
            let mut registry = self.world.registry.clone();
            let mut routes = RouteTable::from_registry(&registry);
            let index = LogIndex(registry.applied().0 + 1);
            let began = Instant::now();
            let (result, changes) = registry.apply(index, &self.command);
            routes.update(&registry, &changes);
            samples.push(began.elapsed().as_secs_f64() * 1e6);
            result.context(self.what)?;
        }
        Ok(samples)
    }
}

fn snapshots(sizes: &[Size], runs: usize) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let names = ["at rest", "with as many moves as there may be"];
    let mut kept: Vec<Vec<Registry>> = Vec::new();
    for size in sizes {
        let mut world = World::owned(*size)?;
        let rest = world.registry.clone();
        let items = world.to_the_next(MAX_BATCH);
        world.apply(&Command::BeginMove { items })?;
        kept.push(vec![rest, world.registry]);
    }
    let shards: Vec<f64> = sizes.iter().map(|size| f64::from(size.shards)).collect();
    for (at, name) in names.into_iter().enumerate() {
        let mut grown = Vec::new();
        for (size, registries) in sizes.iter().zip(&kept) {
            let bytes = wire::encode_snapshot(&registries[at]);
            grown.push(bytes.len() as f64);
            let mib = bytes.len() as f64 / MIB;
            let mut note = "as it is sent: nothing compresses it".to_owned();
            if grown.len() > 1 && grown.len() == sizes.len() {
                note = format!("{note}; {}", growth(&grown, &shards, "shards"));
            }
            let row = Row::new(format!("{size}: snapshot {name}"), mib, "MiB");
            rows.push(row.target(Target::AtMost(SNAPSHOT_MIB)).note(note));
        }
    }
    let (mut encodes, mut decodes) = (Vec::new(), Vec::new());
    for (size, registries) in sizes.iter().zip(&kept) {
        let (encode, decode) = encoding(&registries[1], runs)?;
        encodes.push((*size, encode));
        decodes.push((*size, decode));
    }
    for (what, timed) in [("encoding", encodes), ("decoding and checking", decodes)] {
        let mut medians = Vec::new();
        for (size, samples) in timed {
            medians.push(Spread::of(&samples).map_or(0.0, |spread| spread.median));
            let row = Row::median(format!("{size}: {what} that snapshot"), &samples, "ms");
            let last = medians.len() > 1 && medians.len() == sizes.len();
            rows.push(if last { row.note(growth(&medians, &shards, "shards")) } else { row });
        }
    }
    let mut used = Vec::new();
    for (size, registries) in sizes.iter().zip(&kept) {
        used.push(memory::of(&wire::encode_snapshot(&registries[0]))?);
        let row = Row::new(
            format!("{size}: memory of a registry and its routes"),
            used.last().copied().unwrap_or_default(),
            "MiB",
        );
        let last = used.len() > 1 && used.len() == sizes.len();
        rows.push(if last { row.note(growth(&used, &shards, "shards")) } else { row });
    }
    Ok(rows)
}

fn encoding(registry: &Registry, runs: usize) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    let (mut encode, mut decode) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let began = Instant::now();
        let bytes = wire::encode_snapshot(registry);
        encode.push(began.elapsed().as_secs_f64() * 1e3);
        let began = Instant::now();
        let read = wire::decode_snapshot(&bytes)?;
        decode.push(began.elapsed().as_secs_f64() * 1e3);
        ensure!(read == *registry, "the snapshot is another registry");
    }
    Ok((encode, decode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_applies_at_the_smallest_size() {
        for case in cases(crate::scale::SMALL).unwrap() {
            let samples = case.apply(2).unwrap();
            assert!(samples.iter().all(|us| *us > 0.0), "{}", case.what);
            assert!(case.items >= 10, "{} has {} rows", case.what, case.items);
        }
    }

    #[test]
    fn a_snapshot_is_read_back_as_it_was() {
        let world = World::owned(crate::scale::SMALL).unwrap();
        let (encode, decode) = encoding(&world.registry, 2).unwrap();
        assert_eq!((encode.len(), decode.len()), (2, 2));
    }
}
