//! Requests that only read: from this node's table, confirmed by the leader where asked.

use std::time::Duration;

use shoal_core::{id::NodeId, registry::Registry};
use shoal_proto::shoal::admin::v1 as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Routed, Server, WATCH_BUFFER};
use crate::{
    control::{Granted, Outcome, Request as Ask},
    wire::{admin as wire, registry},
};

/// How long a confirmed read may wait for this node's table.
const CATCH_UP: Duration = Duration::from_secs(5);
const SNAPSHOT_CHUNK: usize = 256 << 10;
/// A follower that lacks fewer entries, and was heard within the time, can take a vote's part.
const CAUGHT_UP_ENTRIES: u64 = 1_000;
const CAUGHT_UP_SILENCE: Duration = Duration::from_secs(1);
const DEFAULT_WATCH_INTERVAL: Duration = Duration::from_millis(250);

pub(super) fn planned(granted: Granted) -> Result<pb::PlanResponse, Status> {
    match granted.outcome {
        Outcome::Plan(plan) => Ok(wire::plan(&plan)),
        Outcome::Event(_) | Outcome::Current(_) | Outcome::Noted => {
            Err(Status::internal("the leader answered something else"))
        }
    }
}

impl Server {
    pub(super) async fn read_status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        if request.get_ref().linearizable {
            let routed = self
                .route(&request, Ask::Barrier, |mut client, request| async move {
                    client.status(request).await
                })
                .await?;
            let index = match routed {
                Routed::There(response) => return Ok(response),
                Routed::Here(granted) => granted.index,
            };
            let mut applied = self.inner.table.watch_applied();
            let caught_up = applied.wait_for(|applied| *applied >= index);
            tokio::time::timeout(CATCH_UP, caught_up)
                .await
                .map_err(|_| Status::unavailable("the table lags behind the leader"))?
                .map_err(|_| Status::unavailable("this node is stopping"))?;
        }
        let mut status = self.status_now();
        if request.get_ref().linearizable {
            status.caught_up = self.caught_up().await;
        }
        Ok(Response::new(status))
    }

    pub(super) fn status_now(&self) -> pb::StatusResponse {
        let leadership = *self.inner.raft.leadership().borrow();
        let membership = self.inner.raft.membership();
        let registry = self.inner.table.registry();
        let nodes = registry
            .nodes()
            .filter(|(_, node)| !node.life.is_left())
            .map(|(id, node)| wire::node(id, node, &registry, leadership.leader, &membership));
        let moving = registry.shards().filter(|(_, row)| row.target().is_some());
        pb::StatusResponse {
            cluster_id: self.cluster_id(&registry),
            formed: registry.formed(),
            node_id: self.inner.node.0,
            leader_id: leadership.leader.map_or(0, |leader| leader.0),
            term: leadership.term,
            applied: registry.applied().0,
            map_version: registry.map_version().0,
            settings: Some(wire::settings(registry.settings())),
            shards: Some(wire::counts(&registry)),
            nodes: nodes.collect(),
            voters: membership.voters.union(&membership.retiring).map(|id| id.0).collect(),
            learners: membership.learners.iter().map(|id| id.0).collect(),
            moving: moving.map(|(id, row)| wire::shard(id, row)).collect(),
            waiting: self.inner.waiting.borrow().clone(),
            version: crate::VERSION.to_owned(),
            caught_up: Vec::new(),
            standing: Some(self.standing()),
        }
    }

    fn standing(&self) -> pb::Standing {
        wire::standing(&self.inner.founding.state().borrow(), self.inner.pod_uid.as_deref())
    }

    /// Before the first entry came, that of the directory.
    fn cluster_id(&self, registry: &Registry) -> String {
        let joined = || self.inner.founding.state().borrow().directory.cluster();
        let known = Some(registry.cluster().id).filter(|_| registry.founded());
        known.or_else(joined).map_or_else(String::new, |id| id.to_string())
    }

    /// As the leader hears; of any other node nobody is known to be.
    async fn caught_up(&self) -> Vec<u64> {
        let current = match self.inner.control.ask(Ask::Current).await {
            Ok(Granted { outcome: Outcome::Current(current), .. }) => current,
            Ok(_) | Err(_) => Vec::new(),
        };
        let followers = self.inner.raft.followers();
        let lags = |node: &NodeId| {
            let follower = followers.iter().find(|follower| follower.node == *node);
            follower.is_some_and(|follower| {
                let heard = follower.silent.is_some_and(|silent| silent < CAUGHT_UP_SILENCE);
                !heard || follower.behind >= CAUGHT_UP_ENTRIES
            })
        };
        current.into_iter().filter(|node| !lags(node)).map(|node| node.0).collect()
    }

    pub(super) fn read_nodes(&self, message: &pb::NodesRequest) -> pb::NodesResponse {
        let leader = self.inner.raft.leadership().borrow().leader;
        let membership = self.inner.raft.membership();
        let registry = self.inner.table.registry();
        let nodes = registry
            .nodes()
            .filter(|(_, node)| message.all || !node.life.is_left())
            .map(|(id, node)| wire::node(id, node, &registry, leader, &membership));
        pb::NodesResponse { nodes: nodes.collect() }
    }

    pub(super) fn read_shards(&self, message: &pb::ShardsRequest) -> pb::ShardsResponse {
        let registry = self.inner.table.registry();
        let owner = Some(NodeId(message.owner)).filter(|owner| owner.0 != 0);
        let shards = registry
            .shards()
            .filter(|(_, row)| owner.is_none() || row.owner().map(|(node, _)| node) == owner)
            .map(|(id, row)| wire::shard(id, row))
            .filter(|shard| !message.unsettled || shard.state != "owned");
        pb::ShardsResponse { shards: shards.collect() }
    }

    pub(super) fn read_snapshot(
        &self,
    ) -> Result<Response<ReceiverStream<Result<pb::SnapshotChunk, Status>>>, Status> {
        let bytes = registry::encode_snapshot(&self.inner.table.registry());
        let (chunks, stream) = mpsc::channel(WATCH_BUFFER);
        tokio::spawn(async move {
            let crc32 = crc32fast::hash(&bytes);
            let count = bytes.len().div_ceil(SNAPSHOT_CHUNK).max(1);
            for number in 0..count {
                let end = bytes.len().min((number + 1) * SNAPSHOT_CHUNK);
                let data = bytes.slice(number * SNAPSHOT_CHUNK..end);
                let crc32 = (number + 1 == count).then_some(crc32);
                if chunks.send(Ok(pb::SnapshotChunk { data, crc32 })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    pub(super) fn watch(
        &self,
        message: &pb::WatchStatusRequest,
    ) -> Response<ReceiverStream<Result<pb::StatusResponse, Status>>> {
        let interval = match message.min_interval_ms {
            0 => DEFAULT_WATCH_INTERVAL,
            millis => Duration::from_millis(millis.into()),
        };
        let server = self.clone();
        let (events, stream) = mpsc::channel(WATCH_BUFFER);
        tokio::spawn(async move {
            let mut applied = server.inner.table.watch_applied();
            let mut leadership = server.inner.raft.leadership();
            let mut waiting = server.inner.waiting.clone();
            let mut last = None;
            loop {
                applied.borrow_and_update();
                leadership.borrow_and_update();
                waiting.borrow_and_update();
                let status = server.status_now();
                // A renewal moves nothing but the index.
                let shown = pb::StatusResponse { applied: 0, ..status.clone() };
                if last.as_ref() != Some(&shown) {
                    last = Some(shown);
                    if events.send(Ok(status)).await.is_err() {
                        return;
                    }
                }
                tokio::time::sleep(interval).await;
                let changed = tokio::select! {
                    changed = applied.changed() => changed.is_ok(),
                    changed = leadership.changed() => changed.is_ok(),
                    changed = waiting.changed() => changed.is_ok(),
                    () = events.closed() => false,
                };
                if !changed {
                    return;
                }
            }
        });
        Response::new(ReceiverStream::new(stream))
    }
}
