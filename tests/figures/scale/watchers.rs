//! Nodes beyond the log that watch the registry at members of it, and keep nothing of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use shoal_core::id::{ClusterId, LogIndex, NodeId};
use shoal_proto::shoal::peer::v1::{
    WatchMapEvent, map_client::MapClient, watch_map_event::Event as Told,
};
use shoal_worker::{peer::MAX_MESSAGE, wire};
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};

use crate::node;

const PAUSE: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(60);

/// Who is watched.
#[derive(Clone, Debug)]
pub struct Source {
    pub node: NodeId,
    pub raft_address: String,
}

/// What all watchers together were told.
#[derive(Default)]
pub struct Counted {
    pub tables: AtomicU64,
    pub table_bytes: AtomicU64,
    pub deltas: AtomicU64,
    pub delta_bytes: AtomicU64,
}

pub struct Watchers {
    pub counted: Arc<Counted>,
    tasks: JoinSet<()>,
}

impl Watchers {
    /// Evenly over the sources; whose watch ends goes to the next one.
    pub fn start(cluster: ClusterId, sources: &[Source], watchers: &[NodeId]) -> Self {
        let counted = Arc::new(Counted::default());
        let mut tasks = JoinSet::new();
        for (at, watcher) in watchers.iter().copied().enumerate() {
            let (sources, counted) = (sources.to_vec(), counted.clone());
            tasks.spawn(async move {
                let mut known = LogIndex(0);
                for source in sources.iter().cycle().skip(at % sources.len()) {
                    // Refusals and broken connections show in what is never told.
                    let watch = watch(cluster, source, watcher, &mut known, &counted);
                    drop(watch.await);
                    time::sleep(PAUSE).await;
                }
            });
        }
        Self { counted, tasks }
    }

    /// Waits until so many whole tables were told.
    pub async fn all_told(&self) -> anyhow::Result<()> {
        let (until, count) = (Instant::now() + PATIENCE, self.tasks.len() as u64);
        while self.counted.tables.load(Ordering::Relaxed) < count {
            let told = self.counted.tables.load(Ordering::Relaxed);
            ensure!(Instant::now() < until, "{told} of {count} watchers were told a table");
            time::sleep(LOOK).await;
        }
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    pub async fn end(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn watch(
    cluster: ClusterId,
    source: &Source,
    watcher: NodeId,
    known: &mut LogIndex,
    counted: &Counted,
) -> anyhow::Result<()> {
    let channel = node::connect(&source.raft_address).await?;
    let mut client = MapClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let request = wire::map::request(cluster, (watcher, Some(source.node)), *known, false);
    let mut events = client.watch_map(request).await?.into_inner();
    while let Some(event) = events.message().await? {
        counted.take(&event).context("it sends its watchers elsewhere")?;
        *known = LogIndex(event.index);
    }
    Ok(())
}

impl Counted {
    /// `None` at the end of a watch.
    fn take(&self, event: &WatchMapEvent) -> Option<()> {
        let (count, size, rows) = match event.event.as_ref()? {
            Told::Snapshot(rows) => (&self.tables, &self.table_bytes, rows),
            Told::Delta(rows) => (&self.deltas, &self.delta_bytes, rows),
            Told::Progress(_) => return Some(()),
            Told::Elsewhere(_) => return None,
        };
        count.fetch_add(1, Ordering::Relaxed);
        size.fetch_add(rows.len() as u64, Ordering::Relaxed);
        Some(())
    }
}
