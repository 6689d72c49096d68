//! The admin API of one worker over the registry of all: what is read, what is changed and how a
//! refusal reads are the worker's own words.

use std::{sync::Arc, time::Duration};

use shoal_core::{
    id::{ClusterId, Incarnation, NodeId},
    registry::{Command, Event, Refused},
};
use shoal_proto::shoal::admin::v1::{self as pb, admin_server::Admin};
use shoal_worker::wire::admin as wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Process, Shared, world::World};
use crate::fault_proxy::Fault;

/// Longer than the operator waits for an answer.
const STALL: Duration = Duration::from_secs(8);
/// Between two looks for what is to be pushed.
const LOOK: Duration = Duration::from_millis(100);

/// One process as its peers and the operator reach it.
#[derive(Clone)]
pub(super) struct Server {
    shared: Arc<Shared>,
    uid: String,
}

type Answer<T> = Result<Response<T>, Status>;

impl Server {
    pub fn new(shared: Arc<Shared>, uid: String) -> Self {
        Self { shared, uid }
    }

    fn world<T>(
        &self,
        act: impl FnOnce(&mut World, &Process) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let mut world = self.shared.world.lock();
        let process = world.processes.get(&self.uid).filter(|process| process.runs).cloned();
        let process = process.ok_or_else(|| Status::unavailable("this process has ended"))?;
        act(&mut world, &process)
    }

    /// One change, with what the script of the test does to this very call.
    async fn change<T>(
        &self,
        name: &'static str,
        act: impl Fn(&mut World, &Process) -> Result<T, Status>,
    ) -> Answer<T> {
        let fault = self.shared.calls.on(|_| name.to_owned());
        match fault {
            Some(Fault::Reset) => {
                return Err(Status::unavailable("a fault of the test, nothing was done"));
            }
            Some(Fault::KillBefore) => {
                self.shared.calls.kill();
                return Err(Status::unavailable("a fault of the test, nobody hears it"));
            }
            Some(Fault::Conflict) => {
                return Err(Status::failed_precondition("a fault of the test, refused"));
            }
            Some(Fault::Stall) => tokio::time::sleep(STALL).await,
            Some(Fault::Hold) => self.shared.calls.hold().await,
            Some(_) | None => {}
        }
        let answer = self.world(act)?;
        if fault == Some(Fault::KillAfter) {
            self.shared.calls.kill();
        }
        match fault {
            Some(Fault::LostReply | Fault::KillAfter) => {
                Err(Status::unavailable("a fault of the test, the answer is lost"))
            }
            Some(_) | None => Ok(Response::new(answer)),
        }
    }

    async fn propose(
        &self,
        name: &'static str,
        operator: Option<pb::Operator>,
        command: impl Fn(&World) -> Result<Command, Status>,
    ) -> Result<Event, Status> {
        let event = self.change(name, |world, process| {
            let command = guarded(operator, command(world)?);
            world.propose(process, &command)
        });
        event.await.map(Response::into_inner)
    }
}

impl World {
    fn propose(&mut self, process: &Process, command: &Command) -> Result<Event, Status> {
        if !self.is_member(process) || self.leader.is_none() {
            return Err(Status::unavailable("no leader is known at the moment: try again"));
        }
        self.apply(command).map_err(|refused| wire::refused(&refused))
    }

    fn is_member(&self, process: &Process) -> bool {
        let cluster = self.directories.get(&process.volume).and_then(|d| d.cluster);
        self.registry.formed() && cluster == Some(self.registry.cluster().id)
    }

    fn status(&self, process: &Process) -> pb::StatusResponse {
        let members = self.members();
        let cluster = self.directories.get(&process.volume).and_then(|d| d.cluster);
        if !self.is_member(process) {
            return pb::StatusResponse {
                cluster_id: cluster.unwrap_or_default().to_string(),
                version: process.version.clone(),
                waiting: "the cluster is to form".to_owned(),
                standing: Some(self.standing(process)),
                ..pb::StatusResponse::default()
            };
        }
        let registry = &self.registry;
        let nodes = registry.nodes().filter(|(_, node)| !node.life.is_left());
        let caught_up = members.voters.iter().chain(&members.learners);
        let caught_up = caught_up.filter(|id| self.process_of(**id).is_some_and(|p| self.is_up(p)));
        pb::StatusResponse {
            cluster_id: registry.cluster().id.to_string(),
            formed: true,
            node_id: self.node_of(process).map_or(0, |id| id.0),
            leader_id: self.leader.map_or(0, |id| id.0),
            term: self.term,
            applied: registry.applied().0,
            map_version: registry.map_version().0,
            settings: Some(wire::settings(registry.settings())),
            shards: Some(wire::counts(registry)),
            nodes: nodes
                .map(|(id, n)| wire::node(id, n, registry, self.leader, &members))
                .collect(),
            voters: members.voters.iter().map(|id| id.0).collect(),
            learners: members.learners.iter().map(|id| id.0).collect(),
            moving: Vec::new(),
            waiting: String::new(),
            version: process.version.clone(),
            caught_up: caught_up.map(|id| id.0).collect(),
            standing: Some(self.standing(process)),
        }
    }

