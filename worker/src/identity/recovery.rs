//! The directory of a stopped node becomes that of a cluster recovered from it.
//!
//! What the new one consists of is written apart, as a whole. One rename decides; whoever opens
//! the directory after that, to run or to recover again, finishes. So it is the old directory or
//! the new one at any moment. What was there before is set aside and never deleted.

use std::{
    io,
    path::{Path, PathBuf},
};

use shoal_core::{
    found::{Directory, Joined, Member},
    id::{ClusterId, Epoch, NodeId},
};

use super::{
    IDENTITY_FILE, LOCK_FILE, LOST_AND_FOUND, RETIRED_PREFIX, Record, file_name, format, fresh,
};
use crate::env::{
    clock, disk,
    lock::{self, Attempt, Lock},
    random,
};

/// Being written: counts for nothing.
const DRAFT: &str = "recovery.new";
/// Written and decided: the directory is this one.
const DECIDED: &str = "recovery";
/// Followed by the id of the lost cluster.
const ASIDE_PREFIX: &str = "recovered-from-";

/// Why a directory cannot be recovered from or into; each message ends with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{path} is no data directory of a Shoal node: it holds no identity; name the RAFT_DIR \
         of a member"
    )]
    NotShoal { path: PathBuf },
    #[error(
        "data directory {path} is in use by {}: recovery is for stopped nodes; stop it, and \
         recover only if the cluster has no quorum then", super::process(*pid)
    )]
    InUse { path: PathBuf, pid: Option<u32> },
    #[error("data directory {path} is given twice: name each once")]
    Twice { path: PathBuf },
    #[error(
        "{path} is damaged: {reason}; recover from the directory of another member, or from a \
         file of `shoal snapshot` by --from-snapshot"
    )]
    Damaged { path: PathBuf, reason: String },
    #[error(
        "{path} is in a newer format ({found}, this build reads up to {}): recover with the \
         version of shoal that wrote it, or a later one",
        format::FORMAT
    )]
    Newer { path: PathBuf, found: u32 },
    #[error(
        "data directory {path} belongs to no cluster yet: nothing was ever served from it; start \
         the node, and it founds or joins one"
    )]
    NoCluster { path: PathBuf },
    #[error(
        "data directory {path} is not empty, it holds {entry:?}: a snapshot is recovered into a \
         new directory; name another, or leave --from-snapshot out to recover from this one"
    )]
    NotEmpty { path: PathBuf, entry: String },
    #[error("{path} exists and would be mixed up with what is to be set aside: move it away")]
    Aside { path: PathBuf },
    #[error("{path} cannot be read: check the volume it lies on")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{path} cannot be written: check the volume it lies on, then run the same command again"
    )]
    Write { path: PathBuf, source: io::Error },
}

/// Asked before each change on disk; an error stands for a crash there.
pub type Before<'a> = &'a mut dyn FnMut() -> io::Result<()>;

/// A locked directory of a node that does not run.
#[derive(Debug)]
pub struct Stopped {
    path: PathBuf,
    record: Record,
    /// A recovery that had been cut short after it was decided.
    finished: bool,
    /// Not there before: there is nothing to set aside.
    new: bool,
    _lock: Lock,
}

/// What the directory is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    pub cluster: ClusterId,
    pub from: ClusterId,
    pub node: NodeId,
    /// Drawn anew.
    pub nonce: u128,
    pub highest_epoch: Epoch,
}

