//! Admin: what people and the operator ask, over gRPC, and the plain HTTP endpoints.
//!
//! Reads are answered from this node's table. What changes something goes to the leader,
//! from any node, passed on at most once. Decides nothing.

pub(crate) mod change;
pub mod http;
pub(crate) mod pages;
mod read;
pub(crate) mod ready;

use std::{sync::Arc, time::Duration};

use shoal_core::{id::NodeId, registry::Command};
use shoal_proto::shoal::admin::v1::{self as pb, admin_client::AdminClient, admin_server::Admin};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, metadata::MetadataValue, transport::Channel};
use tracing::debug;

use crate::{
    control::{self, Denied, Granted, Request as Ask},
    found,
    peer::{self, Channels},
    raft,
    table::Table,
    wire::admin as wire,
};

/// Set by a node that passes a request on: it is not passed on a second time.
const FORWARDED: &str = "x-shoal-forwarded";
/// Longer than the slowest answer, which waits for a move to end.
const ANSWER_PATIENCE: Duration = Duration::from_secs(90);
/// Events a slow watcher may be behind before it waits.
const WATCH_BUFFER: usize = 4;

/// What the node waits for before it is ready; empty when it is.
pub type Waiting = watch::Receiver<String>;

/// Who answers.
pub struct Own {
    pub node: NodeId,
    pub pod_uid: Option<String>,
}

#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    pod_uid: Option<String>,
    table: Table,
    raft: raft::Handle,
    control: control::Handle,
    founding: found::Handle,
    channels: Channels,
    waiting: Waiting,
}

/// Where a request was answered.
enum Routed<T> {
    Here(Granted),
    There(Response<T>),
}

impl Server {
    pub fn new(
        own: Own,
        table: Table,
        raft: raft::Handle,
        control: control::Handle,
        founding: found::Handle,
        channels: Channels,
        waiting: Waiting,
    ) -> Self {
        let Own { node, pod_uid } = own;
        let inner = Inner { node, pod_uid, table, raft, control, founding, channels, waiting };
        Self { inner: Arc::new(inner) }
    }

    /// Asks the leader: this node's loop, else the leader's admin port.
    async fn route<M, T, F>(
        &self,
        request: &Request<M>,
        ask: Ask,
        forward: impl FnOnce(AdminClient<Channel>, Request<M>) -> F,
    ) -> Result<Routed<T>, Status>
    where
        M: Clone,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let denied = match self.inner.control.ask(ask).await {
            Ok(granted) => return Ok(Routed::Here(granted)),
            Err(denied) => denied,
        };
        let leader = match &denied {
            Denied::NotLeader { leader } if !request.metadata().contains_key(FORWARDED) => *leader,
            _ => None,
        };
        let Some((leader, address)) =
            leader.and_then(|leader| Some((leader, self.admin_address(leader)?)))
        else {
            return Err(wire::status(&denied));
        };
        let unreachable = |error: peer::Error| {
            debug!(%leader, address, %error, "the leader cannot be asked");
            Status::unavailable(format!(
                "the leader {leader} cannot be reached at {address}: try again"
            ))
        };
        let channel = self.inner.channels.dial(&address).map_err(unreachable)?;
        let mut passed_on = Request::new(request.get_ref().clone());
        passed_on.set_timeout(ANSWER_PATIENCE);
        passed_on.metadata_mut().insert(FORWARDED, MetadataValue::from_static("1"));
        forward(AdminClient::new(channel), passed_on).await.map(Routed::There)
    }

    fn admin_address(&self, node: NodeId) -> Option<String> {
        let registry = self.inner.table.registry();
        registry.node(node).map(|node| node.info.addresses.admin.clone())
    }
}

/// A command of an operator is refused under an older epoch than the one in force.
fn guarded(operator: Option<&pb::Operator>, command: Command) -> Ask {
    Ask::Propose(match operator {
        Some(operator) => {
            Command::Guarded { operator_epoch: operator.epoch, command: Box::new(command) }
        }
        None => command,
    })
}

/// The one shape of a change: ask, pass on where another node leads, answer.
macro_rules! routed {
    ($self:ident, $request:ident, $method:ident, $ask:expr, $answer:expr) => {{
        let ask = $ask;
        let routed =
            $self
                .route(&$request, ask, |mut client, request| async move {
                    client.$method(request).await
                })
                .await?;
        match routed {
            Routed::There(response) => Ok(response),
            Routed::Here(granted) => {
                let answer: Result<_, Status> = $answer(granted);
                answer.map(Response::new)
            }
        }
    }};
}

