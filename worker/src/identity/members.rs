//! Where the members of this directory's cluster were last: hints for the next start.
//!
//! Nothing is decided by them but whom to ask; what cannot be read or written is left out.

use std::{collections::BTreeSet, path::Path};

use crate::env::disk;

pub(super) const FILE: &str = "members";
/// `write_atomic` goes through this name.
pub(super) const DRAFT: &str = "members.new";

/// One RAFT_ADDRESS on each line.
pub(super) fn read(directory: &Path) -> BTreeSet<String> {
    let bytes = disk::read(&directory.join(FILE)).unwrap_or_else(|error| {
        tracing::warn!(%error, "the addresses of the members cannot be read");
        None
    });
    parse(&bytes.unwrap_or_default())
}

pub(crate) fn parse(bytes: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(bytes);
    let is_address = |line: &&str| line.parse::<crate::config::HostPort>().is_ok();
    text.lines().filter(is_address).map(str::to_owned).collect()
}

pub(crate) fn compose(members: &BTreeSet<String>) -> String {
    members.iter().flat_map(|address| [address.as_str(), "\n"]).collect()
}

pub(super) fn write(directory: &Path, members: &BTreeSet<String>) {
    if let Err(error) = disk::write_atomic(&directory.join(FILE), compose(members).as_bytes()) {
        tracing::warn!(%error, "the addresses of the members cannot be written");
    }
}

pub(super) fn remove(directory: &Path) {
    for name in [FILE, DRAFT] {
        // Mostly there is none.
        let _ = disk::remove_file(&directory.join(name));
    }
}
