//! One open pipe, as its sender drives it: batches out, answers in, without a timer or a
//! lock per call.
//!
//! The whole of it is one `poll`: answers first, then cancels, then new calls within the
//! receiver's credit, then pieces of large payloads in turn.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use shoal_core::id::Epoch;
use tokio::{
    sync::oneshot,
    time::{Instant, Interval, MissedTickBehavior},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Answer, Order,
    sender::{Queue, TICK},
};
use crate::{
    call::{Call, Outcome, Reply},
    forward::{
        Node,
        budget::{self, Charge, Full},
        frame::{self, BATCH_BYTES, Batch, CHUNK, Decoder, Frame, Head, Welcome},
    },
};

/// Longest answer put together from pieces; hosts' answers are bounded like payloads.
const MAX_ANSWER: usize = 64 * 1_024 * 1_024;

/// How a pipe ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("every call was answered")]
    Drained,
    #[error("it closed with calls unanswered")]
    Cut,
    #[error("HTTP/2: {0}")]
    Http2(#[from] h2::Error),
    #[error("the peer sent what is no pipe's: {0}")]
    Frame(#[from] frame::Error),
    #[error("the peer broke the order of frames")]
    Order,
}

/// A call that waits for its answer.
struct Waiting {
    /// Gone once the caller was answered or went away; the credit stays taken.
    answer: Option<oneshot::Sender<Answer>>,
    deadline: Instant,
    bytes: usize,
    /// What was set apart for its answer.
    room: Option<Charge>,
    /// A large answer of which pieces have come.
    large: Option<Large>,
}

struct Large {
    epoch: Epoch,
    length: usize,
    come: usize,
    /// None: nobody waits for it, or there is no room.
    kept: Option<(BytesMut, Charge)>,
}

/// A payload of which pieces are still to be sent: that call cannot have run.
struct Unsent {
    request: u64,
    rest: Bytes,
}

pub(super) struct Link {
    node: Arc<Node>,
    send: SendStream<Bytes>,
    receive: RecvStream,
    decoder: Decoder,
    welcome: Welcome,
    waiting: BTreeMap<u64, Waiting>,
    /// Bytes of all that wait.
    taken: usize,
    unsent: VecDeque<Unsent>,
    cancels: Vec<u64>,
    batch: Batch,
    parts: Vec<Bytes>,
    tick: Interval,
    /// The peer asked for the end: nothing new begins.
    draining: bool,
    /// This side has ended.
    ended: bool,
    _connection: AbortOnDropHandle<()>,
}

impl Link {
    pub(super) fn new(
        node: Arc<Node>,
        send: SendStream<Bytes>,
        receive: RecvStream,
        decoder: Decoder,
        welcome: Welcome,
        connection: AbortOnDropHandle<()>,
    ) -> Self {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            node,
            send,
            receive,
            decoder,
            welcome,
            waiting: BTreeMap::new(),
            taken: 0,
            unsent: VecDeque::new(),
            cancels: Vec::new(),
            batch: Batch::default(),
            parts: Vec::new(),
            tick,
            draining: false,
            ended: false,
            _connection: connection,
        }
    }

    /// Until it ends; then every call on it has its answer, and the queue keeps the others.
    pub(super) async fn run(mut self, queue: &mut Queue) -> End {
        let end = std::future::poll_fn(|cx| match self.poll(queue, cx) {
            Poll::Ready(Err(end)) => Poll::Ready(end),
            Poll::Ready(Ok(never)) => match never {},
            Poll::Pending => Poll::Pending,
        })
        .await;
        for unsent in &self.unsent {
            if let Some(Waiting { answer: Some(answer), .. }) = self.waiting.remove(&unsent.request)
            {
                let _ = answer.send(Answer::NotSent);
            }
        }
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            if let Some(answer) = waiting.answer {
                let _ = answer.send(Answer::Unknown);
            }
        }
        end
    }

    fn poll(
        &mut self,
        queue: &mut Queue,
        cx: &mut Context<'_>,
    ) -> Poll<Result<std::convert::Infallible, End>> {
        self.read(cx)?;
        self.expire(queue, cx);
        while let Some(request) = queue.poll_cancelled(cx) {
            self.give_up(request);
        }
        queue.poll(cx);
        while !self.ended {
            // Room first: what waits for it is proven unsent only while it is in the queue.
            if self.ready(cx)?.is_pending() {
                return Poll::Pending;
            }
            self.fill(queue);
            if self.batch.is_empty() {
                break;
            }
            self.hand_over()?;
        }
        if !self.ended && self.unsent.is_empty() && (self.draining || queue.is_done()) {
            self.ended = true;
            self.send.send_data(Bytes::new(), true)?;
        }
        Poll::Pending
    }
}

