//! An owner is killed with SIGKILL and nobody reports it: how long each of its keys is
//! without an acknowledged call, as a client sees it that is connected to the other nodes.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use shoal_proto::shoal::{
    admin::v1 as pb,
    v1::{CallRequest, CallResponse, shoal_client::ShoalClient},
};
use shoal_worker::env::random;
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};
use tonic::{Request, Status, transport::Channel};

use crate::{
    cluster::{self, Cluster, Place},
    figure::{Row, Spread, Target},
    form::millis,
    node,
};

/// As the other clients have it.
const DEADLINE: Duration = Duration::from_secs(5);
/// Between a failed call and the next for the same key.
const PAUSE: Duration = Duration::from_millis(5);
/// No key is without an owner for longer.
const HEALS_WITHIN: Duration = Duration::from_secs(30);
/// The kill falls anywhere between two renewals.
const JITTER: Duration = Duration::from_secs(1);
const TARGET_MS: f64 = 4_000.0;

const AIMS: usize = 5;
/// Kills of the last rows, each soon after another under the same leader.
const AGAIN: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    Leader,
    Follower,
}

impl Victim {
    fn name(self) -> &'static str {
        match self {
            Self::Leader => "the leader",
            Self::Follower => "a node that does not lead",
        }
    }
}

/// One key, and the connection over which it is called.
#[derive(Clone)]
struct Probe {
    key: Bytes,
    client: ShoalClient<Channel>,
}

impl Probe {
    async fn call(&mut self) -> Result<CallResponse, Status> {
        let message =
            CallRequest { key: self.key.clone(), method: "incr".to_owned(), payload: Bytes::new() };
        let mut request = Request::new(message);
        request.set_timeout(DEADLINE);
        self.client.call(request).await.map(tonic::Response::into_inner)
    }

    /// When another node than the killed one first acknowledged; how many calls failed.
    async fn heals(mut self, killed: String) -> anyhow::Result<(Instant, u64)> {
        let until = Instant::now() + HEALS_WITHIN;
        let mut failed = 0;
        loop {
            match self.call().await {
                Ok(answer) if answer.owner != killed => return Ok((Instant::now(), failed)),
                Ok(_) => {}
                Err(_) => failed += 1,
            }
            ensure!(Instant::now() < until, "a key has no owner after {HEALS_WITHIN:?}");
            time::sleep(PAUSE).await;
        }
    }
}

/// A node that was fenced k times lately gets no shards for 2^k leases: one that is killed for
/// the fifth time would keep its cluster from being whole for minutes.
const KILLS_OF_ONE_CLUSTER: usize = 5;

#[derive(Default)]
struct Seen {
    /// Per kill, in ms: the last and the median key.
    last: Vec<f64>,
    middle: Vec<f64>,
    keys: usize,
    failed: u64,
}

pub async fn run(place: &Place, victim: Victim, kills: usize) -> anyhow::Result<Vec<Row>> {
    let (mut seen, mut again) = (Seen::default(), Seen::default());
    let killed = kill_all(place, victim, kills, &mut seen, &mut again).await;
    let mut rows = rows(victim, &seen, &again);
    // What was seen until then stays, and the figure is not whole.
    if let Err(error) = killed {
        rows.push(Row::unknown("the other kills", format!("{error:#}")));
    }
    Ok(rows)
}

async fn kill_all(
    place: &Place,
    victim: Victim,
    kills: usize,
    seen: &mut Seen,
    again: &mut Seen,
) -> anyhow::Result<()> {
    while seen.last.len() < kills {
        let mut cluster = Cluster::formed(place).await?;
        cluster.configure(cluster::EAGER).await?;
        for _ in 0..KILLS_OF_ONE_CLUSTER.min(kills - seen.last.len()) {
            if victim == Victim::Follower {
                unsuspecting(&mut cluster).await?;
            }
            one(&mut cluster, victim, seen).await?;
            let (round, last) = (seen.last.len(), seen.last.last().copied().unwrap_or_default());
            eprintln!("  kill {round} of {kills}: {last:.0} ms");
        }
        cluster.end().await?;
    }
    if victim == Victim::Follower {
        let mut cluster = Cluster::formed(place).await?;
        cluster.configure(cluster::EAGER).await?;
        for _ in 0..=AGAIN {
            one(&mut cluster, victim, again).await.context("one more kill")?;
        }
        // Nobody was fenced before the first.
        again.last.remove(0);
        cluster.end().await?;
    }
    Ok(())
}

