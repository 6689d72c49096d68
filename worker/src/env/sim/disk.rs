//! The disk of a machine: what was not synced may be lost with the power, in parts.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Place, random, world};

/// All files of one machine.
#[derive(Clone, Debug, Default)]
pub struct Storage {
    names: BTreeMap<PathBuf, u64>,
    /// The names that survive, as of the last sync of their directory.
    durable_names: BTreeMap<PathBuf, u64>,
    directories: BTreeSet<PathBuf>,
    files: BTreeMap<u64, File>,
    next: u64,
    locked: bool,
    fails: bool,
    /// Its process is about to be gone and reaches the disk no more.
    doomed: bool,
    /// How long each sync takes from now on.
    pub slowness: Duration,
    /// Syncs so far: shows that a disk was in use.
    pub syncs: u64,
}

#[derive(Clone, Debug, Default)]
struct File {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Changes since the last sync, in order.
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let (offset, end) = (*offset as usize, *offset as usize + data.len());
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[offset..end].copy_from_slice(data);
            }
            Self::Length(length) => bytes.resize(*length as usize, 0),
        }
    }
}

impl File {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// Any of the changes may have reached the disk, in any order.
    fn lose_power(&mut self) {
        for change in self.pending.drain(..) {
            if random::below(2) == 0 {
                change.apply(&mut self.durable);
            }
        }
        self.live = self.durable.clone();
    }
}

impl Storage {
    pub(super) fn lock(&mut self) -> bool {
        !std::mem::replace(&mut self.locked, true)
    }

    pub(super) fn unlock(&mut self) {
        self.locked = self.doomed;
    }

    pub(super) fn lose_power(&mut self) {
        self.files.values_mut().for_each(File::lose_power);
        self.names = self.durable_names.clone();
    }

    /// A new, empty disk.
    pub fn wipe(&mut self) {
        *self = Self { slowness: self.slowness, ..Self::default() };
    }

    /// Whether writes and syncs fail from now on.
    pub fn fail(&mut self, fails: bool) {
        self.fails = fails;
    }

    pub(super) fn doom(&mut self, doomed: bool) {
        self.doomed = doomed;
    }

    fn whole(&self) -> io::Result<()> {
        if self.fails || self.doomed {
            Err(io::Error::other("the simulated disk fails"))
        } else {
            Ok(())
        }
    }

    fn open(&mut self, path: &Path) -> u64 {
        if let Some(id) = self.names.get(path) {
            return *id;
        }
        self.next += 1;
        self.files.insert(self.next, File::default());
        self.names.insert(path.to_owned(), self.next);
        self.next
    }

    fn sync(&mut self, id: u64) -> io::Result<()> {
        self.whole()?;
        self.syncs += 1;
        if let Some(file) = self.files.get_mut(&id) {
            file.sync();
        }
        Ok(())
    }

    fn sync_names(&mut self, directory: &Path) {
        let inside = |path: &PathBuf| path.parent() == Some(directory);
        self.durable_names.retain(|path, _| !inside(path));
        let names = self.names.iter().filter(|(path, _)| inside(path));
        self.durable_names.extend(names.map(|(path, id)| (path.clone(), *id)));
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        let moved: Vec<_> =
            self.names.keys().filter(|path| path.starts_with(from)).cloned().collect();
        for path in moved {
            let rest = path.strip_prefix(from).unwrap_or(Path::new(""));
            let target = if path == from { to.to_owned() } else { to.join(rest) };
            if let Some(id) = self.names.remove(&path) {
                self.names.insert(target, id);
            }
        }
        if self.directories.remove(from) {
            self.directories.insert(to.to_owned());
        }
    }
}

fn here<T>(change: impl FnOnce(&mut Storage) -> T) -> T {
    change(&mut world().here().storage)
}

