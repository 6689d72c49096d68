//! The load of `shoal bench` beside what a figure does to the cluster.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use anyhow::Context as _;
use parking_lot::RwLock;
use shoal_worker::{
    cli::bench::{self, Bound, Config, Entries, Progress, Report},
    tls::Tls,
};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const CONNECTIONS: usize = 64;
const KEYS: usize = 4_096;
/// Later than this an answer counts as a failure.
const DEADLINE: Duration = Duration::from_secs(5);
/// The load ends by itself if the figure does not end it.
const LONGEST: Duration = Duration::from_secs(600);

/// Increments in an open loop until it is ended.
pub struct Load {
    pub entries: Entries,
    seconds: watch::Receiver<Progress>,
    stop: CancellationToken,
    running: JoinHandle<Report>,
}

impl Load {
    pub fn start(entries: Vec<String>, rate: f64, phase: Arc<AtomicUsize>) -> Self {
        let entries = Arc::new(RwLock::new(entries));
        let stop = CancellationToken::new();
        let config = Config {
            entries: entries.clone(),
            tls: Tls::default(),
            load: bench::Load::Open { rate },
            bound: Bound::Time(LONGEST),
            connections: CONNECTIONS,
            keys: KEYS,
            deadline: DEADLINE,
            phase,
            in_flight: Arc::default(),
            stop: stop.clone(),
        };
        let (progress, seconds) = watch::channel(Progress::default());
        Self { entries, seconds, stop, running: tokio::spawn(bench::run(config, progress)) }
    }

    pub fn calls(&self) -> u64 {
        self.seconds.borrow().calls
    }

    /// Stops it and reads every counter once more.
    pub async fn end(self) -> anyhow::Result<Report> {
        self.stop.cancel();
        self.running.await.context("the load")
    }
}

/// Increments that an acknowledgement does not account for.
pub fn damaged(report: &Report) -> u64 {
    let judged = &report.judgement;
    judged.lost + judged.doubled + judged.fallen_since(0)
}

/// Its parts.
pub fn damage(report: &Report) -> String {
    let judged = &report.judgement;
    let fallen = judged.fallen_since(0);
    format!("{} lost, {} doubled, {fallen} gone with a failover", judged.lost, judged.doubled)
}
