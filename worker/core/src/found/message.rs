//! What founding nodes say to each other, what drives the machine, and what it asks for.
//!
//! Plain data; the wire form is elsewhere.

use crate::id::{ClusterId, Epoch, NodeId, Timestamp};

use super::directory::{Directory, FoundingSet, Mark, Member, Renounced};

/// A name and where it was said to be reached: hearsay, good for asking only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    pub name: String,
    pub address: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    pub number: u64,
    pub nonce: u128,
    pub from: Peer,
    /// Hash of the asker's founding set; none from a node without one.
    pub founding_set: Option<u64>,
    /// Whom the asker means, where it knows.
    pub to: Option<String>,
    /// The asker's cluster, once that is formed: makes the question a greeting [S5].
    pub formed: Option<ClusterId>,
    pub renounced: Option<Renounced>,
}

/// Returns the nonce and the number of the question: only an answer to a question that
/// was sent under the present nonce counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub nonce: u128,
    pub number: u64,
    pub content: Content,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    State(PeerState),
    /// Founding sets differ; here is the other one.
    SetsDiffer {
        names: Vec<String>,
    },
    /// The asker's name belongs to another directory, at this address.
    NameInUse {
        address: String,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerState {
    pub member: Member,
    pub boot_ms: u64,
    pub known: Vec<Peer>,
    /// The oldest of the founding set, once the answering node has heard of all of it.
    pub oldest: Option<String>,
    pub joined: Option<JoinedState>,
    pub formed: Formed,
    pub ever_left: bool,
    pub highest_epoch: Epoch,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinedState {
    pub cluster: ClusterId,
    pub founder: Member,
}

/// How far the entry Formed has come, as one node knows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Formed {
    No,
    /// Blocks a second founding.
    InLog,
    /// Lets others join.
    Committed,
}

/// Correlates a question that came in with its answer; chosen by the shell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The first event. The shell has looked into its log.
    Started {
        formed_in_log: bool,
    },
    /// Time passed. The number is random and fresh: a nonce or a cluster id, if one is due.
    Tick {
        random: u128,
    },
    Question {
        token: Token,
        question: Question,
    },
    /// What came back from an address that was asked.
    Answer {
        from: String,
        answer: Answer,
    },
    /// The last `Persist` or `Leave` is on disk.
    Persisted,
    /// A member of this cluster has admitted this directory.
    Admitted {
        cluster: ClusterId,
        node: NodeId,
    },
    /// The directories that vote in the committed membership.
    MembershipCommitted {
        voters: Vec<u128>,
    },
    FormedInLog,
    FormedCommitted,
    /// The operator has recorded this cluster id.
    Confirmed {
        cluster: ClusterId,
    },
    /// What the operator's identity file says now.
    Told {
        founding: FoundingSet,
        recorded: Option<ClusterId>,
        abandoning: Option<Mark>,
    },
    AddressLearned {
        address: String,
    },
    /// Of a node that may help; forgotten when it does not answer.
    AddressHeard {
        address: String,
    },
    /// The node that was learned to be there is elsewhere now; somebody else may answer.
    AddressGone {
        address: String,
    },
    /// Nodes of this cluster that do not answer and are not Left; replaces the last list.
    Silent {
        nodes: Vec<Peer>,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    Ask {
        address: String,
        question: Question,
    },
    Reply {
        token: Token,
        answer: Answer,
    },
    /// Too many wait for the disk; the asker asks again.
    Drop {
        token: Token,
    },
    /// Write and sync, then `Persisted`.
    Persist(Directory),
    /// Stop Raft, so that no answer can overtake an append of the founder; unless the log
    /// holds Formed, write and sync this. Where Raft ran, a new machine begins from what is
    /// on disk then; else `Persisted`.
    Renounce(Directory),
    /// As `Renounce`, but empty the log before the write.
    Leave(Directory),
    /// Run as the founder: initialise the log as node 1 alone unless it has entries.
    Initialize {
        cluster: ClusterId,
    },
    /// Run as this node of this cluster.
    Start {
        cluster: ClusterId,
        node: NodeId,
    },
    /// Ask a member to admit this directory; repeated until `Admitted`.
    RequestJoin {
        cluster: ClusterId,
        address: String,
    },
    /// Repeated until `FormedCommitted`.
    ProposeFormed {
        cluster: ClusterId,
        /// What any directory of the founding has seen issued.
        highest_epoch: Epoch,
    },
    Exit(Reason),
    /// What readiness waits for; none once the cluster is formed.
    Waiting(Option<String>),
}

/// Why this process must end; exit code 65.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Reason {
    #[error(
        "formed cluster {cluster} counts this node as its own ({address} says so), but this \
         directory was founded alone: remove the data directory and set JOIN_ADDRESS to a \
         member of that cluster, or remove the node there"
    )]
    BelongsElsewhere { cluster: ClusterId, address: String },
    #[error(
        "the name {name} belongs to another directory, in use at {address}: stop that \
         process or choose another name"
    )]
    NameInUse { name: String, address: String },
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Output {
    pub actions: Vec<Action>,
    /// When the next `Tick` is due; none while only other events can change anything.
    pub wake_at: Option<Timestamp>,
}
