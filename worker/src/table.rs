//! The registry as this node knows it, whoever feeds it: the log entry by entry, a watch by
//! deltas, or both at once. The newest wins and it never goes back.
//!
//! Entries are applied only on top of entries, since deltas leave renewals out: where a watch is
//! ahead of the log, the log's own registry stands apart until it has caught up. Readers take a
//! lock for the registry, none for the routes.

pub mod metrics;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use shoal_core::{
    id::{LogIndex, MapVersion, NodeId, Timestamp},
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

/// Where the log's own registry is.
enum Log {
    /// No log feeds this table.
    None,
    /// It is the one that readers see.
    Shown,
    /// A watch is ahead of it. Up to `parted` listeners were told of renewals; `None`: of none.
    Apart { registry: Box<Registry>, parted: Option<LogIndex> },
}

struct State {
    /// What readers see.
    registry: Registry,
    log: Log,
    /// When the log brought its last entry.
    log_moved: Option<Timestamp>,
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
            state: RwLock::new(State {
                registry: Registry::new(),
                log: Log::None,
                log_moved: None,
            }),
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

    /// The name of a node, as far as this table knows it.
    pub fn name_of(&self, node: NodeId) -> Option<String> {
        self.routes().peer(node).map(|peer| peer.name.clone())
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

    /// Members of the log may be watched while it moves; others only know what they are told.
    pub fn follows_log(&self, within: Duration, now: Timestamp) -> bool {
        let state = self.0.state.read();
        let moved = state.log_moved.is_some_and(|at| now.at_most_since(at) <= within);
        moved && matches!(state.log, Log::Shown)
    }

    /// A watch brought a whole table. Refused where it would go back or change the cluster.
    pub fn install_snapshot(&self, parts: Delta) -> Result<(), Error> {
        let offered = Registry::from_parts(parts)?;
        let mut state = self.0.state.write();
        follows(&state.registry, &offered)?;
        let before = state.before_watch();
        state.part(before);
        self.put(state, offered);
        Ok(())
    }

    /// A watch brought the rows that changed.
    pub fn apply_delta(&self, delta: Delta) -> Result<(), Error> {
        let mut state = self.0.state.write();
        let before = state.before_watch();
        let changes = state.registry.install_delta(delta)?;
        state.part(before);
        self.publish(state, changes, false);
        Ok(())
    }

    /// A watch that has brought everything up to `since` says that no row changed up to `index`.
    pub fn progress(&self, since: LogIndex, index: LogIndex) -> Result<(), Error> {
        let mut state = self.0.state.write();
        if index <= state.registry.applied() {
            return Ok(());
        }
        state.registry.check_gap(since)?;
        let before = state.before_watch();
        state.part(before);
        state.registry.advance(index);
        self.publish(state, Changes::default(), false);
        Ok(())
    }

    /// The log begins with this registry, or goes on from it after a snapshot. It is shown once
    /// it is not behind what a watch brought before.
    pub(crate) fn adopt(&self, registry: Registry) {
        let mut state = self.0.state.write();
        if registry.applied() < state.registry.applied() {
            state.log = Log::Apart { registry: Box::new(registry), parted: None };
        } else {
            state.log = Log::Shown;
            self.put(state, registry);
        }
    }

    /// Applies one entry of the log. Only the state machine calls it, after `adopt`.
    pub(crate) fn apply(&self, index: LogIndex, command: &Command) -> Result<Event, Refused> {
        self.entry(|registry| {
            let (result, changes) = registry.apply(index, command);
            if changes.map_version_changed && cfg!(any(debug_assertions, feature = "sim")) {
                assert_eq!(registry.check(), [], "after {index}: {command:?}");
            }
            (result, changes)
        })
    }

    /// Notes an entry without a command.
    pub(crate) fn advance(&self, index: LogIndex) {
        self.entry(|registry| {
            registry.advance(index);
            ((), Changes::default())
        });
    }

    /// The registry as the log alone has made it, renewals included.
    pub(crate) fn of_log(&self) -> Registry {
        let state = self.0.state.read();
        match &state.log {
            Log::None | Log::Shown => state.registry.clone(),
            Log::Apart { registry, .. } => Registry::clone(registry),
        }
    }

    /// No log feeds this table any more.
    pub(crate) fn release(&self) {
        let mut state = self.0.state.write();
        state.log = Log::None;
        state.log_moved = None;
    }

    fn entry<R>(&self, apply: impl FnOnce(&mut Registry) -> (R, Changes)) -> R {
        let mut state = self.0.state.write();
        state.log_moved = Some(env::clock::now());
        debug_assert!(!matches!(state.log, Log::None), "an entry before the log was adopted");
        match std::mem::replace(&mut state.log, Log::Shown) {
            Log::None | Log::Shown => {
                let (result, changes) = apply(&mut state.registry);
                self.publish(state, changes, false);
                result
            }
            Log::Apart { mut registry, parted } => {
                let (result, _) = apply(&mut registry);
                if registry.applied() < state.registry.applied() {
                    state.log = Log::Apart { registry, parted };
                } else {
                    self.meet(state, *registry, parted);
                }
                result
            }
        }
    }

    /// The log has caught up with the watch and is shown again.
    fn meet(
        &self,
        mut state: RwLockWriteGuard<'_, State>,
        registry: Registry,
        parted: Option<LogIndex>,
    ) {
        match parted {
            // Under one lease, counted from now, no session is thought to end too early.
            Some(parted) if !registry.changes_since(parted).settings => {
                let mut changes = registry.changes_since(state.registry.applied());
                let renewed = registry.nodes().filter(|(_, node)| node.renewed > parted);
                changes.renewed = renewed.map(|(id, _)| id).collect();
                state.registry = registry;
                self.publish(state, changes, false);
            }
            Some(_) | None => self.put(state, registry),
        }
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

impl State {
    /// The log's own registry, where a watch is about to go ahead of it.
    fn before_watch(&self) -> Option<Registry> {
        matches!(self.log, Log::Shown).then(|| self.registry.clone())
    }

    fn part(&mut self, before: Option<Registry>) {
        if let Some(registry) = before {
            let parted = Some(registry.applied());
            self.log = Log::Apart { registry: Box::new(registry), parted };
        }
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
