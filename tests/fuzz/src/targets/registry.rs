//! The registry's commands and rows, and what they do to a registry once they are read.

use shoal_core::{
    id::LogIndex,
    registry::{Registry, check_step},
};
use shoal_worker::wire::registry as wire;

use super::{
    Shape::Message,
    Target,
    parts::{SEVERAL, split},
    told,
};
const COMMAND: &str = "shoal.registry.v1.Command";
const DELTA: &str = "shoal.registry.v1.Delta";

/// A node at its shortest is 65 bytes on the wire, and hundreds in memory as a message and as a
/// row, while the lists of both grow.
const ROWS: usize = 48;
/// Two bytes can stand for a session without its parts; a command has at most 256 KiB.
const SESSIONS: usize = 96;

pub fn targets() -> Vec<Target> {
    vec![
        Target::again("registry-command", "wire::registry", Message(COMMAND), command)
            .memory(SESSIONS, 0),
        Target::again("registry-delta", "wire::registry", Message(DELTA), delta).memory(ROWS, 0),
        Target::again("registry-snapshot", "wire::registry", Message(DELTA), snapshot)
            .memory(ROWS, 0),
        Target::judged("registry-entries", "core::registry::apply", Message(COMMAND), entries)
            .parts(SEVERAL)
            .memory(SESSIONS, 4 << 20),
        Target::judged("registry-watch", "core::registry::delta", Message(DELTA), watch)
            .parts(SEVERAL)
            .memory(ROWS, 0),
    ]
}

fn command(bytes: &[u8]) -> Result<Vec<u8>, String> {
    Ok(wire::encode_command(&wire::decode_command(bytes).map_err(told)?).into())
}

fn delta(bytes: &[u8]) -> Result<Vec<u8>, String> {
    Ok(wire::encode_delta(&wire::decode_delta(bytes).map_err(told)?).into())
}

fn snapshot(bytes: &[u8]) -> Result<Vec<u8>, String> {
    Ok(wire::encode_snapshot(&wire::decode_snapshot(bytes).map_err(causes)?).into())
}

/// An error as it is shown to people, with what is behind it.
fn causes(error: wire::Error) -> String {
    let behind = std::error::Error::source(&error).map(|source| format!(": {source}"));
    format!("{error}{}", behind.unwrap_or_default())
}

/// Whatever a log holds: each entry is applied or refused, and the registry stays sound.
fn entries(bytes: &[u8]) -> Result<(), String> {
    let mut registry = Registry::new();
    let mut last = Ok(());
    for entry in split(bytes).ok_or("no sequence of entries")? {
        last = wire::decode_command(&entry).map_err(told).and_then(|command| {
            let (before, index) = (registry.clone(), LogIndex(registry.applied().0 + 1));
            let (result, _) = registry.apply(index, &command);
            assert_eq!(registry.check(), [], "after {command:?}");
            assert_eq!(check_step(&before, &registry), [], "after {command:?}");
            result.map(|_| ()).map_err(told)
        });
    }
    last
}

/// Whatever a source tells its watchers: each is taken or refused, and rows can be read on.
fn watch(bytes: &[u8]) -> Result<(), String> {
    let mut table = Registry::new();
    let mut last = Ok(());
    for rows in split(bytes).ok_or("no sequence of rows")? {
        last = wire::decode_delta(&rows)
            .map_err(told)
            .and_then(|delta| table.install_delta(delta).map(|_| ()).map_err(told));
    }
    if let Ok(again) = Registry::from_parts(table.parts()) {
        assert_eq!(again.parts(), table.parts(), "a table is what its rows say");
    }
    last
}
