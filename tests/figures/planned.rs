//! Planned changes under load: a node joins, one is drained and removed, three are rolled.
//!
//! Tells the story for any client, again until there were enough calls; what `shoal bench`
//! saw of it is here, what clients of other languages saw in `stock`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use parking_lot::RwLock;
use shoal_proto::shoal::admin::v1 as pb;
use shoal_worker::cli::bench::{Entries, PhaseReport, Report};
use tokio::time::{self, Instant};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Arguments,
    cluster::{self, Cluster, Place},
    figure::{Row, Target},
    load::{self, Load},
    node::{self, Admin},
};

/// Half of what four nodes and this client answer on two cores.
const RATE: f64 = 3_000.0;
const STEADY_FOR: Duration = Duration::from_secs(10);
/// Phases of the load: a call counts in the one in which it ends.
const STEADY: usize = 0;
const MOVING: usize = 1;
const CHANGING: usize = 2;
const LOOK: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_millis(500);
const DRAINS_WITHIN: Duration = Duration::from_secs(60);

/// What the stories did to the cluster.
#[derive(Default)]
pub struct Told {
    pub stories: usize,
    pub moves: u64,
    /// Of each story.
    pub seconds: Vec<f64>,
}

/// Names the phase in which the cluster is, by looking at it all the time.
pub struct Phases {
    pub now: Arc<AtomicUsize>,
    changing: Arc<AtomicBool>,
    admins: Arc<RwLock<Vec<Admin>>>,
    _looking: AbortOnDropHandle<()>,
}

impl Phases {
    pub fn of(cluster: &Cluster) -> Self {
        let (now, changing) = (Arc::new(AtomicUsize::new(STEADY)), Arc::new(AtomicBool::default()));
        let admins = Arc::new(RwLock::new(admins(cluster)));
        let looking = look(now.clone(), changing.clone(), admins.clone());
        let _looking = AbortOnDropHandle::new(tokio::spawn(looking));
        Self { now, changing, admins, _looking }
    }
}

fn admins(cluster: &Cluster) -> Vec<Admin> {
    cluster.running().map(node::Node::admin).collect()
}

async fn look(now: Arc<AtomicUsize>, changing: Arc<AtomicBool>, admins: Arc<RwLock<Vec<Admin>>>) {
    loop {
        let known = admins.read().clone();
        for admin in known {
            let Ok(status) = node::status(admin, PATIENCE).await else { continue };
            let phase = match (cluster::at_rest(&status), changing.load(Ordering::Relaxed)) {
                (false, _) => MOVING,
                (true, true) => CHANGING,
                (true, false) => STEADY,
            };
            now.store(phase, Ordering::Relaxed);
            break;
        }
        time::sleep(LOOK).await;
    }
}

/// Story after story until there were enough calls, after a while without any change.
pub async fn stories(
    cluster: &mut Cluster,
    phases: &Phases,
    entries: &Entries,
    enough: impl Fn() -> bool,
) -> anyhow::Result<Told> {
    time::sleep(STEADY_FOR).await;
    let before = cluster::owner_changes(&cluster.shards().await?);
    let mut told = Told::default();
    phases.changing.store(true, Ordering::Relaxed);
    while told.stories == 0 || !enough() {
        let began = Instant::now();
        let entered = |cluster: &Cluster| {
            *entries.write() = cluster.entries();
            *phases.admins.write() = admins(cluster);
        };
        story(cluster, entered).await?;
        told.stories += 1;
        told.seconds.push(began.elapsed().as_secs_f64());
    }
    phases.changing.store(false, Ordering::Relaxed);
    told.moves = cluster::owner_changes(&cluster.shards().await?) - before;
    Ok(told)
}

/// Join, drain and removal, roll of three, on a cluster of three; `entered` is told of each
/// change of who runs.
async fn story(cluster: &mut Cluster, entered: impl Fn(&Cluster)) -> anyhow::Result<()> {
    let began = Instant::now();
    let removed = cluster.nodes.iter().position(node::Node::runs).context("no node runs")?;
    let joiner = cluster.joiner()?;
    cluster.start(joiner)?;
    cluster.settled("the joined node takes its share", cluster::whole(4)).await?;
    entered(cluster);
    said("a fourth node has its share", began);
    remove(cluster, removed).await?;
    entered(cluster);
    cluster.settled("the cluster rests after the removal", cluster::whole(3)).await?;
    said(&format!("{} was drained and removed", cluster.nodes[removed].name), began);
    for at in 0..cluster.nodes.len() {
        if !cluster.nodes[at].runs() {
            continue;
        }
        cluster.nodes[at].leave().await.context("a roll")?;
        entered(cluster);
        cluster.start(at)?;
        cluster.settled("the rolled node is back", cluster::whole(3)).await?;
        entered(cluster);
        said(&format!("{} was rolled", cluster.nodes[at].name), began);
    }
    Ok(())
}

