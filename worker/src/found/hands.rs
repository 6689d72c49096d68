//! What takes the disk or Raft, one step at a time and in order, beside the conversation.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use shoal_core::found::Action;
use tokio::task::{JoinError, JoinSet};

use super::{Cause, Effects, Error, Stopped};
use crate::identity::{self, Identity};

pub(super) struct Hands<E> {
    identity: Arc<Mutex<Identity>>,
    effects: Arc<E>,
    /// Short: the machine has one change under way at most, and enters once after each.
    queue: VecDeque<Action>,
    /// Holds one task at most.
    current: JoinSet<Result<Option<Done>, Error>>,
}

/// What a step has to tell.
pub(super) enum Done {
    /// What was to be written is on disk.
    Persisted,
    /// Raft was stopped for good, and what that was for is on disk.
    Anew,
}

impl<E: Effects> Hands<E> {
    pub fn new(identity: Arc<Mutex<Identity>>, effects: Arc<E>) -> Self {
        Self { identity, effects, queue: VecDeque::new(), current: JoinSet::new() }
    }

    pub fn take(&mut self, action: Action) {
        self.queue.push_back(action);
    }

    /// Waits for the next step that has something to tell. May be dropped and called again.
    pub async fn done(&mut self) -> Result<Done, Error> {
        loop {
            if self.current.is_empty() {
                let Some(action) = self.queue.pop_front() else {
                    return std::future::pending().await;
                };
                let step = step(Arc::clone(&self.identity), Arc::clone(&self.effects), action);
                self.current.spawn(step);
            }
            if let Some(ended) = self.current.join_next().await
                && let Some(done) = ended.map_err(died)??
            {
                return Ok(done);
            }
        }
    }
}

async fn step<E: Effects>(
    identity: Arc<Mutex<Identity>>,
    effects: Arc<E>,
    action: Action,
) -> Result<Option<Done>, Error> {
    match action {
        Action::Persist(next) => {
            write(identity, move |identity| identity.save(next)).await?;
            Ok(Some(Done::Persisted))
        }
        Action::Renounce(next) => {
            stop_and_write(&*effects, identity, move |identity| identity.save(next)).await
        }
        Action::Leave(next) => {
            stop_and_write(&*effects, identity, move |identity| identity.leave(next)).await
        }
        Action::Initialize { cluster } => {
            effects.initialize(cluster).await.map_err(raft("initialise"))?;
            Ok(None)
        }
        Action::Start { cluster, node } => {
            effects.start(cluster, node).await.map_err(raft("start"))?;
            Ok(None)
        }
        Action::Ask { .. }
        | Action::Reply { .. }
        | Action::Drop { .. }
        | Action::RequestJoin { .. }
        | Action::ProposeFormed { .. }
        | Action::Exit(_)
        | Action::Waiting(_) => Ok(None),
    }
}

/// A log that holds Formed stays as it is. Where Raft ran, a new life goes on from here.
async fn stop_and_write<E: Effects>(
    effects: &E,
    identity: Arc<Mutex<Identity>>,
    change: impl FnOnce(&mut Identity) -> Result<(), identity::Error> + Send + 'static,
) -> Result<Option<Done>, Error> {
    let stopped = effects.stop().await.map_err(raft("stop"))?;
    if stopped != (Stopped::Ran { formed_in_log: true }) {
        write(identity, change).await?;
    }
    Ok(Some(match stopped {
        Stopped::NeverRan => Done::Persisted,
        Stopped::Ran { .. } => Done::Anew,
    }))
}

async fn write(
    identity: Arc<Mutex<Identity>>,
    change: impl FnOnce(&mut Identity) -> Result<(), identity::Error> + Send + 'static,
) -> Result<(), Error> {
    let written = crate::env::thread::blocking(move || change(&mut identity.lock()));
    Ok(written.await.map_err(died)??)
}

fn raft(step: &'static str) -> impl FnOnce(Cause) -> Error {
    move |source| Error::Raft { step, source }
}

fn died(error: JoinError) -> Error {
    Error::Raft { step: "finish a step of founding", source: error.into() }
}
