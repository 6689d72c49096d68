//! Keeps the pipe to one peer open while there is something to send.
//!
//! Calls that wait while there is no pipe are proven unexecuted: they stay until the pipe is
//! back, their row changes, their deadline passes or their caller goes away.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use shoal_core::{id::NodeId, route::RouteTable};
use tokio::sync::mpsc;
use tracing::{debug, info};

use super::{Answer, OVERHEAD, Order, QUEUE, dial, link};
use crate::forward::Node;

/// Pause before the first and the later attempts to reach a peer.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How late a deadline or a newer row may be noticed.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// What waits to be sent, oldest first.
pub(super) struct Queue {
    incoming: mpsc::Receiver<Order>,
    cancelled: mpsc::Receiver<u64>,
    waiting: VecDeque<Order>,
    bytes: Arc<AtomicUsize>,
    /// Nobody can send any more.
    closed: bool,
}

impl Queue {
    pub(super) fn new(
        incoming: mpsc::Receiver<Order>,
        cancelled: mpsc::Receiver<u64>,
        bytes: Arc<AtomicUsize>,
    ) -> Self {
        Self { incoming, cancelled, waiting: VecDeque::new(), bytes, closed: false }
    }

    /// Takes in what was queued since.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        while !self.closed && self.waiting.len() < QUEUE {
            match self.incoming.poll_recv(cx) {
                Poll::Ready(Some(order)) => self.waiting.push_back(order),
                Poll::Ready(None) => self.closed = true,
                Poll::Pending => break,
            }
        }
    }

    /// A request whose caller went away.
    pub(super) fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Option<u64> {
        match self.cancelled.poll_recv(cx) {
            Poll::Ready(request) => request,
            Poll::Pending => None,
        }
    }

    /// The next call that somebody still waits for.
    pub(super) fn front(&mut self) -> Option<&Order> {
        while self.waiting.front()?.answer.is_closed() {
            self.pop();
        }
        self.waiting.front()
    }

    pub(super) fn pop(&mut self) -> Option<Order> {
        let order = self.waiting.pop_front()?;
        self.bytes.fetch_sub(order.bytes() + OVERHEAD, Ordering::Relaxed);
        Some(order)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Empty, and nothing more can come.
    pub(super) fn is_done(&self) -> bool {
        self.closed && self.waiting.is_empty()
    }

    /// Hands back what need not wait here: calls that are too late, that nobody waits for,
    /// and those whose row is newer than the one that sent them here.
    pub(super) fn sweep(&mut self, table: &RouteTable) {
        let stays = |order: &Order| {
            table.lookup(order.call.shard).is_none_or(|row| row.changed() <= order.row)
        };
        for _ in 0..self.waiting.len() {
            let stay = self.waiting.front().is_some_and(|order| {
                !order.answer.is_closed() && !order.call.remaining().is_zero() && stays(order)
            });
            if stay {
                self.waiting.rotate_left(1);
            } else if let Some(order) = self.pop() {
                let _ = order.answer.send(Answer::NotSent);
            }
        }
    }
}

/// Why a pause between two attempts has ended.
enum Rested {
    Over,
    PeerIsBack,
}

pub(super) struct Sender {
    pub(super) node: Arc<Node>,
    pub(super) peer: NodeId,
    pub(super) thread: u16,
    pub(super) generation: Arc<AtomicU64>,
    pub(super) queue: Queue,
}

impl Sender {
    /// Until nobody can send to this peer any more.
    pub(super) async fn run(mut self) {
        let mut pause = BACK_OFF.0;
        while self.next_order().await {
            match self.dial().await {
                Ok(link) => {
                    pause = BACK_OFF.0;
                    self.node.metrics.pipes_opened.inc();
                    let end = link.run(&mut self.queue).await;
                    debug!(peer = %self.peer, ?end, "pipe ended");
                }
                Err(error) => {
                    self.node.metrics.pipes_failed.inc();
                    if pause == BACK_OFF.0 {
                        info!(peer = %self.peer, %error, "no pipe to peer, trying again");
                    } else {
                        debug!(peer = %self.peer, %error, "still no pipe to peer");
                    }
                    pause = match self.rest(pause).await {
                        Rested::Over => (pause * 2).min(BACK_OFF.1),
                        Rested::PeerIsBack => BACK_OFF.0,
                    };
                }
            }
        }
    }

    async fn next_order(&mut self) -> bool {
        std::future::poll_fn(|cx| {
            // Cancels concern what was sent; here they only must not fill their channel.
            while self.queue.poll_cancelled(cx).is_some() {}
            self.queue.poll(cx);
            if self.queue.front().is_some() {
                Poll::Ready(true)
            } else if self.queue.is_done() {
                Poll::Ready(false)
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// Begins anew when the peer registers a new process: nobody may answer where the last one was.
    async fn dial(&mut self) -> Result<link::Link, dial::Error> {
        loop {
            let back = self.peer_is_back();
            let target = dial::Target {
                node: self.node.clone(),
                peer: self.peer,
                thread: self.thread,
                generation: self.generation.fetch_add(1, Ordering::Relaxed),
            };
            tokio::select! {
                link = dial::dial(target) => return link,
                () = back => {}
                never = self.tend() => match never {},
            }
        }
    }

    /// Until the peer has registered a new process, which can be reached.
    fn peer_is_back(&self) -> impl Future<Output = ()> + use<> {
        let (table, peer) = (self.node.table.clone(), self.peer);
        let mut map = table.watch_map();
        let incarnation = move || table.routes().peer(peer).map(|peer| peer.incarnation);
        let before = incarnation();
        async move {
            while incarnation() == before {
                if map.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Until the pause is over, or the peer is back: a restart must not last longer for its callers
    /// than for the registry.
    async fn rest(&mut self, pause: Duration) -> Rested {
        let back = self.peer_is_back();
        tokio::select! {
            () = back => Rested::PeerIsBack,
            () = tokio::time::sleep(pause) => Rested::Over,
            never = self.tend() => match never {},
        }
    }

    /// Looks after the calls that wait while there is no pipe.
    async fn tend(&mut self) -> std::convert::Infallible {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => self.queue.sweep(&self.node.table.routes()),
                () = std::future::poll_fn(|cx| {
                    while self.queue.poll_cancelled(cx).is_some() {}
                    self.queue.poll(cx);
                    Poll::Pending
                }) => {}
            }
        }
    }
}
