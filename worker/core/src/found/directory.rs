//! What a data directory durably says of itself, and the set of names that may found.
//!
//! Data and its order only; who founds, joins and leaves is decided in `rules`.

use std::fmt;

use crate::id::{ClusterId, Epoch, NodeId};

/// Sizes a founding set may have: odd, but for the pair of a two-node cluster.
pub const FOUNDING_SIZES: [usize; 4] = [1, 2, 3, 5];

/// Why a list of names is no founding set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a founding set has 1, 2, 3 or 5 names, not {0}")]
    Size(usize),
    #[error("{0:?} appears twice in the founding set")]
    Twice(String),
    #[error("a name in the founding set is empty")]
    Empty,
}

/// The names that must all agree before a cluster exists; equal on every node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundingSet {
    /// Sorted, so that equal sets compare and hash equal.
    names: Vec<String>,
}

impl FoundingSet {
    pub fn new(names: impl IntoIterator<Item = String>) -> Result<Self, Error> {
        let mut names: Vec<String> = names.into_iter().collect();
        names.sort();
        if !FOUNDING_SIZES.contains(&names.len()) {
            return Err(Error::Size(names.len()));
        }
        if names.iter().any(String::is_empty) {
            return Err(Error::Empty);
        }
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::Twice(pair[0].clone())),
            None => Ok(Self { names }),
        }
    }

    /// The founders among a list of addresses: all of 1 or 2, the first 3 of 3 or 4, else
    /// the first 5. The length is that of the setting, never of a discovery answer [S3].
    pub fn of_addresses(addresses: &[String]) -> Result<Self, Error> {
        let size = match addresses.len() {
            few @ 0..=2 => few,
            3 | 4 => 3,
            5.. => 5,
        };
        Self::new(addresses[..size].iter().cloned())
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub fn contains(&self, name: &str) -> bool {
        self.names.iter().any(|n| n == name)
    }

    /// Voters that must be committed before the cluster may form.
    pub fn voter_target(&self) -> usize {
        match self.names.len() {
            1 | 2 => 1,
            more => more,
        }
    }

    /// FNV-1a over the sorted names, each ended by a zero byte.
    pub fn hash(&self) -> u64 {
        const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        self.names
            .iter()
            .flat_map(|name| name.bytes().chain([0]))
            .fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
    }
}

impl fmt::Display for FoundingSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names.join(", "))
    }
}

/// One directory of one name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Member {
    pub name: String,
    pub nonce: u128,
}

/// An operator is about to give this recorded cluster up. Until the mark is gone no empty
/// directory joins it, so that none comes to hold it after its answer that it does not [S20].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    pub cluster: ClusterId,
    /// The operator's word for when, given back as it came: it tells one mark from the next.
    pub since: String,
}

/// The cluster a directory belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joined {
    pub cluster: ClusterId,
    pub founder: Member,
    /// The directories that the founding rests on, this one included; empty for a
    /// directory that joined a formed cluster.
    pub on: Vec<Member>,
    /// Given with the Join entry; the founder is node 1.
    pub node: Option<NodeId>,
}

/// A founder's nonce that its own name has replaced: nothing is taken from it any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Renounced {
    pub dead: u128,
    pub by: u128,
}

/// The durable part of founding; every change is on disk before anyone hears of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Directory {
    /// Drawn when the directory is empty and again at each leave.
    pub nonce: u128,
    /// Unix time of the first boot in milliseconds; a leave keeps it.
    pub boot_ms: u64,
    pub joined: Option<Joined>,
    /// Formed is in the log; on the founder written before it proposes Formed, so that no
    /// follower can hold an entry that its author forgot.
    pub formed: bool,
    pub ever_left: bool,
    pub renounced: Option<Renounced>,
    /// Of all tokens that this directory, or one it was before, knows to be issued: a
    /// cluster that is founded from here starts above it [S13].
    pub highest_epoch: Epoch,
}

impl Directory {
    pub fn empty(nonce: u128, boot_ms: u64) -> Self {
        Self {
            nonce,
            boot_ms,
            joined: None,
            formed: false,
            ever_left: false,
            renounced: None,
            highest_epoch: Epoch::default(),
        }
    }

    pub fn cluster(&self) -> Option<ClusterId> {
        self.joined.as_ref().map(|joined| joined.cluster)
    }

    /// The cluster this very directory founded.
    pub fn founded(&self) -> Option<&Joined> {
        self.joined.as_ref().filter(|joined| joined.founder.nonce == self.nonce)
    }

    /// Founded with nobody else's consent: may have forgotten a cluster it belongs to [S5].
    pub fn founded_alone(&self) -> bool {
        self.founded().is_some_and(|joined| joined.on.len() == 1)
    }

    /// It has chosen a formed cluster, which has not admitted it yet.
    pub fn is_joining(&self) -> bool {
        self.joined.as_ref().is_some_and(|joined| joined.node.is_none() && joined.on.is_empty())
    }

    /// Out of its cluster, under a new nonce.
    pub(super) fn left(&self, nonce: u128) -> Self {
        Self { nonce, joined: None, formed: false, ever_left: true, ..self.clone() }
    }

    pub(super) fn with_joined(&self, joined: Joined) -> Self {
        Self { joined: Some(joined), ..self.clone() }
    }

    pub(super) fn with_formed(&self, highest_epoch: Epoch) -> Self {
        Self { formed: true, highest_epoch, ..self.clone() }
    }

    pub(super) fn renouncing(&self, renounced: Renounced) -> Self {
        Self { renounced: Some(renounced), ..self.clone() }
    }
}
