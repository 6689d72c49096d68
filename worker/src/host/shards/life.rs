//! One incarnation of this node: its slots, and how they follow the table.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::{Mutex, RwLock};
use shoal_core::handoff::DRAIN_CAP;

use super::{slot::Slot, *};

pub(super) struct Life {
    pub(super) me: Process,
    ground: Arc<Ground>,
    slots: RwLock<Slots>,
    /// Index up to which the rows have been looked at.
    seen: Mutex<LogIndex>,
}

#[derive(Default)]
struct Slots {
    by_shard: BTreeMap<ShardId, Arc<Slot>>,
    closing: bool,
    leave_by: Option<Timestamp>,
}

impl Life {
    pub(super) fn new(ground: Arc<Ground>, me: Process) -> Self {
        Self { me, ground, slots: RwLock::default(), seen: Mutex::default() }
    }

    /// The slot of a shard that exists; none once this life closes.
    pub(super) fn slot(&self, shard: ShardId) -> Option<Arc<Slot>> {
        if let Some(slot) = self.slots.read().by_shard.get(&shard) {
            return Some(Arc::clone(slot));
        }
        self.ground.parts.table.routes().row(shard)?;
        let slot = {
            let mut slots = self.slots.write();
            if slots.closing {
                return None;
            }
            let fresh = || Slot::new(Arc::clone(&self.ground), shard, self.me);
            let slot = Arc::clone(slots.by_shard.entry(shard).or_insert_with(fresh));
            if let Some(by) = slots.leave_by {
                slot.on(Event::LeaveBy(by));
            }
            slot
        };
        // Read after the slot can be found: what changes later reaches it through `follow`.
        if let Some(row) = self.ground.parts.table.routes().row(shard) {
            slot.on(Event::Row(row));
        }
        Some(slot)
    }

    pub(super) fn slots(&self) -> Vec<Arc<Slot>> {
        self.slots.read().by_shard.values().cloned().collect()
    }

    /// Tells every slot that it concerns which rows changed.
    pub(super) fn follow(&self) {
        let routes = self.ground.parts.table.routes();
        let mut seen = self.seen.lock();
        let me = Some((self.me.node, self.me.incarnation));
        for (shard, row) in routes.rows_since(*seen) {
            let known = self.slots.read().by_shard.get(&shard).cloned();
            match known {
                Some(slot) => slot.on(Event::Row(row)),
                None if row.owner() == me => {
                    self.slot(shard);
                }
                None => {}
            }
        }
        *seen = routes.applied();
    }

    pub(super) fn tick(&self, now: Timestamp) {
        let timed: Vec<_> = self.ground.timed.lock().iter().copied().collect();
        for shard in timed {
            let slot = self.slots.read().by_shard.get(&shard).cloned();
            match slot {
                Some(slot) => slot.tick(now),
                None => self.ground.time(shard, false),
            }
        }
    }

    pub(super) fn leave_by(&self, by: Timestamp) {
        self.slots.write().leave_by = Some(by);
        for slot in self.slots() {
            slot.on(Event::LeaveBy(by));
        }
    }

    /// Ends when no handler runs and the host holds nothing.
    pub(super) async fn close(&self) {
        self.slots.write().closing = true;
        let slots = self.slots();
        let closed: Vec<_> = slots.iter().map(Slot::shut).collect();
        let idle = futures::future::join_all(slots.iter().map(|slot| slot.idle()));
        if tokio::time::timeout(DRAIN_CAP, idle).await.is_err() {
            slots.iter().for_each(|slot| slot.cancel_calls());
        }
        for closed in closed {
            // A dropped sender means that its executor is gone, and every handler with it.
            let _ = closed.await;
        }
    }
}
