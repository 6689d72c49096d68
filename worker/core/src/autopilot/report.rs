//! Why members change and why they do not, in plain words. Decides nothing.

use std::{collections::BTreeSet, fmt, time::Duration};

use crate::id::NodeId;

use super::{Change, Decision};

type Nodes = BTreeSet<NodeId>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A joint configuration was found half done.
    FinishJoint,
    Learners {
        added: Nodes,
        removed: Nodes,
    },
    Promote {
        promoted: Nodes,
    },
    /// Votes pass from nodes that leave, or are silent, to learners that caught up.
    Replace {
        demoted: Nodes,
        promoted: Nodes,
    },
    /// Fewer voters are wanted.
    Shrink {
        demoted: Nodes,
    },
    /// One zone held a majority.
    Spread {
        demoted: Nodes,
        promoted: Nodes,
    },
}

/// Something that is not as it should be and cannot be changed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    ChangeInFlight,
    /// The leader is too new to judge anybody.
    Settling,
    /// Of the learners `ready` could vote, and `step` must be promoted together.
    TooFewVoters {
        have: usize,
        target: usize,
        ready: usize,
        step: usize,
    },
    Behind {
        node: NodeId,
        entries: u64,
    },
    Silent {
        voter: NodeId,
        span: Duration,
    },
    KeepsVote {
        voter: NodeId,
    },
    NoHeir {
        leader: NodeId,
    },
    ZoneHoldsMajority {
        zone: String,
    },
    /// Too few of those that should vote now are there to commit the change.
    NoQuorum,
}

struct List<'a>(&'a Nodes);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, node) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{node}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FinishJoint => write!(f, "finish a change found half done"),
            Self::Learners { added, removed } if removed.is_empty() => {
                write!(f, "learners join: {}", List(added))
            }
            Self::Learners { added, removed } if added.is_empty() => {
                write!(f, "learners go: {}", List(removed))
            }
            Self::Learners { added, removed } => {
                write!(f, "learners change: {} for {}", List(added), List(removed))
            }
            Self::Promote { promoted } => write!(f, "more nodes vote: {}", List(promoted)),
            Self::Replace { demoted, promoted } => {
                write!(f, "votes pass from {} to {}", List(demoted), List(promoted))
            }
            Self::Shrink { demoted } => {
                write!(f, "fewer voters are wanted: {} vote no more", List(demoted))
            }
            Self::Spread { demoted, promoted } => {
                let (out, into) = (List(demoted), List(promoted));
                write!(f, "no zone should hold a majority: {into} vote instead of {out}")
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChangeInFlight => write!(f, "a change of the members is not yet committed"),
            Self::Settling => write!(f, "this leader was elected less than a lease ago"),
            Self::TooFewVoters { have, target, ready, step } => {
                write!(
                    f,
                    "{have} of {target} voters, {ready} of the {step} learners needed are ready"
                )
            }
            Self::Behind { node, entries } => {
                write!(f, "learner {node} is silent or {entries} entries behind")
            }
            Self::Silent { voter, span } => {
                write!(f, "voter {voter} is silent for {span:?} and no learner can take its vote")
            }
            Self::KeepsVote { voter } => {
                write!(f, "{voter} keeps its vote until a learner has caught up")
            }
            Self::NoHeir { leader } => {
                write!(f, "{leader} leads until another voter has caught up")
            }
            Self::NoQuorum => {
                write!(f, "too few of the nodes that should vote are there to commit that")
            }
            Self::ZoneHoldsMajority { zone } => {
                write!(f, "zone {zone} holds a majority and no learner elsewhere is ready")
            }
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Membership { why, .. } => write!(f, "{why}"),
            Self::TransferLeadership { to } => write!(f, "leadership passes to {to}"),
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.change.iter().try_for_each(|change| writeln!(f, "{change}"))?;
        self.report.iter().try_for_each(|finding| writeln!(f, "{finding}"))
    }
}
