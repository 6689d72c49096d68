//! Raft's log and vote on this node's disk.
//!
//! Every write goes through one queue to one thread, in order, so a vote and an entry never
//! swap places; reads of the newest entries come from memory and wait for nobody. It decides
//! nothing about what is kept: `retention` does.

pub(crate) mod disk;
mod writer;

use std::{
    collections::VecDeque,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    path::Path,
    sync::{Arc, OnceLock},
};

use openraft::{
    EntryPayload, OptionalSend,
    storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage},
};
use parking_lot::{Mutex, RwLock};
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::disk::Error;
use self::{
    disk::{Change, Disk, Found},
    writer::{Request, Waits},
};
use super::{
    record,
    types::{Entry, LogId, Types, Vote},
};
use crate::{env, wire};

/// Requests that wait for the writer: past it, Raft itself waits for the disk.
const QUEUE: usize = 1_024;
/// Newest entries kept in memory, so that healthy followers never make the leader read its disk.
const TAIL_BYTES: usize = 8 << 20;
/// Most bytes of entries in one answer to a replication task; far below the limit of a message.
const READ_BYTES: u64 = 1 << 20;

/// A cheap handle to the log.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Request>,
    failure: watch::Receiver<Option<String>>,
}

struct Shared {
    state: Mutex<State>,
    /// Taken by the writer when the log is closed.
    disk: RwLock<Option<Arc<Disk>>>,
    /// An entry that forms the cluster is in the log.
    formed: watch::Sender<bool>,
    is_form: fn(&[u8]) -> bool,
    /// Seconds of each write, fsync included; set once by who wants to know.
    took: OnceLock<Histogram>,
}

/// Size of the log, for `retention`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Extent {
    /// Index after the last purged one.
    pub first: u64,
    pub entries: u64,
    pub bytes: u64,
}

/// The log as it is once the queue is empty.
struct State {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// Index of the oldest entry that counts.
    first: u64,
    /// Size on disk of each entry, oldest first.
    sizes: VecDeque<u32>,
    bytes: u64,
    /// The newest entries, ending with `last`.
    tail: VecDeque<Entry>,
    tail_bytes: usize,
    /// Entries below it are on disk; others must stay in the tail.
    durable: u64,
    /// Grows with each truncation: a late report about a truncated entry must not count
    /// for the one that took its place.
    generation: u64,
    formed_at: Option<u64>,
}

impl LogStore {
    /// Opens the log at `path`. `is_form` recognises the command that forms the cluster:
    /// some rules ask whether it is in the log, committed or not.
    pub fn open(path: &Path, is_form: fn(&[u8]) -> bool) -> Result<Self, Error> {
        Self::run(path, Disk::open(path)?, is_form)
    }

    fn run(
        path: &Path,
        (disk, found): (Disk, Found),
        is_form: fn(&[u8]) -> bool,
    ) -> Result<Self, Error> {
        let disk = Arc::new(disk);
        let purge_to = found.purged.filter(|_| found.purge_pending).map(|id| id.index);
        let state = State::from_disk(found, is_form);
        let (formed, _) = watch::channel(state.formed_at.is_some());
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            disk: RwLock::new(Some(disk.clone())),
            formed,
            is_form,
            took: OnceLock::new(),
        });
        let (queue, requests) = mpsc::channel(QUEUE);
        let (failed, failure) = watch::channel(None);
        let writer = shared.clone();
        let writing = writer::run(writer, Some(disk), requests, failed, purge_to);
        env::thread::drive("raft-log", writing)
            .map_err(|source| Error::Io { path: path.to_owned(), source })?;
        Ok(Self { shared, queue, failure })
    }

    /// Measures each write to the disk from now on.
    pub fn measure(&self, took: Histogram) {
        // The first to ask is the one that is told.
        let _ = self.shared.took.set(took);
    }

    /// The first error of the writer; after it nothing is written and the process must end.
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failure.clone()
    }

    /// True once an entry that forms the cluster is in the log, committed or not.
    pub fn formed(&self) -> watch::Receiver<bool> {
        self.shared.formed.subscribe()
    }

    pub fn extent(&self) -> Extent {
        let state = self.shared.state.lock();
        Extent { first: state.first, entries: state.sizes.len() as u64, bytes: state.bytes }
    }

    /// Writes what is queued and closes the file; later use is an error.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Request::Close(done)).await.is_ok() {
            // An error means that the writer failed before: the file is as closed as it gets.
            let _ = closed.await;
        }
        self.shared.disk.write().take();
    }

    async fn write(&self, change: Change, waits: Waits) -> Result<(), io::Error> {
        self.queue
            .send(Request::Write { change, waits })
            .await
            .map_err(|_| io::Error::other("the log is closed"))
    }

    /// Entries of `range` that the log holds: the older ones from disk, the others from memory.
    async fn entries(&self, range: std::ops::Range<u64>) -> Result<Vec<Entry>, io::Error> {
        let (disk, txn, older, newer) = {
            let state = self.shared.state.lock();
            let range = range.start.max(state.first)..range.end.min(state.end());
            let newer = state.cached(&range);
            let older = range.start..range.end.saturating_sub(newer.len() as u64);
            if older.is_empty() {
                return Ok(newer);
            }
            let disk = self.shared.disk.read().clone();
            let disk = disk.ok_or_else(|| io::Error::other("the log is closed"))?;
            // Taken under the lock, the snapshot shows what the state describes.
            let txn = disk.snapshot().map_err(io::Error::other)?;
            (disk, txn, older, newer)
        };
        let read = crate::env::thread::blocking(move || disk.read(&txn, older));
        let mut entries = read.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        entries.extend(newer);
        Ok(entries)
    }
}

