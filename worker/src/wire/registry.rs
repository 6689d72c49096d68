//! The registry's commands and rows as the log, snapshots and watchers carry them.
//!
//! Strict on the way in: what is missing, unknown or above this build's feature level is an
//! error that names it, never a default (S10). Judges no meaning: that is the registry's.

mod command;
mod rows;

use bytes::Bytes;
use prost::Message as _;
use shoal_core::registry::{self, Command, Delta, FEATURE_LEVEL, Registry};
use shoal_proto::shoal::registry::v1 as proto;

/// Lowest feature level that understands the rows this build writes.
const ROWS_LEVEL: u32 = 1;

/// Bytes that this build must not take for a command or for rows.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    #[error("not a message of the registry")]
    Unreadable(#[from] prost::DecodeError),
    #[error("feature level {level} is required, this build knows {known}")]
    Level { level: u32, known: u32 },
    #[error("the message lacks its {0}")]
    Missing(&'static str),
    #[error("{value} is no {what}")]
    Unknown { what: &'static str, value: i32 },
    #[error("{what} has {found} bytes instead of 16")]
    Length { what: &'static str, found: usize },
    #[error("a {what} of {found} bytes, the shortest has {least}")]
    Short { what: &'static str, found: u64, least: u64 },
    #[error("a guarded command holds another guarded command")]
    Nested,
    #[error("the snapshot cannot be a registry")]
    Rows(#[from] registry::Error),
}

pub fn encode_command(command: &Command) -> Bytes {
    command::write(command).encode_to_vec().into()
}

pub fn decode_command(bytes: &[u8]) -> Result<Command, Error> {
    command::read(proto::Command::decode(bytes)?)
}

pub fn encode_snapshot(registry: &Registry) -> Bytes {
    encode_delta(&registry.parts())
}

/// A whole registry; one that contradicts itself is refused.
pub fn decode_snapshot(bytes: &[u8]) -> Result<Registry, Error> {
    Ok(Registry::from_parts(decode_delta(bytes)?)?)
}

pub fn encode_delta(delta: &Delta) -> Bytes {
    rows::write_delta(delta).encode_to_vec().into()
}

pub fn decode_delta(bytes: &[u8]) -> Result<Delta, Error> {
    rows::long_enough(bytes)?;
    rows::read_delta(proto::Delta::decode(bytes)?)
}

fn need<T>(part: Option<T>, name: &'static str) -> Result<T, Error> {
    part.ok_or(Error::Missing(name))
}

/// The highest level whose commands and rows this process understands.
pub fn feature_level() -> u32 {
    #[cfg(feature = "mutants")]
    if crate::mutant::chosen(crate::mutant::Mutant::NextLevel) {
        return FEATURE_LEVEL + 1;
    }
    FEATURE_LEVEL
}

fn known_level(level: u32) -> Result<u32, Error> {
    let known = feature_level();
    if level <= known { Ok(level) } else { Err(Error::Level { level, known }) }
}

#[cfg(test)]
mod tests;
