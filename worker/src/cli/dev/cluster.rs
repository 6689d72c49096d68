//! The nodes of `shoal dev` as a cluster: formed, asked, settled, stopped.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, bail};
use shoal_proto::shoal::admin::v1 as pb;
use tokio::time::{self, Instant};

use super::{
    Args,
    children::{Node, Start},
    screen::Teller,
};
use crate::cli::{admin, ask::Admins, events, show, table::Colour};

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
const POLL: Duration = Duration::from_millis(100);
/// Between two looks at a cluster that nobody drives.
const LOOK: Duration = Duration::from_millis(250);
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
        Admins::plain(self.admins())
            .first(|mut client| async move {
                client.status(pb::StatusRequest::default()).await.map(tonic::Response::into_inner)
            })
            .await
    }

    pub async fn known(&mut self, name: &str) -> anyhow::Result<pb::Node> {
        Ok(admin::find(&self.status().await?.nodes, name)?.clone())
    }

    /// Sum of all epochs: it grows by one with each change of owner.
    pub async fn owner_changes(&mut self) -> anyhow::Result<u64> {
        let shards = Admins::plain(self.admins())
            .first(|mut client| async move {
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
                Ok(status) => last = show::status(&status, Colour::OFF),
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

    /// Tells what happens to the cluster and starts nodes that died again, for ever; a node
    /// that says why it cannot go on is an error.
    pub async fn tend<T>(&mut self, teller: &Teller) -> anyhow::Result<T> {
        let mut before: Option<pb::StatusResponse> = None;
        loop {
            for at in 0..self.nodes.len() {
                let Some(status) = self.nodes[at].died()? else { continue };
                // A code is the node's own word, a signal is somebody else's.
                if status.code().is_some() {
                    return Err(self.nodes[at].why(status));
                }
                self.revive(at, teller).await?;
            }
            if let Ok(now) = self.status().await {
                if let Some(before) = &before {
                    events::between(before, &now).into_iter().for_each(|line| teller.say(line));
                }
                before = Some(now);
            }
            time::sleep(LOOK).await;
        }
    }

    /// It was reaped here, which proves that it is dead: its shards need not wait.
    async fn revive(&mut self, at: usize, teller: &Teller) -> anyhow::Result<()> {
        let name = self.nodes[at].name.clone();
        teller.say(format!("{name} was killed: reports its death and starts it again"));
        if let Ok(row) = self.known(&name).await {
            let death = pb::ReportDeathRequest {
                node: row.id,
                incarnation: row.incarnation,
                operator: None,
            };
            let admins = Admins::plain(self.admins());
            let reported = admins.change(|mut client| {
                let death = death.clone();
                async move { client.report_death(death).await.map(|_| ()) }
            });
            if let Err(error) = reported.await {
                teller.say(format!("its lease must end: {error:#}"));
            }
        }
        self.nodes[at].spawn()
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
            Admins::plain(admins).first(|mut client| async move {
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
