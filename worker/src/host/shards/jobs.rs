//! What the host of one shard does, one step after the other, in the order asked for.
//!
//! Steps that fail are taken again with growing pauses until something newer is asked for.

use std::{hash::Hasher as _, sync::Arc, time::Duration};

use bytes::Bytes;
use shoal_core::{
    handoff::{Action, Refusal, State, Step, Whole, shard::Event},
    id::{Epoch, MoveId},
    registry::MoveRef,
};
use tokio::sync::oneshot;
use tracing::{debug, error, warn};
use twox_hash::XxHash64;

use super::{sender::Sent, slot::Slot};
use crate::host::api::{Error, ShardHost, Start};

/// Pauses before a failed step is taken again: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

pub(super) enum Job {
    /// Prepare, Export, Freeze, Open, Close or Discard.
    Act(Action),
    Import {
        key: MoveRef,
        bytes: Bytes,
        done: oneshot::Sender<Result<(), Refusal>>,
    },
    /// All pieces came: does the host understand them?
    Finish {
        key: MoveRef,
        done: oneshot::Sender<Result<(), Refusal>>,
    },
    /// The incarnation ends.
    Shut(oneshot::Sender<()>),
}

/// Length and XXH64 of what went by.
pub(super) struct Digest {
    length: u64,
    hash: XxHash64,
}

impl Default for Digest {
    fn default() -> Self {
        Self { length: 0, hash: XxHash64::with_seed(0) }
    }
}

impl Digest {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.hash.write(bytes);
    }

    /// Of nothing as the machine knows it: a target that was sent nothing has added nothing either.
    pub(super) fn whole(&self) -> Whole {
        if self.length == 0 {
            return Whole::default();
        }
        Whole { length: self.length, digest: self.hash.finish() }
    }
}