fn rows(victim: Victim, seen: &Seen, again: &Seen) -> Vec<Row> {
    let (who, kills) = (victim.name(), seen.last.len());
    let note = format!("{} keys, one for each shard of the killed nodes", seen.keys);
    let what = format!("SIGKILL of {who} to a call of every key acknowledged, worst of {kills}");
    let mut rows = vec![
        Row::worst(what, &seen.last, "ms").target(Target::Below(TARGET_MS)).note(note),
        Row::median(format!("the same, median of {kills}"), &seen.last, "ms"),
        Row::median("the median key of a kill", &seen.middle, "ms"),
        Row::new("calls that failed meanwhile, all kills", seen.failed as f64, ""),
    ];
    if !again.last.is_empty() {
        let what = "the same, killed within 30 s of another under the same leader";
        let note = "such a leader lets another voter judge first";
        rows.push(Row::worst(what, &again.last, "ms").note(note));
    }
    rows
}

/// A leader that fenced a node lately doubts itself at the next one; another leads afresh,
/// as one does whose nodes die once in a while.
async fn unsuspecting(cluster: &mut Cluster) -> anyhow::Result<()> {
    let mut last = anyhow::anyhow!("no attempt");
    for _ in 0..AIMS {
        let (status, _) = cluster.settled("the cluster is whole", cluster::whole(3)).await?;
        let leader = cluster.at(&status, status.leader_id)?;
        let transfer = pb::TransferLeaderRequest { to: 0, operator: None };
        match cluster.nodes[leader].admin().transfer_leader(transfer).await {
            Ok(_) => return Ok(()),
            Err(status) => last = status.into(),
        }
    }
    Err(last.context("a new leader"))
}

async fn one(cluster: &mut Cluster, victim: Victim, seen: &mut Seen) -> anyhow::Result<()> {
    let (at, probes) = aim(cluster, victim).await?;
    let name = cluster.nodes[at].name.clone();
    let killed = Instant::now();
    cluster.nodes[at].kill()?;
    let mut healing = JoinSet::new();
    for probe in probes {
        healing.spawn(probe.heals(name.clone()));
    }
    cluster.nodes[at].killed().await?;
    let mut times = Vec::new();
    while let Some(healed) = healing.join_next().await {
        let (healed, failed) = healed??;
        times.push(millis(healed - killed));
        seen.failed += failed;
    }
    let spread = Spread::of(&times).context("the killed node owned nothing")?;
    seen.keys += times.len();
    seen.last.push(spread.most);
    seen.middle.push(spread.median);
    cluster.start(at)
}

/// Whom to kill now, and a key for each of its shards that it has just answered.
async fn aim(cluster: &mut Cluster, victim: Victim) -> anyhow::Result<(usize, Vec<Probe>)> {
    let mut last = anyhow::anyhow!("no attempt");
    for _ in 0..AIMS {
        let (status, _) = cluster.settled("the cluster is whole", cluster::whole(3)).await?;
        match aim_by(cluster, victim, &status).await {
            Ok(aimed) => return Ok(aimed),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// An error if the table lagged, or if the roles changed meanwhile.
async fn aim_by(
    cluster: &Cluster,
    victim: Victim,
    status: &pb::StatusResponse,
) -> anyhow::Result<(usize, Vec<Probe>)> {
    let id = match victim {
        Victim::Leader => status.leader_id,
        Victim::Follower => {
            let others = status.nodes.iter().filter(|node| node.id != status.leader_id);
            let others: Vec<_> = others.collect();
            others[(random::fraction() * others.len() as f64) as usize].id
        }
    };
    let at = cluster.at(status, id)?;
    let probes = probes(cluster, status, at, id).await?;
    time::sleep(JITTER.mul_f64(random::fraction())).await;
    let now = cluster.nodes[at].status().await?;
    let leads = now.leader_id == id;
    ensure!(leads == (victim == Victim::Leader), "leadership moved before the kill");
    Ok((at, probes))
}

/// One for each shard of the victim, over connections to the two others that carried calls.
async fn probes(
    cluster: &Cluster,
    status: &pb::StatusResponse,
    at: usize,
    id: u64,
) -> anyhow::Result<Vec<Probe>> {
    let shards = cluster.shards().await?;
    let owned = shards.iter().filter(|shard| shard.owner == id).map(|shard| shard.id);
    let owned: Vec<_> = owned.collect();
    let total = status.shards.unwrap_or_default().total;
    let name = cluster.nodes[at].name.clone();
    let mut clients = Vec::new();
    for node in cluster.nodes.iter().filter(|node| node.name != name) {
        clients.push(ShoalClient::new(node::connect(&node.address()).await?));
    }
    let mut probes = Vec::new();
    for (turn, (_, key)) in cluster::keys_of(&owned, total).into_iter().enumerate() {
        let client = clients[turn % clients.len()].clone();
        let mut probe = Probe { key: key.into(), client };
        let answer = probe.call().await.context("before the kill")?;
        ensure!(answer.owner == name, "{} answered instead of {name}", answer.owner);
        probes.push(probe);
    }
    Ok(probes)
}
