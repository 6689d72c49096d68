//! Requests to the leader, through the member asked last or another one.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use shoal_core::{
    handoff,
    id::{Incarnation, LogIndex, NodeId, Timestamp},
    registry::{LockId, NodeInfo},
    session::holder::{Answer, Call, Via},
};
use shoal_proto::shoal::peer::v1::{self as pb, session_client::SessionClient};
use tonic::transport::Channel;

use crate::{
    env::clock,
    peer::{Channels, Purpose},
    table::Table,
    wire::session as wire,
};

/// Attempts of a request that is not a renewal, at one member after the other.
const ATTEMPTS: usize = 20;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(100);

/// Why a request of this node was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the leader refused: {message}")]
    Refused { why: pb::rejected::Why, message: String },
    #[error("no leader could be reached")]
    NoLeader,
}

#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    info: NodeInfo,
    lock: Option<LockId>,
    table: Table,
    channels: Channels,
    asked: Mutex<Asked>,
    /// Why the session machine was refused last, in the leader's words.
    refusal: Mutex<String>,
    leave_by: Mutex<Option<Timestamp>>,
}

/// Who is asked, and who was.
struct Asked {
    usual: NodeId,
    /// The last one beside this node that was tried.
    other: NodeId,
}

impl Asked {
    /// This node itself is asked again after each other one: it hears who leads, and a row of
    /// dead members, which a large cluster can have, must not cost the session.
    fn turn(&mut self, me: NodeId, live: &[NodeId]) {
        if self.usual != me {
            self.usual = me;
            return;
        }
        let others = || live.iter().copied().filter(|id| *id != me);
        if let Some(next) = others().find(|id| *id > self.other).or(others().next()) {
            (self.usual, self.other) = (next, next);
        }
    }
}

impl Client {
    pub fn new(
        node: NodeId,
        info: NodeInfo,
        lock: Option<LockId>,
        table: Table,
        channels: Channels,
    ) -> Self {
        let asked = Mutex::new(Asked { usual: node, other: node });
        let (refusal, leave_by) = (Mutex::default(), Mutex::default());
        let inner = Inner { node, info, lock, table, channels, asked, refusal, leave_by };
        Self { inner: Arc::new(inner) }
    }

    /// Why the session was refused last.
    pub(super) fn refusal(&self) -> String {
        self.inner.refusal.lock().clone()
    }

    /// One request of the session machine, with a time-out of a quarter of the lease.
    pub async fn session(
        &self,
        call: Call,
        incarnation: Incarnation,
        table: LogIndex,
        via: Via,
    ) -> Answer {
        let member = self.choose(via);
        let time_out = Duration::from_millis(self.lease_ms().into()) / 4;
        let sent = tokio::time::timeout(time_out, self.send(member, call, incarnation, table));
        match sent.await {
            Ok(Ok(response)) => {
                let response = response.into_inner();
                if let Some(pb::session_response::Result::Rejected(rejected)) = &response.result {
                    self.inner.refusal.lock().clone_from(&rejected.message);
                }
                wire::read_answer(response)
            }
            Ok(Err(_)) | Err(_) => Answer::Failed,
        }
    }

    /// Each renewal tells the leader until when this process must have handed its shards over.
    pub fn leave_by(&self, by: Timestamp) {
        *self.inner.leave_by.lock() = Some(by);
    }

    /// Asks that this incarnation's shards be handed over.
    pub async fn leave(&self, incarnation: Incarnation) -> Result<(), Error> {
        let request = self.leave_request(incarnation);
        self.insist(|mut client, request| async move { client.leave(request).await }, request).await
    }

    /// Takes `leave` back.
    pub async fn stay(&self, incarnation: Incarnation) -> Result<(), Error> {
        let request = self.leave_request(incarnation);
        self.insist(|mut client, request| async move { client.stay(request).await }, request).await
    }

    /// Ends this incarnation's session; refused while it owns or receives a shard.
    pub async fn close(&self, incarnation: Incarnation) -> Result<(), Error> {
        let request = self.leave_request(incarnation);
        self.insist(|mut client, request| async move { client.close(request).await }, request).await
    }

    /// Passes on what an owner says of a move; the owner repeats it.
    pub async fn report(&self, report: handoff::Report) -> Result<(), Error> {
        let mut request = wire::report(&report);
        request.hop = Some(self.hop());
        let member = self.choose(Via::Usual);
        let mut channel = self.channel(member).ok_or(Error::NoLeader)?;
        let response = channel.report(request).await.map_err(|_| {
            self.choose(Via::Another);
            Error::NoLeader
        })?;
        self.accept(response.into_inner())
    }

