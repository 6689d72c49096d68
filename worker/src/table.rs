//! The registry as this node knows it: one copy, whoever feeds it.
//!
//! A member of the log feeds it entry by entry, any other node by deltas of a watch; it never
//! goes back. Readers take a lock for the registry, none for the routes.

pub mod metrics;

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use shoal_core::{
    id::{LogIndex, MapVersion, Timestamp},
    registry::{Changes, Command, Delta, Error, Event, Refused, Registry},
    route::RouteTable,
};
use tokio::sync::{broadcast, watch};

use crate::env;

/// Entries that a slow listener may be behind before it has to look at the registry anew:
/// some seconds of the busiest log.
const FEED: usize = 1_024;

/// Something was applied. Listeners that lag resync from the registry.
#[derive(Clone, Debug)]
pub struct Applied {
    pub index: LogIndex,
    /// This node's clocks, read right after.
    pub at: Timestamp,
    /// What it touched, the sessions it renewed included.
    pub changes: Changes,
    /// The lease in force at this index.
    pub lease_ms: u32,
    /// A whole table was installed: every row may have changed, every session counts as
    /// renewed now.
    pub install: bool,
}

/// Who may change the table now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feeder {
    Watch,
    Log,
}

struct State {
    registry: Registry,
    feeder: Feeder,
}

struct Inner {
    state: RwLock<State>,
    routes: ArcSwap<RouteTable>,
    applied: watch::Sender<LogIndex>,
    map: watch::Sender<MapVersion>,
    feed: broadcast::Sender<Arc<Applied>>,
}

/// Cheap to clone; every clone is the same table.
#[derive(Clone)]
pub struct Table(Arc<Inner>);

/// The registry under a read lock; never held across an await.
pub struct Reading<'a>(RwLockReadGuard<'a, State>);

impl std::ops::Deref for Reading<'_> {
    type Target = Registry;

    fn deref(&self) -> &Registry {
        &self.0.registry
    }
}

impl Default for Table {
    fn default() -> Self {
        Self(Arc::new(Inner {
            state: RwLock::new(State { registry: Registry::new(), feeder: Feeder::Watch }),
            routes: ArcSwap::from_pointee(RouteTable::default()),
            applied: watch::Sender::new(LogIndex::default()),
            map: watch::Sender::new(MapVersion::default()),
            feed: broadcast::Sender::new(FEED),
        }))
    }
}

impl Table {
    pub fn registry(&self) -> Reading<'_> {
        Reading(self.0.state.read())
    }

    /// The routes as of the last entry; no lock.
    pub fn routes(&self) -> Arc<RouteTable> {
        self.0.routes.load_full()
    }

    pub fn applied(&self) -> LogIndex {
        *self.0.applied.borrow()
    }

    /// Moves with every entry, renewals included.
    pub fn watch_applied(&self) -> watch::Receiver<LogIndex> {
        self.0.applied.subscribe()
    }

    /// Moves only when an owner, an epoch, an address or a node's state changed [P1].
    pub fn watch_map(&self) -> watch::Receiver<MapVersion> {
        self.0.map.subscribe()
    }

    /// Every change from now on, in order.
    pub fn feed(&self) -> broadcast::Receiver<Arc<Applied>> {
        self.0.feed.subscribe()
    }

    /// A watch brought a whole table. Refused where it would go back or change the cluster,
    /// and on a member of the log.
    pub fn install_snapshot(&self, parts: Delta) -> Result<(), Error> {
        let state = self.0.state.write();
        if state.feeder == Feeder::Log {
            return Err(Error::Malformed("a member of the log follows no watch"));
        }
        let offered = Registry::from_parts(parts)?;
        follows(&state.registry, &offered)?;
        self.put(state, offered);
        Ok(())
    }

    /// A watch brought the rows that changed.
    pub fn apply_delta(&self, delta: Delta) -> Result<(), Error> {
        let mut state = self.0.state.write();
        if state.feeder == Feeder::Log {
            return Err(Error::Malformed("a member of the log follows no watch"));
        }
        let changes = state.registry.install_delta(delta)?;
        self.publish(state, changes, false);
        Ok(())
    }

    /// Takes over a registry that the log has built, once it is not behind what the watch
    /// brought before: until then the log's copy stays apart.
    pub(crate) fn adopt(&self, registry: &Registry) -> bool {
        let mut state = self.0.state.write();
        if registry.applied() < state.registry.applied() {
            return false;
        }
        state.feeder = Feeder::Log;
        self.put(state, registry.clone());
        true
    }

    /// Applies one entry of the log. Only the state machine calls it, after `adopt`.
    pub(crate) fn apply(&self, index: LogIndex, command: &Command) -> Result<Event, Refused> {
        let mut state = self.0.state.write();
        debug_assert_eq!(state.feeder, Feeder::Log);
        let (result, changes) = state.registry.apply(index, command);
        if changes.map_version_changed {
            debug_assert_eq!(state.registry.check(), [], "after {index}: {command:?}");
        }
        self.publish(state, changes, false);
        result
    }

    /// Notes an entry without a command.
    pub(crate) fn advance(&self, index: LogIndex) {
        let mut state = self.0.state.write();
        debug_assert_eq!(state.feeder, Feeder::Log);
        state.registry.advance(index);
        self.publish(state, Changes::default(), false);
    }

    /// This node is no member of the log any more: a watch may feed the table again.
    pub(crate) fn release(&self) {
        self.0.state.write().feeder = Feeder::Watch;
    }

    fn put(&self, mut state: RwLockWriteGuard<'_, State>, registry: Registry) {
        let changes = Changes {
            nodes: registry.nodes().map(|(id, _)| id).collect(),
            shards: registry.shards().map(|(id, _)| id).collect(),
            cluster: true,
            settings: true,
            renewed: Vec::new(),
            map_version_changed: true,
        };
        state.registry = registry;
        self.publish(state, changes, true);
    }

    /// Routes first, then the indexes that vouch for them, then the listeners.
    fn publish(&self, state: RwLockWriteGuard<'_, State>, changes: Changes, install: bool) {
        let at = env::clock::now();
        let registry = &state.registry;
        let routes = if install {
            RouteTable::from_registry(registry)
        } else {
            let mut routes = RouteTable::clone(&self.0.routes.load());
            routes.update(registry, &changes);
            routes
        };
        let (index, version) = (routes.applied(), routes.version());
        let lease_ms = registry.settings().lease_ms;
        self.0.routes.store(Arc::new(routes));
        self.0.applied.send_replace(index);
        self.0.map.send_if_modified(|known| std::mem::replace(known, version) != version);
        // Nobody may listen yet.
        let _ = self.0.feed.send(Arc::new(Applied { index, at, changes, lease_ms, install }));
    }
}

fn follows(have: &Registry, offered: &Registry) -> Result<(), Error> {
    let (ours, theirs) = (have.cluster().id, offered.cluster().id);
    if have.founded() && ours != theirs {
        return Err(Error::Foreign { ours, theirs });
    }
    if offered.applied() < have.applied() {
        return Err(Error::Behind { have: have.applied(), offered: offered.applied() });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