/// What the host holds of a shard, and for which move.
#[derive(Default)]
pub(super) struct Held {
    hosted: Hosted,
    received: Option<Received>,
    pub(super) sent: Option<Sent>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Hosted {
    #[default]
    Nothing,
    Open,
    Frozen,
}

struct Received {
    key: MoveRef,
    digest: Digest,
}

impl Held {
    pub(super) fn freeze(&mut self) {
        self.hosted = Hosted::Frozen;
    }
}

/// Empties the host before a new incarnation.
pub(super) async fn reset(host: &Arc<dyn ShardHost>) {
    let mut pause = PAUSES.0;
    while let Err(error) = host.reset().await {
        warn!(%error, "the host cannot reset");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

impl Slot {
    /// Does what is queued, and ends.
    pub(super) async fn work(self: &Arc<Self>) {
        let mut held = self.held.lock().await;
        while let Some(job) = self.next_job() {
            self.job(&mut held, job).await;
        }
    }

    async fn job(self: &Arc<Self>, held: &mut Held, job: Job) {
        match job {
            Job::Act(action) => self.act(held, action).await,
            // Nobody listens: the stream that brought it is gone.
            Job::Import { key, bytes, done } => {
                let _ = done.send(self.import(held, key, bytes).await);
            }
            Job::Finish { key, done } => {
                let _ = done.send(self.finish(held, key).await);
            }
            Job::Shut(done) => {
                self.idle().await;
                if held.hosted != Hosted::Nothing || held.received.is_some() {
                    self.close(held).await;
                }
                let _ = done.send(());
            }
        }
    }

    async fn act(self: &Arc<Self>, held: &mut Held, action: Action) {
        match action {
            Action::Prepare(key) => self.prepare(held, key).await,
            Action::Export { key, .. } => self.export(held, key).await,
            Action::Freeze { key, .. } => self.freeze(held, key).await,
            Action::Open { epoch, with } => self.open(held, epoch, with).await,
            Action::Close => {
                self.idle().await;
                self.close(held).await;
            }
            Action::Discard(key) => {
                if held.received.as_ref().is_some_and(|received| received.key == key) {
                    self.close(held).await;
                }
            }
            Action::Send { .. }
            | Action::Report(_)
            | Action::Drain(_)
            | Action::CancelCalls(_)
            | Action::StopTransfer(_)
            | Action::Resume(_) => debug_assert!(false, "{action:?} takes no time"),
        }
    }

    /// The host has room for one state of a shard: what it serves, or what the newest move
    /// brings. That move's existence proves that an older one has ended.
    async fn prepare(self: &Arc<Self>, held: &mut Held, key: MoveRef) {
        let newer = held.received.as_ref().is_none_or(|received| received.key.id < key.id);
        let step = if held.hosted == Hosted::Nothing && newer {
            match self.ground.parts.host.prepare(self.shard).await {
                Ok(()) => {
                    held.received = Some(Received { key, digest: Digest::default() });
                    Step::Prepared
                }
                Err(error) => {
                    warn!(shard = %self.shard, %error, "the host cannot prepare");
                    Step::CannotPrepare
                }
            }
        } else {
            Step::CannotPrepare
        };
        self.on(Event::Host { key, step });
    }

    async fn import(
        self: &Arc<Self>,
        held: &mut Held,
        key: MoveRef,
        bytes: Bytes,
    ) -> Result<(), Refusal> {
        let received = held.received.as_mut().filter(|received| received.key == key);
        let received = received.ok_or(Refusal::Over)?;
        received.digest.add(&bytes);
        self.ground.parts.host.import(self.shard, bytes).await.map_err(|error| {
            warn!(shard = %self.shard, %error, "the host cannot take the state");
            Refusal::CannotPrepare
        })?;
        let step = Step::Stored(received.digest.whole());
        self.on(Event::Host { key, step });
        Ok(())
    }

    async fn finish(&self, held: &mut Held, key: MoveRef) -> Result<(), Refusal> {
        let received = held.received.as_ref().filter(|received| received.key == key);
        let received = received.ok_or(Refusal::Over)?;
        if received.digest.length == 0 {
            return Ok(());
        }
        self.ground.parts.host.imported(self.shard).await.map_err(|error| {
            warn!(shard = %self.shard, %error, "the host cannot read the state");
            Refusal::CannotPrepare
        })
    }

    async fn open(self: &Arc<Self>, held: &mut Held, epoch: Epoch, with: State) {
        let start = match with {
            State::Empty => Some(Start::Empty),
            // The move ended before the host froze: it has been open all the time.
            State::Frozen if held.hosted == Hosted::Open => None,
            State::Frozen => Some(Start::Frozen),
            State::Received(id) => Some(self.received(held, id)),
        };
        held.received = None;
        held.sent = None;
        if let Some(start) = start {
            let opened = self.repeat("open", |host| host.open(self.shard, epoch, start)).await;
            if !opened {
                return;
            }
            held.hosted = Hosted::Open;
            #[cfg(feature = "sim")]
            crate::env::sim::opened(self.shard.0, epoch.0, start == Start::Empty);
            debug!(shard = %self.shard, %epoch, ?start, "open");
        }
        self.on(Event::Opened(epoch));
    }

    fn received(&self, held: &Held, id: MoveId) -> Start {
        match &held.received {
            // A host that had no state to give was sent none.
            Some(received) if received.key.id == id && received.digest.length == 0 => {
                self.ground.parts.metrics.moved_in.inc();
                Start::Empty
            }
            Some(received) if received.key.id == id => {
                self.ground.parts.metrics.moved_in.inc();
                Start::Imported
            }
            Some(_) | None => {
                error!(shard = %self.shard, %id, "the state of a move is gone, opening empty");
                Start::Empty
            }
        }
    }

    async fn close(&self, held: &mut Held) {
        self.repeat("close", |host| host.close(self.shard)).await;
        *held = Held::default();
    }

    /// True once the step succeeded; false when something newer made it pointless.
    async fn repeat<'a, F>(&'a self, step: &str, take: impl Fn(&'a dyn ShardHost) -> F) -> bool
    where
        F: Future<Output = Result<(), Error>>,
    {
        let mut pause = PAUSES.0;
        loop {
            match take(&*self.ground.parts.host).await {
                Ok(()) => return true,
                Err(error) => warn!(shard = %self.shard, step, %error, "the host failed"),
            }
            if self.is_pressed() {
                return false;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}