impl Stopped {
    /// The directory of a node that ran once. Finishes a recovery that was cut short.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let read = |source| Error::Read { path: path.to_owned(), source };
        let mut known = false;
        for name in [IDENTITY_FILE, DECIDED] {
            known |= disk::exists(&path.join(name)).map_err(read)?;
        }
        if !known {
            return Err(Error::NotShoal { path: path.to_owned() });
        }
        let lock = hold(path)?;
        let finished = finish(path, &mut || Ok(())).map_err(write_error(path))?;
        let record = super::read(path).map_err(identity_error)?;
        let record = record.ok_or_else(|| Error::NotShoal { path: path.to_owned() })?;
        Ok(Self { path: path.to_owned(), record, finished, new: false, _lock: lock })
    }

    /// A directory that is not there yet, or empty, for the node `name`.
    pub fn create(path: &Path, name: &str) -> Result<Self, Error> {
        disk::create_dir_all(path).map_err(write_error(path))?;
        let lock = hold(path)?;
        let finished = finish(path, &mut || Ok(())).map_err(write_error(path))?;
        let read = |source| Error::Read { path: path.to_owned(), source };
        let identity = super::read(path).map_err(identity_error)?;
        if let (Some(record), true) = (&identity, finished) {
            let (path, record) = (path.to_owned(), record.clone());
            return Ok(Self { path, record, finished, new: false, _lock: lock });
        }
        let content = super::content(path).map_err(read)?;
        let entry = identity.map(|_| IDENTITY_FILE.to_owned());
        if let Some(entry) = entry.or_else(|| content.first().map(|entry| file_name(entry))) {
            return Err(Error::NotEmpty { path: path.to_owned(), entry });
        }
        super::sync_parent(path).map_err(identity_error)?;
        let mut record = fresh(name);
        // As a directory that ran: what counts only at founding is not asked of it again.
        record.incarnation = 1;
        Ok(Self { path: path.to_owned(), record, finished: false, new: true, _lock: lock })
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

    /// It is recovered: the command before had come that far.
    pub fn finished_from(&self) -> Option<ClusterId> {
        self.record.recovered_from.filter(|_| self.finished)
    }

    /// The cluster this directory is in, and who it is there.
    pub fn membership(&self) -> Result<(ClusterId, NodeId), Error> {
        let joined = self.record.directory.joined.as_ref();
        let known = joined.and_then(|joined| Some((joined.cluster, joined.node?)));
        known.ok_or_else(|| Error::NoCluster { path: self.path.clone() })
    }

    /// Where what it held is set aside; not there yet.
    pub fn aside(&self, from: ClusterId) -> Result<PathBuf, Error> {
        let aside = aside(&self.path, from);
        match disk::exists(&aside) {
            Ok(false) => Ok(aside),
            Ok(true) => Err(Error::Aside { path: aside }),
            Err(source) => Err(Error::Read { path: aside, source }),
        }
    }

    /// An empty directory for the files of Raft; those of an attempt before are gone.
    pub fn draft(&self, before: Before<'_>) -> Result<PathBuf, Error> {
        let draft = self.path.join(DRAFT);
        let mut make = || -> io::Result<()> {
            before()?;
            if disk::exists(&draft)? {
                disk::remove_dir_all(&draft)?;
            }
            before()?;
            disk::create_dir_all(&draft)
        };
        make().map_err(write_error(&draft))?;
        Ok(draft)
    }

    /// From the rename in here on the directory is the recovered one.
    pub fn decide(self, next: &Next, before: Before<'_>) -> Result<(), Error> {
        let draft = self.path.join(DRAFT);
        let failed = write_error(&self.path);
        let bytes = format::encode(&self.record(next)).map_err(|error| Error::Damaged {
            path: draft.join(IDENTITY_FILE),
            reason: error.to_string(),
        })?;
        let mut run = || -> io::Result<()> {
            before()?;
            disk::write_atomic(&draft.join(IDENTITY_FILE), &bytes)?;
            disk::sync_dir(&draft)?;
            before()?;
            disk::rename(&draft, &self.path.join(DECIDED))?;
            disk::sync_dir(&self.path)?;
            finish(&self.path, before).map(drop)
        };
        run().map_err(failed)
    }

    fn record(&self, next: &Next) -> Record {
        let before = &self.record.directory;
        let directory = Directory {
            joined: Some(Joined {
                cluster: next.cluster,
                // What this directory was before, so that nobody takes it for one that founded
                // alone and forgot its cluster: that one's processes must not stop it.
                founder: Member { name: self.record.name.clone(), nonce: before.nonce },
                on: Vec::new(),
                node: Some(next.node),
            }),
            formed: true,
            highest_epoch: before.highest_epoch.max(next.highest_epoch),
            ..Directory::empty(next.nonce, before.boot_ms)
        };
        let recovered_from = Some(next.from);
        Record { directory, recovered_from, ..self.record.clone() }
    }

    /// Nothing was there before.
    pub fn is_new(&self) -> bool {
        self.new
    }
}

