//! The data directory: who this node is, under a lock that only one process can hold.
//!
//! Every change is on disk when a call returns. Raft's files lie in the same directory and
//! are not touched here but for `leave` and `retire`, which remove or move all of them.

pub(crate) mod format;
pub(crate) mod members;
pub mod recovery;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use shoal_core::{
    found::Directory,
    id::{ClusterId, Epoch, Incarnation, NodeId},
    registry::LockId,
};

use crate::env::{
    clock, disk,
    lock::{self, Attempt, Lock},
    random,
};
use format::Record;

/// Exit code when the directory belongs to somebody else.
pub const EXIT_IDENTITY: u8 = 65;
/// Exit code when the directory cannot be used.
pub const EXIT_UNREADABLE: u8 = 66;

const IDENTITY_FILE: &str = "identity";
/// `write_atomic` goes through this name.
const IDENTITY_DRAFT: &str = "identity.new";
const LOCK_FILE: &str = "lock";
const RETIRED_PREFIX: &str = "retired-";
/// Made by file systems at the root of a volume.
const LOST_AND_FOUND: &str = "lost+found";

/// Why a data directory cannot be used; each message ends with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "data directory {path} cannot be created or written: make it writable for this user or \
         set RAFT_DIR to a directory that is"
    )]
    NotWritable { path: PathBuf, source: io::Error },
    #[error(
        "data directory {path} is in use by {}: stop that process or set RAFT_DIR to another \
         directory", process(*pid)
    )]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error("{path} cannot be read: check the volume it lies on")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{path} is in a newer format ({found}, this build reads up to {}): start the version of \
         shoal that wrote it, or a later one",
        format::FORMAT
    )]
    Newer { path: PathBuf, found: u32 },
    #[error(
        "{path} is damaged: {reason}; move the data directory away, and the node joins anew \
         with an empty one"
    )]
    Damaged { path: PathBuf, reason: String },
    #[error(
        "data directory {path} belongs to node {holds:?} and RAFT_ID is {asked:?}: set RAFT_ID \
         to {holds:?} or RAFT_DIR to a directory of {asked:?}"
    )]
    OtherName { path: PathBuf, holds: String, asked: String },
    #[error(
        "data directory {path} holds {entry:?} but no identity: set RAFT_DIR to an empty \
         directory, or move its content away"
    )]
    NoIdentity { path: PathBuf, entry: String },
    #[error("{path} cannot be written: check the volume it lies on")]
    Write { path: PathBuf, source: io::Error },
}

fn process(pid: Option<u32>) -> String {
    pid.map_or("another process".to_owned(), |pid| format!("process {pid}"))
}

impl Error {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::OtherName { .. } => EXIT_IDENTITY,
            Self::NotWritable { .. }
            | Self::Locked { .. }
            | Self::Read { .. }
            | Self::Newer { .. }
            | Self::Damaged { .. }
            | Self::NoIdentity { .. }
            | Self::Write { .. } => EXIT_UNREADABLE,
        }
    }
}

/// An open data directory; the lock lasts as long as this.
#[derive(Debug)]
pub struct Identity {
    path: PathBuf,
    lock: Lock,
    record: Record,
}

