//! One call, as it travels from its entry node to the shard's owner and back.
//!
//! Data only: `forward` carries it, `host` admits and runs it.

use std::time::Duration;

use bytes::Bytes;
use shoal_core::{
    admit::Nack,
    id::{Epoch, MapVersion, ShardId},
};

/// Longest key in bytes.
pub const MAX_KEY: usize = 4_096;
/// Time a call has where its client names none.
pub const DEFAULT_BUDGET: Duration = Duration::from_secs(30);

/// What the entry node asks of the owner. It believes (shard, epoch, map version).
#[derive(Clone, Debug)]
pub struct Call {
    /// Drawn once by the entry node; the same on each attempt.
    pub id: u128,
    pub shard: ShardId,
    pub epoch: Epoch,
    pub map_version: MapVersion,
    /// Remaining time, counted from the moment this node received the call.
    pub budget: Duration,
    pub received: tokio::time::Instant,
    /// 1 for the first.
    pub attempt: u8,
    /// A second run does no harm: an unknown outcome may be resent once.
    pub idempotent: bool,
    pub key: Bytes,
    pub method: String,
    pub payload: Bytes,
}

impl Call {
    pub fn remaining(&self) -> Duration {
        self.budget.saturating_sub(self.received.elapsed())
    }
}

/// What the owner made of it.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It ran, and the owner still held the shard when it was acknowledged.
    Reply(Reply),
    /// Certainly not executed here, and never will be.
    Nack(Nack),
    /// Admitted, but the acknowledgement had to be withheld or was lost.
    Unknown(String),
}

#[derive(Clone, Debug)]
pub struct Reply {
    /// The host's answer, or its refusal.
    pub result: Result<Bytes, AppError>,
    /// Epoch under which it ran; newer than the call's when the caller was behind.
    pub epoch: Epoch,
}

/// Kinds of refusal, as metrics name them.
pub const NACK_KINDS: [&str; 5] = ["not_owner", "moving", "busy", "stale_receiver", "expired"];

/// Which of [`NACK_KINDS`] it is.
pub fn nack_kind(nack: &Nack) -> &'static str {
    let [not_owner, moving, busy, stale_receiver, expired] = NACK_KINDS;
    match nack {
        Nack::NotOwner { .. } => not_owner,
        Nack::Moving { .. } => moving,
        Nack::Busy { .. } => busy,
        Nack::StaleReceiver => stale_receiver,
        Nack::Expired => expired,
    }
}

/// An error of the application, with the gRPC code it chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppError {
    pub code: i32,
    pub message: String,
}