    async fn send(
        &self,
        member: NodeId,
        call: Call,
        incarnation: Incarnation,
        table: LogIndex,
    ) -> Result<tonic::Response<pb::SessionResponse>, tonic::Status> {
        let mut client =
            self.channel(member).ok_or_else(|| tonic::Status::unavailable("no address"))?;
        match call {
            Call::Register => {
                let request = pb::RegisterRequest {
                    hop: Some(self.hop()),
                    node: self.inner.node.0,
                    incarnation: Some(wire::incarnation(incarnation)),
                    info: Some(wire::node_info(&self.inner.info)),
                    lock: self.inner.lock.as_ref().map(wire::lock),
                };
                client.register(request).await
            }
            Call::Renew => {
                let request = pb::RenewRequest {
                    hop: Some(self.hop()),
                    node: self.inner.node.0,
                    incarnation: Some(wire::incarnation(incarnation)),
                    table_index: table.0,
                    leaves_within_ms: self.leaves_within_ms(),
                };
                client.renew(request).await
            }
            Call::CloseInPlace => client.close_in_place(self.leave_request(incarnation)).await,
        }
    }

    /// Asks one member after the other until one of them reached the leader.
    async fn insist<R, F>(
        &self,
        send: impl Fn(SessionClient<Channel>, R) -> F,
        request: R,
    ) -> Result<(), Error>
    where
        R: Clone,
        F: Future<Output = Result<tonic::Response<pb::SessionResponse>, tonic::Status>>,
    {
        let mut last = Error::NoLeader;
        for attempt in 0..ATTEMPTS {
            let via = if attempt == 0 { Via::Usual } else { Via::Another };
            if let Some(client) = self.channel(self.choose(via)) {
                let sent =
                    tokio::time::timeout(Duration::from_secs(1), send(client, request.clone()));
                if let Ok(Ok(response)) = sent.await {
                    match self.accept(response.into_inner()) {
                        Ok(()) => return Ok(()),
                        Err(Error::Refused { why, message }) if why != pb::rejected::Why::Retry => {
                            return Err(Error::Refused { why, message });
                        }
                        Err(error) => last = error,
                    }
                }
            }
            tokio::time::sleep(BETWEEN_ATTEMPTS).await;
        }
        Err(last)
    }

    fn accept(&self, response: pb::SessionResponse) -> Result<(), Error> {
        use pb::session_response::Result as Answer;
        match response.result {
            Some(Answer::Accepted(_)) => Ok(()),
            Some(Answer::NotLeader(not)) => {
                if not.leader != 0 {
                    self.inner.asked.lock().usual = NodeId(not.leader);
                }
                Err(Error::NoLeader)
            }
            Some(Answer::Rejected(rejected)) => {
                Err(Error::Refused { why: rejected.why(), message: rejected.message })
            }
            None => Err(Error::NoLeader),
        }
    }

    /// Whom to ask; remembers it as the usual one.
    fn choose(&self, via: Via) -> NodeId {
        let mut asked = self.inner.asked.lock();
        match via {
            Via::Usual => {}
            Via::Member(member) => asked.usual = member,
            Via::Another => {
                let registry = self.inner.table.registry();
                let up = registry.nodes().filter(|(_, node)| node.life.is_up());
                let live: Vec<_> = up.map(|(id, _)| id).collect();
                asked.turn(self.inner.node, &live);
            }
        }
        asked.usual
    }

    fn channel(&self, member: NodeId) -> Option<SessionClient<Channel>> {
        self.inner.channels.channel(member, Purpose::Session).ok().map(SessionClient::new)
    }

    fn hop(&self) -> pb::Hop {
        wire::hop(self.inner.table.registry().cluster().id, self.inner.node)
    }

    fn leave_request(&self, incarnation: Incarnation) -> pb::LeaveRequest {
        pb::LeaveRequest {
            hop: Some(self.hop()),
            node: self.inner.node.0,
            incarnation: Some(wire::incarnation(incarnation)),
        }
    }

    fn leaves_within_ms(&self) -> Option<u32> {
        let left = (*self.inner.leave_by.lock())?.at_least_since(clock::now());
        Some(u32::try_from(left.as_millis()).unwrap_or(u32::MAX))
    }

    fn lease_ms(&self) -> u32 {
        self.inner.table.registry().settings().lease_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_each_other_member_this_node_itself_is_asked_again() {
        let ids = |ids: &[u64]| -> Vec<NodeId> { ids.iter().copied().map(NodeId).collect() };
        let me = NodeId(4);
        let mut asked = Asked { usual: me, other: me };
        let turns: Vec<NodeId> = (0..7)
            .map(|_| {
                asked.turn(me, &ids(&[2, 4, 7, 9]));
                asked.usual
            })
            .collect();
        assert_eq!(turns, ids(&[7, 4, 9, 4, 2, 4, 7]), "one after the other, and all of them");

        // A leader that was named and does not answer.
        asked.usual = NodeId(2);
        asked.turn(me, &ids(&[2, 4, 7, 9]));
        assert_eq!(asked.usual, me);
        let mut alone = Asked { usual: me, other: me };
        alone.turn(me, &ids(&[4]));
        assert_eq!(alone.usual, me);
    }
}
