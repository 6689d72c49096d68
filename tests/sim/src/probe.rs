//! Looks at the nodes from outside, as a kubelet and an operator do: who is ready, who leads,
//! whether shards move.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use shoal_proto::shoal::admin::v1::{Node, StatusRequest, StatusResponse};
use shoal_worker::env::sim::Place;
use tokio::time::{sleep, timeout};

use crate::{admin, client::Entries, world::data_address};

const EVERY: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_millis(500);
/// As Kubernetes does: so many looks in vain make a node unready.
const IN_VAIN: u32 = 3;

/// What is known of the nodes.
pub struct Sight {
    nodes: Vec<Option<StatusResponse>>,
    in_vain: Vec<u32>,
    leaving: Vec<bool>,
    /// Machines that were started at least once.
    begun: Vec<bool>,
}

impl Sight {
    pub fn new(nodes: usize) -> Self {
        Self {
            nodes: vec![None; nodes],
            in_vain: vec![0; nodes],
            leaving: vec![false; nodes],
            begun: vec![false; nodes],
        }
    }

    pub fn begins(&mut self, place: Place) {
        self.begun[place] = true;
    }

    /// Told to stop: its endpoint is withdrawn.
    pub fn leaves(&mut self, place: Place) {
        self.leaving[place] = true;
    }

    pub fn has_begun(&self, place: Place) -> bool {
        self.begun[place]
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

    /// The node of a machine that is up, in the latest view.
    pub fn row(&self, place: Place) -> Option<&Node> {
        let name = format!("node-{place}");
        let mut rows = self.latest().into_iter().flat_map(|seen| &seen.nodes);
        rows.find(|row| row.name == name && row.life == "up")
    }

    pub fn owned(&self, place: Place) -> u32 {
        self.row(place).map_or(0, |row| row.shards_owned)
    }

    pub fn shards(&self) -> u32 {
        self.latest().and_then(|seen| seen.shards.as_ref()).map_or(0, |shards| shards.total)
    }

    /// The clusters that nodes say they are of.
    pub fn clusters(&self) -> BTreeSet<String> {
        let formed = self.nodes.iter().flatten().filter(|seen| seen.formed);
        formed.map(|seen| seen.cluster_id.clone()).collect()
    }

    /// Machines whose nodes answer, the one that leads first.
    pub fn answering(&self) -> Vec<Place> {
        let mut places: Vec<_> =
            (0..self.nodes.len()).filter(|place| self.nodes[*place].is_some()).collect();
        let leader = self.leader();
        places.sort_by_key(|place| Some(*place) != leader);
        places
    }

    /// All nodes say that all is well, and the same.
    pub fn settled(&self) -> bool {
        let Some(latest) = self.latest() else { return false };
        let total = latest.shards.as_ref().map_or(0, |shards| shards.total);
        let assigned = |seen: &StatusResponse| seen.shards.as_ref().map_or(0, |s| s.assigned);
        let begun = || self.nodes.iter().zip(&self.begun).filter(|(_, begun)| **begun);
        let count = begun().count();
        total > 0
            && begun().all(|(seen, _)| {
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
    admin::call(place, "Status", &StatusRequest { linearizable: false }).await.ok()
}