impl Identity {
    /// Opens the directory of the node `name`, and gives an empty one its identity.
    pub fn open(path: &Path, name: &str) -> Result<Self, Error> {
        let not_writable = |source| Error::NotWritable { path: path.to_owned(), source };
        disk::create_dir_all(path).map_err(not_writable)?;
        let attempt = lock::try_exclusive(&path.join(LOCK_FILE)).map_err(not_writable)?;
        let lock = match attempt {
            Attempt::Held(lock) => lock,
            Attempt::Taken { pid } => return Err(Error::Locked { path: path.to_owned(), pid }),
        };
        recovery::finish(path, &mut || Ok(()))
            .map_err(|source| Error::Write { path: path.to_owned(), source })?;
        let record = match read(path)? {
            Some(record) if record.name == name => record,
            Some(record) => {
                let (holds, asked) = (record.name, name.to_owned());
                return Err(Error::OtherName { path: path.to_owned(), holds, asked });
            }
            None => {
                refuse_strange_content(path)?;
                let record = fresh(name);
                write(path, &record)?;
                sync_parent(path)?;
                record
            }
        };
        Ok(Self { path: path.to_owned(), lock, record })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn name(&self) -> &str {
        &self.record.name
    }

    pub fn directory(&self) -> &Directory {
        &self.record.directory
    }

    /// Counter of the last incarnation that was drawn from this directory.
    pub fn counter(&self) -> u64 {
        self.record.incarnation
    }

    /// The cluster that lost its quorum and goes on as the one of this directory.
    pub fn recovered_from(&self) -> Option<ClusterId> {
        self.record.recovered_from
    }

    /// RAFT_ADDRESSes of the members of the formed cluster that this directory is in, or was
    /// in before it was retired.
    pub fn members(&self) -> BTreeSet<String> {
        members::read(&self.path)
    }

    /// For the next start: whom to ask. Only hints, so that a failure to write costs nothing.
    pub fn remember(&self, members: &BTreeSet<String>) {
        members::write(&self.path, members);
    }

    pub fn save(&mut self, directory: Directory) -> Result<(), Error> {
        self.change(Record { directory, ..self.record.clone() })
    }

    /// The incarnation of this run: the counter is on disk before anyone hears of it, and
    /// the nonce tells two copies of one directory apart.
    pub fn next_incarnation(&mut self) -> Result<Incarnation, Error> {
        let counter = self.record.incarnation + 1;
        self.change(Record { incarnation: counter, ..self.record.clone() })?;
        Ok(Incarnation { counter, nonce: random::u64() })
    }

    /// What proves that the process that held this lock before is dead; none where the file
    /// system could be shared with another machine [S1].
    pub fn lock_id(&self) -> Option<LockId> {
        if !self.lock.is_local().unwrap_or(false) {
            return None;
        }
        let (device, inode) = self.lock.file_id().ok()?;
        Some(LockId { boot_id: lock::boot_id().ok()?, device, inode })
    }

    /// Out of a founding: removes all files of Raft, then takes the new directory on. The
    /// caller has made sure that Formed is not in the log. A crash in between leaves the
    /// old identity over an empty log, which leaves again.
    pub fn leave(&mut self, directory: Directory) -> Result<(), Error> {
        for entry in self.content()? {
            let removed = match disk::list(&entry) {
                Ok(_) => disk::remove_dir_all(&entry),
                Err(_) => disk::remove_file(&entry),
            };
            removed.map_err(|source| Error::Write { path: entry, source })?;
        }
        members::remove(&self.path);
        self.save(directory)
    }

    /// Sets everything aside as `retired-<node>`, the only one that is kept, and starts
    /// over as an empty directory of the same name. The identity moves last: a crash
    /// before that is repeated by the next start. The members stay: whoever is retired
    /// joins them again and founds nothing, and knows what tokens they have issued.
    pub fn retire(&mut self, node: NodeId, highest_epoch: Epoch) -> Result<(), Error> {
        let aside = self.path.join(format!("{RETIRED_PREFIX}{}", node.0));
        let failed = |source| Error::Write { path: self.path.clone(), source };
        for entry in disk::list(&self.path).map_err(failed)? {
            if entry != aside && file_name(&entry).starts_with(RETIRED_PREFIX) {
                disk::remove_dir_all(&entry).map_err(failed)?;
            }
        }
        disk::create_dir_all(&aside).map_err(failed)?;
        let identity = self.path.join(IDENTITY_FILE);
        for entry in self.content()?.into_iter().chain([identity]) {
            disk::rename(&entry, &aside.join(file_name(&entry))).map_err(failed)?;
        }
        disk::sync_dir(&aside).and_then(|()| disk::sync_dir(&self.path)).map_err(failed)?;
        let mut next = fresh(&self.record.name);
        next.directory.highest_epoch = self.record.directory.highest_epoch.max(highest_epoch);
        self.change(next)
    }

    /// Entries that are neither the identity nor kept apart from it.
    fn content(&self) -> Result<Vec<PathBuf>, Error> {
        content(&self.path).map_err(|source| Error::Read { path: self.path.clone(), source })
    }

    fn change(&mut self, record: Record) -> Result<(), Error> {
        write(&self.path, &record)?;
        self.record = record;
        Ok(())
    }
}

fn fresh(name: &str) -> Record {
    let directory = Directory::empty(random::u128(), clock::unix_ms());
    Record { name: name.to_owned(), incarnation: 0, directory, recovered_from: None }
}

fn read(directory: &Path) -> Result<Option<Record>, Error> {
    let path = directory.join(IDENTITY_FILE);
    let bytes = match disk::read(&path) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(source) => return Err(Error::Read { path, source }),
    };
    match format::decode(&bytes) {
        Ok(record) => Ok(Some(record)),
        Err(format::Error::Newer(found)) => Err(Error::Newer { path, found }),
        Err(
            error @ (format::Error::Truncated { .. }
            | format::Error::Checksum
            | format::Error::Foreign
            | format::Error::Decode(_)),
        ) => Err(Error::Damaged { path, reason: error.to_string() }),
    }
}

fn write(directory: &Path, record: &Record) -> Result<(), Error> {
    let path = directory.join(IDENTITY_FILE);
    let bytes = match format::encode(record) {
        Ok(bytes) => bytes,
        Err(error) => return Err(Error::Damaged { path, reason: error.to_string() }),
    };
    disk::write_atomic(&path, &bytes).map_err(|source| Error::Write { path, source })
}

/// The new directory's own name must survive a crash as well.
fn sync_parent(path: &Path) -> Result<(), Error> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    disk::sync_dir(parent).map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// A log without its identity must not be taken for an empty directory.
fn refuse_strange_content(path: &Path) -> Result<(), Error> {
    let entries = content(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    match entries.first() {
        Some(entry) => Err(Error::NoIdentity { path: path.to_owned(), entry: file_name(entry) }),
        None => Ok(()),
    }
}

fn content(path: &Path) -> io::Result<Vec<PathBuf>> {
    const KEPT: [&str; 6] =
        [IDENTITY_FILE, IDENTITY_DRAFT, LOCK_FILE, LOST_AND_FOUND, members::FILE, members::DRAFT];
    let mut entries = disk::list(path)?;
    entries.retain(|entry| {
        let name = file_name(entry);
        !KEPT.contains(&name.as_str())
            && !name.starts_with(RETIRED_PREFIX)
            && !recovery::is_own(&name)
    });
    Ok(entries)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
