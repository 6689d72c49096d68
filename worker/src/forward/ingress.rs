//! A client's call, from its bytes to its answer.
//!
//! Reads top to bottom: decode, find the shard, send to its owner, ask `admit` what to do
//! with what came back, until there is an answer. No lock and no leader on the way.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue};
use hyper::body::Incoming;
use shoal_core::{
    admit::{
        Class, Nack,
        ingress::{self as retry, Decision, PAUSES},
    },
    id::{Epoch, LogIndex, NodeId, ShardId},
    route::RouteTable,
};
use shoal_proto::{
    hash,
    shoal::v1::{CallRequest, CallResponse},
};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{
    Node,
    budget::{self, Full, Method, Stage},
    grpc::{self, Body},
    owing::Owing,
    park::{Park, Stay},
    pipe::{Answer, Pipes},
};
use crate::{
    call::{AppError, Call, DEFAULT_BUDGET, MAX_KEY, Outcome, Reply},
    env,
    wire::status,
};

/// Longest name of a method: what hosts declare is far below it.
const MAX_METHOD: usize = 256;
/// What a request holds besides its payload: key, method, tags and lengths.
const AROUND_PAYLOAD: usize = MAX_KEY + MAX_METHOD + 64;

/// The field of `CallResponse`.
const PAYLOAD: u32 = 1;

const OWNER: HeaderName = HeaderName::from_static("x-shoal-owner");
const EPOCH: HeaderName = HeaderName::from_static("x-shoal-epoch");
const VERSION: HeaderName = HeaderName::from_static("x-shoal-version");

/// The entry of one node: every call that arrives from a client goes through it.
pub struct Ingress {
    node: Arc<Node>,
    pipes: Pipes,
    park: Park,
}

/// A call that its owner answered.
struct Answered {
    reply: Reply,
    owner: NodeId,
    shard: ShardId,
    /// Epoch that the last sending believed in.
    believed: Epoch,
    forwarded: bool,
    table: Arc<RouteTable>,
}

/// How one sending ended.
enum Sent {
    Answered(Reply),
    Not {
        outcome: retry::Outcome,
        why: Why,
    },
    /// Not sent: there is no room for it.
    Full(Why),
}

/// For the text of an error.
enum Why {
    NoOwner,
    Nack(Nack),
    NoPipe(NodeId),
    Broken(NodeId),
    Withheld(String),
    QueueFull,
    NoMemory,
}

/// Where a sending went.
struct Target {
    table: Arc<RouteTable>,
    owner: Option<NodeId>,
    forwarded: bool,
    row: LogIndex,
}

impl Ingress {
    pub fn new(node: Arc<Node>) -> Arc<Self> {
        let pipes = Pipes::new(node.clone(), 0);
        Arc::new(Self { pipes, park: Park::new(node.clone()), node })
    }

    /// What it has to do besides its calls; for ever.
    pub async fn run(&self) {
        self.park.run().await;
    }

    /// Lets the calls to other nodes end, then closes the pipes.
    pub async fn close(&self) {
        self.pipes.close().await;
    }

    /// Answers `shoal.v1.Shoal/Call` on a connection that owes the answer from then on.
    pub(super) async fn serve(
        &self,
        headers: &HeaderMap,
        mut body: Incoming,
        owing: &Arc<Owing>,
    ) -> http::Response<Body> {
        let answered = self.answer(headers, &mut body).await;
        match answered.and_then(|answered| respond(answered, owing)) {
            Ok(response) => response,
            Err(status) => {
                grpc::discard(body);
                status.into_http()
            }
        }
    }

    /// The call has its room from before its body is read until it is answered.
    async fn answer(&self, headers: &HeaderMap, body: &mut Incoming) -> Result<Answered, Status> {
        let no_room = |full: Full| status::exhausted(full.to_string(), PAUSES.1);
        let budget = grpc::timeout(headers)?.unwrap_or(DEFAULT_BUDGET);
        let mut room = self.node.budget.claim(Stage::Entry, budget::CALL).map_err(no_room)?;
        let limit = self.node.max_payload + AROUND_PAYLOAD;
        let claim = |length| room.resize(Stage::Entry, budget::cost(length)).map_err(no_room);
        let mut reading = std::pin::pin!(grpc::read(body, limit, claim));
        let request: CallRequest = match reading.as_mut().now_or_never() {
            Some(read) => read?,
            // A client that stops in the middle gives its room back in time.
            None => tokio::time::timeout(budget, reading)
                .await
                .map_err(|_| status::deadline(false))??,
        };
        self.call(request, budget).await
    }

    async fn call(&self, request: CallRequest, budget: Duration) -> Result<Answered, Status> {
        let CallRequest { key, method, payload } = request;
        judge(&key, &method, &payload, self.node.max_payload)?;
        let table = self.node.table.routes();
        if table.cluster().formed.is_none() {
            return Err(status::unavailable("this node knows no formed cluster yet", PAUSES.1));
        }
        let idempotent = self.node.owner.idempotent(&method);
        let call = Call {
            id: env::random::u128(),
            shard: table.shard_of_hash(hash::key_hash(&key)),
            epoch: Epoch::default(),
            map_version: table.version(),
            budget,
            received: Instant::now(),
            attempt: 0,
            idempotent,
            key,
            method,
            payload,
        };
        self.drive(call, table).await
    }

