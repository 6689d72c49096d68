//! Following the registry from afar: nodes that neither vote nor learn read deltas of another
//! node's table.

use shoal_core::{
    id::{LogIndex, Timestamp},
    registry::Delta,
};

use crate::{
    clock::{MS, True},
    world::{Message, Place, World},
};

/// Between two deltas of a source.
const EVERY: True = 60 * MS;

#[derive(Default)]
pub struct Watch {
    source: Option<Place>,
    next: True,
    /// Sources say nothing more to this node, and it does not notice.
    pub half_open: bool,
    heard: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub enum Follow {
    Since(LogIndex),
    Rows(Box<Delta>),
}

impl World {
    pub fn is_watcher(&self, place: Place) -> bool {
        self.nodes[place].disk.node.is_some_and(|id| !self.log.is_member(id))
    }

    pub fn poll_watch(&mut self, place: Place) {
        if self.now < self.live(place).watch.next || !self.is_watcher(place) {
            return;
        }
        self.live_mut(place).watch.next = self.now + EVERY;
        let source = match self.live(place).watch.source {
            Some(source) => source,
            None => self.other_source(place),
        };
        self.live_mut(place).watch.source = Some(source);
        let since = self.applied_index(place);
        self.send(place, source, Message::Follow(Follow::Since(since)));
    }

    fn other_source(&mut self, place: Place) -> Place {
        let others: Vec<Place> = (0..self.nodes.len()).filter(|other| *other != place).collect();
        self.random.pick(&others).unwrap_or(place)
    }

    pub fn change_source(&mut self, place: Place) {
        self.saw("table read from another source");
        let source = self.other_source(place);
        let watch = &mut self.live_mut(place).watch;
        watch.source = Some(source);
        watch.half_open = false;
        watch.next = 0;
        self.live_mut(place).lags_until = 0;
    }

    pub fn follow(&mut self, from: Place, place: Place, follow: Follow) {
        match follow {
            Follow::Since(since) => {
                let table = &self.live(place).table;
                if table.founded() && table.applied() >= since {
                    let rows = Box::new(table.rows_since(since));
                    self.send(place, from, Message::Follow(Follow::Rows(rows)));
                }
            }
            Follow::Rows(delta) => {
                let now = self.clock(place);
                let watcher = self.is_watcher(place);
                let live = self.live_mut(place);
                if !watcher || live.watch.half_open {
                    return;
                }
                live.watch.heard = Some(now);
                // Overtaken deltas are refused: a table never goes back.
                if live.table.install_delta(*delta).is_err() {
                    return self.saw("delta refused");
                }
                self.saw("delta installed");
                let applied = self.applied_index(place).0 / crate::log::STRIDE;
                let live = self.live_mut(place);
                live.applied = applied as usize;
                // Deltas carry no renewals: a member begins with a snapshot.
                live.wants_snapshot = true;
                live.committed = live.committed.max(live.applied);
                live.memory = crate::memory::Memory::restored(&live.table, now);
                self.table_changed(place);
            }
        }
    }
}
