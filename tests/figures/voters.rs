//! The voters in Status while three nodes are rolled one after another.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{self, Instant},
};

use crate::{
    cluster::{self, Cluster, Place},
    figure::{Row, Target},
    form::millis,
    node::{self, Admin},
};

const EVERY: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_millis(500);
const VOTERS: usize = 3;

/// Every answer of every node: when, and how many voters it named.
type Samples = Arc<Mutex<Vec<(Instant, usize)>>>;

pub async fn run(place: &Place) -> anyhow::Result<Vec<Row>> {
    let mut cluster = Cluster::formed(place).await?;
    let samples = Samples::default();
    let mut sampling = JoinSet::new();
    for node in &cluster.nodes {
        sampling.spawn(sample(node.admin(), samples.clone()));
    }
    let began = Instant::now();
    let mut seconds = Vec::new();
    for at in 0..cluster.nodes.len() {
        let turn = Instant::now();
        cluster.nodes[at].leave().await?;
        cluster.start(at)?;
        cluster.settled("the rolled node is back", cluster::whole(3)).await?;
        seconds.push(turn.elapsed().as_secs_f64());
    }
    sampling.shutdown().await;
    cluster.end().await?;
    let samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
    let other = samples.iter().filter(|(_, voters)| *voters != VOTERS).count();
    let gap = longest_gap(began, &samples);
    Ok(vec![
        Row::new(
            "answers of Status with other than 3 voters in a roll of 3 nodes",
            other as f64,
            "",
        )
        .target(Target::Exactly(0.0))
        .note(format!("of {} answers, every node asked each 10 ms", samples.len())),
        Row::new("longest time between two answers", millis(gap), "ms")
            .target(Target::AtMost(50.0)),
        Row::median("SIGTERM of a node until it is back with its share", &seconds, "s"),
    ])
}

async fn sample(admin: Admin, samples: Samples) {
    let mut tick = time::interval(EVERY);
    loop {
        tick.tick().await;
        let Ok(status) = node::status(admin.clone(), PATIENCE).await else { continue };
        if status.formed {
            let sample = (Instant::now(), status.voters.len());
            samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
        }
    }
}

fn longest_gap(began: Instant, samples: &[(Instant, usize)]) -> Duration {
    let mut last = began;
    let mut longest = Duration::ZERO;
    for (at, _) in samples.iter().filter(|(at, _)| *at >= began) {
        longest = longest.max(at.saturating_duration_since(last));
        last = *at;
    }
    longest
}
