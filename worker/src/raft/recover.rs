//! Raft's files of a stopped node: what they hold, and those of a cluster recovered from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use openraft::{EntryPayload, vote::RaftLeaderId as _};
use redb::{StorageBackend as _, backends::InMemoryBackend};
use shoal_core::{
    id::{LogIndex, NodeId},
    recover::Position,
    registry::Registry,
};

use super::{
    LOG_FILE,
    log_store::{
        self,
        disk::{Change, Disk, Found},
    },
    snapshot,
    types::{Entry, LogId, Member, Membership, SnapshotMeta, StoredMembership, Vote},
};
use crate::{env::disk, wire};

/// Why the files of a stopped node cannot be recovered from, or others cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path} is gone: put it back, or recover from the directory of another member")]
    Gone { path: PathBuf },
    #[error(
        "{path} is damaged ({reason}): recover from the directory of another member, or from a \
         file of `shoal snapshot` by --from-snapshot"
    )]
    Damaged { path: PathBuf, reason: String },
    #[error(
        "{path} is in a newer format ({found}): recover with the version of shoal that wrote it"
    )]
    Newer { path: PathBuf, found: u64 },
    #[error("{path} is in use by another process: stop it")]
    InUse { path: PathBuf },
    #[error("{path} cannot be read or written: check the volume it lies on")]
    Io { path: PathBuf, source: io::Error },
}

/// What a log and the snapshot below it come to.
#[derive(Debug)]
pub struct Read {
    pub last: Position,
    /// Every entry applied, also those that are not known to be committed.
    pub registry: Registry,
    pub voters: Vec<NodeId>,
}

/// What a recovered cluster begins with.
#[derive(Debug)]
pub struct Beginning<'a> {
    pub registry: &'a Registry,
    /// The only voter.
    pub node: NodeId,
    pub name: &'a str,
    pub raft_address: &'a str,
    pub term: u64,
}

/// Reads the files of a node that does not run; one that joined and never followed a log may
/// have none.
pub fn read(dir: &Path, formed: bool) -> Result<Read, Error> {
    let path = dir.join(LOG_FILE);
    let bytes = disk::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
    let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else {
        return if formed { Err(Error::Gone { path }) } else { Ok(nothing()) };
    };
    let found = scan(&path, &bytes)?;
    let snapshot = snapshot::load(dir)?;
    let mut read = nothing();
    let (mut last, mut covered) = (found.purged, None);
    if let Some(snapshot) = snapshot {
        let damaged = |error: wire::registry::Error| Error::Damaged {
            path: dir.to_owned(),
            reason: format!("snapshot: {error}"),
        };
        read.registry = wire::registry::decode_snapshot(&snapshot.snapshot).map_err(damaged)?;
        read.voters = voters(snapshot.meta.last_membership.membership());
        covered = snapshot.meta.last_log_id;
        last = last.max(covered);
    }
    if found.purged > covered {
        return Err(no_snapshot(dir, found.purged));
    }
    for (entry, _) in found.entries {
        last = last.max(Some(entry.log_id));
        if Some(entry.log_id) > covered {
            apply(&mut read, entry, &path)?;
        }
    }
    read.last = last.map_or(Position::default(), position);
    Ok(read)
}

/// Writes a log without entries and the snapshot that it follows. `before` each of the two.
pub fn write(
    dir: &Path,
    beginning: &Beginning<'_>,
    before: &mut dyn FnMut() -> io::Result<()>,
) -> Result<(), Error> {
    let Beginning { registry, node, name, raft_address, term } = beginning;
    let cut = |source| Error::Io { path: dir.to_owned(), source };
    let vote = Vote::new(*term, node.0);
    let id = LogId::new(vote.leader_id.to_committed(), registry.applied().0);
    before().map_err(cut)?;
    let (log, _) = Disk::open(&dir.join(LOG_FILE))?;
    log.write(&[Change::Vote(vote), Change::Purge(id), Change::Committed(Some(id))])?;
    drop(log);
    let member = Member { name: (*name).to_owned(), raft_address: (*raft_address).to_owned() };
    let (voters, members) = (BTreeSet::from([node.0]), BTreeMap::from([(node.0, member)]));
    let membership = Membership::new(vec![voters], members)
        .map_err(|error| cut(io::Error::other(error.to_string())))?;
    let meta = SnapshotMeta {
        last_log_id: Some(id),
        last_membership: StoredMembership::new(Some(id), membership),
    };
    before().map_err(cut)?;
    snapshot::save(dir, &meta, &wire::registry::encode_snapshot(registry))?;
    Ok(())
}

