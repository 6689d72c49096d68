//! The demo: what happens to the cluster while the load runs, step by step.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use parking_lot::RwLock;
use shoal_proto::shoal::admin::v1 as pb;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    Args,
    cluster::{self, Cluster, LEAVE},
    screen::Teller,
    verdict::{CRASH, PHASES, Verdict},
};
use crate::{
    cli::{
        ask::Admins,
        bench::{self, Bound, Config, Entries, Load, Progress, Report},
        drain,
    },
    tls::Tls,
};

const CONNECTIONS: usize = 16;
const KEYS: usize = 1_000;
/// Later than this an answer counts as a failure.
const DEADLINE: Duration = Duration::from_secs(5);
/// The load ends by itself if the story does not end.
const LONGEST: Duration = Duration::from_secs(300);
/// Load before the first change and after the last.
const STEADY: Duration = Duration::from_secs(3);
const VIEW_INTERVAL: Duration = Duration::from_millis(250);
const QUIET_POLL: Duration = Duration::from_millis(1);
/// A removed node that does not leave by itself is asked to.
const REMOVED: &str = "node-b";
const ROLLED: &str = "node-c";
const JOINED: &str = "node-d";
const KILLED: &str = JOINED;

/// How it ended.
pub enum Told {
    Interrupted,
    Whole(Verdict),
}

