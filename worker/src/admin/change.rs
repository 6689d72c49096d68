//! Requests that change something: the command each stands for, and its answer.

use std::time::Duration;

use shoal_core::{
    id::{ClusterId, Incarnation, NodeId, ShardId},
    registry::{Command, Configure, Event, Holding, LEASES_MS, Refused},
    session::lease::Lease,
};
use shoal_proto::shoal::admin::v1 as pb;
use tonic::{Request, Response, Status};

use super::{Routed, Server, guarded};
use crate::{
    control::{Granted, Outcome, Request as Ask},
    wire::admin as wire,
};

/// A move is committed or given up long before.
const MOVE_WAIT: Duration = Duration::from_secs(60);
/// Elections take less than two seconds.
const TRANSFER_WAIT: Duration = Duration::from_secs(5);

fn incarnation(text: &str) -> Result<Incarnation, Status> {
    if text.is_empty() {
        let text = "incarnation is unset: give the one that Nodes shows for this node";
        return Err(Status::invalid_argument(text));
    }
    text.parse().map_err(|error| Status::invalid_argument(format!("incarnation: {error}")))
}

/// Ids start at 1: 0 is a field that was not set.
pub(super) fn node(id: u64, field: &str) -> Result<NodeId, Status> {
    if id == 0 {
        let text = format!("{field} is unset: give the id of a node, as Nodes shows it");
        return Err(Status::invalid_argument(text));
    }
    Ok(NodeId(id))
}

pub(crate) fn cluster(text: &str) -> Result<ClusterId, Status> {
    text.parse().map_err(|error| {
        let text = format!("cluster_id is {text:?}: {error}; give the one that Status shows");
        Status::invalid_argument(text)
    })
}

fn epoch(operator: Option<&pb::Operator>) -> Option<u64> {
    operator.map(|operator| operator.epoch)
}

pub(crate) fn drain(message: &pb::DrainRequest) -> Result<Ask, Status> {
    let node = node(message.node, "node")?;
    let command = match message.kind() {
        pb::DrainKind::Unspecified => {
            return Err(Status::invalid_argument("kind is unset: give RESTART or REMOVAL"));
        }
        pb::DrainKind::Restart => {
            Command::DrainRestart { node, incarnation: incarnation(&message.incarnation)? }
        }
        pb::DrainKind::Removal => Command::DrainRemoval { node },
    };
    Ok(guarded(message.operator.as_ref(), command))
}

pub(crate) fn close(message: &pb::CloseRequest) -> Result<Ask, Status> {
    let incarnation = incarnation(&message.incarnation)?;
    let command = Command::Close { node: node(message.node, "node")?, incarnation };
    Ok(guarded(message.operator.as_ref(), command))
}

pub(crate) fn report_death(message: &pb::ReportDeathRequest) -> Result<Ask, Status> {
    let incarnation = incarnation(&message.incarnation)?;
    let command = Command::ReportDeath { node: node(message.node, "node")?, incarnation };
    Ok(guarded(message.operator.as_ref(), command))
}

pub(super) fn death_reported(granted: Granted) -> Result<pb::ReportDeathResponse, Status> {
    let shards_unassigned = match granted.outcome {
        Outcome::Event(Event::Unassigned { shards }) => shards,
        Outcome::Event(_) | Outcome::Plan(_) | Outcome::Current(_) | Outcome::Noted => 0,
    };
    Ok(pb::ReportDeathResponse { shards_unassigned })
}

pub(super) fn epoch_acquired(granted: Granted) -> Result<pb::AcquireOperatorEpochResponse, Status> {
    match granted.outcome {
        Outcome::Event(Event::OperatorEpoch { epoch }) => {
            Ok(pb::AcquireOperatorEpochResponse { epoch })
        }
        Outcome::Event(_) | Outcome::Plan(_) | Outcome::Current(_) | Outcome::Noted => {
            Err(Status::internal("the leader answered something else"))
        }
    }
}

/// What can be told without the registry, the arithmetic of a lease included.
pub(crate) fn check(change: &Configure) -> Result<(), Status> {
    if *change == Configure::default() {
        let text = "nothing to change: set lease_ms, rebalance, max_moves, max_moves_per_node, \
                    cooldown_ms, max_voters or max_learners";
        return Err(Status::invalid_argument(text));
    }
    let Some(millis) = change.lease_ms else { return Ok(()) };
    if !LEASES_MS.contains(&millis) {
        let (least, most) = (LEASES_MS.start(), LEASES_MS.end());
        let text = format!("lease_ms is {millis}, allowed: {least} to {most} milliseconds");
        return Err(Status::invalid_argument(text));
    }
    Lease::from_millis(millis)
        .map(|_| ())
        .map_err(|error| Status::invalid_argument(format!("lease_ms is {millis}: {error}")))
}