    /// Sends, and sends again, until there is an answer.
    async fn drive(&self, mut call: Call, table: Arc<RouteTable>) -> Result<Answered, Status> {
        let mut state = retry::Call {
            class: if call.idempotent { Class::Idempotent } else { Class::Plain },
            bytes: (call.key.len() + call.method.len() + call.payload.len()) as u64,
            attempts: 0,
            stale_since: None,
            sent: 0,
            paced: LogIndex::default(),
            tainted: false,
            left: budget_left(&call),
            row_sent: LogIndex::default(),
            row_now: LogIndex::default(),
        };
        let mut target = self.route(&mut call, table);
        loop {
            let (outcome, why) = match self.send(&call, &target).await {
                Sent::Answered(reply) => return Ok(answered(reply, &call, target)),
                Sent::Not { outcome, why } => (outcome, why),
                Sent::Full(why) if state.tainted => (retry::Outcome::Withheld, why),
                Sent::Full(why) => {
                    return Err(status::exhausted(why.text(call.shard), PAUSES.1));
                }
            };
            state = self.next(outcome, state, &target, &call, &why).await?;
            self.node.metrics.resends.inc();
            target = self.route(&mut call, self.node.table.routes());
        }
    }

    /// Reads the row of the call's shard into the call.
    fn route(&self, call: &mut Call, table: Arc<RouteTable>) -> Target {
        let route = table.lookup(call.shard);
        let owner = route.and_then(|route| route.owner());
        call.epoch = route.map_or(Epoch::default(), |route| route.epoch());
        call.map_version = table.version();
        call.attempt = call.attempt.saturating_add(1);
        let forwarded = owner != self.node.me().map(|me| me.node);
        let row = route.map_or(LogIndex::default(), |route| route.changed());
        Target { table, owner, forwarded, row }
    }

    async fn send(&self, call: &Call, target: &Target) -> Sent {
        let Some(owner) = target.owner else {
            // Not sent anywhere: as if an owner had said that its row will change.
            let outcome = retry::Outcome::Nack(Nack::Moving { row: target.row });
            return Sent::Not { outcome, why: Why::NoOwner };
        };
        let Node { metrics, budget, .. } = &*self.node;
        let Ok(room) = budget.expect(Stage::Entry, Method::of(&call.method)) else {
            return Sent::Full(Why::NoMemory);
        };
        if !target.forwarded {
            if call.attempt == 1 {
                metrics.local.inc();
            }
            let outcome = self.node.owner.call(call.clone()).await;
            if let Outcome::Nack(nack) = &outcome {
                metrics.nacked(nack);
            }
            budget.learn(Method::of(&call.method), &outcome);
            return sent(budget.hold(outcome, room));
        }
        if call.attempt == 1 {
            metrics.forwarded.inc();
        }
        match self.pipes.to(owner).send(call.clone(), target.row, room) {
            Err(_) => Sent::Full(Why::QueueFull),
            Ok(pending) => match pending.await {
                Answer::Outcome(outcome) => {
                    budget.learn(Method::of(&call.method), &outcome);
                    sent(outcome)
                }
                Answer::NotSent => {
                    Sent::Not { outcome: retry::Outcome::NotSent, why: Why::NoPipe(owner) }
                }
                Answer::Unknown => {
                    Sent::Not { outcome: retry::Outcome::Unknown, why: Why::Broken(owner) }
                }
            },
        }
    }

    /// Waits as `admit` says; an error is the call's answer.
    async fn next(
        &self,
        mut outcome: retry::Outcome,
        mut state: retry::Call,
        target: &Target,
        call: &Call,
        why: &Why,
    ) -> Result<retry::Call, Status> {
        loop {
            state.left = budget_left(call);
            state.row_sent = target.row;
            let row = self.node.table.routes().lookup(call.shard);
            state.row_now = row.map_or(LogIndex::default(), |route| route.changed());
            let decision;
            (state, decision) = retry::retry(outcome, state, &self.park.parked(call.shard));
            match decision {
                Decision::Resend { after } => {
                    if !after.is_zero() {
                        tokio::time::sleep(jittered(after)).await;
                    }
                    return Ok(state);
                }
                Decision::Park { past, at_most } => {
                    match self.park.hold(call.shard, past, state.bytes, at_most).await {
                        Stay::Released => return Ok(state),
                        Stay::TimedOut => outcome = retry::Outcome::ParkEnded,
                        // Asks again, with the park as it is by now.
                        Stay::Full => {}
                    }
                }
                Decision::Pause { past, at_most } => {
                    let held = self.park.hold(call.shard, past, state.bytes, jittered(at_most));
                    match held.await {
                        Stay::Released | Stay::TimedOut => return Ok(state),
                        Stay::Full => {}
                    }
                }
                Decision::Answer(answer) => return Err(self.refuse(answer, call, why)),
            }
        }
    }