fn said(what: &str, began: Instant) {
    eprintln!("  {what} after {:.1?}", began.elapsed());
}

/// Drain for removal, Close, Remove, and the end of the process.
async fn remove(cluster: &mut Cluster, at: usize) -> anyhow::Result<()> {
    let status = cluster.status().await?;
    let name = cluster.nodes[at].name.clone();
    let row = status.nodes.iter().find(|node| node.name == name).context("no such node")?.clone();
    let other = cluster.running().find(|node| node.name != name).context("no other node")?;
    let mut admin = other.admin();
    let drain = pb::DrainRequest {
        node: row.id,
        kind: pb::DrainKind::Removal.into(),
        incarnation: row.incarnation.clone(),
        operator: None,
    };
    admin.drain(drain).await?;
    let until = Instant::now() + DRAINS_WITHIN;
    loop {
        let status = node::status(admin.clone(), node::ASK).await?;
        let held = status.nodes.iter().find(|node| node.id == row.id);
        if held.is_none_or(|node| node.shards_owned + node.shards_receiving == 0) {
            break;
        }
        ensure!(Instant::now() < until, "the drain does not end");
        time::sleep(LOOK).await;
    }
    admin
        .close(pb::CloseRequest { node: row.id, incarnation: row.incarnation, operator: None })
        .await?;
    admin.remove(pb::RemoveRequest { node: row.id, force: false, operator: None }).await?;
    cluster.nodes[at].leave().await
}

pub async fn run(place: &Place, given: &Arguments) -> anyhow::Result<Vec<Row>> {
    let (calls, rate) = (given.calls, given.rate.unwrap_or(RATE));
    let mut cluster = Cluster::formed(place).await?;
    let phases = Phases::of(&cluster);
    let load = Load::start(cluster.entries(), rate, phases.now.clone());
    let entries = load.entries.clone();
    let told = stories(&mut cluster, &phases, &entries, || load.calls() >= calls).await?;
    let report = load.end().await?;
    cluster.end().await?;
    rows(&report, &told, calls, rate)
}

fn rows(report: &Report, told: &Told, calls: u64, rate: f64) -> anyhow::Result<Vec<Row>> {
    let phase = |at: usize| report.phases.get(at).cloned().unwrap_or_default();
    let (steady, moving, changing) = (phase(STEADY), phase(MOVING), phase(CHANGING));
    ensure!(told.moves > 0 && moving.calls > 0, "no call ended while a shard moved");
    let whole = &report.whole;
    let failures: Vec<_> =
        whole.failures.iter().map(|(kind, count)| format!("{count} x {kind}")).collect();
    let p99 = |phase: &PhaseReport| format!("p99 {:.2} ms of {} calls", phase.p99_ms, phase.calls);
    Ok(vec![
        Row::new("calls", whole.calls as f64, "").target(Target::AtLeast(calls as f64)).note(
            format!("{rate} a second in an open loop, {} of them steady before", steady.calls),
        ),
        Row::new("failed", whole.failed as f64, "")
            .target(Target::Exactly(0.0))
            .note(failures.join("; ")),
        Row::new("increments lost or doubled", load::damaged(report) as f64, "")
            .target(Target::Exactly(0.0))
            .note(load::damage(report)),
        Row::new("counters that did not answer at the end", report.unread as f64, "")
            .target(Target::Exactly(0.0)),
        Row::new("longest call of all", whole.longest_ms, "ms")
            .target(Target::AtMost(1_000.0))
            .note(format!("{:.1} ms while nothing changed", steady.longest_ms)),
        Row::new("p99 added while shards move", moving.p99_ms - steady.p99_ms, "ms")
            .target(Target::AtMost(100.0))
            .note(format!(
                "moving {}, between moves {}, steady {}",
                p99(&moving),
                p99(&changing),
                p99(&steady)
            )),
        Row::new(
            "share that entered at a node that is not the owner",
            report.forwarded_percent(),
            "%",
        ),
        Row::new("changes of owner", told.moves as f64, "")
            .note(format!("{} times join, drain, removal and roll of three", told.stories)),
        Row::median("join, drain, removal and roll of three took", &told.seconds, "s"),
    ])
}
