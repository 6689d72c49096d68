//! Batches into frames, however the bytes were split on their way.

use bytes::{Buf as _, Bytes, BytesMut, TryGetError};
use shoal_core::{
    admit::Nack,
    id::{ClusterId, Epoch, Incarnation, LogIndex, MapVersion, NodeId, ShardId},
};

use super::{CHUNK, FLAG_IDEMPOTENT, FLAG_NODE, Frame, Head, Hello, MAX_BATCH, Welcome, kind, why};
use crate::call::{AppError, MAX_KEY};

/// Bytes that are no pipe's; nothing after them can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a compressed message, which a pipe never carries")]
    Compressed,
    #[error("a batch of {0} bytes, over the limit of {MAX_BATCH}")]
    BatchTooLong(usize),
    #[error("a message that is not one field of frames")]
    NotABatch,
    #[error("a frame of {length} bytes in a batch with {left} left")]
    FrameTooLong { length: usize, left: usize },
    #[error("a frame that ends within its fields")]
    Truncated,
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    #[error("a refusal of unknown kind {0}")]
    Nack(u8),
    #[error("{0} bytes after the last field of a frame")]
    Trailing(usize),
    #[error("text that is not UTF-8")]
    Text,
    #[error("a key of {0} bytes, over the limit of {MAX_KEY}")]
    Key(usize),
    #[error("{0} bytes of a payload in one frame, over the limit of {CHUNK}")]
    Chunk(usize),
}

impl From<TryGetError> for Error {
    fn from(_: TryGetError) -> Self {
        Self::Truncated
    }
}

/// Flag and length of a gRPC message.
const GRPC_PREFIX: usize = 5;
const TAG: u8 = 0x0a;
/// Tag and longest length of the one field.
const FIELD_PREFIX: usize = 6;

/// Takes bytes as they arrive, gives whole frames.
#[derive(Default)]
pub struct Decoder {
    /// What arrived and was not looked at yet.
    input: Bytes,
    /// The beginning of a message whose end has not arrived.
    partial: BytesMut,
    /// Frames left of the message that arrived whole.
    batch: Bytes,
}

impl Decoder {
    /// Adds what arrived; call `next` until it gives nothing before adding more.
    pub fn push(&mut self, bytes: Bytes) {
        if self.partial.is_empty() && self.input.is_empty() {
            self.input = bytes;
        } else {
            self.partial.extend_from_slice(&std::mem::take(&mut self.input));
            self.partial.extend_from_slice(&bytes);
        }
    }

    /// The next whole frame.
    #[allow(clippy::should_implement_trait)] // an iterator cannot end and go on
    pub fn next(&mut self) -> Result<Option<Frame>, Error> {
        while self.batch.is_empty() {
            match self.message()? {
                Some(message) => self.batch = frames(message)?,
                None => return Ok(None),
            }
        }
        let length = self.batch.try_get_u32()? as usize;
        if length > self.batch.len() {
            return Err(Error::FrameTooLong { length, left: self.batch.len() });
        }
        frame(self.batch.split_to(length)).map(Some)
    }

    fn message(&mut self) -> Result<Option<Bytes>, Error> {
        if self.partial.is_empty() {
            if let Some(length) = whole(&self.input)? {
                self.input.advance(GRPC_PREFIX);
                return Ok(Some(self.input.split_to(length)));
            }
            self.partial.extend_from_slice(&std::mem::take(&mut self.input));
            return Ok(None);
        }
        let Some(length) = whole(&self.partial)? else { return Ok(None) };
        self.partial.advance(GRPC_PREFIX);
        Ok(Some(self.partial.split_to(length).freeze()))
    }
}

/// Length of the message at the front, once all of it is there.
fn whole(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<GRPC_PREFIX>() else { return Ok(None) };
    let [flag, length @ ..] = *prefix;
    if flag != 0 {
        return Err(Error::Compressed);
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_BATCH + FIELD_PREFIX {
        return Err(Error::BatchTooLong(length));
    }
    Ok((rest.len() >= length).then_some(length))
}

/// Unwraps the one field of a `Batch`.
fn frames(mut message: Bytes) -> Result<Bytes, Error> {
    if message.is_empty() {
        return Ok(message);
    }
    if message.get_u8() != TAG {
        return Err(Error::NotABatch);
    }
    let mut length = 0_usize;
    for at in 0..5 {
        let byte = message.try_get_u8().map_err(|_| Error::NotABatch)?;
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return if length == message.len() { Ok(message) } else { Err(Error::NotABatch) };
        }
    }
    Err(Error::NotABatch)
}

