//! Who votes and who learns: read, and changed by compare-and-set.
//!
//! Which nodes these should be is `core::autopilot`'s decision and `control`'s wish.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{
    ChangeMembers,
    async_runtime::WatchReceiver as _,
    errors::{ChangeMembershipError, ClientWriteError, RaftError},
    raft::Precondition,
};
use shoal_core::id::{LogIndex, NodeId};
use tokio::sync::watch;

use super::{
    Handle,
    types::{LogId, Member, StoredMembership},
};

/// Why the members are as they were, as far as this node knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("this node is not the leader")]
    NotLeader { leader: Option<NodeId> },
    /// Another change came first, or is not committed yet: read the membership again.
    #[error("the membership is not the one expected, or is just being changed")]
    Conflict,
    #[error("the change is impossible: {0}")]
    Impossible(String),
    #[error("leadership changed before the change was committed")]
    Unavailable,
    #[error("raft has stopped: {0}")]
    Fatal(String),
}

/// Place of an entry in the log; two entries never share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId {
    pub term: u64,
    pub leader: NodeId,
    pub index: LogIndex,
}

/// Who votes and who learns, as of the last membership entry in this node's log.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Members {
    /// Voters of the configuration that is in force or being changed to.
    pub voters: BTreeSet<NodeId>,
    pub learners: BTreeSet<NodeId>,
    /// Two configurations are in force: change to the same voters once more to finish.
    pub joint: bool,
    /// Voters of the other one alone. Until then their votes are needed.
    pub retiring: BTreeSet<NodeId>,
    /// The entry that says so; `None` before the log is initialised.
    pub entry: Option<EntryId>,
    /// That entry is committed.
    pub committed: bool,
}

impl Members {
    /// In any configuration that is in force.
    pub fn votes(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.retiring.contains(&node)
    }
}

/// Who leads and who follows the log, with their RAFT_ADDRESSes, as a node that does not was
/// told by one that does.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Heard {
    pub leader: Option<NodeId>,
    pub voters: BTreeMap<NodeId, String>,
    pub learners: BTreeMap<NodeId, String>,
}

impl Heard {
    pub fn all(&self) -> impl Iterator<Item = (&NodeId, &String)> {
        self.voters.iter().chain(&self.learners)
    }

    pub fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.all().map(|(id, _)| *id)
    }
}

impl Handle {
    /// Who follows the log, to be told to those who do not.
    pub fn members(&self) -> Heard {
        let (members, leader) = (self.membership(), self.leadership().borrow().leader);
        let registry = self.0.table.registry();
        let address = |id: NodeId| {
            let node = registry.node(id);
            (id, node.map(|node| node.info.addresses.raft.clone()).unwrap_or_default())
        };
        Heard {
            leader,
            voters: members.voters.iter().map(|id| address(*id)).collect(),
            learners: members.learners.iter().map(|id| address(*id)).collect(),
        }
    }

    /// Takes what this node hears of the log while it does not follow it; `None` once it does.
    pub fn hearsay(&self) -> watch::Sender<Option<Heard>> {
        self.0.heard.clone()
    }

    /// As of the last membership entry in this node's log, committed or not; on a node that
    /// does not follow the log, as it was told.
    pub fn membership(&self) -> Members {
        let metrics = self.metrics();
        if let (false, Some(heard)) = (metrics.state.is_leader(), &*self.0.heard.borrow()) {
            return Members {
                voters: heard.voters.keys().copied().collect(),
                learners: heard.learners.keys().copied().collect(),
                ..Members::default()
            };
        }
        let committed = metrics.committed_membership_config.log_id();
        let stored = &metrics.membership_config;
        Members { committed: stored.log_id() == committed, ..read(stored) }
    }