#[tonic::async_trait]
impl Admin for Server {
    type SnapshotStream = ReceiverStream<Result<pb::SnapshotChunk, Status>>;
    type WatchStatusStream = ReceiverStream<Result<pb::StatusResponse, Status>>;

    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        self.read_status(request).await
    }

    async fn nodes(
        &self,
        request: Request<pb::NodesRequest>,
    ) -> Result<Response<pb::NodesResponse>, Status> {
        Ok(Response::new(self.read_nodes(request.get_ref())))
    }

    async fn shards(
        &self,
        request: Request<pb::ShardsRequest>,
    ) -> Result<Response<pb::ShardsResponse>, Status> {
        Ok(Response::new(self.read_shards(request.get_ref())))
    }

    async fn plan(
        &self,
        request: Request<pb::PlanRequest>,
    ) -> Result<Response<pb::PlanResponse>, Status> {
        routed!(self, request, plan, Ask::Plan, read::planned)
    }

    async fn r#move(
        &self,
        request: Request<pb::MoveRequest>,
    ) -> Result<Response<pb::MoveResponse>, Status> {
        self.move_shard(request).await
    }

    async fn drain(
        &self,
        request: Request<pb::DrainRequest>,
    ) -> Result<Response<pb::DrainResponse>, Status> {
        let ask = change::drain(request.get_ref())?;
        routed!(self, request, drain, ask, |_| Ok(pb::DrainResponse {}))
    }

    async fn cancel_drain(
        &self,
        request: Request<pb::CancelDrainRequest>,
    ) -> Result<Response<pb::CancelDrainResponse>, Status> {
        let message = request.get_ref();
        let command = Command::CancelDrain { node: change::node(message.node, "node")? };
        let ask = guarded(message.operator.as_ref(), command);
        routed!(self, request, cancel_drain, ask, |_| Ok(pb::CancelDrainResponse {}))
    }

    async fn close(
        &self,
        request: Request<pb::CloseRequest>,
    ) -> Result<Response<pb::CloseResponse>, Status> {
        let ask = change::close(request.get_ref())?;
        routed!(self, request, close, ask, |_| Ok(pb::CloseResponse {}))
    }

    async fn remove(
        &self,
        request: Request<pb::RemoveRequest>,
    ) -> Result<Response<pb::RemoveResponse>, Status> {
        let ask = self.remove_command(request.get_ref())?;
        let left = !request.get_ref().force;
        routed!(self, request, remove, ask, |_| Ok(pb::RemoveResponse { left }))
    }

    async fn configure(
        &self,
        request: Request<pb::ConfigureRequest>,
    ) -> Result<Response<pb::ConfigureResponse>, Status> {
        let configure = wire::read_configure(request.get_ref())?;
        change::check(&configure)?;
        let operator = request.get_ref().operator.as_ref();
        let ask = guarded(operator, Command::Configure(configure));
        routed!(self, request, configure, ask, |_| Ok(self.settings()))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        self.transfer(request).await
    }

    async fn report_death(
        &self,
        request: Request<pb::ReportDeathRequest>,
    ) -> Result<Response<pb::ReportDeathResponse>, Status> {
        let ask = change::report_death(request.get_ref())?;
        routed!(self, request, report_death, ask, change::death_reported)
    }

    async fn confirm_founding(
        &self,
        request: Request<pb::ConfirmFoundingRequest>,
    ) -> Result<Response<pb::ConfirmFoundingResponse>, Status> {
        let cluster = change::cluster(&request.get_ref().cluster_id)?;
        let joined = self.inner.founding.state().borrow().directory.cluster();
        if joined != Some(cluster) {
            let joined = joined.map_or_else(|| "none".to_owned(), |joined| joined.to_string());
            let text = format!("cluster_id is {cluster}, but this node has joined {joined}");
            return Err(Status::failed_precondition(text));
        }
        self.inner.founding.confirm(cluster).await;
        Ok(Response::new(pb::ConfirmFoundingResponse {}))
    }

    async fn acquire_operator_epoch(
        &self,
        request: Request<pb::AcquireOperatorEpochRequest>,
    ) -> Result<Response<pb::AcquireOperatorEpochResponse>, Status> {
        let ask = Ask::Propose(Command::AcquireOperatorEpoch);
        routed!(self, request, acquire_operator_epoch, ask, change::epoch_acquired)
    }

    async fn snapshot(
        &self,
        _request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        self.read_snapshot()
    }

    async fn stop_all(
        &self,
        request: Request<pb::StopAllRequest>,
    ) -> Result<Response<pb::StopAllResponse>, Status> {
        let ask = guarded(request.get_ref().operator.as_ref(), Command::StopAll);
        routed!(self, request, stop_all, ask, |_| Ok(pb::StopAllResponse {}))
    }

    async fn watch_status(
        &self,
        request: Request<pb::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        Ok(self.watch(request.get_ref()))
    }
}

#[cfg(test)]
mod tests;
