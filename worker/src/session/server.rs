//! Answers session requests on every node: the leader itself, the others by asking it once.

use shoal_core::{
    id::{ClusterId, NodeId},
    registry::Command,
};
use shoal_proto::shoal::peer::v1::{
    self as pb, session_client::SessionClient, session_server::Session,
};
use tonic::{Code, Request, Response, Status, transport::Channel};

use crate::{
    control::{self, Denied, Request as Ask},
    peer::{Channels, Purpose},
    table::Table,
    tls::Caller,
    wire::{registry::encode_delta, session as wire},
};

type Answer = Result<Response<pb::SessionResponse>, Status>;

pub struct Server {
    table: Table,
    control: control::Handle,
    channels: Channels,
}

impl Server {
    pub fn new(table: Table, control: control::Handle, channels: Channels) -> Self {
        Self { table, control, channels }
    }

    /// Every message says for which cluster it is meant: an address may be somebody else's by
    /// now. What a node passes on it has checked.
    fn check(
        &self,
        caller: &Caller,
        claim: Option<&str>,
        hop: Option<&pb::Hop>,
    ) -> Result<ClusterId, Status> {
        let ours = self.table.registry().cluster().id;
        let hop = hop.ok_or_else(|| malformed(wire::Malformed("hop")))?;
        // A node that has no table yet knows the cluster only by this request.
        if ours != ClusterId::default() && hop.cluster_id != ours.to_string() {
            let message = format!("this node is of cluster {ours}, not {}", hop.cluster_id);
            return Err(Status::failed_precondition(message));
        }
        if !hop.forwarded {
            caller.must_be(claim)?;
            caller.must_be(self.table.name_of(NodeId(hop.from)).as_deref())?;
        }
        Ok(ours)
    }

    /// The asker was in the cluster that this one was recovered from.
    fn is_of_lost_cluster(&self, hop: Option<&pb::Hop>) -> bool {
        let from = self.table.registry().cluster().recovered_from;
        hop.zip(from).is_some_and(|(hop, from)| hop.cluster_id == from.to_string())
    }

    /// Asks the leader's loop here; where another node leads, `forward` goes there, once.
    async fn answer<F>(
        &self,
        (caller, claim): (Caller, Option<String>),
        hop: Option<pb::Hop>,
        ask: Result<Ask, wire::Malformed>,
        forward: impl FnOnce(SessionClient<Channel>, pb::Hop) -> F,
    ) -> Answer
    where
        F: Future<Output = Answer>,
    {
        let cluster = self.check(&caller, claim.as_deref(), hop.as_ref())?;
        let answer = self.control.ask(ask.map_err(malformed)?).await;
        let leader = match &answer {
            Err(Denied::NotLeader { leader: Some(leader) }) => Some(*leader),
            Ok(_) | Err(_) => None,
        };
        let hop = hop.filter(|hop| !hop.forwarded);
        if let (Some(leader), Some(hop)) = (leader, hop)
            && let Ok(channel) = self.channels.channel(leader, Purpose::Session)
        {
            let hop = pb::Hop { forwarded: true, ..hop };
            match forward(SessionClient::new(channel), hop).await {
                Err(status) if status.code() == Code::Unavailable => {}
                answer => return answer,
            }
        }
        Ok(Response::new(wire::response(cluster, answer, |node| self.raft_address(node))))
    }

    fn raft_address(&self, node: NodeId) -> String {
        let registry = self.table.registry();
        registry.node(node).map(|node| node.info.addresses.raft.clone()).unwrap_or_default()
    }
}

