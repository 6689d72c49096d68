//! The nodes of `shoal dev` as a cluster: formed, asked, settled, stopped.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, bail};
use shoal_proto::shoal::admin::v1 as pb;
use tokio::time::{self, Instant};
use tonic::{Code, Status};

use super::{
    Args,
    children::{Node, Start},
};
use crate::cli::admin::{self, Client};

/// Founding nodes.
const FOUNDERS: [&str; 3] = ["node-a", "node-b", "node-c"];
const JOINER: &str = "node-d";
pub const READY: Duration = Duration::from_secs(20);
/// From a change until the cluster rests again.
pub const SETTLE: Duration = Duration::from_secs(30);
/// SIGTERM to exit: the default budget of a node and a little more.
pub const LEAVE: Duration = Duration::from_secs(25);
/// One request to one admin port.
const ASK: Duration = Duration::from_secs(5);
/// A change may wait for an election.
const CHANGE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(100);
/// States in a row that must show rest.
const CALM: u32 = 5;

pub struct Cluster {
    nodes: Vec<Node>,
}

impl Cluster {
    pub fn new(args: &Args, dir: &Path) -> Self {
        let port = |at: usize| args.base_port + at as u16;
        let peers: Vec<_> =
            (0..FOUNDERS.len()).map(|at| format!("localhost:{}", port(at))).collect();
        let founders = FOUNDERS
            .iter()
            .enumerate()
            .map(|(at, name)| Node::new(name, port(at), dir, Start::Peers(peers.join(","))));
        let mut nodes: Vec<_> = founders.collect();
        if args.demo {
            let join = Start::Join(peers[0].clone());
            nodes.push(Node::new(JOINER, port(FOUNDERS.len()), dir, join));
        }
        for node in &mut nodes {
            node.set("SHARDS", args.shards.map(|shards| shards.to_string()));
            node.set("LEASE", args.lease.map(|lease| lease.to_string()));
        }
        Self { nodes }
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter()
    }

    pub fn node(&mut self, name: &str) -> anyhow::Result<&mut Node> {
        let found = self.nodes.iter_mut().find(|node| node.name == name);
        found.with_context(|| format!("no node {name}"))
    }

    pub fn entries(&self) -> Vec<String> {
        self.nodes.iter().filter(|node| node.runs()).map(Node::address).collect()
    }

    pub fn admins(&self) -> Vec<String> {
        self.nodes.iter().filter(|node| node.runs()).map(Node::admin_address).collect()
    }

    /// Starts the founding nodes and waits until every shard has an owner.
    pub async fn form(&mut self) -> anyhow::Result<pb::StatusResponse> {
        for node in &mut self.nodes[..FOUNDERS.len()] {
            node.spawn()?;
        }
        for node in &mut self.nodes[..FOUNDERS.len()] {
            node.ready(READY).await?;
        }
        self.settled("the cluster forms", |status| up(status) >= FOUNDERS.len()).await
    }

    pub async fn start(&mut self, name: &str) -> anyhow::Result<()> {
        let node = self.node(name)?;
        node.spawn()?;
        node.ready(READY).await
    }

    /// The cluster as the first node sees it that answers.
    pub async fn status(&mut self) -> anyhow::Result<pb::StatusResponse> {
        for node in self.nodes.iter_mut().filter(|node| node.runs()) {
            node.check()?;
        }
        ask(&self.admins(), |mut client| async move {
            client.status(pb::StatusRequest::default()).await.map(tonic::Response::into_inner)
        })
        .await
    }

    pub async fn known(&mut self, name: &str) -> anyhow::Result<pb::Node> {
        Ok(admin::find(&self.status().await?.nodes, name)?.clone())
    }

    /// Sum of all epochs: it grows by one with each change of owner.
    pub async fn owner_changes(&mut self) -> anyhow::Result<u64> {
        let shards = ask(&self.admins(), |mut client| async move {
            let all = pb::ShardsRequest { owner: 0, unsettled: false };
            client.shards(all).await.map(|answer| answer.into_inner().shards)
        })
        .await?;
        Ok(shards.iter().map(|shard| shard.epoch & u64::from(u32::MAX)).sum())
    }

