//! What guards bytes, taken off and put on again, so that damage reaches what lies below.

use prost::Message as _;
use shoal_proto::shoal::peer::v1 as peer;
use shoal_worker::fuzzing;

/// Bytes as the pieces below their guard, and back.
#[derive(Clone, Copy)]
pub struct Parts {
    pub open: fn(&[u8]) -> Option<Vec<Vec<u8>>>,
    pub close: fn(&[Vec<u8>]) -> Vec<u8>,
}

/// Several inputs in one: each after its length.
pub const SEVERAL: Parts = Parts { open: split, close: join };
/// A record of the log: version and checksum before a message.
pub const RECORD: Parts = Parts { open: record, close: seal_record };
/// The message of a snapshot file, and the registry behind it.
pub const SNAPSHOT: Parts = Parts { open: snapshot, close: seal_snapshot };
/// The registry in a file of `shoal snapshot`.
pub const REGISTRY_FILE: Parts = Parts { open: registry_file, close: seal_registry_file };
/// The JSON of an identity, behind its line.
pub const IDENTITY: Parts = Parts { open: identity, close: seal_identity };
/// The message of a gRPC body.
pub const GRPC: Parts = Parts { open: grpc, close: seal_grpc };
/// The frames of a batch.
pub const FRAMES: Parts = Parts { open: frames, close: seal_frames };

/// Version and checksum of a record.
const RECORD_HEADER: usize = 5;
/// Title, checksum and length of a file of `shoal snapshot`.
const REGISTRY_HEADER: usize = "shoal registry, format 1\n".len() + 12;
/// Flag and length of a gRPC message.
const GRPC_HEADER: usize = 5;
/// Those, and the field that holds a batch, its length padded.
const BATCH_HEADER: usize = GRPC_HEADER + 6;

fn one(piece: &[u8]) -> Option<Vec<Vec<u8>>> {
    Some(vec![piece.to_vec()])
}

pub fn split(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_be_bytes(*bytes.split_off(..4)?.first_chunk()?) as usize;
        pieces.push(bytes.split_off(..length)?.to_vec());
    }
    Some(pieces)
}

pub fn join(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.extend((piece.len() as u32).to_be_bytes());
        bytes.extend(piece);
    }
    bytes
}

fn record(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    one(bytes.get(RECORD_HEADER..)?)
}

fn seal_record(pieces: &[Vec<u8>]) -> Vec<u8> {
    const VERSION: u8 = 1;
    let body = pieces.concat();
    let mut bytes = vec![VERSION];
    bytes.extend(crc32fast::hash(&[&[VERSION], body.as_slice()].concat()).to_le_bytes());
    bytes.extend(body);
    bytes
}

fn snapshot(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (header, data) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some(vec![header.get(RECORD_HEADER..)?.to_vec(), data.to_vec()])
}

fn seal_snapshot(pieces: &[Vec<u8>]) -> Vec<u8> {
    let data = pieces.get(1).map(Vec::as_slice).unwrap_or_default();
    let message = pieces.first().map(Vec::as_slice).unwrap_or_default();
    let header = match peer::SnapshotFile::decode(message) {
        Ok(file) => {
            let (length, crc32) = (data.len() as u64, crc32fast::hash(data));
            fuzzing::seal_record(&peer::SnapshotFile { length, crc32, ..file })
        }
        Err(_) => seal_record(&[message.to_vec()]),
    };
    let mut bytes = (header.len() as u32).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend(data);
    bytes
}

fn registry_file(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    one(bytes.get(REGISTRY_HEADER..)?)
}

fn seal_registry_file(pieces: &[Vec<u8>]) -> Vec<u8> {
    fuzzing::seal_registry_file(&pieces.concat())
}

fn identity(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let line = bytes.iter().position(|byte| *byte == b'\n')?;
    one(&bytes[line + 1..])
}

fn seal_identity(pieces: &[Vec<u8>]) -> Vec<u8> {
    const FORMAT: u32 = 1;
    let body = pieces.concat();
    let crc = crc32fast::hash(&[&FORMAT.to_le_bytes(), body.as_slice()].concat());
    let line = format!("shoal-identity {FORMAT} {} {crc:08x}\n", body.len());
    [line.as_bytes(), &body].concat()
}

fn grpc(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    one(bytes.get(GRPC_HEADER..)?)
}

fn seal_grpc(pieces: &[Vec<u8>]) -> Vec<u8> {
    let body = pieces.concat();
    let mut bytes = vec![0];
    bytes.extend((body.len() as u32).to_be_bytes());
    bytes.extend(body);
    bytes
}

fn frames(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    split(bytes.get(BATCH_HEADER..)?)
}

fn seal_frames(pieces: &[Vec<u8>]) -> Vec<u8> {
    const TAG: u8 = 0x0a;
    let frames = join(pieces);
    let mut message = vec![TAG];
    for place in 0..5 {
        let more = if place == 4 { 0 } else { 0x80 };
        message.push(((frames.len() >> (7 * place)) & 0x7f) as u8 | more);
    }
    message.extend(frames);
    seal_grpc(&[message])
}
