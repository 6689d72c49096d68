//! The shards of this node: runs calls on them, follows the table, hands them over.
//!
//! [`Shards`] is the handle; `call` is one call, `life` one incarnation, `slot` one shard,
//! `jobs` what its host does in order, `sender` and `receiver` the two ends of a hand-over.
//! What may be served is decided in `core::admit`, what becomes of a shard in `core::handoff`.

mod call;
mod jobs;
mod life;
mod receiver;
mod sender;
mod slot;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use shoal_core::{
    handoff::{Local, Process, Report, shard::Event},
    id::{Incarnation, LogIndex, NodeId, ShardId, Timestamp},
};
use shoal_proto::shoal::peer::v1::handover_server::{Handover, HandoverServer};
use tokio::{runtime::Handle, sync::Notify};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use self::{life::Life, receiver::Receiver};
use super::{
    api::{Method, ShardHost},
    metrics::Metrics,
    pulse::Pulses,
    right::Right,
};
use crate::{env::clock, table::Table};

/// Admitted and waiting calls of one shard: a second of a busy one, far below what its
/// entry nodes may park.
const MAX_CALLS: u32 = 4_096;
/// Between two looks at the moves under way: a fifth of the shortest wait of a move.
const TICK: Duration = Duration::from_millis(20);
/// Over which the load is counted.
const LOAD_SPAN: Duration = Duration::from_secs(1);

/// A connection on which `Handover` is served, if the node's address is known.
pub type Channels = Arc<dyn Fn(NodeId) -> Option<Channel> + Send + Sync>;
/// Takes what an owner has to say to the leader. Said again until the row changes; the
/// future ends when this saying has been delivered or lost.
pub type Reporter = Arc<dyn Fn(Report) -> BoxFuture<'static, ()> + Send + Sync>;

/// What the shards of a node are made of.
pub struct Parts {
    pub node: NodeId,
    pub host: Arc<dyn ShardHost>,
    pub table: Table,
    pub right: Right,
    /// Where user work runs, apart from the threads that carry calls.
    pub executor: Handle,
    pub channels: Channels,
    pub report: Reporter,
    /// Bytes per second of all first phases of this node together.
    pub transfer_rate: Option<NonZeroU64>,
    pub metrics: Metrics,
}

/// All shards of this process. Cheap to clone.
#[derive(Clone)]
pub struct Shards {
    shared: Arc<Shared>,
}

struct Shared {
    ground: Arc<Ground>,
    /// The incarnation that serves; none between two of them.
    life: ArcSwapOption<Life>,
    born: Notify,
    load: AtomicU32,
    pulses: Pulses,
    /// Begin and close take turns.
    turn: tokio::sync::Mutex<()>,
}

/// What every slot stands on.
struct Ground {
    parts: Parts,
    methods: BTreeMap<String, Method>,
    /// Slots whose machine wants to be woken.
    timed: Mutex<BTreeSet<ShardId>>,
    timer: Notify,
    pace: sender::Pace,
}

/// How many shards stand how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    pub opening: u32,
    pub open: u32,
    /// Draining or frozen for a move.
    pub leaving: u32,
    /// Received by moves that are not decided.
    pub receiving: u32,
    /// Admitted calls that have not been answered.
    pub calls: u32,
}

impl Shards {
    pub fn new(parts: Parts) -> Self {
        let methods = parts.host.methods().iter();
        let methods = methods.map(|method| (method.name.to_string(), method.clone())).collect();
        let pulses = Pulses::default();
        pulses.watch("host", &parts.executor);
        let pace = sender::Pace::new(parts.transfer_rate);
        let ground = Ground { parts, methods, timed: Mutex::default(), timer: Notify::new(), pace };
        Self {
            shared: Arc::new(Shared {
                ground: Arc::new(ground),
                life: ArcSwapOption::empty(),
                born: Notify::new(),
                load: AtomicU32::new(0),
                pulses,
                turn: tokio::sync::Mutex::new(()),
            }),
        }
    }

