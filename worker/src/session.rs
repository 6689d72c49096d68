//! The session of this process: drives `core::session::holder` over the network.
//!
//! `client` carries requests to the leader through any member, `server` answers them on
//! every node, `leave` ends a session on purpose. The machine decides; this shell reads the
//! clock before each event, sends, and does what the machine asks for.

mod client;
mod health;
mod leave;
pub mod metrics;
mod server;

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::Mutex;
use shoal_core::{
    id::{Incarnation, NodeId},
    session::{
        holder::{Action, Answer, Call, Event, Holder, OwnRow, Why},
        lease::Lease,
    },
};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

pub use client::{Client, Error};
pub use health::Probe;
pub use leave::{hand_over_by, leave};
pub use server::Server;

use crate::{
    env::{clock, random},
    host::{right::Right, shards::Shards},
    identity::{self, Identity},
    pod::termination,
    table::Table,
};

/// Orders to the session: a process is told to stop once, gives up once.
const ORDERS: usize = 8;
/// How often the disk's probe and the executors' ticks are looked at.
const HEALTH_EVERY: Duration = Duration::from_millis(100);

/// What other components tell the session.
#[derive(Debug, Clone, Copy)]
enum Order {
    Leaving,
    ToldToStop,
    GiveUp,
}

/// Tells the session what only others know, and shows its state.
#[derive(Clone)]
pub struct Handle {
    orders: mpsc::Sender<Order>,
    state: watch::Receiver<State>,
}

/// What the session shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    pub incarnation: Incarnation,
    /// Registered once under this incarnation.
    pub registered: bool,
    /// The process must end, and why.
    pub exit: Option<Why>,
    /// The table lags: another source is wanted. Counts up.
    pub change_source: u64,
}

impl Handle {
    /// The process is told to stop: nothing is registered anew any more.
    pub async fn told_to_stop(&self) {
        // A session that has ended needs no telling.
        let _ = self.orders.send(Order::ToldToStop).await;
    }

    /// The process is told to stop, and hands over.
    pub async fn leaving(&self) {
        let _ = self.orders.send(Order::Leaving).await;
    }

    /// Nobody takes the shards, or no time is left: close them in place.
    pub async fn give_up(&self) {
        let _ = self.orders.send(Order::GiveUp).await;
    }

    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }
}

/// How a session ended.
#[derive(Debug)]
pub struct Ended {
    pub why: Why,
    /// Some incarnation of this run was registered.
    pub registered: bool,
    /// What the leader said last when it refused.
    pub refusal: String,
}

pub struct Config {
    pub node: NodeId,
    /// Rules the pace until the first answer.
    pub lease: Lease,
    pub metrics: metrics::Metrics,
    /// Says of every incarnation that it may have been, before it is.
    pub last_words: termination::Message,
}

pub struct Session {
    config: Config,
    identity: Arc<Mutex<Identity>>,
    table: Table,
    shards: Shards,
    right: Right,
    client: Client,
    probe: Probe,
    holder: Holder,
    orders: mpsc::Receiver<Order>,
    state: watch::Sender<State>,
    pending: FuturesUnordered<BoxFuture<'static, Result<Event, identity::Error>>>,
    /// Some incarnation of this run was registered.
    registered: bool,
    first: Vec<Action>,
}

impl Session {
    pub fn new(
        config: Config,
        identity: Arc<Mutex<Identity>>,
        table: Table,
        shards: Shards,
        right: Right,
        client: Client,
        probe: Probe,
    ) -> (Self, Handle) {
        let (holder, output) = Holder::new(config.lease, clock::now());
        let (order, orders) = mpsc::channel(ORDERS);
        let (state, watched) = watch::channel(State {
            incarnation: Incarnation::default(),
            registered: false,
            exit: None,
            change_source: 0,
        });
        let session = Self {
            config,
            identity,
            table,
            shards,
            right,
            client,
            probe,
            holder,
            orders,
            state,
            pending: FuturesUnordered::new(),
            registered: false,
            first: output.actions,
        };
        (session, Handle { orders: order, state: watched })
    }

    /// Runs until the machine says that the session has ended; an error when the directory
    /// cannot be written.
    pub async fn run(mut self) -> Result<Ended, identity::Error> {
        let why = self.drive().await?;
        Ok(Ended { why, registered: self.registered, refusal: self.client.refusal() })
    }

