//! Frames into batches.

use bytes::{BufMut as _, Bytes, BytesMut};
use shoal_core::admit::Nack;

use super::{BATCH_BYTES, BATCH_FRAMES, FLAG_IDEMPOTENT, FLAG_NODE, Frame, Head, Hello, kind, why};

/// Bytes before the frames: flag and length of the gRPC message, tag and length of the
/// field, the latter padded to five bytes so that it can be written last.
const PREFIX: usize = 5 + 1 + 5;
const TAG: u8 = 0x0a;
/// Payloads of this size and above are handed on as they are. Below it a copy costs less
/// than the write of its own that HTTP/2 spends on each separate buffer.
const HAND_ON: usize = 16 * 1_024;
const FRAME_PREFIX: usize = 4;

/// One gRPC message in the making.
#[derive(Default)]
pub struct Batch {
    /// What is copied together up to the first payload handed on, the prefix first.
    first: BytesMut,
    /// Payloads handed on, and what was copied together between them.
    parts: Vec<Bytes>,
    /// What is copied together since.
    tail: BytesMut,
    length: usize,
    frames: usize,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// True once it should go to the transport before it grows further.
    pub fn is_full(&self) -> bool {
        self.frames >= BATCH_FRAMES || self.length >= BATCH_BYTES
    }

    pub fn push(&mut self, frame: &Frame) {
        if self.is_empty() {
            self.tail.put_bytes(0, PREFIX);
        }
        let start = self.tail.len();
        self.tail.put_u32(0);
        let rest = self.fields(frame);
        let length = self.tail.len() - start - FRAME_PREFIX + rest.len();
        self.tail[start..start + FRAME_PREFIX].copy_from_slice(&(length as u32).to_be_bytes());
        if rest.len() >= HAND_ON {
            let copied = self.tail.split();
            if self.first.is_empty() {
                self.first = copied;
            } else {
                self.parts.push(copied.freeze());
            }
            self.parts.push(rest.clone());
        } else {
            self.tail.put_slice(rest);
        }
        self.length += FRAME_PREFIX + length;
        self.frames += 1;
    }

    /// Appends the parts of the message in order; the batch is empty afterwards.
    pub fn take(&mut self, out: &mut impl Extend<Bytes>) {
        if self.is_empty() {
            return;
        }
        let length = self.length;
        let mut prefix = [0; PREFIX];
        prefix[1..5].copy_from_slice(&((length + PREFIX - 5) as u32).to_be_bytes());
        prefix[5] = TAG;
        for (at, byte) in prefix[6..].iter_mut().enumerate() {
            let more = if at == 4 { 0 } else { 0x80 };
            *byte = ((length >> (7 * at)) & 0x7f) as u8 | more;
        }
        let start = if self.first.is_empty() { &mut self.tail } else { &mut self.first };
        start[..PREFIX].copy_from_slice(&prefix);
        let ends = |bytes: &mut BytesMut| Some(bytes.split().freeze()).filter(|b| !b.is_empty());
        out.extend(ends(&mut self.first));
        out.extend(self.parts.drain(..));
        out.extend(ends(&mut self.tail));
        self.length = 0;
        self.frames = 0;
    }

    /// Writes the fields; what it returns follows them.
    fn fields<'a>(&mut self, frame: &'a Frame) -> &'a Bytes {
        static NOTHING: Bytes = Bytes::new();
        let out = &mut self.tail;
        let mut rest = &NOTHING;
        match frame {
            Frame::Hello(hello) => put_hello(out, hello),
            Frame::Welcome(welcome) => {
                out.put_u8(kind::WELCOME);
                out.put_u16(welcome.version);
                out.put_u32(welcome.requests);
                out.put_u32(welcome.bytes);
            }
            Frame::Refuse { reason } => {
                out.put_u8(kind::REFUSE);
                put_text(out, reason);
            }
            Frame::Call { head, bytes } => {
                put_head(out, head);
                rest = bytes;
            }
            Frame::Data { request, bytes } => {
                put_kind(out, kind::DATA, *request);
                rest = bytes;
            }
            Frame::Cancel { request } => put_kind(out, kind::CANCEL, *request),
            Frame::Drain => out.put_u8(kind::DRAIN),
            Frame::Result { request, epoch, payload } => {
                put_kind(out, kind::RESULT, *request);
                out.put_u64(epoch.0);
                rest = payload;
            }
            Frame::Begin { request, epoch, length, bytes } => {
                put_kind(out, kind::BEGIN, *request);
                out.put_u64(epoch.0);
                out.put_u32(*length);
                rest = bytes;
            }
            Frame::Failed { request, epoch, error } => {
                put_kind(out, kind::FAILED, *request);
                out.put_u64(epoch.0);
                out.put_i32(error.code);
                put_text(out, &error.message);
            }
            Frame::Nack { request, nack } => {
                put_kind(out, kind::NACK, *request);
                put_nack(out, nack);
            }
            Frame::Unknown { request, reason } => {
                put_kind(out, kind::UNKNOWN, *request);
                put_text(out, reason);
            }
        }
        rest
    }
}

fn put_kind(out: &mut BytesMut, kind: u8, request: u64) {
    out.put_u8(kind);
    out.put_u64(request);
}

fn put_hello(out: &mut BytesMut, hello: &Hello) {
    out.put_u8(kind::HELLO);
    out.put_u16(hello.version);
    out.put_u8(if hello.node { FLAG_NODE } else { 0 });
    out.put_u128(hello.cluster.0);
    out.put_u64(hello.from.0);
    out.put_u64(hello.incarnation.counter);
    out.put_u64(hello.incarnation.nonce);
    out.put_u64(hello.to.0);
    out.put_u16(hello.thread);
    out.put_u64(hello.generation);
}

fn put_head(out: &mut BytesMut, head: &Head) {
    put_kind(out, kind::CALL, head.request);
    out.put_u128(head.call);
    out.put_u32(head.shard.0);
    out.put_u64(head.epoch.0);
    out.put_u64(head.map_version.0);
    out.put_u32(head.budget_ms);
    out.put_u8(head.attempt);
    out.put_u8(if head.idempotent { FLAG_IDEMPOTENT } else { 0 });
    out.put_u32(head.length);
    put_bytes(out, &head.key);
    put_text(out, &head.method);
    put_bytes(out, &head.metadata);
}

fn put_nack(out: &mut BytesMut, nack: &Nack) {
    match nack {
        Nack::NotOwner { owner, epoch, row } => {
            out.put_u8(why::NOT_OWNER);
            out.put_u64(owner.map_or(0, |node| node.0));
            out.put_u64(epoch.0);
            out.put_u64(row.0);
        }
        Nack::Moving { row } => {
            out.put_u8(why::MOVING);
            out.put_u64(row.0);
        }
        Nack::Busy { after } => {
            out.put_u8(why::BUSY);
            out.put_u32(after.as_millis().try_into().unwrap_or(u32::MAX));
        }
        Nack::StaleReceiver => out.put_u8(why::STALE_RECEIVER),
        Nack::Expired => out.put_u8(why::EXPIRED),
    }
}

/// Keys and methods are measured at the entry; whatever is longer here is an error's text.
fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    let length = bytes.len().min(usize::from(u16::MAX));
    out.put_u16(length as u16);
    out.put_slice(&bytes[..length]);
}

fn put_text(out: &mut BytesMut, text: &str) {
    put_bytes(out, &text.as_bytes()[..text.floor_char_boundary(usize::from(u16::MAX))]);
}
