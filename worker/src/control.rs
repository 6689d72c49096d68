//! The leader's loop: gathers what happened, asks the core, proposes commands.
//!
//! The only proposer. It decides nothing itself: sessions are judged by
//! `core::session`, placement by `core::planner`, moves by `core::handoff`, votes by
//! `core::autopilot`. On a node that does not lead it only keeps the expiries that a
//! leader must have from its first moment, and says who leads.

mod answer;
mod gather;
mod leader;
pub mod metrics;
mod moves;
mod renewals;
mod request;
mod voters;

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use shoal_core::{
    id::{LogIndex, NodeId, Timestamp},
    registry::{Command, Life, Settings},
    session::{
        expiry::{self, Expiry},
        fencing::TICK,
        freshness::History,
        lease::Lease,
        repeats::{self, Repeats},
    },
};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use request::{Denied, Granted, Outcome, Register, Renew, Request};

use self::{leader::Term, request::Envelope};
use crate::{
    env::clock,
    raft,
    table::{Applied, Table},
};

/// Requests that wait for the loop: more than 1,000 nodes send in one tick.
const INBOX: usize = 4_096;

pub struct Config {
    pub node: NodeId,
    /// Who may join before the cluster is formed, by NODE_ADDRESS or by name, as founding sets
    /// spell it.
    pub founding: Vec<String>,
    /// Size of the founding set.
    pub founding_size: usize,
    /// The first entry of the cluster, on its founder.
    pub found: Option<Command>,
    pub metrics: metrics::Metrics,
}

/// Asks the leader's loop of this node.
#[derive(Clone)]
pub struct Handle {
    inbox: mpsc::Sender<Envelope>,
}

impl Handle {
    pub async fn ask(&self, request: Request) -> Result<Granted, Denied> {
        let (reply, answer) = oneshot::channel();
        let stopped = || Denied::Later("this node is stopping".into());
        self.inbox.send(Envelope { request, reply }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

/// A proposal that came back, or did not.
pub(super) struct Done {
    kind: leader::Kind,
    result: Result<raft::Response, raft::ProposeError>,
}

pub struct Control {
    config: Config,
    raft: raft::Handle,
    table: Table,
    inbox: mpsc::Receiver<Envelope>,
    applied: broadcast::Receiver<Arc<Applied>>,
    proposals: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Kept on every node, so that a new leader has them already.
    memory: Memory,
    /// Index of the table that each node reported with its last renewal.
    tables: BTreeMap<NodeId, LogIndex>,
    /// Until when processes that were told to stop must have handed over, as they said last.
    deadlines: BTreeMap<NodeId, Timestamp>,
    /// When this node applied Formed, if it did so in this run.
    formed_at: Option<Timestamp>,
    began: Timestamp,
    term: Option<Term>,
    changing: Option<tokio::task::JoinHandle<()>>,
    transferring: Option<tokio::task::JoinHandle<()>>,
}

/// What every member remembers of the entries it applied, on its own clocks.
pub(super) struct Memory {
    pub expiry: Expiry,
    pub repeats: Repeats,
    pub history: History,
    /// The lease in force.
    pub lease: Lease,
    lives: BTreeMap<NodeId, Life>,
    previous_lease: Option<(u32, LogIndex)>,
}

impl Control {
    pub fn new(config: Config, raft: raft::Handle, table: Table) -> (Self, Handle) {
        let (sender, inbox) = mpsc::channel(INBOX);
        let applied = table.feed();
        let memory = Memory::restored(&table, clock::now());
        let control = Self {
            config,
            raft,
            table,
            inbox,
            applied,
            proposals: FuturesUnordered::new(),
            memory,
            tables: BTreeMap::new(),
            deadlines: BTreeMap::new(),
            formed_at: None,
            began: clock::now(),
            term: None,
            changing: None,
            transferring: None,
        };
        (control, Handle { inbox: sender })
    }

    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut leadership = self.raft.leadership();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let first = *leadership.borrow_and_update();
        self.on_leadership(first);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                changed = leadership.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now_led = *leadership.borrow_and_update();
                    self.on_leadership(now_led);
                }
                applied = self.applied.recv() => self.on_applied(applied),
                Some(done) = self.proposals.next() => self.on_done(done),
                Some(envelope) = self.inbox.recv() => self.on_request(envelope),
                _ = tick.tick() => self.on_tick(),
            }
        }
    }

    fn on_leadership(&mut self, leadership: raft::Leadership) {
        match leadership.ready {
            Some((index, at)) if leadership.is_leader => {
                if self.term.as_ref().is_none_or(|term| term.number != leadership.term) {
                    info!(node = %self.config.node, term = leadership.term, "leads");
                    self.term = Some(self.new_term(leadership.term, index, at));
                }
            }
            Some(_) | None => {
                if self.term.take().is_some() {
                    info!(node = %self.config.node, leader = ?leadership.leader, "leads no more");
                }
            }
        }
    }

    fn on_applied(&mut self, applied: Result<Arc<Applied>, broadcast::error::RecvError>) {
        match applied {
            Ok(applied) if applied.install => {
                self.memory = Memory::restored(&self.table, applied.at);
                self.rebuild_moves(applied.at);
            }
            Ok(applied) => {
                self.memory.on(&applied, &self.table);
                if applied.changes.cluster && self.table.registry().formed() {
                    self.formed_at = Some(applied.at);
                }
                self.on_applied_as_leader(&applied);
            }
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                // Longer expiries than needed are the safe way to forget.
                warn!(missed, "the control loop missed entries and starts its expiries anew");
                let now = clock::now();
                self.memory = Memory::restored(&self.table, now);
                self.rebuild_moves(now);
            }
            Err(broadcast::error::RecvError::Closed) => {}
        }
    }

    /// Proposes `command`; its outcome comes back to `on_done`.
    fn propose(&self, kind: leader::Kind, command: Command) {
        let raft = self.raft.clone();
        self.proposals.push(Box::pin(async move {
            let result = raft.propose(&command).await;
            Done { kind, result }
        }));
    }

    fn leader(&self) -> Option<NodeId> {
        self.raft.leadership().borrow().leader
    }
}

