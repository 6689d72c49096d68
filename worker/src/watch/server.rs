//! Tells watchers what this node's table learns from the log.
//!
//! Nothing is queued for a watcher: the next event is made when the last one was taken, from
//! the rows that changed since. One that reads slowly is told more at once, one that does not
//! read at all is given up.

use std::{sync::Arc, time::Duration};

use shoal_core::id::{LogIndex, NodeId};
use shoal_proto::shoal::peer::v1::{
    self as pb,
    map_server::{Map, MapServer},
};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::debug;

use super::{Event, Metrics, News, Why};
use crate::{
    env::clock,
    peer::MAX_MESSAGE,
    raft::Heard,
    table::Table,
    tls::Caller,
    wire::{map as wire, registry as rows},
};

/// A thousand nodes over twenty sources are fifty each; more, while some of those are gone.
pub(super) const MAX_WATCHERS: usize = 256;
/// Whole tables under way at once: a large one is a few MiB.
pub(super) const MAX_SNAPSHOTS: usize = 32;
/// Leases for which the leader is watched by one that found nobody else, before it has to look
/// again: others may be back by then.
const LAST_RESORT: u32 = 10;
/// Events that a watcher has not taken yet.
const AHEAD: usize = 1;

/// Who follows the log, as this node knows.
pub type Members = Arc<dyn Fn() -> Heard + Send + Sync>;
type Sender = mpsc::Sender<Result<pb::WatchMapEvent, Status>>;

/// Answers watchers. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    table: Table,
    members: Members,
    metrics: Metrics,
    watchers: Semaphore,
    snapshots: Semaphore,
    stop: CancellationToken,
}

impl Server {
    /// All streams end with `stop`.
    pub fn new(
        node: NodeId,
        table: Table,
        members: Members,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Self {
        let watchers = Semaphore::new(MAX_WATCHERS);
        let snapshots = Semaphore::new(MAX_SNAPSHOTS);
        let inner = Inner { node, table, members, metrics, watchers, snapshots, stop };
        Self { inner: Arc::new(inner) }
    }

    /// The service of `shoal.peer.v1.Map`, with its limits.
    pub fn service(self) -> MapServer<Self> {
        MapServer::new(self).max_encoding_message_size(MAX_MESSAGE)
    }
}

#[tonic::async_trait]
impl Map for Server {
    type WatchMapStream = ReceiverStream<Result<pb::WatchMapEvent, Status>>;

