//! The bytes in which a kv shard travels: a version, records, and an end that counts them.
//!
//! A record is a put or a delete; later ones overrule earlier ones, so that a shard can be
//! written while it changes. Knows nothing of shards or moves.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::call::MAX_KEY;

/// First byte of the stream; another one means another version of this format.
const VERSION: u8 = 1;
const PUT: u8 = 1;
const DELETE: u8 = 2;
const END: u8 = 3;
/// Largest value that is believed: above any payload limit, below what a garbled length
/// could make the decoder buffer.
const MAX_VALUE: usize = 64 << 20;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("format version {0}, this build reads {VERSION}")]
    Version(u8),
    #[error("unknown record kind {0}")]
    Kind(u8),
    #[error("a length of {0} bytes is over the limit")]
    Length(usize),
    #[error("the stream ended after {0} records without its end mark")]
    Truncated(u64),
    #[error("{found} records, the end mark says {expected}")]
    Count { found: u64, expected: u64 },
    #[error("bytes after the end mark")]
    Trailing,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    Put { key: Bytes, value: Bytes },
    Delete { key: Bytes },
}

/// Writes the stream into a buffer that its user takes away piece by piece.
#[derive(Clone, Debug, Default)]
pub(super) struct Encoder {
    records: u64,
    begun: bool,
}

impl Encoder {
    pub(super) fn put(&mut self, to: &mut BytesMut, key: &[u8], value: &[u8]) {
        self.record(to, PUT);
        to.put_u32_le(key.len() as u32);
        to.put_u32_le(value.len() as u32);
        to.put_slice(key);
        to.put_slice(value);
    }

    pub(super) fn delete(&mut self, to: &mut BytesMut, key: &[u8]) {
        self.record(to, DELETE);
        to.put_u32_le(key.len() as u32);
        to.put_slice(key);
    }

    pub(super) fn end(mut self, to: &mut BytesMut) {
        self.begin(to);
        to.put_u8(END);
        to.put_u64_le(self.records);
    }

    fn record(&mut self, to: &mut BytesMut, kind: u8) {
        self.begin(to);
        self.records += 1;
        to.put_u8(kind);
    }

    fn begin(&mut self, to: &mut BytesMut) {
        if !self.begun {
            self.begun = true;
            to.put_u8(VERSION);
        }
    }
}

/// Encoded size of a put.
pub(super) fn put_size(key: &[u8], value: &[u8]) -> u64 {
    (9 + key.len() + value.len()) as u64
}

/// Encoded size of a delete.
pub(super) fn delete_size(key: &[u8]) -> u64 {
    (5 + key.len()) as u64
}

/// Reads the stream, cut anywhere.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// Bytes of a record whose rest has not come yet; less than one record.
    tail: BytesMut,
    records: u64,
    begun: bool,
    ended: bool,
}

