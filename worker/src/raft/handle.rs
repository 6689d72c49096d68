//! What the rest of the worker asks of Raft.
//!
//! Starts it, proposes, changes the membership, says who leads; never what to propose or
//! when: that is `control`'s. openraft's types end here.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use openraft::{
    Instant as _, ReadPolicy,
    async_runtime::WatchReceiver as _,
    errors::{ClientWriteError, Fatal, LinearizableReadError, RaftError},
    metrics::RaftMetrics,
};
use shoal_core::{
    id::{LogIndex, NodeId, Timestamp},
    registry::Command,
    session::lease::{Elections, Lease},
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    ClusterCell, Error,
    log_store::{Extent, LogStore},
    membership::{ChangeError, Heard},
    metrics::Metrics,
    network::Network,
    server::{Served, Slot},
    state_machine::{self, StateMachine},
    tending,
    types::{Member, Payload, Raft, Response, Types},
};
use crate::{peer::Channels, table::Table, wire};

/// Largest command: a full batch of 4,096 items is half of it.
pub const MAX_COMMAND: usize = 256 << 10;
/// Entries that an heir may lack: Raft names the leader's last entry to it and gives it half
/// an election to write it; this many small ones take a tenth of that.
const NEAR: u64 = 100;
/// The founder's id: the only one that is not the index of a Join entry.
pub(super) const FOUNDER: NodeId = NodeId(1);

/// How Raft is started.
pub struct Config {
    /// RAFT_DIR: the log and the snapshots.
    pub dir: PathBuf,
    pub cluster: ClusterCell,
    pub id: NodeId,
    pub name: String,
    /// Where peers reach this node's RAFT_ADDRESS.
    pub address: String,
    /// The lease to start with: elections fit into it and into the one of the snapshot, and
    /// keep their times while the process runs.
    pub lease: Lease,
    pub table: Table,
    pub channels: Channels,
    /// Where the server of RAFT_ADDRESS looks for this Raft.
    pub slot: Slot,
    pub metrics: Metrics,
}

/// Why a command has no answer of the registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Certainly not in the log.
    #[error("this node is not the leader")]
    NotLeader { leader: Option<NodeId> },
    /// It may have been applied, or may still be.
    #[error("leadership changed before the command was committed")]
    Unavailable,
    #[error("a command of {0} bytes is over the limit of {MAX_COMMAND}")]
    TooLarge(usize),
    #[error("raft has stopped: {0}")]
    Fatal(String),
}

/// Why leadership stays where it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    #[error("this node is not the leader")]
    NotLeader { leader: Option<NodeId> },
    #[error("node {0} is no voter")]
    NotVoter(NodeId),
    #[error("node {node} was last heard {silent:?} ago and is {behind} entries behind")]
    NotReady { node: NodeId, silent: Duration, behind: u64 },
    #[error("node {0} did not take over in time")]
    TimedOut(NodeId),
    #[error("raft has stopped: {0}")]
    Fatal(String),
}

/// Who leads, as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Leadership {
    pub leader: Option<NodeId>,
    pub term: u64,
    /// This node leads. It may propose once `ready` is set.
    pub is_leader: bool,
    /// This node's own first entry of the term, once applied here, and when: everything
    /// that earlier leaders committed is applied.
    pub ready: Option<(LogIndex, Timestamp)>,
}

/// How a follower keeps up; known to the leader only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    pub node: NodeId,
    /// Last entry known to be on its disk.
    pub matched: Option<LogIndex>,
    /// Entries it lacks.
    pub behind: u64,
    /// Age of its last answer; `None` before the first.
    pub silent: Option<Duration>,
}

/// Raft on this node. Cheap to clone.
#[derive(Clone)]
pub struct Handle(pub(super) Arc<Inner>);