/// In memory: a log that was not closed is repaired when it is opened, and what is only looked at
/// must stay as it is. A log has 128 MiB at most.
fn scan(path: &Path, bytes: &[u8]) -> Result<Found, Error> {
    let memory = InMemoryBackend::new();
    let copied = memory.set_len(bytes.len() as u64).and_then(|()| memory.write(0, bytes));
    copied.map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let (_, found) = Disk::open_on(path, memory)?;
    Ok(found)
}

fn nothing() -> Read {
    Read { last: Position::default(), registry: Registry::new(), voters: Vec::new() }
}

fn apply(read: &mut Read, entry: Entry, path: &Path) -> Result<(), Error> {
    let index = LogIndex(entry.log_id.index);
    match entry.payload {
        EntryPayload::Blank => read.registry.advance(index),
        EntryPayload::Membership(membership) => {
            read.voters = voters(&membership);
            read.registry.advance(index);
        }
        EntryPayload::Normal(payload) => {
            let command = wire::registry::decode_command(&payload.0).map_err(|error| {
                let reason = format!("entry {}: {error}", index.0);
                Error::Damaged { path: path.to_owned(), reason }
            })?;
            // Refused or not: every member came to the same.
            let _ = read.registry.apply(index, &command);
        }
    }
    Ok(())
}

/// Of both halves of a joint one.
fn voters(membership: &Membership) -> Vec<NodeId> {
    membership.voter_ids().map(NodeId).collect()
}

fn position(id: LogId) -> Position {
    Position { term: id.leader_id.term, leader: NodeId(id.leader_id.node_id), index: id.index }
}

fn no_snapshot(dir: &Path, purged: Option<LogId>) -> Error {
    let purged = purged.map_or(0, |id| id.index);
    let reason = format!("the log begins after entry {purged} and no snapshot reaches it");
    Error::Damaged { path: dir.to_owned(), reason }
}

impl From<log_store::Error> for Error {
    fn from(error: log_store::Error) -> Self {
        use log_store::Error as E;
        match error {
            E::Newer { path, found } => Self::Newer { path, found },
            E::Locked { path } => Self::InUse { path },
            E::Damaged { path, reason } => Self::Damaged { path, reason },
            E::Io { path, source } => Self::Io { path, source },
        }
    }
}

impl From<snapshot::Error> for Error {
    fn from(error: snapshot::Error) -> Self {
        match error {
            snapshot::Error::Newer { path, format } => Self::Newer { path, found: format.into() },
            snapshot::Error::Io { path, source } => Self::Io { path, source },
        }
    }
}

/// A log of these commands, one entry each from the first index on, for tests of who reads it.
#[cfg(test)]
pub(crate) fn write_log(dir: &Path, term: u64, commands: &[shoal_core::registry::Command]) {
    use super::{record, types::Payload};
    let entries = commands.iter().zip(1..).map(|(command, index)| {
        let payload = EntryPayload::Normal(Payload(wire::registry::encode_command(command)));
        let leader = Vote::new(term, 1).leader_id.to_committed();
        let entry = Entry { log_id: LogId::new(leader, index), payload };
        (index, record::seal(&wire::raft::entry(&entry)))
    });
    let (log, _) = Disk::open(&dir.join(LOG_FILE)).unwrap();
    log.write(&[Change::Append(entries.collect())]).unwrap();
}
