//! `WatchRoutes`: who owns which shard, for clients that talk to owners themselves.
//!
//! The first message names every shard, each later one those that changed since. Changes
//! that come while a client reads slowly are told together.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::StreamExt as _;
use http_body::Frame;
use shoal_core::{id::MapVersion, route::RouteTable};
use shoal_proto::shoal::v1::{Route, WatchRoutesResponse};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::Status;

use super::{Node, grpc};

/// Routes in one message: 64 KiB and some.
const MAX_ROUTES: usize = 2_048;

/// The stream of one client, as a response body. It ends when its connection shall.
pub(super) struct Watch {
    node: Arc<Node>,
    changes: WatchStream<MapVersion>,
    draining: WatchStream<bool>,
    ended: bool,
    told: Option<Arc<RouteTable>>,
    messages: VecDeque<Bytes>,
}

impl Watch {
    pub(super) fn new(node: Arc<Node>, draining: watch::Receiver<bool>) -> Self {
        let changes = WatchStream::new(node.table.watch_map());
        let draining = WatchStream::from_changes(draining);
        Self { node, changes, draining, told: None, messages: VecDeque::new(), ended: false }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Poll::Ready(Some(Frame::data(message)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            if self.draining.poll_next_unpin(cx).is_ready() {
                self.ended = true;
                let left = Status::unavailable("this node is leaving");
                return Poll::Ready(Some(Frame::trailers(grpc::trailers(&left))));
            }
            // The table lives as long as its node.
            let _ = ready!(self.changes.poll_next_unpin(cx));
            let table = self.node.table.routes();
            if table.cluster().formed.is_some() {
                self.messages = messages(self.told.as_deref(), &table);
                self.told = Some(table);
            }
        }
    }
}

fn messages(told: Option<&RouteTable>, table: &RouteTable) -> VecDeque<Bytes> {
    let address = |table: &RouteTable, shard| {
        let owner = table.lookup(shard).and_then(|route| route.owner());
        owner
            .and_then(|owner| table.peer(owner))
            .map_or(String::new(), |p| p.addresses.data.clone())
    };
    let routes: Vec<Route> = table
        .routes()
        .map(|(shard, route)| Route {
            shard: shard.0,
            owner: address(table, shard),
            epoch: route.epoch().0,
        })
        .filter(|route| {
            told.is_none_or(|told| {
                let shard = shoal_core::id::ShardId(route.shard);
                let epoch = told.lookup(shard).map(|route| route.epoch().0);
                epoch != Some(route.epoch) || address(told, shard) != route.owner
            })
        })
        .collect();
    let message = |routes: &[Route]| {
        grpc::encode(&WatchRoutesResponse {
            cluster_id: table.cluster().id.to_string(),
            map_version: table.version().0,
            shard_count: table.shard_count(),
            routes: routes.to_vec(),
        })
    };
    if routes.is_empty() {
        [message(&[])].into()
    } else {
        routes.chunks(MAX_ROUTES).map(message).collect()
    }
}
