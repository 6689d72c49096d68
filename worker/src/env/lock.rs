//! An exclusive lock on a file, and what two processes can compare to prove who holds it.
//!
//! The lock is the kernel's and ends with the process; the file itself stays for ever.
#![allow(unsafe_code)] // fstatfs: std does not name the kind of a file system

use std::{
    fs::{self, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::Path,
};

use super::disk::{self, Handle};

/// Kinds of file system whose locks and inode numbers belong to this machine alone. Any
/// other, as of a network, proves nothing.
const LOCAL: [libc::c_long; 8] = [
    libc::EXT4_SUPER_MAGIC as libc::c_long,
    libc::XFS_SUPER_MAGIC as libc::c_long,
    libc::BTRFS_SUPER_MAGIC as libc::c_long,
    libc::F2FS_SUPER_MAGIC as libc::c_long,
    libc::BCACHEFS_SUPER_MAGIC as libc::c_long,
    libc::OVERLAYFS_SUPER_MAGIC as libc::c_long,
    libc::TMPFS_MAGIC as libc::c_long,
    ZFS_SUPER_MAGIC,
];
/// Not in libc.
const ZFS_SUPER_MAGIC: libc::c_long = 0x2fc1_2fc1;

/// A lock that this process holds until it ends or drops this.
#[derive(Debug)]
pub struct Lock(Handle);

#[derive(Debug)]
pub enum Attempt {
    Held(Lock),
    /// Another process holds it; its process id, where the file tells.
    Taken {
        pid: Option<u32>,
    },
}

/// Takes the lock of `path`, which is created when absent, without waiting.
pub fn try_exclusive(path: &Path) -> io::Result<Attempt> {
    let mut file = disk::open_or_create(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            return Ok(Attempt::Taken { pid: text.trim().parse().ok() });
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(Attempt::Held(Lock(file)))
}

impl Lock {
    /// Device and inode of the locked file.
    pub fn file_id(&self) -> io::Result<(u64, u64)> {
        let metadata = self.0.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// The file system belongs to this machine alone.
    pub fn is_local(&self) -> io::Result<bool> {
        // SAFETY: all bytes zero is a valid statfs.
        let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open and `stat` is writable for the call.
        if unsafe { libc::fstatfs(self.0.as_raw_fd(), &mut stat) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(LOCAL.contains(&(stat.f_type as libc::c_long)))
    }
}

/// Names one boot of this machine's kernel.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let Attempt::Held(first) = try_exclusive(&path).unwrap() else {
            panic!("a new file is locked");
        };
        let id = first.file_id().unwrap();
        let own = Some(std::process::id());
        assert!(matches!(try_exclusive(&path).unwrap(), Attempt::Taken { pid } if pid == own));
        drop(first);
        let Attempt::Held(again) = try_exclusive(&path).unwrap() else {
            panic!("the lock ends with its holder");
        };
        assert_eq!(again.file_id().unwrap(), id, "the file stays");
    }
}
