//! The log's file: its tables, what one transaction writes, what opening reads and refuses.
//!
//! Knows nothing of queues or of Raft's traits.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
};

use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase as _, ReadableTable as _,
    StorageBackend, TableDefinition, WriteTransaction,
};
use shoal_proto::shoal::peer::v1 as proto;

use crate::{
    env,
    raft::{
        record,
        types::{Entry, LogId, Vote},
    },
    wire,
};

/// Layout of the tables that this build writes.
const FORMAT: u64 = 1;
/// redb's page cache; the tail of the log is cached above it already.
const PAGE_CACHE: usize = 8 << 20;
/// Entries that one transaction deletes at most, so that a purge delays no append.
pub const PURGE_SLICE: u64 = 4_096;

const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const FORMATS: TableDefinition<&str, u64> = TableDefinition::new("format");
const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";

/// Why the log cannot be opened, read or written. Each is one line for a person.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{path}: format {found} is newer than this build reads ({FORMAT}); start the version that wrote it"
    )]
    Newer { path: PathBuf, found: u64 },
    #[error("{path}: another process holds the log")]
    Locked { path: PathBuf },
    #[error(
        "{path}: the log is damaged ({reason}); wipe the directory so that the node joins anew"
    )]
    Damaged { path: PathBuf, reason: String },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

/// The open file.
pub struct Disk {
    path: PathBuf,
    database: Database,
}

/// Everything that opening found.
pub struct Found {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    /// Entries after `purged`, without a hole, each with its size on disk.
    pub entries: VecDeque<(Entry, u32)>,
    /// Some entries up to `purged` are still in the file.
    pub purge_pending: bool,
}

/// One change, in the order in which it was asked for.
pub enum Change {
    Vote(Vote),
    Committed(Option<LogId>),
    /// Sealed entries by index.
    Append(Vec<(u64, Vec<u8>)>),
    /// Drops every entry from this index on.
    Truncate(u64),
    /// Entries up to here no longer count; their slices are deleted apart.
    Purge(LogId),
    /// Deletes entries of the given range.
    Delete(std::ops::RangeInclusive<u64>),
}

impl Change {
    /// Raft waits for it to survive a crash.
    fn must_last(&self) -> bool {
        match self {
            Self::Vote(_) | Self::Append(_) | Self::Truncate(_) | Self::Purge(_) => true,
            // Written with the next durable change; replayed or repeated after a crash.
            Self::Committed(_) | Self::Delete(_) => false,
        }
    }
}

