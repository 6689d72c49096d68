//! What somebody decided to have committed: a command, small enough to be part of a state.

use shoal_core::{
    handoff::Process,
    id::{Epoch, Incarnation, LogIndex, MoveId, NodeId},
    registry::{Assign, BeginMove, Command, Configure, MoveRef, Register},
};

use crate::table::{SHARD, info, lock};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Decision {
    Register(Registration),
    Fence {
        node: NodeId,
        incarnation: Incarnation,
        renewed: LogIndex,
    },
    ReportDeath {
        node: NodeId,
        incarnation: Incarnation,
    },
    CloseInPlace {
        node: NodeId,
        incarnation: Incarnation,
    },
    Close {
        node: NodeId,
        incarnation: Incarnation,
    },
    DrainRestart {
        node: NodeId,
        incarnation: Incarnation,
    },
    DrainRemoval {
        node: NodeId,
    },
    CancelDrain {
        node: NodeId,
    },
    Mark {
        node: NodeId,
    },
    Remove {
        node: NodeId,
        incarnation: Incarnation,
    },
    Assign {
        epoch: Epoch,
        target: NodeId,
        incarnation: Incarnation,
    },
    BeginMove {
        epoch: Epoch,
        target: NodeId,
        incarnation: Incarnation,
    },
    /// The target is what the report named; the command does not carry it.
    CommitMove {
        epoch: Epoch,
        id: MoveId,
        target: Process,
    },
    AbortMove {
        epoch: Epoch,
        id: MoveId,
    },
    Configure {
        lease_ms: u32,
    },
    Settle {
        since: LogIndex,
    },
}

/// A Register as the leader judged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Registration {
    pub node: NodeId,
    pub machine: u8,
    pub boot: u8,
    pub incarnation: Incarnation,
    pub replaces: Incarnation,
    pub renewed: LogIndex,
    pub proof: bool,
    pub reown: bool,
}

pub fn move_ref(epoch: Epoch, id: MoveId) -> MoveRef {
    MoveRef { shard: SHARD, epoch, id }
}

impl Decision {
    /// May change the shard's row or begin a session: what others remember the index of.
    pub fn is_remembered(self) -> bool {
        match self {
            Self::Register(_)
            | Self::Fence { .. }
            | Self::ReportDeath { .. }
            | Self::CloseInPlace { .. }
            | Self::Assign { .. }
            | Self::BeginMove { .. }
            | Self::CommitMove { .. }
            | Self::AbortMove { .. } => true,
            Self::Close { .. }
            | Self::DrainRestart { .. }
            | Self::DrainRemoval { .. }
            | Self::CancelDrain { .. }
            | Self::Mark { .. }
            | Self::Remove { .. }
            | Self::Configure { .. }
            | Self::Settle { .. } => false,
        }
    }

    /// Deciding the same twice changes nothing that matters, but for an abort: said again for
    /// lack of an answer, the second may meet the next move.
    pub fn may_wait_beside(self, pending: &[Self]) -> bool {
        matches!(self, Self::AbortMove { .. }) || !pending.contains(&self)
    }

    pub fn command(self) -> Command {
        match self {
            Self::Register(registration) => Command::Register(registration.command()),
            Self::Fence { node, incarnation, renewed } => {
                Command::Fence { node, incarnation, renewed }
            }
            Self::ReportDeath { node, incarnation } => Command::ReportDeath { node, incarnation },
            Self::CloseInPlace { node, incarnation } => Command::CloseInPlace { node, incarnation },
            Self::Close { node, incarnation } => Command::Close { node, incarnation },
            Self::DrainRestart { node, incarnation } => Command::DrainRestart { node, incarnation },
            Self::DrainRemoval { node } => Command::DrainRemoval { node },
            Self::CancelDrain { node } => Command::CancelDrain { node },
            Self::Mark { node } => Command::Mark { node },
            Self::Remove { node, incarnation } => Command::Remove { node, incarnation },
            Self::Assign { epoch, target, incarnation } => {
                let item = Assign { shard: SHARD, epoch, target, incarnation };
                Command::Assign { items: vec![item] }
            }
            Self::BeginMove { epoch, target, incarnation } => {
                let item = BeginMove { shard: SHARD, epoch, target, incarnation };
                Command::BeginMove { items: vec![item] }
            }
            Self::CommitMove { epoch, id, .. } => {
                Command::CommitMove { items: vec![move_ref(epoch, id)] }
            }
            Self::AbortMove { epoch, id } => {
                Command::AbortMove { items: vec![move_ref(epoch, id)] }
            }
            Self::Configure { lease_ms } => {
                Command::Configure(Configure { lease_ms: Some(lease_ms), ..Configure::default() })
            }
            Self::Settle { since } => Command::SettleLease { previous_since: since },
        }
    }
}

impl Registration {
    fn command(self) -> Register {
        Register {
            node: self.node,
            replaces: self.replaces,
            incarnation: self.incarnation,
            info: info(self.node),
            lock: Some(lock(self.machine, self.boot)),
            renewed: self.renewed,
            proof: self.proof,
            reown: self.reown,
        }
    }
}