impl Decoder {
    /// Takes more bytes and hands every record that is now whole to `each`.
    pub(super) fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Record)) -> Result<(), Error> {
        self.tail.extend_from_slice(bytes);
        if !self.begun && !self.tail.is_empty() {
            match self.tail.get_u8() {
                VERSION => self.begun = true,
                other => return Err(Error::Version(other)),
            }
        }
        while !self.ended {
            match self.next()? {
                Some(record) => each(record),
                None => break,
            }
        }
        if self.ended && !self.tail.is_empty() {
            return Err(Error::Trailing);
        }
        Ok(())
    }

    /// Checks that the whole stream came.
    pub(super) fn finish(&self) -> Result<(), Error> {
        if self.ended { Ok(()) } else { Err(Error::Truncated(self.records)) }
    }

    fn next(&mut self) -> Result<Option<Record>, Error> {
        let Some(&kind) = self.tail.first() else { return Ok(None) };
        match kind {
            PUT => self.put(),
            DELETE => self.delete(),
            END => self.end(),
            other => Err(Error::Kind(other)),
        }
    }

    fn put(&mut self) -> Result<Option<Record>, Error> {
        let (Some(key), Some(value)) = (self.length(1, MAX_KEY)?, self.length(5, MAX_VALUE)?)
        else {
            return Ok(None);
        };
        if self.tail.len() < 9 + key + value {
            return Ok(None);
        }
        self.tail.advance(9);
        let (key, value) = (self.take(key), self.take(value));
        self.records += 1;
        Ok(Some(Record::Put { key, value }))
    }

    fn delete(&mut self) -> Result<Option<Record>, Error> {
        let Some(key) = self.length(1, MAX_KEY)? else { return Ok(None) };
        if self.tail.len() < 5 + key {
            return Ok(None);
        }
        self.tail.advance(5);
        let key = self.take(key);
        self.records += 1;
        Ok(Some(Record::Delete { key }))
    }

    fn end(&mut self) -> Result<Option<Record>, Error> {
        if self.tail.len() < 9 {
            return Ok(None);
        }
        self.tail.advance(1);
        let expected = self.tail.get_u64_le();
        if expected != self.records {
            return Err(Error::Count { found: self.records, expected });
        }
        self.ended = true;
        Ok(None)
    }

    fn length(&self, at: usize, limit: usize) -> Result<Option<usize>, Error> {
        let Some(mut field) = self.tail.get(at..at + 4) else { return Ok(None) };
        let length = field.get_u32_le() as usize;
        if length > limit { Err(Error::Length(length)) } else { Ok(Some(length)) }
    }

    /// A copy, so that one entry does not keep the whole piece it came in alive.
    fn take(&mut self, length: usize) -> Bytes {
        let bytes = Bytes::copy_from_slice(&self.tail[..length]);
        self.tail.advance(length);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> BytesMut {
        let mut bytes = BytesMut::new();
        let mut encoder = Encoder::default();
        encoder.put(&mut bytes, b"a", b"1");
        encoder.put(&mut bytes, b"empty", b"");
        encoder.delete(&mut bytes, b"a");
        encoder.end(&mut bytes);
        bytes
    }

    fn read(pieces: &[&[u8]]) -> Result<Vec<Record>, Error> {
        let (mut decoder, mut records) = (Decoder::default(), Vec::new());
        for piece in pieces {
            decoder.feed(piece, |record| records.push(record))?;
        }
        decoder.finish().map(|()| records)
    }

    #[test]
    fn a_stream_reads_the_same_wherever_it_is_cut() {
        let bytes = sample();
        let whole = read(&[&bytes]).unwrap();
        assert_eq!(whole.len(), 3);
        assert_eq!(whole[2], Record::Delete { key: Bytes::from_static(b"a") });
        for cut in 0..=bytes.len() {
            assert_eq!(read(&[&bytes[..cut], &bytes[cut..]]).unwrap(), whole, "cut at {cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read(&single).unwrap(), whole);
    }

    #[test]
    fn an_empty_shard_is_a_version_and_an_end() {
        let mut bytes = BytesMut::new();
        Encoder::default().end(&mut bytes);
        assert_eq!(read(&[&bytes]), Ok(Vec::new()));
    }

    #[test]
    fn a_stream_cut_short_is_refused() {
        let bytes = sample();
        for length in 0..bytes.len() {
            assert!(
                matches!(read(&[&bytes[..length]]), Err(Error::Truncated(_))),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn garbled_streams_are_refused() {
        let bytes = sample();
        assert_eq!(read(&[&[9]]), Err(Error::Version(9)));
        assert_eq!(read(&[&[VERSION, 77]]), Err(Error::Kind(77)));
        let long = [&[VERSION, PUT][..], &u32::MAX.to_le_bytes(), &[0; 4]].concat();
        assert_eq!(read(&[&long]), Err(Error::Length(u32::MAX as usize)));
        let mut missing = bytes.to_vec();
        missing.drain(1..1 + 11);
        assert_eq!(read(&[&missing]), Err(Error::Count { found: 2, expected: 3 }));
        assert_eq!(read(&[&bytes, b"x"]), Err(Error::Trailing));
    }
}