impl Disk {
    /// Opens or creates the file and reads all of it: a flipped bit is found now, not at apply.
    pub fn open(path: &Path) -> Result<(Self, Found), Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let backend = env::disk::pages(path).map_err(|error| classify(path, error.into()))?;
        env::disk::sync_dir(path.parent().unwrap_or(Path::new("."))).map_err(io)?;
        Self::open_on(path, backend)
    }

    /// As `open`, on any storage; `path` only names it.
    pub fn open_on(path: &Path, backend: impl StorageBackend) -> Result<(Self, Found), Error> {
        let database = Database::builder()
            .set_cache_size(PAGE_CACHE)
            .set_check_integrity_on_open(true)
            .create_with_backend(backend)
            .map_err(|error| classify(path, error.into()))?;
        let disk = Self { path: path.to_owned(), database };
        disk.prepare()?;
        let found = disk.scan()?;
        Ok((disk, found))
    }

    /// A file of a newer format is left as it is; one without any is laid out.
    fn prepare(&self) -> Result<(), Error> {
        match self.format()? {
            Some(FORMAT) => return Ok(()),
            Some(found) => return Err(Error::Newer { path: self.path.clone(), found }),
            None => {}
        }
        self.transact(Durability::Immediate, |txn| {
            txn.open_table(FORMATS)?.insert("log", FORMAT)?;
            txn.open_table(META)?;
            txn.open_table(ENTRIES)?;
            Ok(())
        })
    }

    fn format(&self) -> Result<Option<u64>, Error> {
        let read = || -> Result<Option<u64>, redb::Error> {
            match self.database.begin_read()?.open_table(FORMATS) {
                Ok(formats) => Ok(formats.get("log")?.map(|format| format.value())),
                Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        read().map_err(|error| classify(&self.path, error))
    }

    fn scan(&self) -> Result<Found, Error> {
        let txn = self.snapshot()?;
        let meta = self.check(txn.open_table(META))?;
        let read = |key: &str| -> Result<Option<Vec<u8>>, Error> {
            Ok(self.check(meta.get(key))?.map(|value| value.value().to_vec()))
        };
        let mut found = Found {
            vote: None,
            committed: self.read_log_id(COMMITTED, read(COMMITTED)?)?,
            purged: self.read_log_id(PURGED, read(PURGED)?)?,
            entries: VecDeque::new(),
            purge_pending: false,
        };
        if let Some(bytes) = read(VOTE)? {
            let vote = record::open::<proto::Vote>(&bytes).map_err(|e| self.bad(VOTE, e))?;
            found.vote = Some(wire::raft::read_vote(Some(vote)).map_err(|e| self.bad(VOTE, e))?);
        }
        let entries = self.check(txn.open_table(ENTRIES))?;
        let first = found.purged.map_or(0, |id| id.index + 1);
        if let Some((index, _)) = self.check(entries.first())? {
            found.purge_pending = index.value() < first;
        }
        for item in self.check(entries.range(first..))? {
            let (index, bytes) = self.check(item)?;
            let entry = self.read_entry(index.value(), bytes.value())?;
            if let Some((last, _)) = found.entries.back()
                && last.log_id.index + 1 != entry.log_id.index
            {
                return Err(self.bad("entry", format!("a hole before {}", entry.log_id.index)));
            }
            found.entries.push_back((entry, bytes.value().len() as u32));
        }
        Ok(found)
    }

    fn read_log_id(&self, what: &str, bytes: Option<Vec<u8>>) -> Result<Option<LogId>, Error> {
        let Some(bytes) = bytes else { return Ok(None) };
        let id = record::open::<proto::LogId>(&bytes).map_err(|error| self.bad(what, error))?;
        Ok(Some(wire::raft::read_log_id(id)))
    }

    fn read_entry(&self, index: u64, bytes: &[u8]) -> Result<Entry, Error> {
        let what = || format!("entry {index}");
        let entry = record::open(bytes).map_err(|error| self.bad(&what(), error))?;
        let entry = wire::raft::read_entry(entry).map_err(|error| self.bad(&what(), error))?;
        if entry.log_id.index != index {
            return Err(self.bad(&what(), format!("it names itself {}", entry.log_id.index)));
        }
        Ok(entry)
    }

    fn bad(&self, what: &str, reason: impl std::fmt::Display) -> Error {
        Error::Damaged { path: self.path.clone(), reason: format!("{what}: {reason}") }
    }

    /// What is on disk now, unmoved by later writes.
    pub fn snapshot(&self) -> Result<ReadTransaction, Error> {
        self.check(self.database.begin_read())
    }

    /// Entries of a snapshot, by index.
    pub fn read(
        &self,
        txn: &ReadTransaction,
        range: std::ops::Range<u64>,
    ) -> Result<Vec<Entry>, Error> {
        let entries = self.check(txn.open_table(ENTRIES))?;
        let mut found = Vec::with_capacity((range.end - range.start) as usize);
        for item in self.check(entries.range(range.clone()))? {
            let (index, bytes) = self.check(item)?;
            found.push(self.read_entry(index.value(), bytes.value())?);
        }
        if found.len() as u64 != range.end - range.start {
            return Err(self.bad("entries", format!("{range:?} are not all there")));
        }
        Ok(found)
    }

    /// Writes the changes in order, in one transaction.
    pub fn write(&self, changes: &[Change]) -> Result<(), Error> {
        let durability = if changes.iter().any(Change::must_last) {
            Durability::Immediate
        } else {
            Durability::None
        };
        self.transact(durability, |txn| {
            let mut entries = txn.open_table(ENTRIES)?;
            let mut meta = txn.open_table(META)?;
            for change in changes {
                match change {
                    Change::Vote(vote) => {
                        meta.insert(VOTE, &*record::seal(&wire::raft::vote(vote)))?;
                    }
                    Change::Committed(Some(id)) => {
                        meta.insert(COMMITTED, &*record::seal(&wire::raft::log_id(id)))?;
                    }
                    Change::Committed(None) => {
                        meta.remove(COMMITTED)?;
                    }
                    Change::Append(sealed) => {
                        for (index, bytes) in sealed {
                            entries.insert(index, bytes.as_slice())?;
                        }
                    }
                    Change::Truncate(from) => entries.retain_in(*from.., |_, _| false)?,
                    Change::Purge(id) => {
                        meta.insert(PURGED, &*record::seal(&wire::raft::log_id(id)))?;
                    }
                    Change::Delete(range) => entries.retain_in(range.clone(), |_, _| false)?,
                }
            }
            Ok(())
        })
    }

    /// Lowest index in the file, purged or not.
    pub fn lowest(&self) -> Result<Option<u64>, Error> {
        let txn = self.snapshot()?;
        let entries = self.check(txn.open_table(ENTRIES))?;
        Ok(self.check(entries.first())?.map(|(index, _)| index.value()))
    }

    fn transact(
        &self,
        durability: Durability,
        body: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), Error> {
        let run = || -> Result<(), redb::Error> {
            let mut txn = self.database.begin_write()?;
            txn.set_durability(durability)?;
            body(&txn)?;
            txn.commit()?;
            Ok(())
        };
        self.check(run())
    }

    fn check<T, E: Into<redb::Error>>(&self, result: Result<T, E>) -> Result<T, Error> {
        result.map_err(|error| classify(&self.path, error.into()))
    }
}

fn classify(path: &Path, error: redb::Error) -> Error {
    let path = path.to_owned();
    match error {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
            Error::Locked { path }
        }
        redb::Error::Io(source) if source.kind() != std::io::ErrorKind::InvalidData => {
            Error::Io { path, source }
        }
        other => Error::Damaged { path, reason: other.to_string() },
    }
}