/// A nonce for the directory that is to be.
pub fn nonce() -> u128 {
    random::u128()
}

/// An id for the cluster that is to be.
pub fn cluster_id() -> ClusterId {
    ClusterId(random::u128().max(1))
}

/// Seconds since 1970, for the era of its tokens.
pub fn unix_seconds() -> u32 {
    u32::try_from(clock::unix_ms() / 1_000).unwrap_or(u32::MAX)
}

/// Entries of a data directory that a recovery makes.
pub(super) fn is_own(name: &str) -> bool {
    name == DRAFT || name == DECIDED || name.starts_with(ASIDE_PREFIX)
}

/// Goes on with a recovery that was decided; true if there was one. Whatever is still in
/// `DECIDED` has not been put in its place, the identity last of all, and before it nothing of
/// the new cluster is in place while anything of the old one is.
pub(super) fn finish(path: &Path, before: Before<'_>) -> io::Result<bool> {
    let decided = path.join(DECIDED);
    if !disk::exists(&decided)? {
        return Ok(false);
    }
    let (old, new) = (path.join(IDENTITY_FILE), decided.join(IDENTITY_FILE));
    if let Some(bytes) = disk::read(&new)? {
        let record = format::decode(&bytes).map_err(io::Error::other)?;
        let from = record.recovered_from.ok_or_else(|| io::Error::other("of no cluster"))?;
        if disk::exists(&old)? {
            set_aside(path, &aside(path, from), before)?;
        }
        for entry in disk::list(&decided)?.into_iter().filter(|entry| *entry != new) {
            before()?;
            disk::rename(&entry, &path.join(file_name(&entry)))?;
        }
        disk::sync_dir(path)?;
        before()?;
        disk::rename(&new, &old)?;
        disk::sync_dir(path)?;
    }
    before()?;
    disk::remove_dir_all(&decided)?;
    disk::sync_dir(path)?;
    Ok(true)
}

/// The identity goes last: as long as it is there, what lies beside it is of the old cluster.
fn set_aside(path: &Path, aside: &Path, before: Before<'_>) -> io::Result<()> {
    before()?;
    disk::create_dir_all(aside)?;
    let identity = path.join(IDENTITY_FILE);
    for entry in disk::list(path)? {
        let name = file_name(&entry);
        let stays = [LOCK_FILE, LOST_AND_FOUND, IDENTITY_FILE].contains(&name.as_str())
            || name.starts_with(RETIRED_PREFIX)
            || is_own(&name);
        if !stays {
            before()?;
            disk::rename(&entry, &aside.join(name))?;
        }
    }
    disk::sync_dir(aside)?;
    disk::sync_dir(path)?;
    before()?;
    disk::rename(&identity, &aside.join(IDENTITY_FILE))?;
    disk::sync_dir(aside)?;
    disk::sync_dir(path)
}

fn aside(path: &Path, from: ClusterId) -> PathBuf {
    path.join(format!("{ASIDE_PREFIX}{from}"))
}

fn hold(path: &Path) -> Result<Lock, Error> {
    match lock::try_exclusive(&path.join(LOCK_FILE)).map_err(write_error(path))? {
        Attempt::Held(lock) => Ok(lock),
        Attempt::Taken { pid: Some(pid) } if pid == std::process::id() => {
            Err(Error::Twice { path: path.to_owned() })
        }
        Attempt::Taken { pid } => Err(Error::InUse { path: path.to_owned(), pid }),
    }
}

fn write_error(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Write { path: path.clone(), source }
}

/// The same with the remedy for who recovers.
fn identity_error(error: super::Error) -> Error {
    use super::Error as E;
    match error {
        E::Newer { path, found } => Error::Newer { path, found },
        E::Damaged { path, reason } => Error::Damaged { path, reason },
        E::Locked { path, pid } => Error::InUse { path, pid },
        E::Read { path, source } => Error::Read { path, source },
        E::Write { path, source } | E::NotWritable { path, source } => {
            Error::Write { path, source }
        }
        E::NoIdentity { path, entry } => Error::NotEmpty { path, entry },
        E::OtherName { path, .. } => Error::NotShoal { path },
    }
}