pub(super) struct Inner {
    id: NodeId,
    name: String,
    address: String,
    pub(super) raft: Raft,
    pub(super) log: LogStore,
    slot: Slot,
    pub(super) table: Table,
    elections: Elections,
    pub(super) election_max: Duration,
    metrics: Metrics,
    leadership: watch::Receiver<Leadership>,
    pub(super) heard: watch::Sender<Option<Heard>>,
    fatal: watch::Receiver<Option<String>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Handle {
    /// Opens the log and the snapshots and joins in. A pristine node stays silent until it
    /// is initialised or a leader speaks to it.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let log = LogStore::open(&config.dir.join(super::LOG_FILE), state_machine::is_form)?;
        let (failing, fatal) = watch::channel(None);
        let machine =
            StateMachine::open(config.dir.clone(), config.table.clone(), failing.clone())?
                .measured(config.metrics.apply.clone());
        log.measure(config.metrics.write.clone());
        let purged = log.extent().first.checked_sub(1);
        let covered = machine.applied().map(|id| id.index);
        if purged > covered {
            return Err(Error::SnapshotLost { dir: config.dir, purged: purged.unwrap_or(0) });
        }
        let blank = machine.blank();
        let elections = shortest(config.lease, &config.table).elections();
        let network = Network {
            id: config.id,
            cluster: config.cluster.clone(),
            address: config.address.as_str().into(),
            channels: config.channels.clone(),
            idle: 2 * elections.min,
        };
        let may_campaign = config.id == FOUNDER || *log.formed().borrow();
        let settings = super::config::raft(elections, may_campaign)?;
        let raft = Raft::new(config.id.0, settings, network, log.clone(), machine)
            .await
            .map_err(|fatal| Error::Start(fatal.to_string()))?;
        config.slot.fill(Served {
            id: config.id,
            cluster: config.cluster,
            raft: raft.clone(),
            book: config.channels.book().clone(),
            table: config.table.clone(),
            heartbeat: elections.heartbeat,
        });
        let (lead, leadership) = watch::channel(Leadership::default());
        let heard = watch::Sender::new(None);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let tend = tending::Tending {
            id: config.id,
            dir: config.dir,
            raft: raft.clone(),
            log: log.clone(),
            table: config.table.clone(),
            book: config.channels.book().clone(),
            elections,
            stop: stop.clone(),
        };
        tend.spawn(&tasks, (blank, heard.subscribe()), lead, failing);
        tasks.close();
        Ok(Self(Arc::new(Inner {
            id: config.id,
            name: config.name,
            address: config.address,
            raft,
            log,
            slot: config.slot,
            table: config.table,
            elections,
            election_max: elections.max,
            metrics: config.metrics,
            leadership,
            heard,
            fatal,
            stop,
            tasks,
        })))
    }

    pub fn id(&self) -> NodeId {
        self.0.id
    }

    /// Makes a pristine node the only voter of its log; any other one stays as it is. Asked of
    /// Raft itself: what it publishes of its membership comes a moment after it starts.
    pub async fn initialize_alone(&self) -> Result<(), ChangeError> {
        match self.0.raft.is_initialized().await {
            Ok(false) => {}
            Ok(true) => return Ok(()),
            Err(fatal) => return Err(ChangeError::Fatal(self.reason(&fatal))),
        }
        let member = Member { name: self.0.name.clone(), raft_address: self.0.address.clone() };
        let members = BTreeMap::from([(self.0.id.0, member)]);
        self.0.raft.initialize(members).await.map_err(|error| match error {
            RaftError::APIError(error) => ChangeError::Impossible(error.to_string()),
            RaftError::Fatal(fatal) => ChangeError::Fatal(self.reason(&fatal)),
        })
    }

    /// Answers once the command is applied here. Where nobody is known to lead it waits a
    /// little for an election.
    pub async fn propose(&self, command: &Command) -> Result<Response, ProposeError> {
        let began = tokio::time::Instant::now();
        let result = self.offer(command).await;
        self.0.metrics.proposed(&result, began.elapsed());
        result
    }

    async fn offer(&self, command: &Command) -> Result<Response, ProposeError> {
        let bytes = wire::registry::encode_command(command);
        if bytes.len() > MAX_COMMAND {
            return Err(ProposeError::TooLarge(bytes.len()));
        }
        let patience = tokio::time::Instant::now() + 2 * self.0.election_max;
        loop {
            let refused = match self.0.raft.client_write(Payload(bytes.clone())).await {
                Ok(response) => return Ok(response.data),
                Err(RaftError::APIError(refused)) => refused,
                Err(RaftError::Fatal(fatal)) => {
                    return Err(ProposeError::Fatal(self.reason(&fatal)));
                }
            };
            match refused {
                ClientWriteError::ForwardToLeader(forward) => {
                    let leader = forward.leader_id.map(NodeId).filter(|id| *id != self.0.id);
                    if leader.is_some() || tokio::time::Instant::now() >= patience {
                        return Err(ProposeError::NotLeader { leader });
                    }
                    // Nothing was appended: the same command may be offered again.
                    tokio::time::sleep(self.0.election_max / 20).await;
                }
                ClientWriteError::LogEntryDiscarded(_)
                | ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::PreconditionFailed(_) => return Err(ProposeError::Unavailable),
            }
        }
    }

