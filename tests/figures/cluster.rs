//! Real nodes on loopback with their data on a real disk: formed, asked, settled.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use shoal_proto::{hash, shoal::admin::v1 as pb};
use shoal_tests::Ports;
use tokio::time::{self, Instant};

use crate::node::{ASK, Node};

/// From a change until the cluster rests again.
const SETTLE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// A change waits for an election at most.
const CHANGE: Duration = Duration::from_secs(20);
/// States in a row that must show rest.
const CALM: u32 = 5;
const FOUNDERS: u16 = 3;
/// Nodes that one cluster has at most, one after another.
const NODES: u16 = 16;

/// Balances without pauses, for figures that balancing is no part of.
pub const EAGER: pb::ConfigureRequest = pb::ConfigureRequest {
    lease_ms: None,
    rebalance: None,
    max_moves: Some(128),
    max_moves_per_node: Some(64),
    cooldown_ms: Some(0),
    max_voters: None,
    max_learners: None,
    shard_count: None,
    operator: None,
};

pub struct Cluster {
    pub nodes: Vec<Node>,
    program: PathBuf,
    dir: PathBuf,
    ports: Ports,
}

/// Where the program and the data of clusters are.
#[derive(Clone, Debug)]
pub struct Place {
    pub program: PathBuf,
    pub data: PathBuf,
}

impl Cluster {
    /// Three nodes that found a cluster together; none runs yet.
    pub fn founders(place: &Place) -> anyhow::Result<Self> {
        let dir = fresh(&place.data)?;
        let claimed = Ports::any(NODES);
        let ports: Vec<_> = (0..FOUNDERS).map(|at| claimed.get(at)).collect();
        let peers: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let nodes = ports.iter().enumerate().map(|(at, port)| {
            Node::new(&name(at), *port, &dir, ("PEER_ADDRESSES", peers.join(",")))
        });
        let nodes = nodes.collect::<anyhow::Result<_>>()?;
        Ok(Self { nodes, program: place.program.clone(), dir, ports: claimed })
    }

    /// Three nodes with an owner for every shard.
    pub async fn formed(place: &Place) -> anyhow::Result<Self> {
        Self::founders(place)?.form().await
    }

    /// As `formed`, of so many shards.
    pub async fn formed_of(place: &Place, shards: u32) -> anyhow::Result<Self> {
        let mut cluster = Self::founders(place)?;
        cluster.nodes.iter_mut().for_each(|node| node.set("SHARDS", shards.to_string()));
        cluster.form().await
    }

    async fn form(mut self) -> anyhow::Result<Self> {
        self.start_all()?;
        self.settled("the cluster forms", whole(3)).await?;
        Ok(self)
    }

    pub fn start_all(&mut self) -> anyhow::Result<()> {
        let program = self.program.clone();
        self.nodes.iter_mut().try_for_each(|node| node.spawn(&program))
    }

    pub fn start(&mut self, at: usize) -> anyhow::Result<()> {
        let program = self.program.clone();
        self.nodes[at].spawn(&program)
    }

    /// A further node that joins through one that runs; it does not run yet.
    pub fn joiner(&mut self) -> anyhow::Result<usize> {
        let at = self.nodes.len();
        ensure!(at < usize::from(NODES), "a cluster has {NODES} nodes at most");
        let port = self.ports.get(at as u16);
        let through = self.running().next().context("no node runs")?.address();
        let join = ("JOIN_ADDRESS", through);
        self.nodes.push(Node::new(&name(at), port, &self.dir, join)?);
        Ok(at)
    }