    fn standing(&self, process: &Process) -> pb::Standing {
        let cluster = self.directories.get(&process.volume).and_then(|d| d.cluster);
        let identity = process.identity.clone().unwrap_or_default();
        let (formed, admitted) = (self.is_member(process), self.node_of(process).is_some());
        pb::Standing {
            pod_uid: process.uid.clone(),
            cluster_id: cluster.map_or_else(String::new, |id| id.to_string()),
            formed: formed && admitted,
            joining: formed && !admitted,
            abandoning: identity.abandoning.unwrap_or_default(),
            abandoning_since: identity.abandoning_since.unwrap_or_default(),
        }
    }
}

fn guarded(operator: Option<pb::Operator>, command: Command) -> Command {
    match operator {
        Some(operator) => {
            Command::Guarded { operator_epoch: operator.epoch, command: Box::new(command) }
        }
        None => command,
    }
}

fn incarnation(text: &str) -> Result<Incarnation, Status> {
    text.parse().map_err(|error| Status::invalid_argument(format!("incarnation: {error}")))
}

fn unused<T>() -> Result<T, Status> {
    Err(Status::unimplemented("the operator has no use for it"))
}

#[tonic::async_trait]
impl Admin for Server {
    type SnapshotStream = ReceiverStream<Result<pb::SnapshotChunk, Status>>;
    type WatchStatusStream = ReceiverStream<Result<pb::StatusResponse, Status>>;

    async fn status(&self, request: Request<pb::StatusRequest>) -> Answer<pb::StatusResponse> {
        let linearizable = request.get_ref().linearizable;
        self.world(|world, process| {
            if linearizable && (world.leader.is_none() || !world.has_quorum()) {
                return Err(Status::unavailable("no leader is known at the moment: try again"));
            }
            Ok(Response::new(world.status(process)))
        })
    }

    async fn nodes(&self, request: Request<pb::NodesRequest>) -> Answer<pb::NodesResponse> {
        let all = request.get_ref().all;
        self.world(|world, _| {
            let (registry, members) = (&world.registry, world.members());
            let nodes = registry.nodes().filter(|(_, node)| all || !node.life.is_left());
            let nodes = nodes.map(|(id, n)| wire::node(id, n, registry, world.leader, &members));
            Ok(Response::new(pb::NodesResponse { nodes: nodes.collect() }))
        })
    }

    async fn shards(&self, _: Request<pb::ShardsRequest>) -> Answer<pb::ShardsResponse> {
        unused()
    }

    async fn plan(&self, _: Request<pb::PlanRequest>) -> Answer<pb::PlanResponse> {
        unused()
    }