pub fn create_dir_all(path: &Path) -> io::Result<()> {
    here(|disk| {
        disk.directories.extend(path.ancestors().map(Path::to_owned));
        disk.whole()
    })
}

pub fn exists(path: &Path) -> io::Result<bool> {
    Ok(here(|disk| disk.names.contains_key(path) || disk.directories.contains(path)))
}

pub fn length(path: &Path) -> io::Result<Option<u64>> {
    Ok(read(path)?.map(|bytes| bytes.len() as u64))
}

pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    Ok(here(|disk| Some(disk.files.get(disk.names.get(path)?)?.live.clone())))
}

pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    here(|disk| {
        disk.whole()?;
        let temporary = path.with_extension("new");
        disk.names.remove(&temporary);
        let id = disk.open(&temporary);
        if let Some(file) = disk.files.get_mut(&id) {
            file.change(Change::Write(0, bytes.to_vec()));
        }
        disk.sync(id)?;
        disk.rename(&temporary, path);
        disk.sync_names(path.parent().unwrap_or(Path::new("")));
        Ok(())
    })
}

pub fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    here(|disk| {
        disk.whole()?;
        let id = disk.open(path);
        if let Some(file) = disk.files.get_mut(&id) {
            file.change(Change::Length(0));
            file.change(Change::Write(0, bytes.to_vec()));
        }
        Ok(())
    })
}

pub fn open_or_create(path: &Path) -> io::Result<()> {
    here(|disk| {
        disk.whole()?;
        disk.open(path);
        Ok(())
    })
}

pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    here(|disk| {
        disk.whole()?;
        disk.rename(from, to);
        Ok(())
    })
}

pub fn remove_file(path: &Path) -> io::Result<()> {
    let removed = here(|disk| disk.names.remove(path));
    removed.map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
}

pub fn remove_dir_all(path: &Path) -> io::Result<()> {
    here(|disk| {
        disk.names.retain(|name, _| !name.starts_with(path));
        disk.directories.retain(|name| !name.starts_with(path));
    });
    Ok(())
}

pub fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    here(|disk| {
        if !disk.directories.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = |name: &&PathBuf| name.parent() == Some(path);
        let files = disk.names.keys().filter(inside);
        let all: BTreeSet<_> =
            files.chain(disk.directories.iter().filter(inside)).cloned().collect();
        Ok(all.into_iter().collect())
    })
}

pub fn sync_dir(path: &Path) -> io::Result<()> {
    here(|disk| {
        disk.whole()?;
        disk.sync_names(path);
        Ok(())
    })
}

pub fn volume_percent(_path: &Path) -> io::Result<u64> {
    Ok(1)
}

/// What was written has reached the disk once this returns.
pub async fn settled() {
    let slowness = here(|disk| disk.slowness);
    if !slowness.is_zero() {
        tokio::time::sleep(slowness).await;
    }
}

/// The pages of a database on the machine that opened them.
#[derive(Debug)]
pub struct Pages {
    place: Place,
    file: u64,
}

pub fn pages(path: &Path) -> Result<Pages, redb::DatabaseError> {
    let mut world = world();
    let place = world.here;
    let storage = &mut world.here().storage;
    storage.whole()?;
    Ok(Pages { place, file: storage.open(path) })
}

impl Pages {
    fn file<T>(&self, act: impl FnOnce(&mut File) -> io::Result<T>) -> io::Result<T> {
        super::storage(self.place, |disk| {
            disk.whole()?;
            act(disk.files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?)
        })
    }
}

impl redb::StorageBackend for Pages {
    fn len(&self) -> io::Result<u64> {
        self.file(|file| Ok(file.live.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file(|file| {
            let found = file.live.get(offset as usize..offset as usize + out.len());
            out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file(|file| {
            file.change(Change::Length(length));
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        super::storage(self.place, |disk| disk.sync(self.file))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file(|file| {
            file.change(Change::Write(offset, data.to_vec()));
            Ok(())
        })
    }
}
