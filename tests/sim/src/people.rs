//! What people and an operator ask of a cluster while things go wrong: drains that are taken back,
//! removals for good, moves, other leaders, another lease.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use prost::Message;
use shoal_proto::shoal::admin::v1::{self as pb, DrainKind};
use shoal_worker::env::{random::below, sim::Place};
use tokio::time::{Instant, sleep, timeout};

use crate::{admin, probe::Sight};

/// Between two looks, and between two attempts.
const POLL: Duration = Duration::from_millis(100);
/// One attempt at one node.
const PATIENCE: Duration = Duration::from_secs(2);
/// After this a course is given up and what it began is taken back.
const COURSE: Duration = Duration::from_secs(25);
/// Taking back is tried this long; a node that is gone meanwhile has nothing to take back.
const TAKING_BACK: Duration = Duration::from_secs(30);
/// Leases that are asked for: none that would keep a cluster from healing in time.
const LEASES_MS: [u32; 3] = [3_000, 3_500, 4_500];

/// One thing asked for.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// Emptied, and taken back after a while.
    Drain(Place, Duration),
    /// Emptied, closed and removed for good.
    Remove(Place),
    /// Marked as removed while it lives.
    Force(Place),
    /// Some shard to this machine.
    Move(Place),
    Lead(Place),
    Lease,
    LeaseOf(u32),
}

impl Order {
    fn done(self) -> &'static str {
        match self {
            Self::Drain(..) => "drained and taken back",
            Self::Remove(_) => "removed for good",
            Self::Force(_) => "removed by force",
            Self::Move(_) => "moved by hand",
            Self::Lead(_) => "leadership handed over",
            Self::Lease | Self::LeaseOf(_) => "leases changed",
        }
    }
}

/// Shared by the world and whoever carries orders out.
#[derive(Default)]
pub struct Desk {
    orders: VecDeque<Order>,
    busy: bool,
    /// Nothing new is begun, and what was is taken back.
    pub hurry: bool,
    /// Removed for good: the process is to be stopped and its disk to be thrown away.
    pub removed: Vec<Place>,
    /// How often an order came to its end.
    pub done: BTreeMap<&'static str, u64>,
}

impl Desk {
    pub fn is_idle(&self) -> bool {
        self.orders.is_empty() && !self.busy && self.removed.is_empty()
    }

    /// Something was asked for and not begun.
    pub fn waits(&self) -> bool {
        !self.orders.is_empty()
    }

    pub fn ask(&mut self, order: Order) {
        self.orders.push_back(order);
    }
}

/// Carries orders out, one after the other, for ever.
pub struct People {
    pub desk: Arc<Mutex<Desk>>,
    pub sight: Arc<Mutex<Sight>>,
}

impl People {
    pub async fn run(self) {
        loop {
            let order = {
                let mut desk = self.desk.lock();
                let order = desk.orders.pop_front();
                desk.busy = order.is_some();
                order
            };
            match order {
                Some(order) => {
                    let outcome = self.carry_out(order).await;
                    tracing::info!(?order, ?outcome, "carried out");
                    let well = u64::from(outcome.is_ok());
                    *self.desk.lock().done.entry(order.done()).or_default() += well;
                }
                None => sleep(POLL).await,
            }
        }
    }

    async fn carry_out(&self, order: Order) -> Result<(), String> {
        match order {
            Order::Drain(place, span) => {
                let node = self.row(place).ok_or("not up")?;
                self.drain(&node, DrainKind::Restart).await?;
                let until = Instant::now() + span;
                while Instant::now() < until && !self.hurried() {
                    sleep(POLL).await;
                }
                self.take_back(node.id).await
            }
            Order::Remove(place) => self.remove(place).await,
            Order::Force(place) => self.force(place).await,
            Order::Move(place) => {
                let to = self.row(place).ok_or("not up")?.id;
                let shards = self.sight.lock().shards();
                let shard = below(u64::from(shards.max(1))) as u32;
                let request = pb::MoveRequest { shard, to, operator: None };
                self.ask::<_, pb::MoveResponse>("Move", &request).await.map(|_| ())
            }
            Order::Lead(place) => {
                let to = self.row(place).ok_or("not up")?.id;
                let request = pb::TransferLeaderRequest { to, operator: None };
                let answer = self.ask::<_, pb::TransferLeaderResponse>("TransferLeader", &request);
                answer.await.map(|_| ())
            }
            Order::Lease => {
                self.configure_lease(LEASES_MS[below(LEASES_MS.len() as u64) as usize]).await
            }
            Order::LeaseOf(lease_ms) => self.configure_lease(lease_ms).await,
        }
    }

    async fn configure_lease(&self, lease_ms: u32) -> Result<(), String> {
        let request = pb::ConfigureRequest { lease_ms: Some(lease_ms), ..<_>::default() };
        self.ask::<_, pb::ConfigureResponse>("Configure", &request).await.map(|_| ())
    }

