//! The identity file: one header line, then JSON that a person can read.
//!
//! `shoal-identity <format> <bytes> <crc32>`: the length tells a cut file from a damaged
//! one, the checksum covers format and body. Every later format keeps this line, so that
//! an older build can say which format it met.

use serde::{Deserialize, Serialize};
use shoal_core::found::{Directory, Joined, Member, Renounced};
use shoal_core::id::{ClusterId, Epoch, NodeId};

/// The format that this build writes, and the newest that it reads.
pub const FORMAT: u32 = 1;
const MAGIC: &str = "shoal-identity";

/// What is wrong with the bytes of an identity file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("it is in format {0}, this build reads up to {FORMAT}")]
    Newer(u32),
    #[error("it is cut short at {found} of {expected} bytes")]
    Truncated { found: usize, expected: usize },
    #[error("its checksum does not match")]
    Checksum,
    #[error("it is no identity file")]
    Foreign,
    #[error("it does not decode: {0}")]
    Decode(String),
}

/// Everything the file holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    pub name: String,
    pub incarnation: u64,
    pub directory: Directory,
    /// The cluster that went on as this directory's.
    pub recovered_from: Option<ClusterId>,
}

#[derive(Serialize, Deserialize)]
struct Text {
    name: String,
    incarnation: u64,
    nonce: String,
    first_boot_unix_ms: u64,
    formed: bool,
    ever_left: bool,
    cluster: Option<ClusterText>,
    renounced: Option<RenouncedText>,
    highest_epoch: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recovered_from: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct ClusterText {
    id: String,
    node: Option<u64>,
    founder: MemberText,
    founded_on: Vec<MemberText>,
}

#[derive(Serialize, Deserialize)]
struct MemberText {
    name: String,
    nonce: String,
}

#[derive(Serialize, Deserialize)]
struct RenouncedText {
    nonce: String,
    replaced_by: String,
}

pub fn encode(record: &Record) -> Result<Vec<u8>, Error> {
    let body = serde_json::to_string_pretty(&Text::from(record)).map_err(decode_error)?;
    let crc = checksum(FORMAT, body.as_bytes());
    Ok(format!("{MAGIC} {FORMAT} {} {crc:08x}\n{body}", body.len()).into_bytes())
}

pub fn decode(bytes: &[u8]) -> Result<Record, Error> {
    let line = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (header, body) = bytes.split_at(line);
    let header = std::str::from_utf8(header).map_err(|_| Error::Foreign)?;
    let fields: Vec<&str> = header.split(' ').collect();
    let [MAGIC, format, length, crc] = fields[..] else {
        let cut = bytes.len() == line && MAGIC.starts_with(fields[0]);
        let expected = MAGIC.len();
        let found = bytes.len();
        return Err(if cut { Error::Truncated { found, expected } } else { Error::Foreign });
    };
    let body = body.strip_prefix(b"\n").unwrap_or_default();
    let format: u32 = format.parse().map_err(|_| Error::Checksum)?;
    let expected: usize = length.parse().map_err(|_| Error::Checksum)?;
    if body.len() < expected {
        return Err(Error::Truncated { found: body.len(), expected });
    }
    if body.len() > expected || crc != format!("{:08x}", checksum(format, body)) {
        return Err(Error::Checksum);
    }
    if format > FORMAT {
        return Err(Error::Newer(format));
    }
    let text: Text = serde_json::from_slice(body).map_err(decode_error)?;
    Record::try_from(text)
}

fn decode_error(error: serde_json::Error) -> Error {
    Error::Decode(error.to_string())
}

fn checksum(format: u32, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&format.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

fn hex(nonce: u128) -> String {
    format!("{nonce:032x}")
}

fn unhex(text: &str) -> Result<u128, Error> {
    u128::from_str_radix(text, 16).map_err(|error| Error::Decode(error.to_string()))
}

impl From<&Record> for Text {
    fn from(record: &Record) -> Self {
        let directory = &record.directory;
        Self {
            name: record.name.clone(),
            incarnation: record.incarnation,
            nonce: hex(directory.nonce),
            first_boot_unix_ms: directory.boot_ms,
            formed: directory.formed,
            ever_left: directory.ever_left,
            cluster: directory.joined.as_ref().map(|joined| ClusterText {
                id: joined.cluster.to_string(),
                node: joined.node.map(|node| node.0),
                founder: MemberText::from(&joined.founder),
                founded_on: joined.on.iter().map(MemberText::from).collect(),
            }),
            renounced: directory.renounced.map(|renounced| RenouncedText {
                nonce: hex(renounced.dead),
                replaced_by: hex(renounced.by),
            }),
            highest_epoch: directory.highest_epoch.0,
            recovered_from: record.recovered_from.map(|cluster| cluster.to_string()),
        }
    }
}

impl From<&Member> for MemberText {
    fn from(member: &Member) -> Self {
        Self { name: member.name.clone(), nonce: hex(member.nonce) }
    }
}

impl TryFrom<MemberText> for Member {
    type Error = Error;

    fn try_from(text: MemberText) -> Result<Self, Error> {
        Ok(Self { nonce: unhex(&text.nonce)?, name: text.name })
    }
}

impl TryFrom<ClusterText> for Joined {
    type Error = Error;

    fn try_from(text: ClusterText) -> Result<Self, Error> {
        Ok(Self {
            cluster: ClusterId(unhex(&text.id)?),
            founder: text.founder.try_into()?,
            on: text.founded_on.into_iter().map(Member::try_from).collect::<Result<_, _>>()?,
            node: text.node.map(NodeId),
        })
    }
}

impl TryFrom<RenouncedText> for Renounced {
    type Error = Error;

    fn try_from(text: RenouncedText) -> Result<Self, Error> {
        Ok(Self { dead: unhex(&text.nonce)?, by: unhex(&text.replaced_by)? })
    }
}

impl TryFrom<Text> for Record {
    type Error = Error;

    fn try_from(text: Text) -> Result<Self, Error> {
        let directory = Directory {
            nonce: unhex(&text.nonce)?,
            boot_ms: text.first_boot_unix_ms,
            joined: text.cluster.map(Joined::try_from).transpose()?,
            formed: text.formed,
            ever_left: text.ever_left,
            renounced: text.renounced.map(Renounced::try_from).transpose()?,
            highest_epoch: Epoch(text.highest_epoch),
        };
        let recovered_from = text.recovered_from.as_deref().map(unhex).transpose()?.map(ClusterId);
        Ok(Self { name: text.name, incarnation: text.incarnation, directory, recovered_from })
    }
}
