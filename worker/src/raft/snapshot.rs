//! Snapshots of the registry as files of the Raft directory.
//!
//! One file holds what the snapshot covers and the registry's bytes, both under a checksum.
//! A file appears whole or not at all; the newest valid one counts.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use shoal_proto::shoal::peer::v1 as proto;

use super::{
    record,
    types::{Snapshot, SnapshotMeta},
};
use crate::{env, wire};

const PREFIX: &str = "snapshot-";
/// Digits of an index, so that names sort by age.
const DIGITS: usize = 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{path}: the snapshot was written by a newer version (format {format}); start that one"
    )]
    Newer { path: PathBuf, format: u8 },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

/// Makes the snapshot durable, then drops the older ones.
pub fn save(dir: &Path, meta: &SnapshotMeta, data: &Bytes) -> Result<(), Error> {
    let index = meta.last_log_id.map_or(0, |id| id.index);
    let path = dir.join(format!("{PREFIX}{index:0DIGITS$}"));
    let file = compose(meta, data);
    let io = |source| Error::Io { path: path.clone(), source };
    env::disk::write_atomic(&path, &file).map_err(io)?;
    for old in files(dir)?.into_iter().filter(|old| *old != path) {
        env::disk::remove_file(&old).map_err(|source| Error::Io { path: old, source })?;
    }
    Ok(())
}

/// The newest snapshot that is whole; damaged ones are passed over and told.
pub fn load(dir: &Path) -> Result<Option<Snapshot>, Error> {
    for path in files(dir)?.into_iter().rev() {
        let file = env::disk::read(&path)
            .map_err(|source| Error::Io { path: path.clone(), source })?
            .unwrap_or_default();
        match parse(&file) {
            Ok(snapshot) => return Ok(Some(snapshot)),
            Err(Broken::Newer(format)) => return Err(Error::Newer { path, format }),
            Err(Broken::Damaged(reason)) => {
                tracing::warn!(path = %path.display(), reason, "a damaged snapshot is passed over");
            }
        }
    }
    Ok(None)
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("it was written in format {0}")]
    Newer(u8),
    #[error("{0}")]
    Damaged(String),
}

impl From<record::Error> for Broken {
    fn from(error: record::Error) -> Self {
        match error {
            record::Error::Newer(format) => Self::Newer(format),
            record::Error::Short | record::Error::Checksum | record::Error::Decode(_) => {
                Self::Damaged(error.to_string())
            }
        }
    }
}

/// The bytes of a file, as `parse` reads them.
pub(crate) fn compose(meta: &SnapshotMeta, data: &[u8]) -> Vec<u8> {
    let header = record::seal(&proto::SnapshotFile {
        meta: Some(wire::raft::snapshot_meta(meta)),
        length: data.len() as u64,
        crc32: crc32fast::hash(data),
    });
    let mut file = Vec::with_capacity(size_of::<u32>() + header.len() + data.len());
    file.extend_from_slice(&(header.len() as u32).to_le_bytes());
    file.extend_from_slice(&header);
    file.extend_from_slice(data);
    file
}

pub(crate) fn parse(file: &[u8]) -> Result<Snapshot, Broken> {
    let (length, rest) = file.split_first_chunk().ok_or(record::Error::Short)?;
    let header = u32::from_le_bytes(*length) as usize;
    let (header, data) = rest.split_at_checked(header).ok_or(record::Error::Short)?;
    let header: proto::SnapshotFile = record::open(header)?;
    if header.length != data.len() as u64 {
        return Err(record::Error::Short.into());
    }
    if header.crc32 != crc32fast::hash(data) {
        return Err(record::Error::Checksum.into());
    }
    let meta = wire::raft::read_snapshot_meta(header.meta)
        .map_err(|error| Broken::Damaged(error.to_string()))?;
    Ok(Snapshot { meta, snapshot: Bytes::copy_from_slice(data) })
}

/// Snapshot files, oldest first; not those whose writing was cut off.
fn files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let all = env::disk::list(dir).map_err(|source| Error::Io { path: dir.to_owned(), source })?;
    Ok(all.into_iter().filter(|path| is_snapshot(path)).collect())
}

fn is_snapshot(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let digits = name.and_then(|name| name.strip_prefix(PREFIX));
    digits.is_some_and(|d| d.len() == DIGITS && d.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{LogId, StoredMembership};

    fn meta(index: u64) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: Some(LogId::new(
                openraft::impls::leader_id_adv::LeaderId { term: 3, node_id: 1 },
                index,
            )),
            last_membership: StoredMembership::default(),
        }
    }

    #[test]
    fn the_newest_is_kept_and_found() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load(dir.path()).unwrap().is_none());
        for index in [9, 100, 20] {
            save(dir.path(), &meta(index), &Bytes::from(vec![index as u8; 300])).unwrap();
            assert_eq!(files(dir.path()).unwrap().len(), 1);
        }
        let found = load(dir.path()).unwrap().unwrap();
        assert_eq!(found.meta, meta(20));
        assert_eq!(found.snapshot, vec![20; 300]);
    }

    #[test]
    fn a_damaged_one_is_passed_over_and_an_unfinished_one_ignored() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &meta(5), &Bytes::from_static(b"registry")).unwrap();
        let whole = files(dir.path()).unwrap().remove(0);
        let bytes = env::disk::read(&whole).unwrap().unwrap();
        let newer = dir.path().join(format!("{PREFIX}{:0DIGITS$}", 6));
        for bit in (0..bytes.len() * 8).step_by(7) {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            env::disk::write_atomic(&newer, &damaged).unwrap();
            match load(dir.path()) {
                Ok(found) => assert_eq!(found.unwrap().meta, meta(5), "bit {bit}"),
                // The flip made the version byte larger: told, not guessed around.
                Err(error) => assert!(matches!(error, Error::Newer { .. }), "bit {bit}: {error}"),
            }
        }
        env::disk::write_atomic(&newer, &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(load(dir.path()).unwrap().unwrap().meta, meta(5));
        env::disk::rename(&newer, &newer.with_extension("new")).unwrap();
        assert_eq!(load(dir.path()).unwrap().unwrap().meta, meta(5));
    }
}