pub struct Story<'a> {
    cluster: &'a mut Cluster,
    teller: Teller,
    report_death: bool,
    rate: f64,
    entries: Entries,
    admins: Arc<RwLock<Vec<String>>>,
    phase: Arc<AtomicUsize>,
    in_flight: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl<'a> Story<'a> {
    pub fn new(args: &Args, cluster: &'a mut Cluster, teller: Teller) -> Self {
        Self {
            cluster,
            teller,
            report_death: !args.no_report,
            rate: args.rate,
            entries: Entries::default(),
            admins: Arc::default(),
            phase: Arc::default(),
            in_flight: Arc::default(),
            stop: CancellationToken::new(),
        }
    }

    pub async fn tell(mut self) -> anyhow::Result<Verdict> {
        ensure!(self.rate.is_finite() && self.rate > 0.0, "--rate must be above 0");
        self.say("three nodes start");
        let began = Instant::now();
        self.cluster.form().await?;
        self.entered();
        self.say(format!("formed, every shard has an owner after {:.1?}", began.elapsed()));
        let _view = AbortOnDropHandle::new(self.view());
        let changes = self.cluster.owner_changes().await?;
        let load = AbortOnDropHandle::new(self.load());
        self.say(format!("load: {} increments per second, any node", self.rate));
        time::sleep(STEADY).await;
        self.join().await?;
        self.remove().await?;
        self.roll().await?;
        let moves = self.cluster.owner_changes().await?.saturating_sub(changes);
        let (failed_over, without_owner_ms) = self.crash().await?;
        time::sleep(STEADY).await;
        self.say("the load ends, every counter is read");
        self.stop.cancel();
        let report = load.await.context("the load")?;
        let told = super::verdict::Told { moves, failed_over, without_owner_ms };
        Ok(Verdict::new(&report, told))
    }

    fn say(&self, line: impl Into<String>) {
        self.teller.say(line.into());
    }

    /// Who runs has changed.
    fn entered(&self) {
        *self.entries.write() = self.cluster.entries();
        *self.admins.write() = self.cluster.admins();
    }

    /// Every call of the phase before has ended when the next begins.
    async fn turn(&self, phase: usize) {
        let until = Instant::now() + DEADLINE;
        while self.in_flight.load(Ordering::Relaxed) > 0 && Instant::now() < until {
            time::sleep(QUIET_POLL).await;
        }
        self.phase.store(phase, Ordering::Relaxed);
        self.say(format!("-- {}", PHASES[phase]));
    }

    fn load(&self) -> JoinHandle<Report> {
        let config = Config {
            entries: self.entries.clone(),
            tls: Tls::default(),
            load: Load::Open { rate: self.rate },
            bound: Bound::Time(LONGEST),
            connections: CONNECTIONS,
            keys: KEYS,
            deadline: DEADLINE,
            phase: self.phase.clone(),
            in_flight: self.in_flight.clone(),
            stop: self.stop.clone(),
        };
        let (progress, mut seconds) = watch::channel(Progress::default());
        let teller = self.teller.clone();
        tokio::spawn(async move {
            while seconds.changed().await.is_ok() {
                teller.load(&seconds.borrow_and_update());
            }
        });
        tokio::spawn(bench::run(config, progress))
    }

    fn view(&self) -> JoinHandle<()> {
        let (teller, admins) = (self.teller.clone(), self.admins.clone());
        tokio::spawn(async move {
            loop {
                let addresses = admins.read().clone();
                let admins = Admins::plain(addresses);
                let asked = admins.first(|mut client| async move {
                    client.status(pb::StatusRequest::default()).await
                });
                if let Ok(status) = asked.await {
                    teller.status(status.into_inner());
                }
                time::sleep(VIEW_INTERVAL).await;
            }
        })
    }

    async fn join(&mut self) -> anyhow::Result<()> {
        self.turn(1).await;
        let began = Instant::now();
        self.cluster.start(JOINED).await?;
        self.entered();
        self.say(format!("{JOINED} has joined and is ready"));
        self.cluster
            .settled("the joined node takes its share", |status| even(status, JOINED))
            .await?;
        self.say(format!("{JOINED} owns its share after {:.1?}", began.elapsed()));
        Ok(())
    }

    async fn remove(&mut self) -> anyhow::Result<()> {
        self.turn(2).await;
        let began = Instant::now();
        let node = self.cluster.known(REMOVED).await?;
        let owned = node.shards_owned;
        Admins::plain(self.cluster.admins())
            .change(|mut client| {
                let node = node.clone();
                async move { drain::start(&mut client, &node, pb::DrainKind::Removal).await }
            })
            .await?;
        self.say(format!("{REMOVED} drains {owned} shards for its removal"));
        self.cluster
            .until("the drained node owns nothing", |status| owns_nothing(status, node.id))
            .await?;
        self.say(format!("{REMOVED} owns nothing after {:.1?}", began.elapsed()));
        let close = pb::CloseRequest {
            node: node.id,
            incarnation: node.incarnation.clone(),
            operator: None,
        };
        let others = Admins::plain(self.others(REMOVED));
        others
            .change(|mut client| {
                let close = close.clone();
                async move { client.close(close).await.map(|_| ()) }
            })
            .await?;
        others
            .change(|mut client| {
                let remove = pb::RemoveRequest { node: node.id, force: false, operator: None };
                async move { client.remove(remove).await.map(|_| ()) }
            })
            .await?;
        self.say(format!("{REMOVED} is removed, its process ends"));
        let leaving = self.cluster.node(REMOVED)?;
        leaving.terminate();
        leaving.ended(LEAVE).await?;
        self.entered();
        self.cluster.settled("the cluster rests after the removal", |_| true).await?;
        self.say(format!("{REMOVED} is gone after {:.1?}", began.elapsed()));
        Ok(())
    }

    async fn roll(&mut self) -> anyhow::Result<()> {
        self.turn(3).await;
        let began = Instant::now();
        self.say(format!("{ROLLED} is told to restart"));
        self.cluster.node(ROLLED)?.leave(LEAVE).await?;
        self.say(format!("{ROLLED} has left with exit code 0 after {:.1?}", began.elapsed()));
        self.cluster.start(ROLLED).await?;
        self.entered();
        self.cluster.settled("the rolled node is back", |status| up(status, ROLLED)).await?;
        self.say(format!("{ROLLED} is back after {:.1?}", began.elapsed()));
        Ok(())
    }

    /// Shards of the killed node, and how long one of them had no owner.
    async fn crash(&mut self) -> anyhow::Result<(u64, u64)> {
        let node = self.cluster.known(KILLED).await?;
        self.turn(CRASH).await;
        let began = Instant::now();
        self.cluster.node(KILLED)?.kill().await?;
        self.entered();
        let owned = u64::from(node.shards_owned);
        self.say(format!("{KILLED} is killed with SIGKILL, it owned {owned} shards"));
        if self.report_death {
            let death = pb::ReportDeathRequest {
                node: node.id,
                incarnation: node.incarnation.clone(),
                operator: None,
            };
            Admins::plain(self.cluster.admins())
                .change(|mut client| {
                    let death = death.clone();
                    async move { client.report_death(death).await.map(|_| ()) }
                })
                .await?;
            self.say("its process is reaped, its death is reported");
        } else {
            self.say("its death is not reported, its lease must end");
        }
        self.cluster
            .until("the shards of the killed node have owners", |status| {
                cluster::at_rest(status) && owns_nothing(status, node.id)
            })
            .await?;
        let without = began.elapsed();
        self.say(format!("every shard has an owner again after {without:.1?}"));
        self.cluster.start(KILLED).await?;
        self.entered();
        self.cluster.settled("the killed node is back", |status| up(status, KILLED)).await?;
        self.say(format!("{KILLED} is back after {:.1?}", began.elapsed()));
        Ok((owned, without.as_millis() as u64))
    }

    /// Admin ports of all nodes that run but one.
    fn others(&self, name: &str) -> Vec<String> {
        let running = self.cluster.nodes().filter(|node| node.runs() && node.name != name);
        running.map(super::children::Node::admin_address).collect()
    }
}