    /// Follows the table and drives the moves until `shutdown`; shards stay as they are then.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut applied = self.ground().parts.table.watch_applied();
        let mut load = tokio::time::interval(LOAD_SPAN);
        load.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut counted = 0;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = applied.changed() => if changed.is_err() { return },
                () = self.shared.born.notified() => {}
                () = self.ground().due() => {}
                _ = load.tick() => {
                    let now = self.ground().parts.metrics.admitted.get();
                    let calls = u32::try_from(now - counted).unwrap_or(u32::MAX);
                    self.shared.load.store(calls, Ordering::Relaxed);
                    counted = now;
                }
            }
            if let Some(life) = self.life() {
                life.follow();
                life.tick(clock::now());
            }
        }
    }

    /// Serves the receiving side of moves, for the RAFT_ADDRESS.
    pub fn handover_server(&self) -> HandoverServer<impl Handover> {
        HandoverServer::new(Receiver::new(self.clone()))
    }

    /// Empties the host and serves from now on what the table gives to this incarnation. A
    /// former one is closed first.
    pub async fn begin_incarnation(&self, incarnation: Incarnation) {
        let _turn = self.shared.turn.lock().await;
        self.close_life().await;
        self.ground().parts.right.revoke();
        jobs::reset(&self.ground().parts.host).await;
        let me = Process::new(self.ground().parts.node, incarnation);
        self.shared.life.store(Some(Arc::new(Life::new(Arc::clone(self.ground()), me))));
        self.shared.born.notify_one();
    }

    /// Admits nothing more and ends when no handler of this incarnation runs and the host
    /// has closed every shard: handlers get [`DRAIN_CAP`](shoal_core::handoff::DRAIN_CAP) to
    /// finish, or end with the right. A handler that cannot be cancelled delays it for ever.
    pub async fn close_all(&self, incarnation: Incarnation) {
        let _turn = self.shared.turn.lock().await;
        if self.life().is_some_and(|life| life.me.incarnation == incarnation) {
            self.close_life().await;
        }
    }

    /// The process must be gone by then: moves without time for a second attempt cancel calls.
    pub fn leave_by(&self, by: Timestamp) {
        if let Some(life) = self.life() {
            life.leave_by(by);
        }
    }

    pub fn owned(&self) -> Owned {
        let mut owned = Owned::default();
        for slot in self.life().iter().flat_map(|life| life.slots()) {
            let (local, receiving, calls) = slot.census();
            match local {
                Local::Closed { .. } => {}
                Local::Opening { .. } => owned.opening += 1,
                Local::Open { .. } | Local::Superseded { .. } => owned.open += 1,
                Local::Draining { .. } | Local::Frozen { .. } => owned.leaving += 1,
            }
            owned.receiving += receiving;
            owned.calls += calls;
        }
        owned
    }

    /// Calls admitted in the last full second.
    pub fn load(&self) -> u32 {
        self.shared.load.load(Ordering::Relaxed)
    }

    /// The executors whose silence ends the session; the owner of other threads adds them.
    pub fn pulses(&self) -> &Pulses {
        &self.shared.pulses
    }

    /// When the most silent executor ran last.
    pub fn oldest_tick(&self) -> Timestamp {
        self.shared.pulses.oldest()
    }

    pub fn metrics(&self) -> &Metrics {
        &self.ground().parts.metrics
    }

    fn ground(&self) -> &Arc<Ground> {
        &self.shared.ground
    }

    fn life(&self) -> Option<Arc<Life>> {
        self.shared.life.load_full()
    }

    async fn close_life(&self) {
        if let Some(life) = self.life() {
            life.close().await;
            self.shared.life.store(None);
        }
    }
}

impl Ground {
    /// Notes whether a slot's machine wants to be woken.
    fn time(&self, shard: ShardId, wants: bool) {
        let mut timed = self.timed.lock();
        let was_idle = timed.is_empty();
        if wants {
            timed.insert(shard);
        } else {
            timed.remove(&shard);
        }
        if was_idle && wants {
            self.timer.notify_one();
        }
    }

    /// Ends after a tick if any slot waits for one.
    async fn due(&self) {
        while self.timed.lock().is_empty() {
            self.timer.notified().await;
        }
        tokio::time::sleep(TICK).await;
    }
}
