//! The other end of a pipe: reads calls, hands them to the owner, never forwards them.
//!
//! Calls are admitted in the order in which they arrive, by the task that reads them; what
//! does not end at once goes on in a task of its own. [`answers`] sends what comes of it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{FutureExt as _, future::BoxFuture};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use parking_lot::Mutex;
use shoal_core::{
    admit::{
        Nack,
        generations::{Generation, Generations, Origin},
        owner::BUSY_PAUSE,
    },
    handoff::Process,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tonic::Status;
use tracing::debug;

use super::answers::{Answers, Load, Out};
use crate::{
    call::{Call, Outcome},
    forward::{
        Node,
        budget::{self, Budget, Charge, Full, Method, Stage},
        frame::{self, Decoder, Frame, Head, Hello, VERSION, Welcome},
        grpc::Body,
    },
    tls::Caller,
};

/// The gRPC method of a pipe.
pub const PATH: &str = "/shoal.v1.Pipe/Open";
/// Calls of one pipe that may wait for their answer: more than one peer's clients keep open.
const MAX_REQUESTS: u32 = 4_096;
/// Bytes of one pipe that may wait for their answer: two connection windows, or else
/// largest payloads.
const MAX_BYTES: usize = 32 << 20;
const MAX_PAYLOADS: usize = 2;
/// Room in the answers for what answers no call: Welcome, Drain, the close.
const CONTROL: usize = 4;
/// An opener says Hello with its first packet.
const HELLO_WITHIN: Duration = Duration::from_secs(2);

/// Why a pipe is closed from this side.
#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error("{0}")]
    Frame(#[from] frame::Error),
    #[error("its opener sent frames out of order")]
    Order,
    #[error("its opener sent more than it was allowed")]
    Credit,
    #[error("its opener has a newer one")]
    Superseded,
    #[error("its connection broke")]
    Broken,
    #[error("its answers are read no more")]
    Deaf,
}

/// Shut when a newer pipe of the same origin opened: nothing more is admitted from this one.
/// Locked while a call is admitted, so that a pipe that opens waits for an admission under way.
type Gate = Arc<Mutex<bool>>;

/// Takes pipes in.
pub struct Receiver {
    node: Arc<Node>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    generations: Generations,
    gates: BTreeMap<Origin, Gate>,
}

impl Receiver {
    pub fn new(node: Arc<Node>) -> Self {
        Self { node, open: Mutex::default() }
    }

    /// Answers a request to open a pipe. `leaving` turns true when its opener shall end it.
    pub fn open(
        self: &Arc<Self>,
        request: http::Request<Incoming>,
        caller: Caller,
        leaving: watch::Receiver<bool>,
    ) -> http::Response<Body> {
        let (out, answers) = mpsc::channel(MAX_REQUESTS as usize + CONTROL);
        let load = Arc::new(Load::default());
        let limits = Welcome {
            version: VERSION,
            requests: MAX_REQUESTS,
            bytes: MAX_BYTES.max(MAX_PAYLOADS * self.node.max_payload) as u32,
        };
        let reading = Reading {
            receiver: self.clone(),
            caller,
            limits,
            decoder: Decoder::default(),
            out,
            load: load.clone(),
            gate: Gate::default(),
            partial: BTreeMap::new(),
            newest: 0,
            running: BTreeMap::new(),
        };
        tokio::spawn(reading.run(request.into_body(), leaving));
        http::Response::builder()
            .header(http::header::CONTENT_TYPE, "application/grpc")
            .body(Body::Answers(Box::new(Answers::new(answers, load))))
            .unwrap_or_default()
    }

    /// Judges a Hello; shuts the older pipe of the same origin.
    fn welcome(&self, caller: &Caller, hello: &Hello, gate: &Gate) -> Result<(), String> {
        let me = self.node.me().ok_or("this node is not a member yet")?;
        let cluster = self.node.table.routes().cluster().id;
        if hello.version < VERSION {
            return Err(format!("version {} of a pipe is not spoken here", hello.version));
        }
        if hello.cluster != cluster {
            return Err(format!("this is cluster {cluster}, not {}", hello.cluster));
        }
        if hello.to != me.node {
            return Err(format!("this is node {}, not {}", me.node, hello.to));
        }
        if !hello.node {
            return Ok(());
        }
        let name = self.node.table.name_of(hello.from);
        caller.must_be(name.as_deref()).map_err(|error| error.to_string())?;
        let peer = Process { node: hello.from, incarnation: hello.incarnation };
        let origin = Origin { peer, thread: hello.thread };
        // Waits for calls that are being admitted: before Welcome they are in, or will not be.
        let older = self.open.lock().open(origin, Generation(hello.generation), gate)?;
        for older in older {
            *older.lock() = true;
        }
        Ok(())
    }
}

impl Open {
    /// The gates that the new pipe shuts: of the same thread of the peer, in this run of it
    /// or an earlier one.
    fn open(
        &mut self,
        origin: Origin,
        generation: Generation,
        gate: &Gate,
    ) -> Result<Vec<Gate>, String> {
        let peer = origin.peer;
        let same = |other: &Origin| other.peer.node == peer.node && other.thread == origin.thread;
        let newer = |other: &Origin| other.peer.incarnation > peer.incarnation;
        if self.gates.keys().any(|other| same(other) && newer(other)) {
            return Err("a newer run of the same node has a pipe here".to_owned());
        }
        if !self.generations.open(origin, generation) {
            return Err("a newer pipe is open".to_owned());
        }
        let older: Vec<_> = self.gates.extract_if(.., |other, _| same(other)).collect();
        self.gates.insert(origin, gate.clone());
        for ended in older.iter().map(|(other, _)| other.peer).filter(|other| *other != peer) {
            if !self.gates.keys().any(|other| other.peer == ended) {
                self.generations.forget(ended);
            }
        }
        Ok(older.into_iter().map(|(_, gate)| gate).collect())
    }
}

/// A payload of which pieces are still to come.
struct Partial {
    head: Head,
    bytes: BytesMut,
    room: Room,
}

/// What a call takes here while it runs, and what its answer is expected to.
struct Room {
    call: Charge,
    answer: Option<Charge>,
}

impl Room {
    /// The call has ended: what is left of it is its answer.
    fn hold(self, budget: &Arc<Budget>, method: Method, outcome: Outcome) -> Outcome {
        drop(self.call);
        budget.learn(method, &outcome);
        budget.hold(outcome, self.answer)
    }
}

/// One pipe, as its receiver reads it.
struct Reading {
    receiver: Arc<Receiver>,
    caller: Caller,
    limits: Welcome,
    decoder: Decoder,
    out: mpsc::Sender<Out>,
    load: Arc<Load>,
    gate: Gate,
    partial: BTreeMap<u64, Partial>,
    /// The newest call, refused or not.
    newest: u64,
    /// Cancels calls that run; those that ended are dropped some at a time.
    running: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Reading {
    async fn run(mut self, mut body: Incoming, mut leaving: watch::Receiver<bool>) {
        let result = self.read(&mut body, &mut leaving).await;
        if let Err(error) = result {
            debug!(%error, "closing a pipe");
            let status = match error {
                Closed::Superseded => Status::aborted(error.to_string()),
                Closed::Broken | Closed::Deaf => return,
                Closed::Frame(_) | Closed::Order | Closed::Credit => {
                    Status::invalid_argument(error.to_string())
                }
            };
            let _ = self.out.try_send(Out::Close(status));
        }
    }

    async fn read(
        &mut self,
        body: &mut Incoming,
        leaving: &mut watch::Receiver<bool>,
    ) -> Result<(), Closed> {
        let hello = tokio::time::timeout(HELLO_WITHIN, self.hello(body));
        let hello = hello.await.map_err(|_| Closed::Order)??;
        if let Err(reason) = self.receiver.welcome(&self.caller, &hello, &self.gate) {
            debug!(from = %hello.from, reason, "refusing a pipe");
            return self.send(Frame::Refuse { reason });
        }
        self.send(Frame::Welcome(self.limits))?;
        let mut drained = false;
        loop {
            while let Some(frame) = self.decoder.next()? {
                self.take(frame)?;
            }
            tokio::select! {
                biased;
                Ok(_) = leaving.wait_for(|leaving| *leaving), if !drained => {
                    drained = true;
                    self.send(Frame::Drain)?;
                }
                more = self.more(body) => if !more? { return Ok(()) },
            }
        }
    }

    async fn hello(&mut self, body: &mut Incoming) -> Result<Hello, Closed> {
        loop {
            match self.decoder.next()? {
                Some(Frame::Hello(hello)) => return Ok(hello),
                Some(_) => return Err(Closed::Order),
                None if self.more(body).await? => {}
                None => return Err(Closed::Order),
            }
        }
    }

    /// Reads on; false at the end.
    async fn more(&mut self, body: &mut Incoming) -> Result<bool, Closed> {
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    self.decoder.push(bytes);
                }
                Ok(true)
            }
            Some(Err(_)) => Err(Closed::Broken),
            None => Ok(false),
        }
    }

    fn send(&self, frame: Frame) -> Result<(), Closed> {
        self.out.try_send(Out::Frame(frame)).map_err(|_| Closed::Deaf)
    }

    fn take(&mut self, frame: Frame) -> Result<(), Closed> {
        match frame {
            Frame::Call { head, bytes } => self.call(head, bytes),
            Frame::Data { request, bytes } => self.piece(request, &bytes),
            Frame::Cancel { request } => self.cancel(request),
            Frame::Hello(_)
            | Frame::Welcome(_)
            | Frame::Refuse { .. }
            | Frame::Drain
            | Frame::Result { .. }
            | Frame::Begin { .. }
            | Frame::Failed { .. }
            | Frame::Nack { .. }
            | Frame::Unknown { .. } => Err(Closed::Order),
        }
    }

    fn call(&mut self, head: Head, bytes: Bytes) -> Result<(), Closed> {
        let length = head.length as usize;
        if length > self.receiver.node.max_payload {
            return Err(Closed::Credit);
        }
        self.load.add(size(&head), &self.limits).map_err(|()| Closed::Credit)?;
        self.newest = self.newest.max(head.request);
        let Ok(room) = self.room(&head) else {
            let nack = Outcome::Nack(Nack::Busy { after: BUSY_PAUSE });
            return answer(&self.out, head.request, size(&head), nack);
        };
        if bytes.len() == length {
            return self.admit(head, bytes, room);
        }
        let mut whole = BytesMut::with_capacity(length);
        whole.extend_from_slice(&bytes);
        let partial = Partial { head, bytes: whole, room };
        match self.partial.insert(partial.head.request, partial) {
            None => Ok(()),
            Some(_) => Err(Closed::Order),
        }
    }

    /// What the pipe may carry by its credit is more than this node may have room for, where many
    /// peers have one.
    fn room(&self, head: &Head) -> Result<Room, Full> {
        let budget = &self.receiver.node.budget;
        let call = budget.claim(Stage::Pipe, budget::cost(head.length as usize))?;
        Ok(Room { call, answer: budget.expect(Stage::Pipe, Method::of(&head.method))? })
    }

    fn piece(&mut self, request: u64, bytes: &[u8]) -> Result<(), Closed> {
        let Some(partial) = self.partial.get_mut(&request) else {
            // Of a call that was refused before its opener had sent the rest.
            return if request <= self.newest { Ok(()) } else { Err(Closed::Order) };
        };
        let length = partial.head.length as usize;
        if bytes.is_empty() || partial.bytes.len() + bytes.len() > length {
            return Err(Closed::Order);
        }
        partial.bytes.extend_from_slice(bytes);
        if partial.bytes.len() < length {
            return Ok(());
        }
        let Partial { head, bytes, room } = self.partial.remove(&request).ok_or(Closed::Order)?;
        self.admit(head, bytes.freeze(), room)
    }

    fn cancel(&mut self, request: u64) -> Result<(), Closed> {
        if let Some(partial) = self.partial.remove(&request) {
            let outcome = Outcome::Nack(Nack::Expired);
            let bytes = size(&partial.head);
            return answer(&self.out, request, bytes, outcome);
        }
        // One that ended meanwhile has its answer on the way.
        if let Some(running) = self.running.remove(&request) {
            let _ = running.send(());
        }
        Ok(())
    }

    /// Hands a whole call to the owner, whose first step says whether it admits it.
    fn admit(&mut self, head: Head, payload: Bytes, room: Room) -> Result<(), Closed> {
        let (request, bytes, method) = (head.request, size(&head), Method::of(&head.method));
        let call = Call {
            id: head.call,
            shard: head.shard,
            epoch: head.epoch,
            map_version: head.map_version,
            budget: Duration::from_millis(u64::from(head.budget_ms)),
            received: Instant::now(),
            attempt: head.attempt,
            idempotent: head.idempotent,
            key: head.key,
            method: head.method,
            payload,
        };
        let mut running = {
            let shut = self.gate.lock();
            if *shut {
                return Err(Closed::Superseded);
            }
            let mut running = self.receiver.node.owner.call(call);
            // No await between the gate and the owner's own check [S14].
            if let Some(outcome) = (&mut running).now_or_never() {
                let outcome = room.hold(&self.receiver.node.budget, method, outcome);
                return answer(&self.out, request, bytes, outcome);
            }
            running
        };
        let (cancel, cancelled) = oneshot::channel();
        self.remember(request, cancel);
        let (out, receiver) = (self.out.clone(), self.receiver.clone());
        tokio::spawn(async move {
            let outcome = finish(&mut running, cancelled).await;
            drop(running);
            let outcome = room.hold(&receiver.node.budget, method, outcome);
            let _ = answer(&out, request, bytes, outcome);
        });
        Ok(())
    }

    fn remember(&mut self, request: u64, cancel: oneshot::Sender<()>) {
        if self.running.len() >= 2 * self.load.requests().max(MAX_REQUESTS as usize / 8) {
            self.running.retain(|_, cancel| !cancel.is_closed());
        }
        self.running.insert(request, cancel);
    }
}

/// Runs to the end, or to a cancel; a pipe that ended cancels nothing.
async fn finish(
    running: &mut BoxFuture<'static, Outcome>,
    cancelled: oneshot::Receiver<()>,
) -> Outcome {
    let cancelled = async {
        if cancelled.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        outcome = running => outcome,
        () = cancelled => Outcome::Unknown("cancelled by its caller".to_owned()),
    }
}

fn answer(
    out: &mpsc::Sender<Out>,
    request: u64,
    bytes: usize,
    outcome: Outcome,
) -> Result<(), Closed> {
    out.try_send(Out::Answer { request, bytes, outcome }).map_err(|_| Closed::Deaf)
}

/// What a call takes of the credit, as its sender counts it.
fn size(head: &Head) -> usize {
    head.key.len() + head.method.len() + head.length as usize
}
