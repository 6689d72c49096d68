//! One run: a scene, its clients, its judge, and the faults that happen to it.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use rand::{SeedableRng as _, rngs::StdRng};

use super::{
    callers::{self, Callers, Door, Key},
    cells::{SETTING, Store},
    fault::{Fault, Held, Means},
    history::{Clock, Entry, Op, Time, seconds},
    judge::Judge,
    kind::Kind,
    scene::Scene,
};
use crate::Vip;

/// Until a cluster is whole again once a fault has ended: a lease, an election, a restart with
/// its join, and room for a machine on which other suites run.
pub const HEALS: Duration = Duration::from_secs(45);
/// From the beginning of the load until the first fault: every key has been called.
const WARM: Duration = Duration::from_secs(1);

/// What a run is of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Nodes that found the cluster, and nodes that may join.
    pub size: usize,
    pub spare: usize,
    pub keys: usize,
    pub seed: u64,
    /// Only planned changes: whatever is lost is a violation.
    pub planned: bool,
    /// The program keeps its state in a store, so that a failover loses nothing either.
    pub stored: bool,
    pub program: PathBuf,
    pub next: Option<PathBuf>,
    /// For every node.
    pub settings: Vec<(&'static str, String)>,
}

impl Plan {
    pub fn new(program: &Path, seed: u64) -> Self {
        let program = program.to_owned();
        let settings = Vec::new();
        let (planned, stored, next) = (false, false, None);
        Self { size: 3, spare: 0, keys: 24, seed, planned, stored, program, next, settings }
    }
}

/// One fault that happened.
#[derive(Clone, Debug)]
pub struct Episode {
    pub kind: Kind,
    pub whom: String,
    pub began: Time,
    /// When what it did was undone.
    pub ended: Time,
    /// When the cluster was whole again.
    pub healed: Time,
    /// What showed that it met its node; why not.
    pub fired: Result<String, String>,
    /// Why the cluster did not become whole again.
    pub sick: Option<String>,
    /// The longest time in which a key did not answer.
    pub unavailable: Duration,
    /// Calls through the shared address that failed meanwhile.
    pub failed: u64,
}

impl Episode {
    /// It happened, and the cluster healed; a planned one failed no call.
    pub fn flawless(&self) -> bool {
        self.fired.is_ok() && self.sick.is_none() && (self.failed == 0 || !self.kind.planned())
    }
}

impl fmt::Display for Episode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fired = match &self.fired {
            Ok(told) => told.clone(),
            Err(why) => format!("DID NOT FIRE: {why}"),
        };
        write!(
            f,
            "{:>6.1} s: {} ({}): {fired}; longest unavailability {:.2} s, healed {:.1} s after \
             its end, {} calls failed",
            seconds(self.began),
            self.kind,
            self.whom,
            self.unavailable.as_secs_f64(),
            seconds(self.healed - self.ended),
            self.failed
        )?;
        self.sick.as_ref().map_or(Ok(()), |why| write!(f, "; DID NOT HEAL: {why}"))
    }
}

/// Failed calls that are told one by one.
const TOLD: usize = 12;

/// Declared so that clients end before their nodes.
pub struct Run {
    callers: Option<Callers>,
    _vip: Vip,
    pub scene: Scene,
    /// Where the host keeps its state, if it does.
    pub store: Option<Store>,
    pub judge: Judge,
    pub clock: Clock,
    pub episodes: Vec<Episode>,
    /// When calls through the shared address failed.
    failed: Vec<(Time, Time)>,
    /// In what words the first of them failed.
    pub told: Vec<String>,
    chance: StdRng,
    means: Means,
}

