//! Follows a source of the registry while the log does not feed this node's table.
//!
//! A source that is silent for L/2, that stands still for L, or that the session complains of
//! is left for another one: members of the log first, the leader last. Refusals and failures
//! are tried again after a pause that grows from 100 ms to 2 s.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use shoal_core::{
    id::{ClusterId, LogIndex, NodeId, Timestamp},
    registry::{Drain, Error as RowsError, Life},
};
use shoal_proto::shoal::peer::v1::{WatchMapEvent, map_client::MapClient};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming, transport::Channel};
use tracing::{debug, info, warn};

use super::{Event, Metrics, News, Why};
use crate::{
    discovery::PeerSet,
    env::{clock, random},
    peer::{Channels, MAX_MESSAGE, Purpose},
    raft::Heard,
    session,
    table::Table,
    wire::{map as wire, registry as rows},
};

/// Before the next source is tried: the first pause, doubling, up to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

pub struct Config {
    pub node: NodeId,
    pub cluster: ClusterId,
    /// RAFT_ADDRESS of this node, which discovery finds as well.
    pub address: String,
}

/// Why one watch ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the log feeds this node")]
    LogIsBack,
    #[error("it sends watchers elsewhere: {0:?}")]
    Elsewhere(Why),
    #[error("it has been silent")]
    Silent,
    #[error("it ended the stream")]
    Over,
    #[error("it stands still")]
    StandsStill,
    #[error("the session found this table to be behind")]
    TableBehind,
    #[error("it is of cluster {0}")]
    Foreign(ClusterId),
    #[error(transparent)]
    Malformed(#[from] wire::Malformed),
    #[error("its rows cannot be read")]
    Unreadable(#[from] rows::Error),
    #[error("its rows do not fit")]
    Unfit(#[from] RowsError),
    #[error("it cannot be asked")]
    Address(#[from] crate::peer::Error),
    #[error("the connection failed")]
    Broken(#[source] Status),
}

/// Whom to watch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Node(NodeId),
    /// A node that is only known by its RAFT_ADDRESS.
    Address(String),
}

pub struct Client {
    config: Config,
    table: Table,
    channels: Channels,
    discovered: watch::Receiver<PeerSet>,
    session: watch::Receiver<session::State>,
    heard: watch::Sender<Option<Heard>>,
    metrics: Metrics,
    /// The source that told something last.
    watched: Option<NodeId>,
    /// Sources that were left since one served well.
    tried: BTreeSet<Source>,
    /// The session's complaint that was heard last.
    complaints: u64,
    /// Until then the table is watched although the log moves.
    insist_until: Option<Timestamp>,
}

impl Client {
    /// `heard` is told who leads and who follows the log, while this node does not know better.
    pub fn new(
        config: Config,
        table: Table,
        channels: Channels,
        discovered: watch::Receiver<PeerSet>,
        session: watch::Receiver<session::State>,
        heard: watch::Sender<Option<Heard>>,
        metrics: Metrics,
    ) -> Self {
        let complaints = session.borrow().change_source;
        Self {
            config,
            table,
            channels,
            discovered,
            session,
            heard,
            metrics,
            watched: None,
            tried: BTreeSet::new(),
            complaints,
            insist_until: None,
        }
    }

    pub async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&mut self) {
        let mut pause = PAUSES.0;
        loop {
            if !self.is_needed() {
                self.heard.send_replace(None);
                self.tried.clear();
                pause = PAUSES.0;
                self.until_needed().await;
            }
            let began = self.table.applied();
            if let Some((source, last_resort)) = self.choose() {
                let ended = self.watch(&source, last_resort).await;
                if let Ended::LogIsBack = ended {
                    info!(node = %self.config.node, "follows the log");
                    self.watched = None;
                    continue;
                }
                debug!(?source, why = %Chain(&ended), "leaves a source of the registry");
                self.metrics.source_changes.inc();
                if self.table.applied() > began {
                    self.tried.clear();
                    pause = PAUSES.0;
                }
                self.tried.insert(source);
            }
            tokio::time::sleep(pause.mul_f64(0.5 + random::fraction() / 2.0)).await;
            pause = PAUSES.1.min(2 * pause);
        }
    }

    async fn until_needed(&mut self) {
        loop {
            let look_again = self.lease() / 8;
            if self.is_needed() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(look_again) => {}
                () = complaint(&mut self.session, &mut self.complaints) => {
                    self.insist_until = Some(clock::now().plus(2 * self.lease()));
                }
            }
        }
    }

    /// The log stands still here, or will soon: a node that leaves for good is dropped from it.
    fn is_needed(&self) -> bool {
        let now = clock::now();
        let insists = self.insist_until.is_some_and(|until| !now.surely_past(until));
        insists || self.leaves() || !self.table.follows_log(self.lease() / 2, now)
    }

    fn leaves(&self) -> bool {
        let registry = self.table.registry();
        registry.node(self.config.node).is_some_and(|node| match node.life {
            Life::Left => true,
            Life::Closed => node.drain == Drain::Removal || node.marked,
            Life::Joining | Life::Up | Life::Fenced => node.marked,
        })
    }

    /// Learners first, then voters, then any address that discovery found, then the leader;
    /// when all were tried, any live node, for it may know a member.
    fn choose(&mut self) -> Option<(Source, bool)> {
        let heard = self.heard.borrow().clone().unwrap_or_default();
        let followers = |ids: &BTreeMap<NodeId, String>| -> Vec<Source> {
            let ids = ids.keys().filter(|id| Some(**id) != heard.leader && self.lives(**id));
            ids.copied().map(Source::Node).collect()
        };
        let mut discovered = self.discovered.borrow().addresses();
        discovered.remove(&self.config.address);
        let tiers = [
            (followers(&heard.learners), false),
            (followers(&heard.voters), false),
            (discovered.into_iter().map(Source::Address).collect(), false),
            (heard.leader.map(Source::Node).into_iter().collect(), true),
        ];
        for (tier, last_resort) in tiers {
            if let Some(source) = self.untried(tier) {
                return Some((source, last_resort));
            }
        }
        self.tried.clear();
        let registry = self.table.registry();
        let live = registry.nodes().filter(|(_, node)| node.life.is_up()).map(|(id, _)| id);
        let live = live.filter(|id| *id != self.config.node).map(Source::Node).collect();
        drop(registry);
        self.untried(live).map(|source| (source, true))
    }

    fn lives(&self, id: NodeId) -> bool {
        let registry = self.table.registry();
        // Of a node that is not known yet only its address is.
        id != self.config.node && registry.node(id).is_none_or(|node| node.life.is_up())
    }

    fn untried(&self, tier: Vec<Source>) -> Option<Source> {
        let mut left: Vec<Source> =
            tier.into_iter().filter(|source| !self.tried.contains(source)).collect();
        let at = (random::fraction() * left.len() as f64) as usize;
        (!left.is_empty()).then(|| left.swap_remove(at.min(left.len() - 1)))
    }

    async fn watch(&mut self, source: &Source, last_resort: bool) -> Ended {
        match self.take_events(source, last_resort).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn take_events(
        &mut self,
        source: &Source,
        last_resort: bool,
    ) -> Result<std::convert::Infallible, Ended> {
        let mut known = self.table.applied();
        let mut events = self.open(source, known, last_resort).await?;
        let mut moved = clock::now();
        loop {
            let silence = self.lease() / 2;
            let event = tokio::select! {
                event = tokio::time::timeout(silence, events.message()) => event,
                () = complaint(&mut self.session, &mut self.complaints) => {
                    return Err(Ended::TableBehind);
                }
            };
            let event = event.map_err(|_| Ended::Silent)?.map_err(Ended::Broken)?;
            let event = event.ok_or(Ended::Over)?;
            if !self.is_needed() {
                return Err(Ended::LogIsBack);
            }
            let event = wire::read_event(event)?;
            let (before, from) = (self.table.applied(), event.from);
            self.take(event, &mut known)?;
            if self.watched.replace(from) != Some(from) {
                info!(node = %self.config.node, %from, "watches the registry");
            }
            let now = clock::now();
            if self.table.applied() > before {
                moved = now;
            } else if now.at_least_since(moved) > self.lease() {
                return Err(Ended::StandsStill);
            }
        }
    }

    async fn open(
        &self,
        source: &Source,
        applied: LogIndex,
        last_resort: bool,
    ) -> Result<Streaming<WatchMapEvent>, Ended> {
        let (channel, to) = match source {
            Source::Node(id) => (self.channels.channel(*id, Purpose::Map)?, Some(*id)),
            Source::Address(address) => (self.channels.dial(address)?, None),
        };
        let mut client: MapClient<Channel> =
            MapClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let pair = (self.config.node, to);
        let request = wire::request(self.config.cluster, pair, applied, last_resort);
        let opening = tokio::time::timeout(self.lease() / 2, client.watch_map(request));
        match opening.await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                if let (Code::FailedPrecondition, Some(id)) = (status.code(), to) {
                    self.channels.wrong_node(id, Purpose::Map);
                }
                Err(Ended::Broken(status))
            }
            Err(_) => Err(Ended::Silent),
        }
    }

    /// `known` is how far this watch has told every row.
    fn take(&self, event: Event, known: &mut LogIndex) -> Result<(), Ended> {
        if event.cluster != self.config.cluster {
            warn!(theirs = %event.cluster, "a source is of another cluster");
            return Err(Ended::Foreign(event.cluster));
        }
        if let Some(members) = event.members {
            for (id, address) in members.all().filter(|(id, _)| **id != self.config.node) {
                self.channels.book().guess(*id, address);
            }
            self.heard.send_replace(Some(members));
        }
        #[cfg(feature = "mutants")]
        if crate::mutant::chosen(crate::mutant::Mutant::DeafWatcher) && known.0 > 0 {
            return Ok(());
        }
        let taken = match event.news {
            News::Snapshot(bytes) => self.table.install_snapshot(rows::decode_delta(&bytes)?),
            News::Delta(bytes) => self.table.apply_delta(rows::decode_delta(&bytes)?),
            News::Nothing => self.table.progress(*known, event.index),
            News::Elsewhere(why) => return Err(Ended::Elsewhere(why)),
        };
        *known = event.index;
        match taken {
            // The log was faster.
            Ok(()) | Err(RowsError::Behind { .. }) => Ok(()),
            Err(error) => Err(Ended::Unfit(error)),
        }
    }

    fn lease(&self) -> Duration {
        Duration::from_millis(self.table.registry().settings().lease_ms.into())
    }
}

/// The session found the table to lag once more. A session that ended never does.
async fn complaint(session: &mut watch::Receiver<session::State>, heard: &mut u64) {
    match session.wait_for(|state| state.change_source > *heard).await.map(|now| now.change_source)
    {
        Ok(complaints) => *heard = complaints,
        Err(_) => std::future::pending().await,
    }
}

/// An error with its causes, in one line.
struct Chain<'a>(&'a Ended);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = std::error::Error::source(self.0);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}
