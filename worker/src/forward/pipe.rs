//! Calls to other nodes: one long-lived stream per peer, on which many calls travel.
//!
//! This side of it: who has a pipe, and the queue in front of it. [`sender`] keeps the pipe
//! open, [`link`] speaks on it, [`receiver`] is its other end. What becomes of a call that
//! came back unanswered is the entry's decision.

mod answers;
mod dial;
mod link;
mod receiver;
mod sender;

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use shoal_core::{
    id::{LogIndex, NodeId},
    registry::Life,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

pub(super) use self::{
    answers::Answers,
    receiver::{PATH, Receiver},
};
use super::{Node, budget::Charge};
use crate::call::{Call, Outcome};

/// Calls that wait for one peer: what it answers in a second or two when it is slow.
const QUEUE: usize = 4_096;
/// Bytes that wait for one peer, four connection windows, or else largest payloads.
const QUEUE_BYTES: usize = 64 * 1_024 * 1_024;
const QUEUE_PAYLOADS: usize = 4;
/// Cancels on their way; one that finds no room is lost, and the call runs to its deadline.
const CANCELS: usize = 1_024;
/// What a call takes of a queue besides its own bytes.
const OVERHEAD: usize = 256;

/// How one sending ended.
#[derive(Debug)]
pub enum Answer {
    Outcome(Outcome),
    /// It never left this node.
    NotSent,
    /// Handed to a transport that broke, or not answered by its deadline.
    Unknown,
}

/// A call in front of the pipe.
struct Order {
    request: u64,
    call: Call,
    /// Index of the row that named this peer; a newer one sends the call elsewhere.
    row: LogIndex,
    answer: oneshot::Sender<Answer>,
    /// What the answer is expected to take, if it is not small.
    room: Option<Charge>,
}

impl Order {
    fn bytes(&self) -> usize {
        cost(&self.call)
    }
}

/// What a call takes of the receiver's bytes: both sides count the same.
fn cost(call: &Call) -> usize {
    call.key.len() + call.method.len() + call.payload.len()
}

/// The way to one peer.
pub struct Pipe {
    orders: mpsc::Sender<Order>,
    cancels: mpsc::Sender<u64>,
    queued: Arc<AtomicUsize>,
    max_queued: usize,
    next: AtomicU64,
}

/// No more can wait for this peer.
#[derive(Debug)]
pub struct Full;

impl Pipe {
    /// Queues the call. `row` is the index of the row that named this peer.
    pub(super) fn send(
        self: Arc<Self>,
        call: Call,
        row: LogIndex,
        room: Option<Charge>,
    ) -> Result<Pending, Full> {
        let request = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let order = Order { request, call, row, answer, room };
        let bytes = order.bytes() + OVERHEAD;
        if self.queued.fetch_add(bytes, Ordering::Relaxed) + bytes > self.max_queued {
            self.queued.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Full);
        }
        if self.orders.try_send(order).is_err() {
            self.queued.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Full);
        }
        Ok(Pending { answered, request, pipe: self, done: false })
    }
}

/// The answer to come. Dropped before it came, it cancels the call.
pub struct Pending {
    answered: oneshot::Receiver<Answer>,
    request: u64,
    pipe: Arc<Pipe>,
    done: bool,
}

impl Future for Pending {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let answer = std::task::ready!(Pin::new(&mut self.answered).poll(cx));
        self.done = true;
        // Without an answer the sender ended, which first answers what it had sent.
        Poll::Ready(answer.unwrap_or(Answer::NotSent))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.done {
            let _ = self.pipe.cancels.try_send(self.request);
        }
    }
}

/// All pipes of one IO thread.
pub struct Pipes {
    node: Arc<Node>,
    thread: u16,
    open: ArcSwap<BTreeMap<NodeId, Arc<Pipe>>>,
    /// Held while `open` is replaced.
    opening: Mutex<()>,
    /// Number of the next pipe, whatever its peer; only its growth matters.
    generation: Arc<AtomicU64>,
    senders: TaskTracker,
}

impl Pipes {
    pub(super) fn new(node: Arc<Node>, thread: u16) -> Self {
        Self {
            node,
            thread,
            open: ArcSwap::default(),
            opening: Mutex::default(),
            generation: Arc::new(AtomicU64::new(1)),
            senders: TaskTracker::new(),
        }
    }

    /// The pipe to a peer; it dials when the first call comes.
    pub fn to(&self, peer: NodeId) -> Arc<Pipe> {
        if let Some(pipe) = self.open.load().get(&peer) {
            return pipe.clone();
        }
        let _opening = self.opening.lock();
        let mut open = BTreeMap::clone(&self.open.load());
        if let Some(pipe) = open.get(&peer) {
            return pipe.clone();
        }
        let table = self.node.table.routes();
        open.retain(|id, _| table.peer(*id).is_some_and(|peer| peer.life != Life::Left));
        let pipe = self.start(peer);
        open.insert(peer, pipe.clone());
        self.open.store(Arc::new(open));
        pipe
    }

    /// Lets every call in them end, then closes them.
    pub async fn close(&self) {
        {
            let _opening = self.opening.lock();
            self.open.store(Arc::default());
        }
        self.senders.close();
        self.senders.wait().await;
    }

    fn start(&self, peer: NodeId) -> Arc<Pipe> {
        let (orders, incoming) = mpsc::channel(QUEUE);
        let (cancels, cancelled) = mpsc::channel(CANCELS);
        let queued = Arc::new(AtomicUsize::new(0));
        let queue = sender::Queue::new(incoming, cancelled, queued.clone());
        let sender = sender::Sender {
            node: self.node.clone(),
            peer,
            thread: self.thread,
            generation: self.generation.clone(),
            queue,
        };
        self.senders.spawn(sender.run());
        let max_queued = QUEUE_BYTES.max(QUEUE_PAYLOADS * self.node.max_payload);
        Arc::new(Pipe { orders, cancels, queued, max_queued, next: AtomicU64::new(1) })
    }
}