impl Memory {
    /// A start or an installed snapshot: every renewal is of unknown age.
    fn restored(table: &Table, now: Timestamp) -> Self {
        let registry = table.registry();
        let nodes: Vec<_> = registry.nodes().map(|(id, _)| id).collect();
        let settings = registry.settings();
        let previous = settings.previous_lease.map(|(millis, since)| (lease(millis), since));
        let mut expiry = Expiry::default();
        let lease = lease(settings.lease_ms);
        expiry.on(expiry::Event::Restored { nodes: &nodes, lease, previous }, now);
        let mut history = History::default();
        history.record(registry.applied(), lease, now);
        Self {
            expiry,
            repeats: Repeats::default(),
            history,
            lease,
            lives: registry.nodes().map(|(id, node)| (id, node.life)).collect(),
            previous_lease: settings.previous_lease,
        }
    }

    fn on(&mut self, applied: &Applied, table: &Table) {
        let registry = table.registry();
        let lease = lease(applied.lease_ms);
        self.lease = lease;
        self.history.record(applied.index, lease, applied.at);
        if !applied.changes.renewed.is_empty() {
            let nodes = &applied.changes.renewed;
            self.expiry.on(expiry::Event::Renewed { nodes, lease }, applied.at);
        }
        if applied.changes.settings {
            self.on_settings(registry.settings(), applied.at);
        }
        for id in &applied.changes.nodes {
            let Some(node) = registry.node(*id) else {
                self.lives.remove(id);
                continue;
            };
            let before = self.lives.insert(*id, node.life);
            match node.life {
                Life::Fenced if before != Some(Life::Fenced) => {
                    self.repeats.on(repeats::Event::Fenced { node: *id }, applied.at);
                }
                Life::Left if before != Some(Life::Left) => {
                    self.expiry.on(expiry::Event::Left { node: *id }, applied.at);
                    self.repeats.on(repeats::Event::Left { node: *id }, applied.at);
                }
                Life::Fenced | Life::Left | Life::Joining | Life::Up | Life::Closed => {}
            }
        }
    }

    fn on_settings(&mut self, settings: &Settings, at: Timestamp) {
        if settings.previous_lease == self.previous_lease {
            return;
        }
        self.previous_lease = settings.previous_lease;
        self.expiry.on(
            match settings.previous_lease {
                Some((millis, since)) => {
                    expiry::Event::LeaseChanged { previous: lease(millis), since }
                }
                None => expiry::Event::LeaseSettled,
            },
            at,
        );
    }
}

/// A lease that the registry accepted was checked when it was proposed.
pub(super) fn lease(millis: u32) -> Lease {
    Lease::from_millis(millis).unwrap_or_default()
}

#[cfg(test)]
mod tests;