    async fn remove(&self, place: Place) -> Result<(), String> {
        let node = self.row(place).ok_or("not up")?;
        let drained = self.drain(&node, DrainKind::Removal).await;
        tracing::debug!(?drained, "asked to drain for good");
        let until = Instant::now() + COURSE;
        while !self.is_removed(node.id).await {
            let seen = self.seen(node.id).await;
            // What is closed goes: nobody takes that back.
            let closed = seen.as_ref().is_some_and(|seen| seen.life == "closed");
            if (self.hurried() || Instant::now() >= until) && !closed {
                self.take_back(node.id).await?;
                if self.seen(node.id).await.is_none_or(|seen| seen.life == "up") {
                    return Err("taken back".to_owned());
                }
            }
            sleep(POLL).await;
        }
        self.throw_away(node.id, place).await
    }

    /// There is no way back: its row says that it has left, sooner or later.
    async fn force(&self, place: Place) -> Result<(), String> {
        let node = self.row(place).ok_or("not up")?;
        let request = pb::RemoveRequest { node: node.id, force: true, operator: None };
        let asked = self.ask::<_, pb::RemoveResponse>("Remove", &request).await;
        let until = Instant::now() + COURSE;
        loop {
            match self.seen(node.id).await {
                Some(seen) if seen.life == "left" => break,
                Some(seen) if !seen.marked && (self.hurried() || Instant::now() >= until) => {
                    return asked.map(|_| ());
                }
                Some(_) | None => sleep(POLL).await,
            }
        }
        self.throw_away(node.id, place).await
    }

    /// It votes until others do: where one of three is away its vote is needed for that.
    async fn throw_away(&self, id: u64, place: Place) -> Result<(), String> {
        while self.votes(id) {
            sleep(POLL).await;
        }
        self.desk.lock().removed.push(place);
        Ok(())
    }

    fn votes(&self, id: u64) -> bool {
        let sight = self.sight.lock();
        sight.latest().is_none_or(|seen| seen.voters.contains(&id))
    }

    /// Closes and removes the node once it owns nothing; the answer to either may have been lost.
    async fn is_removed(&self, id: u64) -> bool {
        let Some(seen) = self.seen(id).await else { return false };
        if seen.life == "left" {
            return true;
        }
        if seen.shards_owned + seen.shards_receiving > 0 || seen.drain != "removal" {
            return false;
        }
        let close = pb::CloseRequest { node: id, incarnation: seen.incarnation, operator: None };
        let closed = self.ask::<_, pb::CloseResponse>("Close", &close).await;
        let remove = pb::RemoveRequest { node: id, force: false, operator: None };
        let removed = self.ask::<_, pb::RemoveResponse>("Remove", &remove).await;
        tracing::debug!(?closed, ?removed, "asked to end a node");
        removed.is_ok()
    }

    async fn drain(&self, node: &pb::Node, kind: DrainKind) -> Result<(), String> {
        let request = pb::DrainRequest {
            node: node.id,
            kind: kind.into(),
            incarnation: node.incarnation.clone(),
            operator: None,
        };
        self.ask::<_, pb::DrainResponse>("Drain", &request).await.map(|_| ())
    }

    /// Until the drain is seen to be gone, or the node has left after all.
    async fn take_back(&self, id: u64) -> Result<(), String> {
        let request = pb::CancelDrainRequest { node: id, operator: None };
        let until = Instant::now() + TAKING_BACK;
        loop {
            let cancelled = self.ask::<_, pb::CancelDrainResponse>("CancelDrain", &request).await;
            let seen = self.seen(id).await;
            let drain = seen.as_ref().map(|seen| &seen.drain);
            tracing::debug!(?cancelled, ?drain, "asked to take a drain back");
            match seen {
                Some(seen) if seen.life == "left" || seen.drain == "none" => return Ok(()),
                Some(_) | None if Instant::now() >= until => {
                    return Err(format!("not taken back within {TAKING_BACK:?}"));
                }
                Some(_) | None => sleep(POLL).await,
            }
        }
    }

    /// A node as somebody who answers sees it, also once it has left.
    async fn seen(&self, id: u64) -> Option<pb::Node> {
        let request = pb::NodesRequest { all: true };
        let nodes: pb::NodesResponse = self.ask("Nodes", &request).await.ok()?;
        nodes.nodes.into_iter().find(|node| node.id == id)
    }

    /// At any node that answers, each asked once.
    async fn ask<A: Message, R: Message + Default>(
        &self,
        method: &str,
        request: &A,
    ) -> Result<R, String> {
        let mut last = "no node to ask".to_owned();
        let places = self.sight.lock().answering();
        for place in places {
            match timeout(PATIENCE, admin::call(place, method, request)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(why)) => last = why,
                Err(_) => last = format!("machine {place} did not answer"),
            }
        }
        Err(last)
    }

    fn hurried(&self) -> bool {
        self.desk.lock().hurry
    }

    fn row(&self, place: Place) -> Option<pb::Node> {
        self.sight.lock().row(place).cloned()
    }
}