/// One item of a batch that held nothing else.
fn only_item(granted: &Granted) -> Result<(), Status> {
    match &granted.outcome {
        Outcome::Event(Event::Items { refused }) => match refused.first() {
            Some(Some(why)) => Err(wire::refused(why)),
            Some(None) | None => Ok(()),
        },
        Outcome::Event(_) | Outcome::Plan(_) | Outcome::Current(_) | Outcome::Noted => Ok(()),
    }
}

impl Server {
    pub(super) fn settings(&self) -> pb::ConfigureResponse {
        let registry = self.inner.table.registry();
        pb::ConfigureResponse { settings: Some(wire::settings(registry.settings())) }
    }

    pub(super) fn remove_command(&self, message: &pb::RemoveRequest) -> Result<Ask, Status> {
        let node = node(message.node, "node")?;
        let registry = self.inner.table.registry();
        let row = registry.node(node).ok_or_else(|| wire::refused(&Refused::UnknownNode(node)))?;
        let command = if message.force {
            Command::Mark { node }
        } else {
            Command::Remove { node, incarnation: row.incarnation }
        };
        Ok(guarded(message.operator.as_ref(), command))
    }

    /// Answers once the shard has moved, or the move was given up.
    pub(super) async fn move_shard(
        &self,
        request: Request<pb::MoveRequest>,
    ) -> Result<Response<pb::MoveResponse>, Status> {
        let message = request.get_ref();
        let (shard, to) = (ShardId(message.shard), node(message.to, "to")?);
        let ask = Ask::Move { shard, to, operator_epoch: epoch(message.operator.as_ref()) };
        let routed = self
            .route(&request, ask, |mut client, request| async move { client.r#move(request).await })
            .await?;
        let granted = match routed {
            Routed::There(response) => return Ok(response),
            Routed::Here(granted) => granted,
        };
        only_item(&granted)?;
        let settled = self.settled(shard, granted.index);
        let epoch = tokio::time::timeout(MOVE_WAIT, settled)
            .await
            .map_err(|_| Status::deadline_exceeded("the move is still under way"))??;
        Ok(Response::new(pb::MoveResponse { epoch }))
    }

    async fn settled(
        &self,
        shard: ShardId,
        began: shoal_core::id::LogIndex,
    ) -> Result<u64, Status> {
        let mut map = self.inner.table.watch_map();
        loop {
            map.borrow_and_update();
            let row = self.inner.table.registry().shard(shard).copied();
            let row = row.ok_or_else(|| Status::not_found(format!("no shard {shard}")))?;
            match row.holding {
                Holding::Moving { id, .. } if id.0 == began.0 => {}
                Holding::Owned { via: Some(id), .. } if id.0 == began.0 => return Ok(row.epoch.0),
                Holding::Moving { .. } | Holding::Owned { .. } | Holding::Unassigned
                    if row.changed > began =>
                {
                    return Err(Status::aborted(format!("the move of {shard} was given up")));
                }
                Holding::Moving { .. } | Holding::Owned { .. } | Holding::Unassigned => {}
            }
            if map.changed().await.is_err() {
                return Err(Status::unavailable("this node is stopping"));
            }
        }
    }

    pub(super) async fn transfer(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        let mut leadership = self.inner.raft.leadership();
        let term = leadership.borrow_and_update().term;
        let message = request.get_ref();
        let to = Some(NodeId(message.to)).filter(|to| to.0 != 0);
        let ask = Ask::TransferLeader { to, operator_epoch: epoch(message.operator.as_ref()) };
        let routed = self
            .route(&request, ask, |mut client, request| async move {
                client.transfer_leader(request).await
            })
            .await?;
        if let Routed::There(response) = routed {
            return Ok(response);
        }
        if to == Some(self.inner.node) {
            return Ok(Response::new(pb::TransferLeaderResponse { leader: message.to }));
        }
        let changed = leadership.wait_for(|now| now.term > term && now.leader.is_some());
        match tokio::time::timeout(TRANSFER_WAIT, changed).await {
            Ok(Ok(now)) => {
                let leader = now.leader.map_or(0, |leader| leader.0);
                Ok(Response::new(pb::TransferLeaderResponse { leader }))
            }
            Ok(Err(_)) | Err(_) => Err(Status::aborted("no other node took the leadership over")),
        }
    }
}
