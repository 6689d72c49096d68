//! One seed from its beginning to its verdict: form, suffer, heal, and be whole again.

use std::time::Duration;

use shoal_worker::env::{random, sim};

use crate::{
    faults::{Fault, Faults},
    world::{Shape, World},
};

/// From the start of all machines until the cluster serves.
const FORMS: Duration = Duration::from_secs(20);
/// After the last fault everything is whole again within this.
const HEALS: Duration = Duration::from_secs(15);
/// The budget of a process that is told to stop, by default.
const LEAVES: Duration = Duration::from_secs(20);
/// What people have begun they end or take back within this.
const CARRIED_OUT: Duration = Duration::from_secs(60);
/// Between two faults.
const CALM_MS: (u64, u64) = (200, 4_000);

const HASTE_MS: (u64, u64) = (30, 500);

/// What may go wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Faults,
    /// Only what must fail no call.
    Planned,
}

/// The outcome of one seed.
#[derive(Debug)]
pub struct Verdict {
    pub kind: Kind,
    pub problems: Vec<String>,
    pub faults: Faults,
    pub calls: usize,
    pub failed: usize,
    pub acknowledged: u64,
    pub emptied: usize,
    pub healed_in: Option<Duration>,
    pub digest: u64,
}

pub fn kind(seed: u64) -> Kind {
    if seed % 5 == 4 { Kind::Planned } else { Kind::Faults }
}

pub fn run(seed: u64, span: Duration) -> Verdict {
    random::seed(seed);
    let kind = kind(seed);
    let mut world = World::new(Shape::drawn());
    let mut faults = Faults::new(kind == Kind::Planned);
    let mut problems = Vec::new();
    if !world.run_until(FORMS, |world| world.sight.lock().settled()) {
        problems.push(format!("not formed within {FORMS:?}: {}", state(&world)));
    }
    suffer(&mut world, &mut faults, kind, span);
    faults.heal(&mut world);
    // Whoever was told to stop has its budget, of which a half-open connection may take all.
    world.run_until(LEAVES, |world| !world.stopping.contains(&true));
    if !world.run_until(CARRIED_OUT, |world| world.desk.lock().is_idle()) {
        problems.push(format!("people are not done within {CARRIED_OUT:?}: {}", state(&world)));
    }
    world.run_until(LEAVES, |world| !world.stopping.contains(&true));
    let healed_at = world.now();
    let whole = problems.is_empty() && world.run_until(HEALS, |world| is_whole(world, healed_at));
    let healed_in = whole.then(|| world.now() - healed_at);
    if !whole && problems.is_empty() {
        problems.push(format!("not whole within {HEALS:?}: {}", state(&world)));
    }
    faults.felt.extend(std::mem::take(&mut world.desk.lock().done));
    finish(kind, &world, faults, problems, healed_in)
}

fn suffer(world: &mut World, faults: &mut Faults, kind: Kind, span: Duration) {
    let (until, kinds): (_, &[Fault]) = match kind {
        Kind::Faults => (world.now() + span, &Fault::ALL),
        Kind::Planned => (world.now() + span, &Fault::PLANNED),
    };
    let mut next = world.now();
    while world.now() < until {
        world.step();
        faults.mend(world);
        if world.now() >= next {
            faults.strike(world, kinds);
            // At times into what the one before has begun: a move, an election.
            let (least, most) = if random::below(3) == 0 { HASTE_MS } else { CALM_MS };
            next = world.now() + Duration::from_millis(least + random::below(most - least));
        }
    }
}

/// Every node agrees, and every shard that clients use has answered since.
fn is_whole(world: &World, since: Duration) -> bool {
    let history = world.history.lock();
    let answered = history.answered.values().all(|at| *at > since);
    world.sight.lock().settled() && answered && !history.answered.is_empty()
}

fn state(world: &World) -> String {
    let history = world.history.lock();
    let sight = world.sight.lock();
    let seen = sight.latest().map(|seen| {
        let nodes = seen.nodes.iter().map(|node| {
            format!("{} n{} {} {} {}", node.name, node.id, node.life, node.drain, node.shards_owned)
        });
        let nodes: Vec<_> = nodes.collect();
        format!(
            "leader n{} term {} applied {} waiting {:?} {:?} {}",
            seen.leader_id,
            seen.term,
            seen.applied,
            seen.waiting,
            seen.shards,
            nodes.join(", ")
        )
    });
    let stale: Vec<_> =
        history.answered.iter().map(|(shard, at)| format!("{shard}@{at:?}")).collect();
    format!("{seen:?}; answered {}; ends {:?}", stale.join(" "), world.ends)
}

fn finish(
    kind: Kind,
    world: &World,
    faults: Faults,
    mut problems: Vec<String>,
    healed_in: Option<Duration>,
) -> Verdict {
    let mut history = world.history.lock();
    history.judge();
    problems.append(&mut history.violations.clone());
    let failed = history.failed();
    if kind == Kind::Planned {
        problems.extend(failed.iter().take(5).map(|op| format!("failed: {op:?}")));
        if history.emptied() > 0 {
            problems.push(format!("{} shards were opened empty again", history.emptied()));
        }
    }
    if history.acknowledged == 0 {
        problems.push("nothing was acknowledged".to_owned());
    }
    let digest = digest(&format!("{:?}{:?}", history.operations, sim::wires(|w, _| w.delivered)));
    Verdict {
        kind,
        problems,
        calls: history.operations.len(),
        failed: failed.len(),
        acknowledged: history.acknowledged,
        emptied: history.emptied(),
        faults,
        healed_in,
        digest,
    }
}

/// FNV-1a.
fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