    async fn drive(&mut self) -> Result<Why, identity::Error> {
        let mut applied = self.table.watch_applied();
        let mut health = tokio::time::interval(HEALTH_EVERY);
        health.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut wake_at = None;
        let first = std::mem::take(&mut self.first);
        if let Some(why) = self.perform(first) {
            return Ok(why);
        }
        loop {
            let sleep = sleep_until(wake_at);
            let event = tokio::select! {
                biased;
                Some(event) = self.pending.next() => event?,
                Some(order) = self.orders.recv() => match order {
                    Order::Leaving => Event::Leaving,
                    Order::ToldToStop => Event::ToldToStop,
                    Order::GiveUp => Event::GiveUp,
                },
                Ok(()) = applied.changed() => {
                    applied.borrow_and_update();
                    self.table_event()
                }
                _ = health.tick() => Event::Health {
                    oldest_tick: self.shards.oldest_tick(),
                    probe_pending_since: self.probe.pending_since(),
                },
                () = sleep => Event::Wake { jitter: random::fraction() },
            };
            self.note(&event);
            let output = self.holder.on(event, clock::now());
            wake_at = output.wake_at;
            if let Some(why) = self.perform(output.actions) {
                return Ok(why);
            }
        }
    }

    fn table_event(&self) -> Event {
        let registry = self.table.registry();
        let row = registry.node(self.config.node).map(|node| OwnRow {
            incarnation: node.incarnation,
            life: node.life,
            drain: node.drain,
            marked: node.marked,
        });
        let row = row.or_else(|| registry.has_left(self.config.node).then_some(OwnRow::LEFT));
        Event::Table { index: registry.applied(), row }
    }

    fn note(&mut self, event: &Event) {
        if let Event::Answered { answer: Answer::Granted { .. }, .. } = event {
            self.registered = true;
            self.state.send_if_modified(|state| !std::mem::replace(&mut state.registered, true));
        }
    }

    fn perform(&mut self, actions: Vec<Action>) -> Option<Why> {
        for action in actions {
            match action {
                Action::NewIncarnation => self.new_incarnation(),
                Action::Send { request, call, incarnation, via } => {
                    let client = self.client.clone();
                    let table = self.table.applied();
                    let metrics = self.config.metrics.clone();
                    if call == Call::Renew {
                        metrics.sent.inc();
                    }
                    self.pending.push(Box::pin(async move {
                        let began = tokio::time::Instant::now();
                        let answer = client.session(call, incarnation, table, via).await;
                        metrics.ended(call, &answer, began.elapsed());
                        Ok(Event::Answered { request, answer })
                    }));
                }
                Action::ServeUntil { right } => {
                    self.right.extend(right);
                }
                Action::StopServing => {
                    warn!(node = %self.config.node, "the right to serve has ended");
                    self.config.metrics.self_fences.inc();
                    self.right.revoke();
                }
                Action::CloseAll(incarnation) => {
                    let shards = self.shards.clone();
                    self.pending.push(Box::pin(async move {
                        shards.close_all(incarnation).await;
                        Ok(Event::AllClosed(incarnation))
                    }));
                }
                Action::Leave | Action::Stay => self.ask(action),
                Action::ChangeSource => {
                    self.state.send_modify(|state| state.change_source += 1);
                }
                Action::Exit(why) => {
                    info!(node = %self.config.node, ?why, "the session has ended");
                    self.right.revoke();
                    // Whoever takes this for a target meanwhile is refused.
                    let (shards, incarnation) = (self.shards.clone(), self.holder.incarnation());
                    tokio::spawn(async move { shards.close_all(incarnation).await });
                    self.state.send_modify(|state| state.exit = Some(why));
                    return Some(why);
                }
            }
        }
        None
    }

    fn new_incarnation(&mut self) {
        let identity = self.identity.clone();
        let shards = self.shards.clone();
        let state = self.state.clone();
        let last_words = self.config.last_words.clone();
        self.pending.push(Box::pin(async move {
            let drawn = crate::env::thread::blocking(move || {
                let drawn = identity.lock().next_incarnation();
                drawn.inspect(|incarnation| last_words.write(*incarnation))
            });
            let incarnation = match drawn.await {
                Ok(drawn) => drawn?,
                // Cancelled: the runtime ends, and this with it.
                Err(_) => return std::future::pending().await,
            };
            shards.begin_incarnation(incarnation).await;
            state.send_modify(|state| {
                state.incarnation = incarnation;
                state.registered = false;
            });
            Ok(Event::Incarnation(incarnation))
        }));
    }

    /// Whether somebody else should have the shards of this slow disk.
    fn ask(&self, action: Action) {
        let (client, incarnation) = (self.client.clone(), self.holder.incarnation());
        let leaves = action == Action::Leave;
        let asks = if leaves { "the disk is slow" } else { "the disk is well again" };
        warn!(node = %self.config.node, leaves, "{asks}");
        tokio::spawn(async move {
            let asked = async {
                if leaves {
                    client.leave(incarnation).await
                } else {
                    client.stay(incarnation).await
                }
            };
            // Asked again while the table shows no change.
            if let Err(error) = asked.await {
                warn!(%error, leaves, "not accepted");
            }
        });
    }
}

async fn sleep_until(wake_at: Option<shoal_core::id::Timestamp>) {
    match wake_at {
        Some(instant) => tokio::time::sleep(clock::now().until_maybe_past(instant)).await,
        None => std::future::pending().await,
    }
}
