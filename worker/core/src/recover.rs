//! Which of several directories a lost cluster is recovered from, and who must be silent for it.
//!
//! Of stopped nodes; what becomes of the registry is `registry::recover`'s.

use std::collections::BTreeMap;

use crate::{
    id::{ClusterId, Epoch, NodeId},
    registry::{Life, Registry, Unrecoverable},
};

/// The last entry of a log, as Raft compares logs: whoever has a greater one has everything that
/// was ever committed and is in the smaller one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Position {
    pub term: u64,
    /// Who led in that term.
    pub leader: NodeId,
    pub index: u64,
}

/// What one directory of a stopped node holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    pub cluster: ClusterId,
    /// Who it is in that cluster.
    pub node: NodeId,
    pub last: Position,
    /// With every entry of the log applied: one that nobody here knows to be committed may have
    /// been, on nodes that are gone, and acknowledged.
    pub registry: Registry,
    /// The voters of the last membership in the log, committed or not.
    pub voters: Vec<NodeId>,
    /// Of all tokens that the directory knows from before its cluster.
    pub highest_epoch: Epoch,
}

/// Why these directories recover nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("no directory is given")]
    Nothing,
    #[error(
        "directories {first} and {other} belong to clusters {ours} and {theirs}: give those of \
         one cluster"
    )]
    Clusters { first: usize, ours: ClusterId, other: usize, theirs: ClusterId },
    #[error(transparent)]
    Unrecoverable(#[from] Unrecoverable),
}

/// The place of the directory to go on from: the one with the greatest last entry, of equal ones
/// the first, for these hold the same.
pub fn newest(held: &[Held]) -> Result<usize, Error> {
    let first = held.first().ok_or(Error::Nothing)?;
    let differs = |(_, other): &(usize, &Held)| other.cluster != first.cluster;
    if let Some((at, other)) = held.iter().enumerate().find(differs) {
        return Err(Error::Clusters {
            first: 1,
            ours: first.cluster,
            other: at + 1,
            theirs: other.cluster,
        });
    }
    let mut newest = (0, first);
    for (at, other) in held.iter().enumerate() {
        if other.last > newest.1.last {
            newest = (at, other);
        }
    }
    newest.1.registry.recoverable()?;
    Ok(newest.0)
}

/// The highest token that any of them knows: also of entries that the newest log does not have.
pub fn highest_epoch(held: &[Held]) -> Epoch {
    let known = held.iter().map(|held| held.registry.highest_epoch().max(held.highest_epoch));
    known.max().unwrap_or_default()
}

/// Whom to ask before anything is written: the members that any directory knows, by their
/// NODE_ADDRESS. Those of the directories themselves are among them: who answers there runs on
/// a copy.
pub fn to_ask<'a>(
    registries: impl IntoIterator<Item = &'a Registry>,
) -> BTreeMap<&'a str, &'a str> {
    let nodes = registries.into_iter().flat_map(Registry::nodes);
    let known = nodes.filter(|(_, node)| node.life != Life::Left).map(|(_, node)| {
        let info = &node.info;
        (info.addresses.data.as_str(), info.name.as_str())
    });
    known.filter(|(address, _)| !address.is_empty()).collect()
}

/// Voters of the newest log whose directories are not given: what only they hold is lost.
pub fn missing_voters(held: &[Held], newest: usize) -> Vec<NodeId> {
    let given: Vec<NodeId> = held.iter().map(|held| held.node).collect();
    let voters = held.get(newest).map_or(&[][..], |held| &held.voters);
    voters.iter().copied().filter(|voter| !given.contains(voter)).collect()
}

#[cfg(test)]
mod tests;