fn malformed(error: wire::Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

/// A request that becomes the command which `$command` makes of node and incarnation.
macro_rules! leave {
    ($self:ident, $request:ident, $method:ident, $command:expr) => {{
        let (caller, message) = (Caller::of(&$request), $request.into_inner());
        let node = NodeId(message.node);
        let claim = $self.table.name_of(node);
        let ask = wire::read_incarnation(message.incarnation)
            .map(|incarnation| Ask::Propose($command(node, incarnation)));
        let hop = message.hop.clone();
        $self
            .answer((caller, claim), hop, ask, |mut client, hop| async move {
                client.$method(pb::LeaveRequest { hop: Some(hop), ..message }).await
            })
            .await
    }};
}

#[tonic::async_trait]
impl Session for Server {
    async fn join(&self, request: Request<pb::JoinRequest>) -> Answer {
        let (caller, message) = (Caller::of(&request), request.into_inner());
        let claim = message.info.as_ref().map(|info| info.name.clone());
        let ask = wire::read_node_info(message.info.clone()).and_then(|info| {
            let directory = wire::read_directory(&message.directory)?;
            Ok(Ask::Join { info, directory })
        });
        self.answer((caller, claim), message.hop.clone(), ask, |mut client, hop| async move {
            client.join(pb::JoinRequest { hop: Some(hop), ..message }).await
        })
        .await
    }

    async fn register(&self, request: Request<pb::RegisterRequest>) -> Answer {
        let (caller, message) = (Caller::of(&request), request.into_inner());
        let claim = message.info.as_ref().map(|info| info.name.clone());
        let ask = wire::read_register(message.clone()).map(Ask::Register);
        self.answer((caller, claim), message.hop.clone(), ask, |mut client, hop| async move {
            client.register(pb::RegisterRequest { hop: Some(hop), ..message }).await
        })
        .await
    }

    async fn renew(&self, request: Request<pb::RenewRequest>) -> Answer {
        let (caller, message) = (Caller::of(&request), request.into_inner());
        let claim = self.table.name_of(NodeId(message.node));
        let ask = wire::read_renew(&message).map(Ask::Renew);
        self.answer((caller, claim), message.hop.clone(), ask, |mut client, hop| async move {
            client.renew(pb::RenewRequest { hop: Some(hop), ..message }).await
        })
        .await
    }

    async fn report(&self, request: Request<pb::MoveReport>) -> Answer {
        let (caller, message) = (Caller::of(&request), request.into_inner());
        let ask = wire::read_report(message.clone()).map(Ask::Report);
        self.answer((caller, None), message.hop.clone(), ask, |mut client, hop| async move {
            client.report(pb::MoveReport { hop: Some(hop), ..message }).await
        })
        .await
    }

    async fn standing(
        &self,
        request: Request<pb::StandingRequest>,
    ) -> Result<Response<pb::StandingResponse>, Status> {
        let (caller, message) = (Caller::of(&request), request.into_inner());
        if self.is_of_lost_cluster(message.hop.as_ref()) {
            caller.must_be(None)?;
            // Its id is nobody's here: that its cluster goes on as this one is all there is to say.
            let rows = self.table.registry().rows_of(NodeId::default());
            return Ok(Response::new(pb::StandingResponse { rows: encode_delta(&rows) }));
        }
        self.check(&caller, None, message.hop.as_ref())?;
        let rows = self.table.registry().rows_of(NodeId(message.node));
        Ok(Response::new(pb::StandingResponse { rows: encode_delta(&rows) }))
    }

    async fn close_in_place(&self, request: Request<pb::LeaveRequest>) -> Answer {
        leave!(self, request, close_in_place, |node, incarnation| Command::CloseInPlace {
            node,
            incarnation
        })
    }

    async fn close(&self, request: Request<pb::LeaveRequest>) -> Answer {
        leave!(self, request, close, |node, incarnation| Command::Close { node, incarnation })
    }

    async fn leave(&self, request: Request<pb::LeaveRequest>) -> Answer {
        leave!(self, request, leave, |node, incarnation| Command::Leave { node, incarnation })
    }

    async fn stay(&self, request: Request<pb::LeaveRequest>) -> Answer {
        leave!(self, request, stay, |node, incarnation| Command::Stay { node, incarnation })
    }
}