impl State {
    fn from_disk(found: Found, is_form: fn(&[u8]) -> bool) -> Self {
        let mut state = Self {
            vote: found.vote,
            committed: found.committed,
            purged: found.purged,
            last: found.purged,
            first: found.purged.map_or(0, |id| id.index + 1),
            sizes: VecDeque::new(),
            bytes: 0,
            tail: VecDeque::new(),
            tail_bytes: 0,
            durable: u64::MAX,
            generation: 0,
            formed_at: None,
        };
        for (entry, size) in found.entries {
            if state.formed_at.is_none() && forms(&entry, is_form) {
                state.formed_at = Some(entry.log_id.index);
            }
            state.push(entry, size);
            state.trim_tail();
        }
        state.durable = state.end();
        state
    }

    /// Index after the last entry.
    fn end(&self) -> u64 {
        self.first + self.sizes.len() as u64
    }

    fn tail_first(&self) -> u64 {
        self.end() - self.tail.len() as u64
    }

    /// The end of `range` as far as it is in memory.
    fn cached(&self, range: &std::ops::Range<u64>) -> Vec<Entry> {
        let first = self.tail_first();
        let (from, to) = (range.start.max(first), range.end.max(first));
        let places = (from - first) as usize..(to - first) as usize;
        if places.is_empty() { Vec::new() } else { self.tail.range(places).cloned().collect() }
    }

    /// True where an entry of this index can follow: next in order, or the first of all.
    fn accepts(&self, index: u64) -> bool {
        index == self.end() || (self.last.is_none() && self.purged.is_none())
    }

    fn push(&mut self, entry: Entry, size: u32) {
        if self.last.is_none() {
            self.first = entry.log_id.index;
        }
        self.last = Some(entry.log_id);
        self.sizes.push_back(size);
        self.bytes += u64::from(size);
        self.tail_bytes += size as usize;
        self.tail.push_back(entry);
    }

    fn flushed(&mut self, generation: u64, end: u64) {
        if generation == self.generation {
            self.durable = self.durable.max(end);
            self.trim_tail();
        }
    }

    /// Forgets the oldest cached entries that are on disk.
    fn trim_tail(&mut self) {
        while self.tail_bytes > TAIL_BYTES && self.tail_first() < self.durable {
            let size = self.sizes[self.sizes.len() - self.tail.len()];
            self.tail.pop_front();
            self.tail_bytes -= size as usize;
        }
    }

    fn truncate_after(&mut self, last: Option<LogId>) {
        let end = last.map_or(0, |id| id.index + 1);
        if end >= self.end() {
            return;
        }
        while self.end() > end
            && let Some(size) = self.sizes.pop_back()
        {
            self.bytes -= u64::from(size);
            if self.tail.pop_back().is_some() {
                self.tail_bytes -= size as usize;
            }
        }
        self.last = last.or(self.purged);
        self.durable = self.durable.min(end);
        self.generation += 1;
        self.formed_at = self.formed_at.filter(|index| *index < end);
    }

    fn purge(&mut self, upto: LogId) {
        while self.first <= upto.index
            && let Some(size) = self.sizes.pop_front()
        {
            self.first += 1;
            self.bytes -= u64::from(size);
            if self.tail.len() > self.sizes.len() {
                self.tail.pop_front();
                self.tail_bytes -= size as usize;
            }
        }
        self.first = self.first.max(upto.index + 1);
        self.purged = self.purged.max(Some(upto));
        self.last = self.last.max(self.purged);
    }
}

fn forms(entry: &Entry, is_form: fn(&[u8]) -> bool) -> bool {
    matches!(&entry.payload, EntryPayload::Normal(payload) if is_form(&payload.0))
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(start..end).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.state.lock().vote)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        let end = {
            let state = self.shared.state.lock();
            let first = state.first;
            let sizes = state.sizes.iter().skip(start.saturating_sub(first) as usize);
            let mut bytes = 0;
            let fit = sizes
                .take_while(|size| {
                    let fits = bytes < READ_BYTES;
                    bytes += u64::from(**size);
                    fits
                })
                .count() as u64;
            end.min(start.max(first) + fit)
        };
        self.entries(start..end).await
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let state = self.shared.state.lock();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.shared.state.lock().vote = Some(*vote);
        let (saved, wait) = oneshot::channel();
        self.write(Change::Vote(*vote), Waits::Caller(saved)).await?;
        wait.await.map_err(|_| io::Error::other("the log is closed"))?
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.shared.state.lock().committed = committed;
        self.write(Change::Committed(committed), Waits::Nobody).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.state.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut sealed = Vec::new();
        let mut formed = false;
        let (generation, end) = {
            let mut state = self.shared.state.lock();
            for entry in entries {
                let index = entry.log_id.index;
                if !state.accepts(index) {
                    let end = state.end();
                    return Err(io::Error::other(format!("entry {index} where {end} is next")));
                }
                if forms(&entry, self.shared.is_form) {
                    formed = true;
                    state.formed_at.get_or_insert(index);
                }
                let bytes = record::seal(&wire::raft::entry(&entry));
                state.push(entry, bytes.len() as u32);
                sealed.push((index, bytes));
            }
            (state.generation, state.end())
        };
        if formed {
            self.shared.formed.send_replace(true);
        }
        let waits = Waits::Append { flushed, generation, end };
        self.write(Change::Append(sealed), waits).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let formed = {
            let mut state = self.shared.state.lock();
            state.truncate_after(last);
            state.formed_at.is_some()
        };
        self.shared.formed.send_replace(formed);
        self.write(Change::Truncate(last.map_or(0, |id| id.index + 1)), Waits::Nobody).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.shared.state.lock().purge(upto);
        self.write(Change::Purge(upto), Waits::Nobody).await
    }
}

#[cfg(test)]
mod tests;
