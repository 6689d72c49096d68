//! How fast a cluster gets its owners: from Formed to all shards owned, and the share of a
//! fourth node.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use shoal_proto::shoal::admin::v1 as pb;
use tokio::time::{self, Instant};

use crate::{
    cluster::{self, Cluster, Place},
    figure::{Row, Target},
    node::{self, Node},
};

const FORMINGS: usize = 5;
const JOINS: usize = 3;
/// Between two looks at a cluster that forms.
const LOOK: Duration = Duration::from_millis(2);
/// A node that does not answer yet is asked again.
const PATIENCE: Duration = Duration::from_millis(200);
const FORMS_WITHIN: Duration = Duration::from_secs(30);
const SHARDS: u32 = 1_024;

/// Target: 1,024 shards assigned within 1 s of forming.
pub async fn forming(place: &Place) -> anyhow::Result<Vec<Row>> {
    let (mut assigned, mut started) = (Vec::new(), Vec::new());
    for _ in 0..FORMINGS {
        let mut cluster = Cluster::founders(place)?;
        let began = Instant::now();
        cluster.start_all()?;
        let (formed, whole) = watched(&cluster).await?;
        assigned.push(millis(whole - formed));
        started.push(millis(whole - began));
        let shards = cluster.shards().await?.len();
        ensure!(shards == SHARDS as usize, "the cluster has {shards} shards");
        cluster.end().await?;
    }
    Ok(vec![
        Row::worst("from Formed to an owner for each of 1,024 shards", &assigned, "ms")
            .target(Target::AtMost(1_000.0))
            .note("from the last look before Formed, on any of three nodes: an upper bound"),
        Row::worst("from three processes started to an owner for each shard", &started, "ms"),
    ])
}

/// The last look at which nobody knew of Formed, the first at which every shard had an owner.
async fn watched(cluster: &Cluster) -> anyhow::Result<(Instant, Instant)> {
    let looks = cluster.nodes.iter().map(|node| tokio::spawn(watched_at(node.admin())));
    let mut formed: Option<Instant> = None;
    let mut whole: Option<Instant> = None;
    for look in looks.collect::<Vec<_>>() {
        let (at_formed, at_whole) = look.await??;
        formed = Some(formed.map_or(at_formed, |known| known.min(at_formed)));
        whole = Some(whole.map_or(at_whole, |known| known.min(at_whole)));
    }
    Ok((formed.context("no node")?, whole.context("no node")?))
}

async fn watched_at(admin: node::Admin) -> anyhow::Result<(Instant, Instant)> {
    let until = Instant::now() + FORMS_WITHIN;
    let mut unformed = None;
    loop {
        let asked = Instant::now();
        ensure!(asked < until, "the cluster does not form");
        if let Ok(status) = node::status(admin.clone(), PATIENCE).await {
            if !status.formed {
                unformed = Some(asked);
            } else if cluster::at_rest(&status) {
                let unformed = unformed.context("no look fell before Formed")?;
                return Ok((unformed, Instant::now()));
            }
        } else if unformed.is_none_or(|at| asked > at) {
            // Not up yet: certainly not formed here.
            unformed = Some(asked);
        }
        time::sleep(LOOK).await;
    }
}

/// Target: a fourth node takes its share with exactly the minimum of moves.
pub async fn joining(place: &Place) -> anyhow::Result<Vec<Row>> {
    let (mut moves, mut changed, mut uneven, mut seconds) = (vec![], vec![], vec![], vec![]);
    for _ in 0..JOINS {
        let mut cluster = Cluster::formed(place).await?;
        let before = cluster.shards().await?;
        let at = cluster.joiner()?;
        cluster.start(at)?;
        let (status, took) =
            cluster.settled("the fourth node takes its share", cluster::whole(4)).await?;
        let after = cluster.shards().await?;
        moves.push((cluster::owner_changes(&after) - cluster::owner_changes(&before)) as f64);
        changed.push(new_owners(&before, &after) as f64);
        uneven.push(f64::from(cluster::unevenness(&status)));
        seconds.push(took.as_secs_f64());
        let share = share_of(&status, &cluster.nodes[at]);
        ensure!(share == SHARDS / 4, "the fourth node owns {share} shards");
        cluster.end().await?;
    }
    let least = f64::from(SHARDS / 4);
    Ok(vec![
        Row::worst("changes of owner until a fourth node has its share", &moves, "")
            .target(Target::Exactly(least))
            .note("sum over all epochs; the minimum is 256 of 1,024"),
        Row::worst("shards that have another owner then", &changed, "")
            .target(Target::Exactly(least)),
        Row::worst("most minus least shards of the four nodes", &uneven, "")
            .target(Target::AtMost(1.0)),
        Row::median("from its process started to its share", &seconds, "s"),
    ])
}

fn new_owners(before: &[pb::Shard], after: &[pb::Shard]) -> usize {
    before.iter().zip(after).filter(|(old, new)| old.owner != new.owner).count()
}

fn share_of(status: &pb::StatusResponse, node: &Node) -> u32 {
    let known = status.nodes.iter().find(|known| known.name == node.name);
    known.map_or(0, |known| known.shards_owned)
}

pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