fn up(status: &pb::StatusResponse, name: &str) -> bool {
    status.nodes.iter().any(|node| node.name == name && node.life == "up" && node.drain == "none")
}

fn owns_nothing(status: &pb::StatusResponse, id: u64) -> bool {
    let held = |node: &pb::Node| node.shards_owned + node.shards_receiving;
    status.nodes.iter().filter(|node| node.id == id).all(|node| held(node) == 0)
}

/// Within one shard of an even share.
fn even(status: &pb::StatusResponse, name: &str) -> bool {
    let nodes: Vec<_> = status.nodes.iter().filter(|node| node.life == "up").collect();
    let total = status.shards.unwrap_or_default().total;
    let share = total / nodes.len().max(1) as u32;
    nodes.iter().any(|node| node.name == name && node.shards_owned + 1 >= share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(owned: [u32; 4]) -> pb::StatusResponse {
        let nodes = owned.iter().zip(1..).map(|(&shards_owned, id)| pb::Node {
            id,
            name: format!("node-{id}"),
            life: "up".to_owned(),
            drain: "none".to_owned(),
            shards_owned,
            ..pb::Node::default()
        });
        let total = owned.iter().sum();
        pb::StatusResponse {
            formed: true,
            nodes: nodes.collect(),
            shards: Some(pb::ShardCounts { total, assigned: total, moving: 0, unassigned: 0 }),
            ..pb::StatusResponse::default()
        }
    }

    #[test]
    fn a_share_is_even_within_one_shard() {
        assert!(even(&status([26, 25, 26, 23 + 1]), "node-4"));
        assert!(!even(&status([40, 40, 20, 0]), "node-4"));
        assert!(!even(&status([25; 4]), "node-9"), "it is not there");
    }

    #[test]
    fn rest_needs_an_owner_for_every_shard() {
        let mut status = status([25; 4]);
        assert!(cluster::at_rest(&status) && up(&status, "node-1"));
        status.shards.as_mut().unwrap().unassigned = 1;
        assert!(!cluster::at_rest(&status));
        assert!(!cluster::at_rest(&pb::StatusResponse::default()));
    }

    #[test]
    fn a_node_that_left_the_list_owns_nothing() {
        let status = status([1, 0, 1, 1]);
        assert!(owns_nothing(&status, 2) && owns_nothing(&status, 77));
        assert!(!owns_nothing(&status, 1));
    }
}