    /// Returns once everything acknowledged before the call, by any leader, is applied here;
    /// the index says how far that is. Only the leader can tell.
    pub async fn barrier(&self) -> Result<LogIndex, ProposeError> {
        match self.0.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(self.0.table.applied()),
            Err(RaftError::Fatal(fatal)) => Err(ProposeError::Fatal(self.reason(&fatal))),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                let leader = forward.leader_id.map(NodeId).filter(|id| *id != self.0.id);
                Err(ProposeError::NotLeader { leader })
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err(ProposeError::NotLeader { leader: None })
            }
        }
    }

    /// Hands leadership to a voter that has nearly everything, and waits until it took over.
    /// What is proposed meanwhile is not taken.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), TransferError> {
        let leadership = *self.0.leadership.borrow();
        if !leadership.is_leader {
            return Err(TransferError::NotLeader { leader: leadership.leader });
        }
        if to == self.0.id {
            return Ok(());
        }
        if !self.membership().voters.contains(&to) {
            return Err(TransferError::NotVoter(to));
        }
        let follower = self.followers().into_iter().find(|follower| follower.node == to);
        let (silent, behind) = follower
            .map_or((Duration::MAX, u64::MAX), |f| (f.silent.unwrap_or(Duration::MAX), f.behind));
        // Once asked this leader takes no entry and sends no heartbeat any more: where the heir
        // cannot win at once, all wait for an election.
        if silent > self.0.election_max || behind > NEAR {
            return Err(TransferError::NotReady { node: to, silent, behind });
        }
        let sent = self.0.raft.trigger().transfer_leader(to.0).await;
        sent.map_err(|fatal| TransferError::Fatal(self.reason(&fatal)))?;
        let mut watch = self.0.leadership.clone();
        let elsewhere = watch.wait_for(|now| {
            now.leader.is_some_and(|leader| leader != self.0.id)
                || (now.is_leader && now.term > leadership.term)
        });
        match tokio::time::timeout(3 * self.0.election_max, elsewhere).await {
            Ok(Ok(now)) if now.leader == Some(to) => Ok(()),
            Ok(Ok(_)) | Err(_) => Err(TransferError::TimedOut(to)),
            Ok(Err(_)) => Err(TransferError::Fatal("raft was shut down".to_owned())),
        }
    }

    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// How each follower keeps up; empty unless this node leads.
    pub fn followers(&self) -> Vec<Follower> {
        let metrics = self.metrics();
        let last = metrics.last_log_index.map_or(0, |index| index + 1);
        let heard = metrics.heartbeat.unwrap_or_default();
        let replication = metrics.replication.unwrap_or_default();
        replication
            .into_iter()
            .filter(|(id, _)| *id != self.0.id.0)
            .map(|(id, matched)| Follower {
                node: NodeId(id),
                matched: matched.map(|id| LogIndex(id.index)),
                behind: last.saturating_sub(matched.map_or(0, |id| id.index + 1)),
                silent: heard.get(&id).copied().flatten().map(|at| at.elapsed()),
            })
            .collect()
    }

    /// How long the log on disk is.
    pub fn log_extent(&self) -> Extent {
        self.0.log.extent()
    }

    /// An entry that forms the cluster is in this node's log or below its snapshot,
    /// committed or not.
    pub fn formed_in_log(&self) -> bool {
        *self.0.log.formed().borrow() || self.0.table.registry().formed()
    }

    /// Resolves with the reason once Raft can never work again here: the process must end.
    pub async fn fatal(&self) -> String {
        let mut fatal = self.0.fatal.clone();
        let reason = fatal.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            // Shut down on purpose: nothing is wrong, ever.
            None => std::future::pending().await,
        }
    }

    /// Stops for good and closes the files.
    pub async fn shutdown(&self) {
        self.0.slot.clear();
        self.0.stop.cancel();
        if let Err(error) = self.0.raft.shutdown().await {
            tracing::warn!(%error, "raft ended badly");
        }
        self.0.tasks.wait().await;
        self.0.log.close().await;
        self.0.table.release();
    }

    /// Raft's times, as this process was started with them.
    pub fn elections(&self) -> Elections {
        self.0.elections
    }

    /// A copy at once: holding the borrow would block Raft.
    pub(super) fn metrics(&self) -> RaftMetrics<Types> {
        self.0.raft.metrics().borrow_watched().clone()
    }

    /// The cause, where it is known better than by Raft.
    pub(super) fn reason(&self, fatal: &Fatal<Types>) -> String {
        self.0.fatal.borrow().clone().unwrap_or_else(|| fatal.to_string())
    }
}

/// A lease that was lowered since the settings were written leaves less time for elections.
fn shortest(given: Lease, table: &Table) -> Lease {
    let registry = table.registry();
    let known = registry.founded().then(|| registry.settings().lease_ms);
    let known = known.and_then(|millis| Lease::from_millis(millis).ok());
    known.map_or(given, |known| known.min(given))
}
