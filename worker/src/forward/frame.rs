//! The frames of a pipe, and the gRPC messages that carry them in batches.
//!
//! `proto/shoal/v1/pipe.proto` writes the layout down. Encoding hands large payloads on as
//! they are; decoding cuts payloads out of the arriving buffers. Both are bounded, neither
//! knows a socket, a call's fate or a clock.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use shoal_core::{
    admit::Nack,
    id::{ClusterId, Epoch, Incarnation, MapVersion, NodeId, ShardId},
};

pub use self::{
    decode::{Decoder, Error},
    encode::Batch,
};
use crate::call::AppError;
#[cfg(test)]
use crate::call::MAX_KEY;

/// Version of the layout; Welcome answers the one that both sides speak.
pub const VERSION: u16 = 1;
/// Bytes of a payload in one frame: what a large one may hold up every other call for.
pub const CHUNK: usize = 32 * 1_024;
/// A batch is handed to the transport once it holds this much or this many frames: beyond it
/// a system call is already cheap beside the copying.
pub const BATCH_BYTES: usize = 128 * 1_024;
pub const BATCH_FRAMES: usize = 256;
/// Longest batch that a decoder takes: a full one, one chunk over it, and room for its head.
pub const MAX_BATCH: usize = 256 * 1_024;

/// The opener's first frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub version: u16,
    /// Opened by a node, on behalf of clients; false for a client that knows the routes.
    pub node: bool,
    pub cluster: ClusterId,
    pub from: NodeId,
    pub incarnation: Incarnation,
    /// The node it means to reach: an address may have changed hands.
    pub to: NodeId,
    /// IO thread of the opener.
    pub thread: u16,
    /// Grows with each pipe that the same thread opens to the same peer.
    pub generation: u64,
}

/// What the receiver lets wait for an answer at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    pub version: u16,
    pub requests: u32,
    pub bytes: u32,
}

/// A call without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub request: u64,
    pub call: u128,
    pub shard: ShardId,
    pub epoch: Epoch,
    pub map_version: MapVersion,
    pub budget_ms: u32,
    pub attempt: u8,
    pub idempotent: bool,
    /// Length of the whole payload.
    pub length: u32,
    pub key: Bytes,
    pub method: String,
    /// Carried for the host, uninterpreted.
    pub metadata: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Hello(Hello),
    Welcome(Welcome),
    Refuse { reason: String },
    Call { head: Head, bytes: Bytes },
    Data { request: u64, bytes: Bytes },
    Cancel { request: u64 },
    Drain,
    Result { request: u64, epoch: Epoch, payload: Bytes },
    Begin { request: u64, epoch: Epoch, length: u32, bytes: Bytes },
    Failed { request: u64, epoch: Epoch, error: AppError },
    Nack { request: u64, nack: Nack },
    Unknown { request: u64, reason: String },
}

/// The byte that tells frames apart.
mod kind {
    pub const HELLO: u8 = 1;
    pub const WELCOME: u8 = 2;
    pub const REFUSE: u8 = 3;
    pub const CALL: u8 = 4;
    pub const DATA: u8 = 5;
    pub const CANCEL: u8 = 6;
    pub const DRAIN: u8 = 7;
    pub const RESULT: u8 = 8;
    pub const BEGIN: u8 = 9;
    pub const FAILED: u8 = 10;
    pub const NACK: u8 = 11;
    pub const UNKNOWN: u8 = 12;
}

/// The byte that tells NACKs apart.
mod why {
    pub const NOT_OWNER: u8 = 1;
    pub const MOVING: u8 = 2;
    pub const BUSY: u8 = 3;
    pub const STALE_RECEIVER: u8 = 4;
    pub const EXPIRED: u8 = 5;
}

const FLAG_NODE: u8 = 1;
const FLAG_IDEMPOTENT: u8 = 1;
