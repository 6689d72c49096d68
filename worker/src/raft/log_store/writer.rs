//! The one thread that writes the log: it drains the queue into one durable transaction,
//! then answers everybody who waited for it.
//!
//! The first error is the last: it is told to all who wait and to the watcher of failures,
//! and nothing is written after it.

use std::{io, sync::Arc};

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Shared,
    disk::{Change, Disk, Error, PURGE_SLICE},
};
use crate::{
    env::{clock, disk},
    raft::types::Types,
};

/// Most bytes of entries in one transaction: bounds the time of one commit.
const BATCH_BYTES: usize = 1 << 20;
/// Most changes in one transaction.
const BATCH_CHANGES: usize = 4_096;

/// One request of the queue: what to write and whom to tell.
pub enum Request {
    Write {
        change: Change,
        waits: Waits,
    },
    /// Everything before it is on disk; the file is closed.
    Close(oneshot::Sender<()>),
}

/// Who is told once a change is durable.
pub enum Waits {
    Nobody,
    Caller(oneshot::Sender<Result<(), io::Error>>),
    /// Raft's callback, and what becomes durable: entries below `end` of this `generation`.
    Append {
        flushed: IOFlushed<Types>,
        generation: u64,
        end: u64,
    },
}

pub async fn run(
    shared: Arc<Shared>,
    mut disk: Option<Arc<Disk>>,
    mut queue: mpsc::Receiver<Request>,
    failure: watch::Sender<Option<String>>,
    mut purge_to: Option<u64>,
) {
    while let Some(open) = &disk {
        let Some(batch) = next_batch(&mut queue, purge_to.is_some()).await else { return };
        let (mut changes, mut waiting) = (Vec::new(), Vec::new());
        let mut closing = None;
        for request in batch {
            match request {
                Request::Write { change, waits } => {
                    if let Change::Purge(id) = &change {
                        purge_to = purge_to.max(Some(id.index));
                    }
                    changes.push(change);
                    waiting.push(waits);
                }
                Request::Close(done) => closing = Some(done),
            }
        }
        let began = clock::now();
        let written =
            purge_slice(open, &mut changes, &mut purge_to).and_then(|()| open.write(&changes));
        disk::settled().await;
        if let Some(took) = shared.took.get() {
            took.observe(clock::now().at_most_since(began).as_secs_f64());
        }
        if let Err(error) = written {
            return fail(&error, waiting, queue, &failure);
        }
        for waits in waiting {
            waits.done(&shared);
        }
        if let Some(done) = closing {
            shared.disk.write().take();
            disk = None;
            // Nobody waits any more where the process is going away.
            let _ = done.send(());
        }
    }
}

/// Adds one slice of a pending purge to the changes.
fn purge_slice(
    disk: &Disk,
    changes: &mut Vec<Change>,
    purge_to: &mut Option<u64>,
) -> Result<(), Error> {
    let Some(upto) = *purge_to else { return Ok(()) };
    match disk.lowest()? {
        Some(lowest) if lowest <= upto => {
            let end = upto.min(lowest + PURGE_SLICE - 1);
            changes.push(Change::Delete(lowest..=end));
            if end == upto {
                *purge_to = None;
            }
        }
        Some(_) | None => *purge_to = None,
    }
    Ok(())
}

/// What is queued now, up to the limits; waits for something unless there is other work.
async fn next_batch(queue: &mut mpsc::Receiver<Request>, busy: bool) -> Option<Vec<Request>> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    if !busy {
        let first = queue.recv().await?;
        bytes += size(&first);
        batch.push(first);
    }
    while bytes < BATCH_BYTES && batch.len() < BATCH_CHANGES {
        match queue.try_recv() {
            Ok(request) => {
                bytes += size(&request);
                batch.push(request);
            }
            Err(mpsc::error::TryRecvError::Empty) => break,
            Err(mpsc::error::TryRecvError::Disconnected) if batch.is_empty() => return None,
            Err(mpsc::error::TryRecvError::Disconnected) => break,
        }
    }
    Some(batch)
}

fn size(request: &Request) -> usize {
    match request {
        Request::Write { change: Change::Append(sealed), .. } => {
            sealed.iter().map(|(_, bytes)| bytes.len()).sum()
        }
        Request::Write { .. } | Request::Close(_) => 0,
    }
}

impl Waits {
    fn done(self, shared: &Shared) {
        match self {
            Self::Nobody => {}
            // A caller that gave up needs no answer.
            Self::Caller(caller) => drop(caller.send(Ok(()))),
            Self::Append { flushed, generation, end } => {
                shared.state.lock().flushed(generation, end);
                flushed.io_completed(Ok(()));
            }
        }
    }

    fn failed(self, error: &Error) {
        let error = io::Error::other(error.to_string());
        match self {
            Self::Nobody => {}
            Self::Caller(caller) => drop(caller.send(Err(error))),
            Self::Append { flushed, .. } => flushed.io_completed(Err(error)),
        }
    }
}

fn fail(
    error: &Error,
    waiting: Vec<Waits>,
    mut queue: mpsc::Receiver<Request>,
    failure: &watch::Sender<Option<String>>,
) {
    tracing::error!(%error, "the log cannot be written");
    failure.send_replace(Some(error.to_string()));
    queue.close();
    waiting.into_iter().for_each(|waits| waits.failed(error));
    while let Ok(request) = queue.try_recv() {
        match request {
            Request::Write { waits, .. } => waits.failed(error),
            Request::Close(done) => drop(done),
        }
    }
}
