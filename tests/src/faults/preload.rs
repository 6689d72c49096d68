//! The other side of `preload.c`: what the disk and the clocks of one node do from now on.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rustix::time::{ClockId, clock_gettime};

use crate::space::profile_directory;

const SOURCE: &str = include_str!("preload.c");
/// Cells of 8 bytes in the file that both sides map, as the source lists them.
const CELLS: u64 = 64;
const SYNC_DELAY_MS: u64 = 0;
const SYNC_HANGS: u64 = 1;
const SYNC_ERROR: u64 = 2;
const WRITE_ERROR: u64 = 3;
const CLOCKS: u64 = 4;
const PER_CLOCK: u64 = 3;
const COUNTS: u64 = CLOCKS + 3 * PER_CLOCK;

/// Input/output error, and no space left on device.
const EIO: i64 = 5;
const ENOSPC: i64 = 28;

/// A clock that a node reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Clock {
    /// CLOCK_BOOTTIME: what chrony slews, and what jumps over a suspend.
    Boot,
    /// CLOCK_MONOTONIC_RAW: the oscillator.
    Raw,
    /// CLOCK_REALTIME: what people set.
    Wall,
}

impl Clock {
    fn cell(self) -> u64 {
        CLOCKS + PER_CLOCK * self as u64
    }

    fn now(self) -> i64 {
        let now = clock_gettime(match self {
            Self::Boot => ClockId::Boottime,
            Self::Raw => ClockId::MonotonicRaw,
            Self::Wall => ClockId::Realtime,
        });
        now.tv_sec * 1_000_000_000 + now.tv_nsec
    }
}

/// What a node's disk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    Well,
    /// Each sync takes so much longer.
    Slow(Duration),
    /// No sync ends.
    Hung,
    /// Each sync fails.
    Failing,
    /// Each write fails for lack of space.
    Full,
}

/// Which of the two was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    Syncs = 0,
    Writes = 1,
    Clocks = 2,
}

/// Compiles the library; once for all tests of a build.
pub fn library() -> anyhow::Result<PathBuf> {
    let directory = profile_directory().join("faults");
    fs::create_dir_all(&directory)?;
    // Several test processes may do this at once: each writes its own, and the last one stays.
    let own = directory.join(format!("preload-{}", std::process::id()));
    let (source, made) = (own.with_extension("c"), own.with_extension("so"));
    fs::write(&source, SOURCE)?;
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"])
        .args([&made, &source])
        .arg("-ldl")
        .output()
        .context("cc: a C compiler is needed for faults of disks and clocks")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::remove_file(source)?;
    let library = directory.join("preload.so");
    fs::rename(made, &library)?;
    Ok(library)
}

/// The file that steers one node, also after it has started again.
#[derive(Debug)]
pub struct Control {
    file: File,
    path: PathBuf,
}

impl Control {
    pub fn new(path: &Path) -> anyhow::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        file.set_len(CELLS * 8)?;
        Ok(Self { file, path: path.to_owned() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn set(&self, cell: u64, value: i64) -> anyhow::Result<()> {
        Ok(self.file.write_all_at(&value.to_ne_bytes(), cell * 8)?)
    }

    fn get(&self, cell: u64) -> anyhow::Result<i64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, cell * 8)?;
        Ok(i64::from_ne_bytes(bytes))
    }

    pub fn disk(&self, disk: Disk) -> anyhow::Result<()> {
        let (delay, hangs, sync, write) = match disk {
            Disk::Well => (0, 0, 0, 0),
            Disk::Slow(by) => (by.as_millis() as i64, 0, 0, 0),
            Disk::Hung => (0, 1, 0, 0),
            Disk::Failing => (0, 0, EIO, 0),
            Disk::Full => (0, 0, 0, ENOSPC),
        };
        self.set(SYNC_ERROR, sync)?;
        self.set(WRITE_ERROR, write)?;
        self.set(SYNC_DELAY_MS, delay)?;
        self.set(SYNC_HANGS, hangs)
    }

    /// The clock is so much ahead from now on, in nanoseconds, beside what it was already.
    pub fn jump(&self, clock: Clock, by: i64) -> anyhow::Result<()> {
        self.set(clock.cell(), self.get(clock.cell())? + by)
    }

    /// The clock gains so many millionths from now on; what it had gained it keeps.
    pub fn rate(&self, clock: Clock, millionths: i64) -> anyhow::Result<()> {
        let cell = clock.cell();
        let now = clock.now();
        let (before, since) = (self.get(cell + 1)?, self.get(cell + 2)?);
        let gained = (now - since) as f64 * before as f64 / 1e6;
        self.set(cell + 1, 0)?;
        self.jump(clock, gained as i64)?;
        self.set(cell + 2, now)?;
        self.set(cell + 1, millionths)
    }

    /// How often the node met what was set.
    pub fn met(&self, what: Met) -> anyhow::Result<i64> {
        self.get(COUNTS + what as u64)
    }
}
