//! What takes the disk or Raft, one step at a time and in order, beside the conversation.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use shoal_core::found::{Action, Event};
use tokio::task::{JoinError, JoinSet};

use super::{Cause, Effects, Error};
use crate::identity::{self, Identity};

pub(super) struct Hands<E> {
    identity: Arc<Mutex<Identity>>,
    effects: Arc<E>,
    /// Short: the machine has one change under way at most, and enters once after each.
    queue: VecDeque<Action>,
    /// Holds one task at most.
    current: JoinSet<Result<Option<Event>, Error>>,
}

impl<E: Effects> Hands<E> {
    pub fn new(identity: Arc<Mutex<Identity>>, effects: Arc<E>) -> Self {
        Self { identity, effects, queue: VecDeque::new(), current: JoinSet::new() }
    }

    pub fn take(&mut self, action: Action) {
        self.queue.push_back(action);
    }

    /// Waits for the next step that has something to tell. May be dropped and called again.
    pub async fn done(&mut self) -> Result<Event, Error> {
        loop {
            if self.current.is_empty() {
                let Some(action) = self.queue.pop_front() else {
                    return std::future::pending().await;
                };
                let step = step(Arc::clone(&self.identity), Arc::clone(&self.effects), action);
                self.current.spawn(step);
            }
            if let Some(ended) = self.current.join_next().await
                && let Some(event) = ended.map_err(died)??
            {
                return Ok(event);
            }
        }
    }
}

async fn step<E: Effects>(
    identity: Arc<Mutex<Identity>>,
    effects: Arc<E>,
    action: Action,
) -> Result<Option<Event>, Error> {
    match action {
        Action::Persist(next) => {
            write(identity, move |identity| identity.save(next)).await?;
            Ok(Some(Event::Persisted))
        }
        Action::Renounce(next) => {
            if effects.stop().await.map_err(raft("stop"))? {
                return Ok(Some(Event::FormedInstead));
            }
            write(identity, move |identity| identity.save(next)).await?;
            Ok(Some(Event::Persisted))
        }
        Action::Leave(next) => {
            if effects.stop().await.map_err(raft("stop"))? {
                return Ok(Some(Event::FormedInstead));
            }
            write(identity, move |identity| identity.leave(next)).await?;
            Ok(Some(Event::Persisted))
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

async fn write(
    identity: Arc<Mutex<Identity>>,
    change: impl FnOnce(&mut Identity) -> Result<(), identity::Error> + Send + 'static,
) -> Result<(), Error> {
    let written = tokio::task::spawn_blocking(move || change(&mut identity.lock()));
    Ok(written.await.map_err(died)??)
}

fn raft(step: &'static str) -> impl FnOnce(Cause) -> Error {
    move |source| Error::Raft { step, source }
}

fn died(error: JoinError) -> Error {
    Error::Raft { step: "finish a step of founding", source: error.into() }
}