    fn refuse(&self, answer: retry::Status, call: &Call, why: &Why) -> Status {
        let late = budget_left(call).is_zero();
        let text = why.text(call.shard);
        match answer {
            retry::Status::Unavailable { .. } if late => status::deadline(false),
            retry::Status::Unavailable { retry_after } => {
                self.node.metrics.unavailable.inc();
                status::unavailable(text, retry_after)
            }
            retry::Status::ResourceExhausted { retry_after } => {
                status::exhausted(format!("too many calls are parked: {text}"), retry_after)
            }
            // `retry` gives Result for Done alone, which never comes here.
            retry::Status::OutcomeUnknown | retry::Status::Result => {
                self.node.metrics.unknown.inc();
                if late { status::deadline(true) } else { status::outcome_unknown(text) }
            }
        }
    }
}

impl Why {
    fn text(&self, shard: ShardId) -> String {
        match self {
            Self::NoOwner => format!("shard {shard} has no owner"),
            Self::Nack(Nack::NotOwner { .. }) => format!("shard {shard} changed its owner"),
            Self::Nack(Nack::Moving { .. }) => format!("shard {shard} is moving"),
            Self::Nack(Nack::Busy { .. }) => format!("the owner of shard {shard} is busy"),
            Self::Nack(Nack::StaleReceiver) => {
                format!("the owner of shard {shard} may not serve at the moment")
            }
            Self::Nack(Nack::Expired) => format!("the call reached shard {shard} too late"),
            Self::NoPipe(node) => format!("node {node} cannot be reached"),
            Self::Broken(node) => format!("the connection to node {node} broke during the call"),
            Self::Withheld(reason) => reason.clone(),
            Self::NoMemory => Full.to_string(),
            Self::QueueFull => format!("too many calls wait for the owner of shard {shard}"),
        }
    }
}

pub(crate) fn judge(
    key: &Bytes,
    method: &str,
    payload: &Bytes,
    max_payload: usize,
) -> Result<(), Status> {
    if key.is_empty() {
        return Err(Status::invalid_argument("the key is empty"));
    }
    if key.len() > MAX_KEY {
        return Err(status::too_large("key", key.len(), MAX_KEY));
    }
    if payload.len() > max_payload {
        return Err(status::too_large("payload", payload.len(), max_payload));
    }
    if method.is_empty() || method.len() > MAX_METHOD {
        return Err(Status::invalid_argument(format!(
            "the method's name has {} bytes, allowed are 1 to {MAX_METHOD}",
            method.len()
        )));
    }
    Ok(())
}

/// Calls that were refused together do not come back together.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.75 + env::random::fraction() / 2.0)
}

fn budget_left(call: &Call) -> Duration {
    call.remaining()
}

fn sent(outcome: Outcome) -> Sent {
    match outcome {
        Outcome::Reply(reply) => Sent::Answered(reply),
        Outcome::Nack(nack) => {
            Sent::Not { outcome: retry::Outcome::Nack(nack), why: Why::Nack(nack) }
        }
        Outcome::Unknown(reason) => {
            Sent::Not { outcome: retry::Outcome::Withheld, why: Why::Withheld(reason) }
        }
    }
}

fn answered(reply: Reply, call: &Call, target: Target) -> Answered {
    Answered {
        reply,
        owner: target.owner.unwrap_or_default(),
        shard: call.shard,
        believed: call.epoch,
        forwarded: target.forwarded,
        table: target.table,
    }
}

fn respond(answered: Answered, owing: &Arc<Owing>) -> Result<http::Response<Body>, Status> {
    let Answered { reply, owner, shard, believed, forwarded, table } = answered;
    let owner = table.peer(owner);
    let payload = reply.result.map_err(app_status)?;
    let large = payload.len() > budget::SMALL;
    let (copied, held) = if large { (Bytes::new(), payload) } else { (payload, Bytes::new()) };
    let message = CallResponse {
        payload: copied,
        shard: shard.0,
        epoch: reply.epoch.0,
        owner: owner.map_or_else(String::new, |peer| peer.name.clone()),
        forwarded,
    };
    let body = if large {
        grpc::around(PAYLOAD, owing.owe(held), &message)
    } else {
        Body::Message(grpc::encode(&message))
    };
    let mut response = grpc::respond(body);
    if forwarded || reply.epoch != believed {
        let headers = response.headers_mut();
        let address = owner.map_or("", |peer| &peer.addresses.data);
        if let Ok(address) = HeaderValue::from_str(address) {
            headers.insert(OWNER, address);
        }
        headers.insert(EPOCH, HeaderValue::from(reply.epoch.0));
        headers.insert(VERSION, HeaderValue::from(table.version().0));
    }
    Ok(response)
}

/// The host's own error: its code is its business.
pub(super) fn app_status(error: AppError) -> Status {
    match Code::from_i32(error.code) {
        // An error without a code is an error all the same.
        Code::Ok => Status::unknown(error.message),
        code => Status::new(code, error.message),
    }
}