    /// Polls until nothing moves, every shard has an owner and `wanted` holds, for a while.
    pub async fn settled(
        &mut self,
        what: &str,
        wanted: impl Fn(&pb::StatusResponse) -> bool,
    ) -> anyhow::Result<pb::StatusResponse> {
        let mut calm = 0;
        let rests = |status: &pb::StatusResponse| {
            calm = if at_rest(status) && wanted(status) { calm + 1 } else { 0 };
            calm >= CALM
        };
        self.until(what, rests).await
    }

    pub async fn until(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&pb::StatusResponse) -> bool,
    ) -> anyhow::Result<pb::StatusResponse> {
        let until = Instant::now() + SETTLE;
        let mut last = String::new();
        while Instant::now() < until {
            match self.status().await {
                Ok(status) if wanted(&status) => return Ok(status),
                Ok(status) => last = crate::cli::show::status(&status),
                Err(error) => {
                    for node in self.nodes.iter_mut().filter(|node| node.runs()) {
                        node.check()?;
                    }
                    last = format!("{error:#}");
                }
            }
            time::sleep(POLL).await;
        }
        bail!("{what}: not within {SETTLE:?}; the last state was\n{last}")
    }

    /// Until one of the nodes ends by itself.
    pub async fn watch<T>(&mut self) -> anyhow::Result<T> {
        loop {
            for node in self.nodes.iter_mut().filter(|node| node.runs()) {
                node.check()?;
            }
            time::sleep(POLL).await;
        }
    }

    /// Shards close in place, then every process leaves; all are reaped.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let admins = self.admins();
        if admins.is_empty() {
            return Ok(());
        }
        // A cluster without a quorum cannot agree on it: the processes end all the same.
        let _ = time::timeout(
            ASK,
            ask(&admins, |mut client| async move {
                client.stop_all(pb::StopAllRequest::default()).await.map(|_| ())
            }),
        )
        .await;
        for node in &self.nodes {
            node.terminate();
        }
        let running = self.nodes.iter_mut().filter(|node| node.runs());
        let ended = futures::future::join_all(running.map(|node| node.ended(LEAVE))).await;
        ended.into_iter().try_for_each(|status| status.map(|_| ()))
    }
}

fn up(status: &pb::StatusResponse) -> usize {
    status.nodes.iter().filter(|node| node.life == "up").count()
}

/// Every shard has an owner and none moves.
pub fn at_rest(status: &pb::StatusResponse) -> bool {
    let shards = status.shards.unwrap_or_default();
    status.formed && shards.total > 0 && shards.unassigned == 0 && shards.moving == 0
}

/// The answer of the first of `admins` that gives one.
pub async fn ask<T, F>(admins: &[String], request: impl Fn(Client) -> F) -> anyhow::Result<T>
where
    F: Future<Output = Result<T, Status>>,
{
    let mut last = anyhow::anyhow!("no node runs");
    for address in admins {
        let asked = async {
            let client = admin::connect(address).await?;
            request(client).await.map_err(admin::told)
        };
        match time::timeout(ASK, asked).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => last = error,
            Err(_) => last = anyhow::anyhow!("{address} does not answer"),
        }
    }
    Err(last)
}

/// Asks for a change again while there is no leader to make it.
pub async fn change<F>(admins: &[String], request: impl Fn(Client) -> F) -> anyhow::Result<()>
where
    F: Future<Output = Result<(), Status>>,
{
    let until = Instant::now() + CHANGE;
    loop {
        let asked = ask(admins, |client| {
            let asking = request(client);
            async move {
                match asking.await {
                    Err(status) if status.code() != Code::Unavailable => Ok(Err(status)),
                    Err(status) => Err(status),
                    Ok(()) => Ok(Ok(())),
                }
            }
        });
        match asked.await {
            Ok(answer) => return answer.map_err(admin::told),
            Err(error) if Instant::now() >= until => return Err(error),
            Err(_) => time::sleep(POLL).await,
        }
    }
}