/// Out.
impl Link {
    fn ready(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        self.send.reserve_capacity(BATCH_BYTES);
        while self.send.capacity() == 0 {
            match self.send.poll_capacity(cx) {
                Poll::Ready(Some(capacity)) => {
                    capacity?;
                }
                Poll::Ready(None) => return Err(End::Cut),
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
        Ok(Poll::Ready(()))
    }

    fn hand_over(&mut self) -> Result<(), End> {
        self.batch.take(&mut self.parts);
        for part in self.parts.drain(..) {
            self.send.send_data(part, false)?;
        }
        Ok(())
    }

    /// Fills the batch: cancels, new calls, then large payloads, each of the latter in turn.
    fn fill(&mut self, queue: &mut Queue) {
        for request in self.cancels.drain(..) {
            self.batch.push(&Frame::Cancel { request });
        }
        // New calls leave room for at least one piece of what has begun.
        let mut room = if self.unsent.is_empty() { BATCH_BYTES } else { BATCH_BYTES / 2 };
        while !self.draining && !self.batch.is_full() && room > 0 {
            let Some(order) = queue.front() else { break };
            let bytes = order.bytes();
            let fits = self.waiting.len() < self.welcome.requests as usize
                && self.taken + bytes <= self.welcome.bytes as usize;
            if !fits {
                break;
            }
            if let Some(order) = queue.pop() {
                room = room.saturating_sub(bytes.min(CHUNK));
                self.begin(order, bytes);
            }
        }
        while !self.batch.is_full() {
            let Some(mut unsent) = self.unsent.pop_front() else { break };
            let bytes = unsent.rest.split_to(unsent.rest.len().min(CHUNK));
            self.batch.push(&Frame::Data { request: unsent.request, bytes });
            if !unsent.rest.is_empty() {
                self.unsent.push_back(unsent);
            }
        }
    }

    fn begin(&mut self, order: Order, bytes: usize) {
        let Order { request, call, answer, room, .. } = order;
        let deadline = call.received + call.budget;
        let (head, mut rest) = head(request, call);
        let first = rest.split_to(rest.len().min(CHUNK));
        self.batch.push(&Frame::Call { head, bytes: first });
        if !rest.is_empty() {
            self.unsent.push_back(Unsent { request, rest });
        }
        self.taken += bytes;
        let waiting = Waiting { answer: Some(answer), deadline, bytes, room, large: None };
        self.waiting.insert(request, waiting);
    }

    /// The caller went away: the receiver may stop, and answers all the same.
    fn give_up(&mut self, request: u64) {
        if let Some(waiting) = self.waiting.get_mut(&request) {
            waiting.answer = None;
            if !self.ended {
                self.cancels.push(request);
                self.unsent.retain(|unsent| unsent.request != request);
            }
        }
    }

    /// Deadlines, looked at all together some times a second.
    fn expire(&mut self, queue: &mut Queue, cx: &mut Context<'_>) {
        while (!self.waiting.is_empty() || !queue.is_empty()) && self.tick.poll_tick(cx).is_ready()
        {
            queue.sweep(&self.node.table.routes());
            let now = Instant::now();
            let late = |waiting: &Waiting| waiting.answer.is_some() && waiting.deadline <= now;
            let expired: Vec<u64> =
                self.waiting.iter().filter(|(_, w)| late(w)).map(|(request, _)| *request).collect();
            for request in expired {
                let answer = self.waiting.get_mut(&request).and_then(|w| w.answer.take());
                let unsent = self.unsent.iter().any(|unsent| unsent.request == request);
                if let Some(answer) = answer {
                    let _ = answer.send(if unsent { Answer::NotSent } else { Answer::Unknown });
                }
                self.give_up(request);
            }
        }
    }
}

/// In.
impl Link {
    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        loop {
            while let Some(frame) = self.decoder.next()? {
                self.take(frame)?;
            }
            match self.receive.poll_data(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Some(bytes)) => {
                    let bytes = bytes?;
                    self.receive.flow_control().release_capacity(bytes.len())?;
                    self.decoder.push(bytes);
                }
                Poll::Ready(None) if self.waiting.is_empty() => return Err(End::Drained),
                Poll::Ready(None) => return Err(End::Cut),
            }
        }
    }

