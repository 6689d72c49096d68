//! Looks at the nodes from outside, as a kubelet and an operator do: who is ready, who leads,
//! whether shards move.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use prost::Message as _;
use shoal_proto::shoal::admin::v1::{StatusRequest, StatusResponse};
use shoal_worker::env::{
    net,
    sim::{self, Place},
};
use tokio::time::{sleep, timeout};

use crate::{client::Entries, world::data_address};

const EVERY: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_millis(500);
/// As Kubernetes does: so many looks in vain make a node unready.
const IN_VAIN: u32 = 3;
const ADMIN_OFFSET: u16 = 2_000;

/// What is known of the nodes.
pub struct Sight {
    nodes: Vec<Option<StatusResponse>>,
    in_vain: Vec<u32>,
    leaving: Vec<bool>,
}

impl Sight {
    pub fn new(nodes: usize) -> Self {
        Self { nodes: vec![None; nodes], in_vain: vec![0; nodes], leaving: vec![false; nodes] }
    }

    /// Told to stop: its endpoint is withdrawn.
    pub fn leaves(&mut self, place: Place) {
        self.leaving[place] = true;
    }

    /// The machine that most nodes take for the leader's.
    pub fn leader(&self) -> Option<Place> {
        let latest = self.nodes.iter().flatten().max_by_key(|seen| (seen.term, seen.applied))?;
        let row = latest.nodes.iter().find(|node| node.id == latest.leader_id)?;
        row.name.strip_prefix("node-")?.parse().ok()
    }

    /// Whether a node says that it leads.
    pub fn is_led(&self) -> bool {
        self.nodes.iter().flatten().any(|seen| seen.node_id == seen.leader_id)
    }

    /// The latest view of the cluster.
    pub fn latest(&self) -> Option<&StatusResponse> {
        self.nodes.iter().flatten().max_by_key(|seen| (seen.term, seen.applied))
    }

    pub fn owned(&self, place: Place) -> u32 {
        let name = format!("node-{place}");
        let rows = self.latest().into_iter().flat_map(|seen| &seen.nodes);
        rows.filter(|row| row.name == name && row.life == "up").map(|row| row.shards_owned).sum()
    }

    /// All nodes say that all is well, and the same.
    pub fn settled(&self) -> bool {
        let Some(latest) = self.latest() else { return false };
        let total = latest.shards.as_ref().map_or(0, |shards| shards.total);
        let assigned = |seen: &StatusResponse| seen.shards.as_ref().map_or(0, |s| s.assigned);
        let count = self.nodes.len();
        total > 0
            && self.nodes.iter().all(|seen| {
                seen.as_ref().is_some_and(|seen| {
                    let up = seen.nodes.iter().filter(|node| node.life == "up").count();
                    seen.waiting.is_empty()
                        && assigned(seen) == total
                        && seen.moving.is_empty()
                        && seen.map_version == latest.map_version
                        && up == count
                })
            })
    }

    fn ready(&self, place: Place) -> bool {
        let ready = |seen: &StatusResponse| seen.formed && seen.waiting.is_empty();
        !self.leaving[place] && self.nodes[place].as_ref().is_some_and(ready)
    }
}

/// Looks for ever.
pub async fn run(nodes: usize, entries: Entries, sight: Arc<Mutex<Sight>>) {
    for place in 0..nodes {
        let sight = sight.clone();
        tokio::spawn(async move {
            loop {
                sleep(EVERY).await;
                let found = timeout(PATIENCE, status(place)).await.ok().flatten();
                let mut sight = sight.lock();
                match found {
                    Some(found) => {
                        // A new process of a machine that was told to stop.
                        if sight.leaving[place] && sight.nodes[place].is_none() {
                            sight.leaving[place] = false;
                        }
                        sight.in_vain[place] = 0;
                        sight.nodes[place] = Some(found);
                    }
                    None => {
                        sight.in_vain[place] += 1;
                        if sight.in_vain[place] >= IN_VAIN || sight.leaving[place] {
                            sight.nodes[place] = None;
                        }
                    }
                }
            }
        });
    }
    loop {
        sleep(EVERY).await;
        let ready: Vec<_> = {
            let sight = sight.lock();
            (0..nodes).filter(|place| sight.ready(*place)).map(data_address).collect()
        };
        *entries.lock() = ready;
    }
}

async fn status(place: Place) -> Option<StatusResponse> {
    let address = SocketAddr::new(sim::address(place), data_address(place).port() + ADMIN_OFFSET);
    let socket = net::connect(&address.to_string()).await.ok()?;
    let made = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
    let (mut send, connection) = made.ok()?;
    let driven = tokio::spawn(connection);
    let mut message = vec![0; 5];
    let request = StatusRequest { linearizable: false };
    message[4] = request.encoded_len() as u8;
    request.encode(&mut message).ok()?;
    let request = http::Request::post("http://shoal/shoal.admin.v1.Admin/Status")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(message)))
        .ok()?;
    let response = send.send_request(request).await.ok()?;
    let body = response.into_body().collect().await.ok()?.to_bytes();
    driven.abort();
    StatusResponse::decode(body.get(5..)?).ok()
}