impl Run {
    pub fn start(plan: &Plan) -> anyhow::Result<Self> {
        let mut scene = Scene::prepared(plan.size, plan.spare, plan.program.clone())?;
        plan.settings.iter().for_each(|(name, value)| scene.set(name, value));
        let store = plan.stored.then(Store::start).transpose()?;
        if let Some(store) = &store {
            scene.set(SETTING, &store.address());
        }
        scene.begin()?;
        let (clock, keys) = (Clock::start(), callers::keys(plan.keys));
        let vip = Vip::new(&scene.nodes, 1);
        let callers = Callers::start(clock, &keys, &doors(&scene, &vip), plan.seed)?;
        let mut run = Self {
            judge: judge(&keys, &scene, plan),
            store,
            callers: Some(callers),
            _vip: vip,
            scene,
            clock,
            episodes: Vec::new(),
            failed: Vec::new(),
            told: Vec::new(),
            chance: StdRng::seed_from_u64(plan.seed),
            means: Means { next: plan.next.clone() },
        };
        run.rest(WARM)?;
        Ok(run)
    }

    /// Lets the load go on, and judges what it saw.
    pub fn rest(&mut self, time: Duration) -> anyhow::Result<()> {
        std::thread::sleep(time);
        self.look()
    }

    fn look(&mut self) -> anyhow::Result<()> {
        let Some(callers) = &self.callers else { return Ok(()) };
        let (ops, horizon) = callers.take();
        self.keep_failures(&ops);
        self.judge.take(ops, horizon)
    }

    fn keep_failures(&mut self, ops: &[Op]) {
        let failed = ops.iter().filter(|op| op.entry == Entry::Any && !op.served());
        for op in failed {
            self.failed.push((op.invoked, op.returned));
            if self.told.len() < TOLD {
                let (at, took) = (seconds(op.invoked), seconds(op.returned - op.invoked));
                self.told.push(format!("at {at:.2} s for {took:.2} s: {:?}", op.outcome));
            }
        }
    }

    /// Brings a fault about, waits until its effect was seen, ends it, and waits until the
    /// cluster is whole.
    pub fn play(&mut self, kind: Kind) -> anyhow::Result<&Episode> {
        let fault = Fault::draw(kind, &self.scene, &mut self.chance)?;
        let whom = fault.whom(&self.scene);
        let began = self.clock.now();
        let injected = fault.inject(&mut self.scene, &self.means);
        let (fired, held) = match injected {
            Ok(mut held) => {
                let fired = fault.lasts(&mut self.scene, &mut held);
                (fired.map_err(|error| format!("{error:#}")), held)
            }
            Err(error) => (Err(format!("{error:#}")), Held::default()),
        };
        let undone = fault.heal(&mut self.scene, held);
        let ended = self.clock.now();
        let whole = undone.and_then(|()| self.scene.wait("it heals", HEALS, Scene::whole));
        let healed = self.clock.now();
        self.look()?;
        let unavailable = self.judge.longest_gap(began, healed);
        let failed = self.failed.drain(..).filter(|(from, to)| *to >= began && *from <= healed);
        let failed = failed.count() as u64;
        let sick = whole.err().map(|error| format!("{error:#}"));
        self.episodes.push(Episode {
            kind,
            whom,
            began,
            ended,
            healed,
            fired,
            sick,
            unavailable,
            failed,
        });
        Ok(&self.episodes[self.episodes.len() - 1])
    }

    /// Ends the load and judges all of it.
    pub fn end(&mut self) -> anyhow::Result<()> {
        if let Some(callers) = self.callers.take() {
            let ops = callers.end();
            self.keep_failures(&ops);
            self.judge.take(ops, Time::MAX)?;
        }
        Ok(())
    }
}

fn judge(keys: &[Key], scene: &Scene, plan: &Plan) -> Judge {
    let judge = Judge::new(keys, scene.space.path(), plan.planned);
    if plan.stored { judge.stored() } else { judge }
}

/// Every founding node, and one address for all.
fn doors(scene: &Scene, vip: &Vip) -> Vec<Door> {
    let node = |at: &usize| Door { entry: Entry::Node(*at), address: scene.address(*at) };
    let mut doors: Vec<_> = scene.members.iter().map(node).collect();
    doors.push(Door { entry: Entry::Any, address: vip.addresses() });
    doors
}
