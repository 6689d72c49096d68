//! The contract between Shoal and the code that does a user's work: [`ShardHost`].
//!
//! Says what a host is asked and when. It runs nothing: [`super::shards`] does.
//!
//! A shard lives through these steps, on one node:
//!
//! ```text
//! open(Empty) ─────────────┐                        ┌─ open(Frozen): the move was aborted
//! prepare → import … → open(Imported) → call … → export … → freeze → close
//!            └ close: the move was aborted
//! ```

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use shoal_core::id::{Epoch, ShardId};

use crate::call::AppError;

/// A step of a host under way.
pub type Step<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// Why a host could not take a step. The step is taken again later, or the move aborted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the host does not hold shard {shard} {wanted}")]
    NotHeld { shard: ShardId, wanted: &'static str },
    #[error("the state of shard {shard} cannot be read: {reason}")]
    State { shard: ShardId, reason: String },
    #[error("export of shard {shard} cannot go on from {since}")]
    Cursor { shard: ShardId, since: u64 },
    /// Whatever else went wrong in the application.
    #[error("{0}")]
    App(String),
}

/// Runs calls on the shards that this node owns. One per process, shared by all shards.
///
/// Steps of one shard never overlap, save `export` with `call`; steps of different shards
/// do. A step that fails is repeated with growing pauses, so each must be safe to repeat.
pub trait ShardHost: Send + Sync + 'static {
    /// What it can be called with. Empty: any name, none of them idempotent.
    fn methods(&self) -> &[Method] {
        &[]
    }

    /// Drops every shard. Comes before the first `open` of each incarnation of the node.
    fn reset(&self) -> Step<'_, ()>;

    /// A move to this node begins: forget what an earlier one brought for this shard.
    /// Must have no effect that anybody else can see.
    fn prepare(&self, _shard: ShardId) -> Step<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    /// The next bytes of the state, in order. They may be cut elsewhere than where the
    /// source's `export` and `freeze` cut them. At most 256 KiB.
    fn import(&self, shard: ShardId, _bytes: Bytes) -> Step<'_, ()> {
        Box::pin(async move {
            Err(Error::State { shard, reason: "this host takes no state over".to_owned() })
        })
    }

    /// Everything was imported. An error aborts the move while the source can still serve.
    fn imported(&self, _shard: ShardId) -> Step<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    /// From now on calls come, under this epoch.
    fn open(&self, shard: ShardId, epoch: Epoch, start: Start) -> Step<'_, ()>;

    /// Runs one call. Only while the shard is open; calls of one shard run concurrently.
    ///
    /// The future is dropped at the deadline, when the right to serve ends, and when the
    /// caller went away. Before an effect outside this process, ask `call.ownership` and
    /// hand its token to the store.
    fn call(&self, call: HostCall) -> BoxFuture<'_, Result<Bytes, AppError>>;

    /// A piece of the state while calls go on. `since` is 0 for a new export, then
    /// [`Piece::next`] of the piece before.
    fn export(&self, _shard: ShardId, _since: u64) -> Step<'_, Export> {
        Box::pin(async { Ok(Export::OnlyFrozen { total: 0 }) })
    }

    /// No call runs and none will: gives what `export` has not given, or all of it if that
    /// was never asked. The host keeps the shard, unchanged, until `open(Frozen)` or `close`.
    fn freeze(&self, _shard: ShardId) -> Step<'_, Vec<Bytes>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Drops whatever is held for the shard: open, frozen or imported. No call runs.
    fn close(&self, shard: ShardId) -> Step<'_, ()>;
}

/// Something a host can be called with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method {
    pub name: Cow<'static, str>,
    /// A second run does no harm: a call whose outcome is unknown may be sent again.
    pub idempotent: bool,
    /// Longest a call may run, whatever its deadline; `None`: only the deadline counts.
    pub max_call: Option<Duration>,
    /// Never waits and takes microseconds: runs on the thread that received the call.
    pub inline: bool,
}

/// What a shard begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nothing: the first owner, one after a failover, or a move from a host that gave no bytes.
    Empty,
    /// What `import` brought.
    Imported,
    /// What this host itself froze: the move was aborted. The epoch is the one before.
    Frozen,
}

/// State given while the shard serves.
#[derive(Clone, Debug)]
pub enum Export {
    Piece(Piece),
    /// This host gives its state by `freeze` alone: so many bytes. Over 4 MiB the shard does
    /// not move, because its callers would have to wait too long.
    OnlyFrozen {
        total: u64,
    },
}

/// A piece of a shard's state.
#[derive(Clone, Debug)]
pub struct Piece {
    pub bytes: Bytes,
    /// Where to go on.
    pub next: u64,
    /// Bytes that `freeze` would give if it came now; an estimate.
    pub remaining: u64,
}

/// Proof of ownership that a store can compare: it refuses a lower epoch of the same shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token {
    pub shard: ShardId,
    pub epoch: Epoch,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.shard, self.epoch.0)
    }
}

/// This node may not act for the shard any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shard {} is no longer owned under epoch {}", .0.shard, .0.epoch)]
pub struct Lost(pub Token);

/// One call, as its host sees it.
#[derive(Clone, Debug)]
pub struct HostCall {
    /// 1 to 4,096 bytes.
    pub key: Bytes,
    pub method: String,
    pub payload: Bytes,
    /// Time left when the call was admitted.
    pub remaining: Duration,
    pub ownership: Ownership,
}

/// Answers whether this node still owns the shard, at any moment of a call.
#[derive(Clone)]
pub struct Ownership {
    token: Token,
    judge: Arc<dyn Fn(Token) -> bool + Send + Sync>,
}

impl Ownership {
    pub fn new(token: Token, judge: Arc<dyn Fn(Token) -> bool + Send + Sync>) -> Self {
        Self { token, judge }
    }

    /// Shard and epoch under which the call was admitted.
    pub fn token(&self) -> Token {
        self.token
    }

    /// The token, if at this moment the table and the right to serve say so. Costs two
    /// clock readings; waits for nothing.
    pub fn check(&self) -> Result<Token, Lost> {
        if (self.judge)(self.token) { Ok(self.token) } else { Err(Lost(self.token)) }
    }
}

impl fmt::Debug for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ownership").field(&self.token).finish()
    }
}