    /// Makes exactly these the voters and the learners, in one joint change where voters
    /// change, provided that the membership is still the one of `expected`. A new voter must
    /// be a learner already. Returns the membership's last entry once committed.
    pub async fn change_membership(
        &self,
        voters: BTreeSet<NodeId>,
        learners: BTreeMap<NodeId, Member>,
        expected: Option<EntryId>,
    ) -> Result<EntryId, ChangeError> {
        let stored = self.metrics().membership_config;
        let now = read(&stored);
        let same = !now.joint && now.voters == voters && now.learners.iter().eq(learners.keys());
        if same && expected == now.entry {
            return expected.ok_or(ChangeError::Conflict);
        }
        let wanted = |id: &u64| {
            let id = NodeId(*id);
            voters.contains(&id) || learners.contains_key(&id)
        };
        let gone: BTreeSet<u64> =
            stored.nodes().map(|(id, _)| *id).filter(|id| !wanted(id)).collect();
        // A voter leaves in two steps: while it is being voted out it must stay known.
        let retiring = stored.voter_ids().any(|id| gone.contains(&id));
        let nodes = learners.into_iter().map(|(id, member)| (id.0, member)).collect();
        let mut steps = vec![ChangeMembers::AddNodes(nodes)];
        if now.joint || now.voters != voters {
            let voters = voters.into_iter().map(|id| id.0).collect();
            steps.push(ChangeMembers::ReplaceAllVoters(voters));
        }
        if !retiring && !gone.is_empty() {
            steps.push(ChangeMembers::RemoveNodes(gone.clone()));
        }
        let changed = self.change(ChangeMembers::Batch(steps), expected).await?;
        if !retiring {
            return Ok(changed);
        }
        self.change(ChangeMembers::RemoveNodes(gone), Some(changed)).await
    }

    async fn change(
        &self,
        change: ChangeMembers<u64, Member>,
        expected: Option<EntryId>,
    ) -> Result<EntryId, ChangeError> {
        let condition = Precondition::LastMembershipLogId {
            last_membership_log_id: expected.as_ref().map(log_id),
        };
        match self.0.raft.change_membership_if(change, true, [condition]).await {
            Ok(response) => {
                self.see(response.log_id).await;
                Ok(entry_id(&response.log_id))
            }
            Err(RaftError::Fatal(fatal)) => Err(ChangeError::Fatal(self.reason(&fatal))),
            Err(RaftError::APIError(error)) => Err(match error {
                ClientWriteError::ForwardToLeader(forward) => {
                    ChangeError::NotLeader { leader: forward.leader_id.map(NodeId) }
                }
                ClientWriteError::LogEntryDiscarded(_) => ChangeError::Unavailable,
                ClientWriteError::PreconditionFailed(_)
                | ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_)
                    | ChangeMembershipError::UncommittedLeaderLog(_),
                ) => ChangeError::Conflict,
                ClientWriteError::ChangeMembershipError(error) => {
                    ChangeError::Impossible(error.to_string())
                }
            }),
        }
    }

    /// Waits until `membership` shows a change that is known to be committed.
    async fn see(&self, change: LogId) {
        let mut metrics = self.0.raft.metrics();
        let shown = async {
            while *metrics.borrow_watched().committed_membership_config.log_id() < Some(change) {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        // It takes one turn of Raft's task; without it only a reader would be misled.
        let _ = tokio::time::timeout(self.0.election_max, shown).await;
    }
}

fn read(stored: &StoredMembership) -> Members {
    let configs = stored.get_joint_config();
    let voters: BTreeSet<_> = configs.last().into_iter().flatten().copied().map(NodeId).collect();
    let all = configs.iter().flatten().copied().map(NodeId);
    Members {
        retiring: all.filter(|id| !voters.contains(id)).collect(),
        voters,
        learners: stored.membership().learner_ids().map(NodeId).collect(),
        joint: configs.len() > 1,
        entry: stored.log_id().as_ref().map(entry_id),
        committed: false,
    }
}

fn entry_id(id: &LogId) -> EntryId {
    EntryId {
        term: id.leader_id.term,
        leader: NodeId(id.leader_id.node_id),
        index: LogIndex(id.index),
    }
}

fn log_id(id: &EntryId) -> LogId {
    let leader = openraft::impls::leader_id_adv::LeaderId { term: id.term, node_id: id.leader.0 };
    LogId::new(leader, id.index.0)
}
