//! With what state a shard began each of its epochs, as the nodes that opened it wrote into
//! their logs: the one thing that tells a failover, which empties a shard of the built-in host,
//! from a planned move, which must not.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

/// The setting LOG_LEVEL under which a node writes what is read here.
pub const LOG_LEVEL: &str = "info,shoal_worker::host=debug";
/// The words before and behind the fields of such a line.
const LINE: &str = ": open shard=s";

/// What a shard began an epoch with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With nothing: there was a failover, or never an owner.
    Empty,
    /// With the state that the former owner handed over.
    Moved,
}

/// All that the logs of a directory have told so far.
#[derive(Debug)]
pub struct Opens {
    directory: PathBuf,
    /// How far each file was read.
    read: BTreeMap<PathBuf, u64>,
    starts: BTreeMap<(u32, u32), Start>,
    /// Lines that no node may ever write.
    pub alarms: Vec<String>,
}

/// What such a line says.
const ALARMS: [&str; 2] = ["the state of a move is gone", "panicked at"];

impl Opens {
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            read: BTreeMap::new(),
            starts: BTreeMap::new(),
            alarms: Vec::new(),
        }
    }

    /// Reads what was written since the last time.
    pub fn look(&mut self) -> anyhow::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == "log") {
                self.follow(path)?;
            }
        }
        Ok(())
    }

    fn follow(&mut self, path: PathBuf) -> anyhow::Result<()> {
        let mut file = File::open(&path)?;
        let from = self.read.get(&path).copied().unwrap_or(0);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // The last line may be half written.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in String::from_utf8_lossy(&bytes[..whole]).lines() {
            if let Some((shard, count, start)) = parse(line) {
                // A move that was given up opens the shard again under the epoch that it had.
                self.starts.entry((shard, count)).or_insert(start);
            }
            if ALARMS.iter().any(|words| line.contains(words)) {
                self.alarms.push(format!("{}: {line}", path.display()));
            }
        }
        self.read.insert(path, from + whole as u64);
        Ok(())
    }

    /// What the shard began this epoch with; `None`: no log tells.
    pub fn start(&self, shard: u32, epoch: u64) -> Option<Start> {
        self.starts.get(&(shard, count(epoch))).copied()
    }

    /// How many epochs of any shard began with nothing, beside the first.
    pub fn failovers(&self) -> usize {
        let later =
            |((_, count), start): (&(u32, u32), &Start)| *count > 0 && *start == Start::Empty;
        self.starts.iter().filter(|entry| later(*entry)).count()
    }
}

/// The part of an epoch that logs show; the other does not change while a cluster lives.
pub fn count(epoch: u64) -> u32 {
    epoch as u32
}

fn parse(line: &str) -> Option<(u32, u32, Start)> {
    let (_, fields) = line.split_once(LINE)?;
    let (shard, fields) = fields.split_once(" epoch=e")?;
    let (count, start) = fields.split_once(" start=")?;
    let start = match start.trim() {
        "Empty" => Start::Empty,
        "Imported" | "Frozen" => Start::Moved,
        _ => return None,
    };
    Some((shard.parse().ok()?, count.parse().ok()?, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_log_tells_shard_epoch_and_start() {
        let line = "2026-01-01T00:00:00Z DEBUG shoal_worker::host::shards::jobs: open shard=s12 epoch=e3 start=Imported";
        assert_eq!(parse(line), Some((12, 3, Start::Moved)));
        assert_eq!(parse(&line.replace("Imported", "Empty")), Some((12, 3, Start::Empty)));
        assert_eq!(parse("INFO shoal: open the door"), None);
    }

    #[test]
    fn half_a_line_is_read_later() {
        let space = crate::Space::new();
        let mut opens = Opens::new(space.path());
        let path = space.path().join("node.1.log");
        fs::write(&path, "x: open shard=s1 epoch=e0 start=Empty\nx: open shard=s1 epo").unwrap();
        opens.look().unwrap();
        assert_eq!((opens.start(1, 0), opens.start(1, 7)), (Some(Start::Empty), None));
        let more =
            "x: open shard=s1 epoch=e0 start=Empty\nx: open shard=s1 epoch=e7 start=Imported\n";
        fs::write(&path, more).unwrap();
        opens.look().unwrap();
        assert_eq!(opens.start(1, (9 << 32) + 7), Some(Start::Moved));
    }
}
