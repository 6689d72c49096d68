//! What the rules may ask for, and how each step reads.

use std::fmt;

use super::Settings;

/// One change of the world. Every one may be repeated without harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    CreateIdentity {
        founding: Vec<String>,
    },
    /// Sets the size of the StatefulSet, creating it where it is not there.
    Resize {
        replicas: u32,
        former: Option<u32>,
    },
    RecordCluster {
        cluster: String,
    },
    ConfirmFounding {
        cluster: String,
        pods: Vec<String>,
    },
    /// Marks the recorded cluster: from then on no empty directory joins it.
    Abandon {
        cluster: String,
        because: String,
    },
    /// Takes the mark away.
    Keep {
        cluster: String,
        because: String,
    },
    /// Takes record and mark away: the pods found another cluster.
    Forget {
        cluster: String,
    },
    Configure(Settings),
    ReportDeath {
        node: u64,
        name: String,
        incarnation: String,
    },
    CancelDrain {
        node: u64,
        name: String,
    },
    StopAll,
    DrainForRemoval {
        node: u64,
        name: String,
    },
    DrainForRestart {
        node: u64,
        name: String,
        incarnation: String,
    },
    Close {
        node: u64,
        name: String,
        incarnation: String,
    },
    Remove {
        node: u64,
        name: String,
        force: bool,
    },
    DeletePod {
        name: String,
        uid: String,
        why: Deletion,
    },
    DeleteClaim {
        name: String,
        uid: String,
    },
    /// A volume that a former cluster of this name left is this one's from now on.
    AdoptClaim {
        name: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// It has handed everything over.
    Rolled,
    /// Nobody can take its shards meanwhile.
    Alone,
    /// Its worker does not run, and its template is outdated.
    NotRunning,
    /// The machine that it ran on is gone.
    NodeLost,
    /// Its node left the cluster, and is wanted again.
    Parked,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateIdentity { founding } => {
                write!(f, "found the cluster with {}", founding.join(", "))
            }
            Self::Resize { replicas, .. } => write!(f, "run {replicas} pods"),
            Self::RecordCluster { cluster } => write!(f, "record cluster {cluster}"),
            Self::ConfirmFounding { cluster, .. } => write!(f, "confirm cluster {cluster}"),
            Self::Abandon { cluster, .. } => write!(f, "mark cluster {cluster} to be given up"),
            Self::Keep { cluster, .. } => write!(f, "keep cluster {cluster}"),
            Self::Forget { cluster } => write!(f, "give cluster {cluster} up"),
            Self::Configure(_) => write!(f, "configure the registry"),
            Self::ReportDeath { name, .. } => write!(f, "report the ended process of {name}"),
            Self::CancelDrain { name, .. } => write!(f, "take the drain of {name} back"),
            Self::StopAll => write!(f, "close all shards in place"),
            Self::DrainForRemoval { name, .. } => write!(f, "drain {name} for its removal"),
            Self::DrainForRestart { name, .. } => write!(f, "drain {name} for a restart"),
            Self::Close { name, .. } => write!(f, "end the session of {name}"),
            Self::Remove { name, .. } => write!(f, "remove {name}"),
            Self::DeletePod { name, .. } => write!(f, "delete pod {name}"),
            Self::DeleteClaim { name, .. } => write!(f, "delete volume claim {name}"),
            Self::AdoptClaim { name } => write!(f, "adopt volume claim {name}"),
        }
    }
}