    pub fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.runs())
    }

    pub fn entries(&self) -> Vec<String> {
        self.running().map(Node::address).collect()
    }

    /// Place of the node with this id.
    pub fn at(&self, status: &pb::StatusResponse, id: u64) -> anyhow::Result<usize> {
        let known = status.nodes.iter().find(|node| node.id == id);
        let known = known.with_context(|| format!("no node {id}"))?;
        let at = self.nodes.iter().position(|node| node.name == known.name);
        at.with_context(|| format!("no process {}", known.name))
    }

    /// The cluster as the first node sees it that answers.
    pub async fn status(&self) -> anyhow::Result<pb::StatusResponse> {
        let mut last = anyhow::anyhow!("no node runs");
        for node in self.running() {
            match node.status().await {
                Ok(status) => return Ok(status),
                Err(error) => last = error.context(node.name.clone()),
            }
        }
        Err(last)
    }

    pub async fn shards(&self) -> anyhow::Result<Vec<pb::Shard>> {
        let mut last = anyhow::anyhow!("no node runs");
        for node in self.running() {
            let mut admin = node.admin();
            let all = pb::ShardsRequest { owner: 0, unsettled: false };
            match time::timeout(ASK, admin.shards(all)).await {
                Ok(Ok(shards)) => return Ok(shards.into_inner().shards),
                Ok(Err(error)) => last = error.into(),
                Err(_) => last = anyhow::anyhow!("{} does not answer", node.name),
            }
        }
        Err(last)
    }

    /// Changes settings, after an election if need be.
    pub async fn configure(&self, change: pb::ConfigureRequest) -> anyhow::Result<()> {
        let until = Instant::now() + CHANGE;
        loop {
            let mut last = anyhow::anyhow!("no node runs");
            for node in self.running() {
                match time::timeout(ASK, node.admin().configure(change.clone())).await {
                    Ok(Ok(_)) => return Ok(()),
                    Ok(Err(error)) => last = error.into(),
                    Err(_) => last = anyhow::anyhow!("{} does not answer", node.name),
                }
            }
            if Instant::now() > until {
                return Err(last);
            }
            time::sleep(POLL).await;
        }
    }

    /// Polls until `wanted` holds and nothing moves, for a while; how long it took until then.
    pub async fn settled(
        &mut self,
        what: &str,
        wanted: impl Fn(&pb::StatusResponse) -> bool,
    ) -> anyhow::Result<(pb::StatusResponse, Duration)> {
        let began = Instant::now();
        let (mut calm, mut first) = (0, Duration::ZERO);
        let mut last = String::new();
        while began.elapsed() < SETTLE {
            self.nodes.iter_mut().try_for_each(Node::check).context(what.to_owned())?;
            match self.status().await {
                Ok(status) if at_rest(&status) && wanted(&status) => {
                    if calm == 0 {
                        first = began.elapsed();
                    }
                    calm += 1;
                    if calm == CALM {
                        return Ok((status, first));
                    }
                }
                Ok(status) => (calm, last) = (0, told(&status)),
                Err(error) => (calm, last) = (0, format!("{error:#}")),
            }
            time::sleep(POLL).await;
        }
        bail!("{what}: not within {SETTLE:?}; last {last}; logs are in {}", self.dir.display())
    }

    /// Kills what runs and removes the data.
    pub async fn end(mut self) -> anyhow::Result<()> {
        for node in self.nodes.iter_mut().filter(|node| node.runs()) {
            node.kill()?;
            node.killed().await?;
        }
        fs::remove_dir_all(&self.dir)?;
        Ok(())
    }
}

fn name(at: usize) -> String {
    format!("node-{}", char::from(b'a' + at as u8))
}

fn fresh(root: &Path) -> anyhow::Result<PathBuf> {
    let id = shoal_worker::env::random::u64() as u32;
    let dir = root.join(format!("cluster-{}-{id:08x}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir)
}

/// Every shard has an owner and none moves.
pub fn at_rest(status: &pb::StatusResponse) -> bool {
    let shards = status.shards.unwrap_or_default();
    status.formed && shards.total > 0 && shards.unassigned == 0 && shards.moving == 0
}

fn up(status: &pb::StatusResponse) -> impl Iterator<Item = &pb::Node> {
    status.nodes.iter().filter(|node| node.life == "up" && node.drain == "none")
}

/// Most minus least shards of the nodes that may own some.
pub fn unevenness(status: &pb::StatusResponse) -> u32 {
    let least = up(status).map(|node| node.shards_owned).min().unwrap_or_default();
    up(status).map(|node| node.shards_owned).max().unwrap_or_default() - least
}

/// So many nodes share all shards evenly, with a leader and three voters.
pub fn whole(nodes: usize) -> impl Fn(&pb::StatusResponse) -> bool {
    move |status| {
        up(status).count() == nodes
            && unevenness(status) <= 1
            && status.leader_id != 0
            && status.voters.len() == 3
    }
}

fn told(status: &pb::StatusResponse) -> String {
    let nodes: Vec<_> = status
        .nodes
        .iter()
        .map(|node| format!("{} {} {} {}", node.name, node.life, node.drain, node.shards_owned))
        .collect();
    let shards = status.shards.unwrap_or_default();
    format!(
        "{}; moving {}, unassigned {}, leader {}, voters {:?}",
        nodes.join(", "),
        shards.moving,
        shards.unassigned,
        status.leader_id,
        status.voters
    )
}

/// Sum of all epochs: it grows by one with each change of owner.
pub fn owner_changes(shards: &[pb::Shard]) -> u64 {
    shards.iter().map(|shard| shard.epoch & u64::from(u32::MAX)).sum()
}

/// One key for each of `wanted`, of a cluster of `count` shards.
pub fn keys_of(wanted: &[u32], count: u32) -> Vec<(u32, String)> {
    let mut missing: std::collections::BTreeSet<_> = wanted.iter().copied().collect();
    let mut keys = Vec::with_capacity(missing.len());
    for at in 0_u64.. {
        if missing.is_empty() {
            break;
        }
        let key = format!("key-{at}");
        let shard = hash::key_shard(key.as_bytes(), count);
        if missing.remove(&shard) {
            keys.push((shard, key));
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wanted_shard_gets_a_key_of_its_own() {
        let keys = keys_of(&[3, 700, 1_023], 1_024);
        let mut shards: Vec<_> =
            keys.iter().map(|(_, key)| hash::key_shard(key.as_bytes(), 1_024)).collect();
        shards.sort_unstable();
        assert_eq!(shards, [3, 700, 1_023]);
    }
}