    fn take(&mut self, frame: Frame) -> Result<(), End> {
        match frame {
            Frame::Result { request, epoch, payload } => {
                // A larger part of what it arrived in would be held with it.
                let large = payload.len() > budget::SMALL;
                let payload = if large { Bytes::copy_from_slice(&payload) } else { payload };
                let room = self.waiting.get_mut(&request).and_then(|w| w.room.take());
                let reply = Outcome::Reply(Reply { result: Ok(payload), epoch });
                self.answer(request, self.node.budget.hold(reply, room))
            }
            Frame::Failed { request, epoch, error } => {
                self.answer(request, Outcome::Reply(Reply { result: Err(error), epoch }))
            }
            Frame::Nack { request, nack } => {
                self.node.metrics.nacked(&nack);
                self.answer(request, Outcome::Nack(nack))
            }
            Frame::Unknown { request, reason } => self.answer(request, Outcome::Unknown(reason)),
            Frame::Begin { request, epoch, length, bytes } => {
                self.large(request, epoch, length as usize)?;
                self.piece(request, &bytes)
            }
            Frame::Data { request, bytes } => self.piece(request, &bytes),
            Frame::Drain => {
                self.draining = true;
                Ok(())
            }
            Frame::Hello(_)
            | Frame::Welcome(_)
            | Frame::Refuse { .. }
            | Frame::Call { .. }
            | Frame::Cancel { .. } => Err(End::Order),
        }
    }

    /// A large answer begins. Without room its caller is told at once, and the pieces that come
    /// are dropped: they travel among those of all others.
    fn large(&mut self, request: u64, epoch: Epoch, length: usize) -> Result<(), End> {
        let waiting = self.waiting.get_mut(&request).ok_or(End::Order)?;
        if waiting.large.is_some() || length > MAX_ANSWER {
            return Err(End::Order);
        }
        let room = waiting.room.take();
        let kept = match (&waiting.answer, self.node.budget.answer(room, length)) {
            (Some(_), Ok(room)) => room.map(|room| (BytesMut::with_capacity(length), room)),
            (None, _) | (_, Err(Full)) => None,
        };
        if kept.is_none()
            && let Some(answer) = waiting.answer.take()
        {
            let _ = answer.send(Answer::Outcome(budget::given_up(length)));
        }
        waiting.large = Some(Large { epoch, length, come: 0, kept });
        Ok(())
    }

    fn piece(&mut self, request: u64, bytes: &[u8]) -> Result<(), End> {
        let waiting = self.waiting.get_mut(&request).ok_or(End::Order)?;
        let large = waiting.large.as_mut().ok_or(End::Order)?;
        large.come += bytes.len();
        if large.come > large.length {
            return Err(End::Order);
        }
        if waiting.answer.is_none() {
            large.kept = None;
        }
        if let Some((kept, _)) = &mut large.kept {
            kept.extend_from_slice(bytes);
        }
        if large.come < large.length {
            return Ok(());
        }
        let outcome = match large.kept.take() {
            Some((bytes, room)) => {
                let result = Ok(room.around(bytes.freeze()));
                Outcome::Reply(Reply { result, epoch: large.epoch })
            }
            None => budget::given_up(large.length),
        };
        self.answer(request, outcome)
    }

    fn answer(&mut self, request: u64, outcome: Outcome) -> Result<(), End> {
        let waiting = self.waiting.remove(&request).ok_or(End::Order)?;
        self.taken -= waiting.bytes;
        // Refused before its payload was complete: the rest would be for nobody.
        self.unsent.retain(|unsent| unsent.request != request);
        if let Some(answer) = waiting.answer {
            let _ = answer.send(Answer::Outcome(outcome));
        }
        Ok(())
    }
}

fn head(request: u64, call: Call) -> (Head, Bytes) {
    let head = Head {
        request,
        call: call.id,
        shard: call.shard,
        epoch: call.epoch,
        map_version: call.map_version,
        budget_ms: call.remaining().as_millis().try_into().unwrap_or(u32::MAX),
        attempt: call.attempt,
        idempotent: call.idempotent,
        length: call.payload.len() as u32,
        key: call.key,
        method: call.method,
        metadata: Bytes::new(),
    };
    (head, call.payload)
}