    async fn r#move(&self, _: Request<pb::MoveRequest>) -> Answer<pb::MoveResponse> {
        unused()
    }

    async fn drain(&self, request: Request<pb::DrainRequest>) -> Answer<pb::DrainResponse> {
        let message = request.into_inner();
        let node = NodeId(message.node);
        let command = match message.kind() {
            pb::DrainKind::Unspecified => return Err(Status::invalid_argument("kind is unset")),
            pb::DrainKind::Restart => {
                Command::DrainRestart { node, incarnation: incarnation(&message.incarnation)? }
            }
            pb::DrainKind::Removal => Command::DrainRemoval { node },
        };
        let event = self.propose("Drain", message.operator, |_| Ok(command.clone()));
        event.await.map(|_| Response::new(pb::DrainResponse {}))
    }

    async fn cancel_drain(
        &self,
        request: Request<pb::CancelDrainRequest>,
    ) -> Answer<pb::CancelDrainResponse> {
        let message = request.into_inner();
        let command = Command::CancelDrain { node: NodeId(message.node) };
        let event = self.propose("CancelDrain", message.operator, |_| Ok(command.clone()));
        event.await.map(|_| Response::new(pb::CancelDrainResponse {}))
    }

    async fn close(&self, request: Request<pb::CloseRequest>) -> Answer<pb::CloseResponse> {
        let message = request.into_inner();
        let incarnation = incarnation(&message.incarnation)?;
        let command = Command::Close { node: NodeId(message.node), incarnation };
        let event = self.propose("Close", message.operator, |_| Ok(command.clone()));
        event.await.map(|_| Response::new(pb::CloseResponse {}))
    }

    async fn remove(&self, request: Request<pb::RemoveRequest>) -> Answer<pb::RemoveResponse> {
        let message = request.into_inner();
        let node = NodeId(message.node);
        let command = |world: &World| {
            let row = world.registry.node(node);
            let row = row.ok_or_else(|| wire::refused(&Refused::UnknownNode(node)))?;
            let incarnation = row.incarnation;
            Ok(match message.force {
                true => Command::Mark { node },
                false => Command::Remove { node, incarnation },
            })
        };
        let event = self.propose("Remove", message.operator, command);
        event.await.map(|_| Response::new(pb::RemoveResponse { left: !message.force }))
    }

    async fn configure(
        &self,
        request: Request<pb::ConfigureRequest>,
    ) -> Answer<pb::ConfigureResponse> {
        let message = request.into_inner();
        let command = Command::Configure(wire::read_configure(&message)?);
        let event = self.propose("Configure", message.operator, |_| Ok(command.clone()));
        event.await.map(|_| Response::new(pb::ConfigureResponse { settings: None }))
    }

    async fn transfer_leader(
        &self,
        _: Request<pb::TransferLeaderRequest>,
    ) -> Answer<pb::TransferLeaderResponse> {
        unused()
    }

    async fn report_death(
        &self,
        request: Request<pb::ReportDeathRequest>,
    ) -> Answer<pb::ReportDeathResponse> {
        let message = request.into_inner();
        let incarnation = incarnation(&message.incarnation)?;
        let node = NodeId(message.node);
        self.world(|world, _| {
            let lives = world.process_of(node).is_some_and(|p| p.incarnation == incarnation);
            if lives {
                world.note(format!("the living process {incarnation} of {node} was reported dead"));
            }
            Ok(())
        })?;
        let command = Command::ReportDeath { node, incarnation };
        let event = self.propose("ReportDeath", message.operator, |_| Ok(command.clone()));
        event.await.map(|_| Response::new(pb::ReportDeathResponse { shards_unassigned: 0 }))
    }

    async fn confirm_founding(
        &self,
        request: Request<pb::ConfirmFoundingRequest>,
    ) -> Answer<pb::ConfirmFoundingResponse> {
        let cluster: ClusterId = request
            .get_ref()
            .cluster_id
            .parse()
            .map_err(|_| Status::invalid_argument("cluster_id"))?;
        self.change("ConfirmFounding", |world, process| {
            let joined = world.directories.get(&process.volume).and_then(|d| d.cluster);
            if joined != Some(cluster) {
                let text = format!("cluster_id is {cluster}, but this node has joined another");
                return Err(Status::failed_precondition(text));
            }
            if let Some(process) = world.processes.get_mut(&process.uid) {
                process.confirmed = true;
            }
            Ok(pb::ConfirmFoundingResponse {})
        })
        .await
    }

    async fn acquire_operator_epoch(
        &self,
        _: Request<pb::AcquireOperatorEpochRequest>,
    ) -> Answer<pb::AcquireOperatorEpochResponse> {
        let command = Command::AcquireOperatorEpoch;
        match self.propose("AcquireOperatorEpoch", None, |_| Ok(command.clone())).await? {
            Event::OperatorEpoch { epoch } => {
                Ok(Response::new(pb::AcquireOperatorEpochResponse { epoch }))
            }
            other => Err(Status::internal(format!("{other:?}"))),
        }
    }

    async fn snapshot(&self, _: Request<pb::SnapshotRequest>) -> Answer<Self::SnapshotStream> {
        unused()
    }

    async fn stop_all(&self, request: Request<pb::StopAllRequest>) -> Answer<pb::StopAllResponse> {
        let operator = request.into_inner().operator;
        let event = self.propose("StopAll", operator, |_| Ok(Command::StopAll));
        event.await.map(|_| Response::new(pb::StopAllResponse {}))
    }

    async fn watch_status(
        &self,
        _: Request<pb::WatchStatusRequest>,
    ) -> Answer<Self::WatchStatusStream> {
        let (pushes, stream) = mpsc::channel(1);
        let server = self.clone();
        tokio::spawn(async move {
            let mut last = None;
            while let Ok(status) = server.world(|world, process| Ok(world.status(process))) {
                let shown = pb::StatusResponse { applied: 0, ..status.clone() };
                if last.as_ref() != Some(&shown) {
                    last = Some(shown);
                    if pushes.send(Ok(status)).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    () = pushes.closed() => return,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
