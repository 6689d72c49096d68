//! The lock of a directory: held by the machine's process until it ends.

use std::{io, path::Path};

/// A lock that this process holds until it ends or drops this.
#[derive(Debug)]
pub struct Lock(super::Place);

#[derive(Debug)]
pub enum Attempt {
    Held(Lock),
    Taken { pid: Option<u32> },
}

pub fn try_exclusive(path: &Path) -> io::Result<Attempt> {
    super::disk::open_or_create(path)?;
    let mut world = super::world();
    let here = world.here;
    Ok(if world.here().storage.lock() {
        Attempt::Held(Lock(here))
    } else {
        Attempt::Taken { pid: None }
    })
}

impl Lock {
    pub fn file_id(&self) -> io::Result<(u64, u64)> {
        Ok((self.0 as u64 + 1, 1))
    }

    pub fn is_local(&self) -> io::Result<bool> {
        Ok(true)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        super::storage(self.0, super::Storage::unlock);
    }
}

pub fn boot_id() -> io::Result<String> {
    let mut world = super::world();
    let here = world.here;
    Ok(format!("machine-{here}-boot-{}", world.here().boot))
}
