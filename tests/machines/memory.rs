//! What every member remembers of the entries it applied, on its own clocks.

use std::collections::BTreeMap;

use shoal_core::{
    id::{LogIndex, NodeId, Timestamp},
    registry::{Changes, Life, Registry, Settings},
    session::{
        expiry::{self, Expiry},
        freshness::History,
        lease::Lease,
        repeats::{self, Repeats},
    },
};

pub struct Memory {
    pub expiry: Expiry,
    pub repeats: Repeats,
    pub history: History,
    pub lease: Lease,
    pub formed_at: Option<Timestamp>,
    lives: BTreeMap<NodeId, Life>,
    previous_lease: Option<(u32, LogIndex)>,
}

pub fn lease(millis: u32) -> Lease {
    Lease::from_millis(millis).unwrap_or_default()
}

impl Memory {
    /// A start or an installed snapshot: every renewal is of unknown age.
    pub fn restored(table: &Registry, now: Timestamp) -> Self {
        let nodes: Vec<_> = table.nodes().map(|(id, _)| id).collect();
        let settings = table.settings();
        let previous = settings.previous_lease.map(|(millis, since)| (lease(millis), since));
        let lease = lease(settings.lease_ms);
        let mut expiry = Expiry::default();
        expiry.on(expiry::Event::Restored { nodes: &nodes, lease, previous }, now);
        let mut history = History::default();
        history.record(table.applied(), lease, now);
        Self {
            expiry,
            repeats: Repeats::default(),
            history,
            lease,
            formed_at: None,
            lives: table.nodes().map(|(id, node)| (id, node.life)).collect(),
            previous_lease: settings.previous_lease,
        }
    }

    /// `forgets`: the mutant that lets a renewal move an expiry back.
    pub fn on(
        &mut self,
        table: &Registry,
        index: LogIndex,
        changes: &Changes,
        forgets: bool,
        now: Timestamp,
    ) {
        let settings = table.settings();
        self.lease = lease(settings.lease_ms);
        self.history.record(index, self.lease, now);
        if !changes.renewed.is_empty() {
            if forgets {
                for node in &changes.renewed {
                    self.expiry.on(expiry::Event::Left { node: *node }, now);
                }
            }
            let event = expiry::Event::Renewed { nodes: &changes.renewed, lease: self.lease };
            self.expiry.on(event, now);
        }
        if changes.settings {
            self.on_settings(settings, now);
        }
        for id in &changes.nodes {
            let Some(node) = table.node(*id) else { continue };
            let before = self.lives.insert(*id, node.life);
            match node.life {
                Life::Fenced if before != Some(Life::Fenced) => {
                    self.repeats.on(repeats::Event::Fenced { node: *id }, now);
                }
                Life::Left if before != Some(Life::Left) => {
                    self.expiry.on(expiry::Event::Left { node: *id }, now);
                    self.repeats.on(repeats::Event::Left { node: *id }, now);
                }
                Life::Fenced | Life::Left | Life::Joining | Life::Up | Life::Closed => {}
            }
        }
    }

    fn on_settings(&mut self, settings: &Settings, now: Timestamp) {
        if settings.previous_lease == self.previous_lease {
            return;
        }
        self.previous_lease = settings.previous_lease;
        let event = match settings.previous_lease {
            Some((millis, since)) => expiry::Event::LeaseChanged { previous: lease(millis), since },
            None => expiry::Event::LeaseSettled,
        };
        self.expiry.on(event, now);
    }
}