fn frame(mut from: Bytes) -> Result<Frame, Error> {
    let from = &mut from;
    let kind = from.try_get_u8()?;
    let frame = match kind {
        kind::HELLO => Frame::Hello(hello(from)?),
        kind::WELCOME => Frame::Welcome(Welcome {
            version: from.try_get_u16()?,
            requests: from.try_get_u32()?,
            bytes: from.try_get_u32()?,
        }),
        kind::REFUSE => Frame::Refuse { reason: text(from)? },
        kind::CALL => Frame::Call { head: head(from)?, bytes: rest(from)? },
        kind::DATA => Frame::Data { request: from.try_get_u64()?, bytes: rest(from)? },
        kind::CANCEL => Frame::Cancel { request: from.try_get_u64()? },
        kind::DRAIN => Frame::Drain,
        kind::RESULT => Frame::Result {
            request: from.try_get_u64()?,
            epoch: Epoch(from.try_get_u64()?),
            payload: rest(from)?,
        },
        kind::BEGIN => Frame::Begin {
            request: from.try_get_u64()?,
            epoch: Epoch(from.try_get_u64()?),
            length: from.try_get_u32()?,
            bytes: rest(from)?,
        },
        kind::FAILED => Frame::Failed {
            request: from.try_get_u64()?,
            epoch: Epoch(from.try_get_u64()?),
            error: AppError { code: from.try_get_i32()?, message: text(from)? },
        },
        kind::NACK => Frame::Nack { request: from.try_get_u64()?, nack: nack(from)? },
        kind::UNKNOWN => Frame::Unknown { request: from.try_get_u64()?, reason: text(from)? },
        other => return Err(Error::Kind(other)),
    };
    if from.is_empty() { Ok(frame) } else { Err(Error::Trailing(from.len())) }
}

fn hello(from: &mut Bytes) -> Result<Hello, Error> {
    Ok(Hello {
        version: from.try_get_u16()?,
        node: from.try_get_u8()? & FLAG_NODE != 0,
        cluster: ClusterId(from.try_get_u128()?),
        from: NodeId(from.try_get_u64()?),
        incarnation: Incarnation { counter: from.try_get_u64()?, nonce: from.try_get_u64()? },
        to: NodeId(from.try_get_u64()?),
        thread: from.try_get_u16()?,
        generation: from.try_get_u64()?,
    })
}

fn head(from: &mut Bytes) -> Result<Head, Error> {
    let head = Head {
        request: from.try_get_u64()?,
        call: from.try_get_u128()?,
        shard: ShardId(from.try_get_u32()?),
        epoch: Epoch(from.try_get_u64()?),
        map_version: MapVersion(from.try_get_u64()?),
        budget_ms: from.try_get_u32()?,
        attempt: from.try_get_u8()?,
        idempotent: from.try_get_u8()? & FLAG_IDEMPOTENT != 0,
        length: from.try_get_u32()?,
        key: field(from)?,
        method: text(from)?,
        metadata: field(from)?,
    };
    if head.key.len() > MAX_KEY { Err(Error::Key(head.key.len())) } else { Ok(head) }
}

fn nack(from: &mut Bytes) -> Result<Nack, Error> {
    Ok(match from.try_get_u8()? {
        why::NOT_OWNER => Nack::NotOwner {
            owner: Some(NodeId(from.try_get_u64()?)).filter(|node| node.0 != 0),
            epoch: Epoch(from.try_get_u64()?),
            row: LogIndex(from.try_get_u64()?),
        },
        why::MOVING => Nack::Moving { row: LogIndex(from.try_get_u64()?) },
        why::BUSY => {
            Nack::Busy { after: std::time::Duration::from_millis(u64::from(from.try_get_u32()?)) }
        }
        why::STALE_RECEIVER => Nack::StaleReceiver,
        why::EXPIRED => Nack::Expired,
        other => return Err(Error::Nack(other)),
    })
}

fn field(from: &mut Bytes) -> Result<Bytes, Error> {
    let length = usize::from(from.try_get_u16()?);
    if length > from.len() {
        return Err(Error::Truncated);
    }
    Ok(from.split_to(length))
}

fn text(from: &mut Bytes) -> Result<String, Error> {
    let bytes = field(from)?;
    std::str::from_utf8(&bytes).map(str::to_owned).map_err(|_| Error::Text)
}

fn rest(from: &mut Bytes) -> Result<Bytes, Error> {
    if from.len() > CHUNK {
        return Err(Error::Chunk(from.len()));
    }
    Ok(std::mem::take(from))
}