    async fn watch_map(
        &self,
        request: Request<pb::WatchMapRequest>,
    ) -> Result<Response<Self::WatchMapStream>, Status> {
        let (caller, request) = (Caller::of(&request), request.into_inner());
        self.inner.check(&caller, &request)?;
        let (events, stream) = mpsc::channel(AHEAD);
        let inner = Arc::clone(&self.inner);
        let watching = async move {
            let stop = inner.stop.clone();
            stop.run_until_cancelled(inner.watch(&request, &events)).await;
        };
        tokio::spawn(watching);
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Inner {
    /// An address may be somebody else's by now.
    fn check(&self, caller: &Caller, request: &pb::WatchMapRequest) -> Result<(), Status> {
        let theirs = wire::read_cluster(&request.cluster_id);
        let theirs = theirs.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let registry = self.table.registry();
        let ours = registry.cluster().id;
        if !registry.founded() {
            return Err(Status::unavailable("this node has no table yet"));
        }
        if ours != theirs {
            let message = format!("this node is of cluster {ours}, not {theirs}");
            return Err(Status::failed_precondition(message));
        }
        if request.node == self.node.0 {
            return Err(Status::failed_precondition("the caller has the id of this node"));
        }
        if request.to != 0 && request.to != self.node.0 {
            let (me, meant) = (self.node, NodeId(request.to));
            let message = format!("this is node {me}, the call is for node {meant}");
            return Err(Status::failed_precondition(message));
        }
        caller.must_be(self.table.name_of(NodeId(request.node)).as_deref())?;
        Ok(())
    }

    async fn watch(&self, request: &pb::WatchMapRequest, events: &Sender) {
        let watcher = NodeId(request.node);
        let Ok(_place) = self.watchers.try_acquire() else {
            return self.refuse(watcher, Why::Busy, events).await;
        };
        self.metrics.watchers.inc();
        let ended = self.tell(request, events).await;
        self.metrics.watchers.dec();
        match ended {
            Ended::Elsewhere(why) => self.refuse(watcher, why, events).await,
            Ended::Gone => debug!(%watcher, "a watcher is gone"),
            Ended::Stalled => debug!(%watcher, "a watcher takes nothing and is given up"),
        }
    }

    async fn tell(&self, request: &pb::WatchMapRequest, events: &Sender) -> Ended {
        let until = clock::now().plus(LAST_RESORT * self.lease());
        let last_resort = || request.last_resort && !clock::now().surely_past(until);
        if let Some(why) = self.refusal(last_resort()) {
            return Ended::Elsewhere(why);
        }
        let mut map = self.table.watch_map();
        let mut told = Told { index: LogIndex(request.applied), members: None, snapshot: None };
        if !self.reach(told.index).await {
            return Ended::Elsewhere(Why::Behind);
        }
        loop {
            let lease = self.lease();
            // A watcher without an answer for so long has lost its session anyway.
            let place = match tokio::time::timeout(2 * lease, events.reserve()).await {
                Ok(Ok(place)) => place,
                Ok(Err(_)) => return Ended::Gone,
                Err(_) => return Ended::Stalled,
            };
            map.borrow_and_update();
            match self.next(&mut told).await {
                Ok(event) => place.send(Ok(wire::event(event))),
                Err(why) => return Ended::Elsewhere(why),
            }
            tokio::select! {
                _ = map.changed() => {}
                () = tokio::time::sleep(lease / 4) => {}
                () = events.closed() => return Ended::Gone,
            }
            if let Some(why) = self.refusal(last_resort()) {
                return Ended::Elsewhere(why);
            }
        }
    }

    /// A source may be an entry behind where the watcher was before: it waits for a moment.
    async fn reach(&self, index: LogIndex) -> bool {
        let mut applied = self.table.watch_applied();
        let reached = applied.wait_for(|applied| *applied >= index);
        tokio::time::timeout(self.lease() / 4, reached).await.is_ok_and(|reached| reached.is_ok())
    }

    /// Whether this node should be watched at all now.
    fn refusal(&self, last_resort: bool) -> Option<Why> {
        if !self.table.registry().formed() {
            return Some(Why::NotFormed);
        }
        if !self.table.follows_log(self.lease(), clock::now()) {
            return Some(Why::NoLog);
        }
        let sheds = !last_resort && self.leads_others();
        sheds.then_some(Why::Leads)
    }

    /// The leader has enough to do while another member can be watched.
    fn leads_others(&self) -> bool {
        let members = (self.members)();
        let registry = self.table.registry();
        let lives = |id| registry.node(id).is_some_and(|node| node.life.is_up());
        members.leader == Some(self.node) && members.ids().any(|id| id != self.node && lives(id))
    }

    async fn next<'a>(&'a self, told: &mut Told<'a>) -> Result<Event, Why> {
        told.snapshot = None;
        let (cluster, index, news) = if told.index == LogIndex(0) {
            told.snapshot = Some(self.snapshots.try_acquire().map_err(|_| Why::Busy)?);
            let registry = self.table.registry().clone();
            let (cluster, index) = (registry.cluster().id, registry.applied());
            let encoding = crate::env::thread::blocking(move || rows::encode_snapshot(&registry));
            let rows = encoding.await.map_err(|_| Why::Busy)?;
            self.metrics.snapshots.inc();
            (cluster, index, News::Snapshot(rows))
        } else {
            let delta = self.table.registry().rows_since(told.index);
            let news = if delta.is_empty() {
                News::Nothing
            } else {
                self.metrics.deltas.inc();
                News::Delta(rows::encode_delta(&delta))
            };
            (delta.cluster.id, delta.applied, news)
        };
        told.index = index;
        let members = (self.members)();
        let members = (told.members.as_ref() != Some(&members)).then_some(members);
        if members.is_some() {
            told.members.clone_from(&members);
        }
        Ok(Event { cluster, from: self.node, index, news, members })
    }

    async fn refuse(&self, watcher: NodeId, why: Why, events: &Sender) {
        debug!(%watcher, ?why, "sends a watcher elsewhere");
        let cluster = self.table.registry().cluster().id;
        let event = Event {
            cluster,
            from: self.node,
            index: self.table.applied(),
            news: News::Elsewhere(why),
            members: Some((self.members)()),
        };
        let sending = events.send(Ok(wire::event(event)));
        // It goes elsewhere by itself if this does not reach it.
        let _ = tokio::time::timeout(self.lease(), sending).await;
    }

    fn lease(&self) -> Duration {
        Duration::from_millis(self.table.registry().settings().lease_ms.into())
    }
}

/// What a watcher was told last.
struct Told<'a> {
    index: LogIndex,
    members: Option<Heard>,
    /// Held until the table that was told is taken.
    snapshot: Option<SemaphorePermit<'a>>,
}

enum Ended {
    Gone,
    Stalled,
    Elsewhere(Why),
}
