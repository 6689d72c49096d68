//! One record on disk: a version byte, a checksum, a message.
//!
//! The checksum finds a flipped bit; the version lets an older binary say that a newer one
//! wrote the record instead of misreading it.

use prost::Message;

/// Layout of a record that this build writes.
const VERSION: u8 = 1;
const HEADER: usize = 1 + size_of::<u32>();

/// Why a record cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("it was written in format {0}, this build reads up to {VERSION}")]
    Newer(u8),
    #[error("it is cut short")]
    Short,
    #[error("its checksum does not match")]
    Checksum,
    #[error("it does not decode: {0}")]
    Decode(String),
}

/// The bytes that stand for `message` on disk.
pub fn seal(message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + message.encoded_len());
    bytes.push(VERSION);
    bytes.extend_from_slice(&[0; size_of::<u32>()]);
    message.encode_raw(&mut bytes);
    let crc = checksum(VERSION, &bytes[HEADER..]);
    bytes[1..HEADER].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads what `seal` wrote.
pub fn open<M: Message + Default>(bytes: &[u8]) -> Result<M, Error> {
    let (header, body) = bytes.split_at_checked(HEADER).ok_or(Error::Short)?;
    if header[0] > VERSION {
        return Err(Error::Newer(header[0]));
    }
    if header[1..] != checksum(header[0], body).to_le_bytes() {
        return Err(Error::Checksum);
    }
    M::decode(body).map_err(|error| Error::Decode(error.to_string()))
}

fn checksum(version: u8, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[version]);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use shoal_proto::shoal::peer::v1::LogId;

    use super::*;

    #[test]
    fn each_flipped_bit_is_found() {
        let message = LogId { term: 3, node: 1, index: 77 };
        let sealed = seal(&message);
        assert_eq!(open::<LogId>(&sealed), Ok(message));
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open::<LogId>(&flipped).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(open::<LogId>(&sealed[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let mut sealed = seal(&LogId::default());
        sealed[0] = 2;
        assert_eq!(open::<LogId>(&sealed), Err(Error::Newer(2)));
    }
}
