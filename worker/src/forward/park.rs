//! Holds calls at their entry while their shard changes hands.
//!
//! First in, first out per shard, bounded by bytes. A call leaves when its shard's row is
//! newer than the one its refusal named; a map version that changes no such row wakes
//! nobody [P1]. Whether a call may be parked, and how long, `shoal_core::admit` says.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use shoal_core::{
    admit::{PARK_PER_NODE, PARK_PER_SHARD, ingress::Parked},
    id::{LogIndex, ShardId},
};
use tokio::{
    sync::oneshot,
    time::{Instant, MissedTickBehavior},
};

use super::Node;

/// How late the end of a stay may be noticed.
const TICK: Duration = Duration::from_millis(20);

/// How a stay in the park ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    /// The row is newer now.
    Released,
    TimedOut,
    /// Others took the room since it was last asked for.
    Full,
}

struct Held {
    past: LogIndex,
    bytes: u64,
    since: Instant,
    until: Instant,
    end: oneshot::Sender<Stay>,
}

#[derive(Default)]
struct Shard {
    held: VecDeque<Held>,
    bytes: u64,
}

#[derive(Default)]
struct State {
    shards: BTreeMap<ShardId, Shard>,
    bytes: u64,
}

pub(super) struct Park {
    node: Arc<Node>,
    state: Mutex<State>,
}

impl Park {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self { node, state: Mutex::default() }
    }

    /// What is parked for this shard and in all.
    pub(super) fn parked(&self, shard: ShardId) -> Parked {
        let lease = self.node.table.registry().settings().lease_ms;
        let lease = Duration::from_millis(u64::from(lease));
        let state = self.state.lock();
        Parked {
            shard_bytes: state.shards.get(&shard).map_or(0, |shard| shard.bytes),
            node_bytes: state.bytes,
            lease,
        }
    }

    /// Stays until the row of `shard` is newer than `past`, at most for `at_most`.
    pub(super) async fn hold(
        &self,
        shard: ShardId,
        past: LogIndex,
        bytes: u64,
        at_most: Duration,
    ) -> Stay {
        let (end, ended) = oneshot::channel();
        let since = Instant::now();
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let line = state.shards.entry(shard).or_default();
            if line.bytes + bytes > PARK_PER_SHARD || state.bytes + bytes > PARK_PER_NODE {
                return Stay::Full;
            }
            line.bytes += bytes;
            line.held.push_back(Held { past, bytes, since, until: since + at_most, end });
            state.bytes += bytes;
        }
        self.node.metrics.parked.inc();
        self.node.metrics.parked_now.inc();
        self.node.metrics.parked_bytes.inc_by(bytes as i64);
        // The row may have changed before this call stood in line.
        self.release(Some(shard));
        ended.await.unwrap_or(Stay::TimedOut)
    }

    /// Releases and expires, for ever.
    pub(super) async fn run(&self) {
        let mut changes = self.node.table.watch_map();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Ok(()) = changes.changed() => self.release(None),
                _ = tick.tick() => self.expire(),
            }
        }
    }

    fn release(&self, only: Option<ShardId>) {
        let table = self.node.table.routes();
        self.remove(only, |shard, held| {
            let row = table.lookup(shard).map(|route| route.changed());
            row.is_some_and(|row| row > held.past).then_some(Stay::Released)
        });
    }

    fn expire(&self) {
        let now = Instant::now();
        self.remove(None, |_, held| {
            (held.until <= now || held.end.is_closed()).then_some(Stay::TimedOut)
        });
    }

    /// Ends the stays for which `ends` says how, in their order.
    fn remove(&self, only: Option<ShardId>, ends: impl Fn(ShardId, &Held) -> Option<Stay>) {
        let mut gone = Vec::new();
        {
            let mut guard = self.state.lock();
            let State { shards, bytes } = &mut *guard;
            let one = only.map_or(ShardId(0)..=ShardId(u32::MAX), |shard| shard..=shard);
            for (id, line) in shards.range_mut(one) {
                for _ in 0..line.held.len() {
                    let Some(held) = line.held.pop_front() else { break };
                    match ends(*id, &held) {
                        Some(stay) => {
                            line.bytes -= held.bytes;
                            *bytes -= held.bytes;
                            gone.push((held, stay));
                        }
                        None => line.held.push_back(held),
                    }
                }
            }
            shards.retain(|_, line| !line.held.is_empty());
        }
        let metrics = &self.node.metrics;
        for (held, stay) in gone {
            metrics.parked_now.dec();
            metrics.parked_bytes.dec_by(held.bytes as i64);
            metrics.park_time.observe(held.since.elapsed().as_secs_f64());
            let _ = held.end.send(stay);
        }
    }
}
