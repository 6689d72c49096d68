//! `shoal snapshot`: the registry of a member as a file, and what such a file holds.
//!
//! A file opens with a line that names its format, then the checksum and the length of what
//! follows: the registry as nodes send it to each other.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail, ensure};
use serde_json::json;
use shoal_core::registry::Registry;
use shoal_proto::shoal::admin::v1 as pb;

use super::{
    SUCCESS, Target,
    admin::{client, print},
    ask::told,
};
use crate::{env::disk, wire::registry};

/// The first line, up to its number.
const TITLE: &str = "shoal registry, format ";
const FORMAT: u32 = 1;

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Where to write it; an older file is replaced as a whole
    pub file: PathBuf,
    /// Ask nobody: tell what the file holds
    #[arg(long)]
    pub inspect: bool,
    #[command(flatten)]
    pub target: Target,
}

pub async fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    if !args.inspect {
        let data = fetch(&args.target).await?;
        disk::write_atomic(&args.file, &seal(&data))
            .with_context(|| format!("writing {}", args.file.display()))?;
    }
    // Read back: what cannot be read is no snapshot.
    let (registry, bytes) = read(&args.file)?;
    let settings = registry.settings();
    let nodes = registry.nodes().filter(|(_, node)| !node.life.is_left()).count();
    let text = |_| {
        format!(
            "{}: cluster {}, up to entry {}, {nodes} nodes, {} shards, {} bytes",
            args.file.display(),
            registry.cluster().id,
            registry.applied().0,
            settings.shard_count,
            bytes
        )
    };
    let as_json = || {
        json!({
            "file": args.file, "format": FORMAT, "bytes": bytes,
            "cluster_id": registry.cluster().id.to_string(), "applied": registry.applied().0,
            "map_version": registry.map_version().0, "nodes": nodes,
            "shards": settings.shard_count, "highest_epoch": registry.highest_epoch().0,
        })
    };
    print(&args.target, text, as_json)?;
    Ok(SUCCESS)
}

/// What a file holds, and its length.
pub fn read(path: &Path) -> anyhow::Result<(Registry, usize)> {
    let file = disk::read(path).with_context(|| format!("{}", path.display()))?;
    let file = file.with_context(|| format!("there is no file {}", path.display()))?;
    let registry = open(&file).with_context(|| format!("{}", path.display()))?;
    Ok((registry, file.len()))
}

/// The registry's bytes as the node sent them, whole.
async fn fetch(target: &Target) -> anyhow::Result<Vec<u8>> {
    let request = pb::SnapshotRequest {};
    let answer = client(target).await?.snapshot(request).await.map_err(told)?;
    let mut chunks = answer.into_inner();
    let (mut data, mut crc32) = (Vec::new(), None);
    while let Some(chunk) = chunks.message().await.map_err(told)? {
        data.extend_from_slice(&chunk.data);
        crc32 = chunk.crc32;
    }
    ensure!(crc32 == Some(crc32fast::hash(&data)), "the snapshot arrived damaged: ask again");
    Ok(data)
}

/// A file of this registry.
#[cfg(test)]
pub fn seal_registry(registry: &Registry) -> Vec<u8> {
    seal(&registry::encode_snapshot(registry))
}

pub(crate) fn seal(data: &[u8]) -> Vec<u8> {
    let mut file = format!("{TITLE}{FORMAT}\n").into_bytes();
    file.extend_from_slice(&crc32fast::hash(data).to_le_bytes());
    file.extend_from_slice(&(data.len() as u64).to_le_bytes());
    file.extend_from_slice(data);
    file
}

pub(crate) fn open(file: &[u8]) -> anyhow::Result<Registry> {
    let end = file.iter().position(|byte| *byte == b'\n').context("this is no snapshot")?;
    let (title, rest) = (&file[..end], &file[end + 1..]);
    let format = std::str::from_utf8(title).ok().and_then(|title| title.strip_prefix(TITLE));
    let format: u32 =
        format.and_then(|number| number.parse().ok()).context("this is no snapshot")?;
    if format > FORMAT {
        bail!("it was written in format {format}, this build reads up to {FORMAT}");
    }
    let (crc32, rest) = rest.split_first_chunk().context("it is cut short")?;
    let (length, data) = rest.split_first_chunk().context("it is cut short")?;
    ensure!(u64::from_le_bytes(*length) == data.len() as u64, "it is cut short");
    ensure!(u32::from_le_bytes(*crc32) == crc32fast::hash(data), "its checksum does not match");
    Ok(registry::decode_snapshot(data)?)
}

#[cfg(test)]
mod tests {
    use shoal_core::{
        id::{ClusterId, LogIndex},
        registry::{Command, NodeInfo},
    };

    use super::*;

    fn founded() -> Registry {
        let mut registry = Registry::new();
        let founder =
            NodeInfo { name: "a".into(), weight: 1, feature_level: 1, ..NodeInfo::default() };
        let command = Command::Found {
            cluster: ClusterId(7),
            founder,
            directory: 1,
            shard_count: 16,
            lease_ms: 3_000,
        };
        registry.apply(LogIndex(1), &command).0.unwrap();
        registry
    }

    #[test]
    fn a_file_reads_back_and_every_damage_is_told() {
        let file = seal(&registry::encode_snapshot(&founded()));
        assert_eq!(open(&file).unwrap().cluster().id, ClusterId(7));
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 0x10;
            assert!(open(&damaged).is_err(), "byte {at}");
            assert!(open(&file[..at]).is_err(), "cut at {at}");
        }
        assert!(open(b"").is_err());
    }

    #[test]
    fn a_newer_format_is_named() {
        let error = open(b"shoal registry, format 9\nwhatever").unwrap_err();
        assert!(error.to_string().contains("format 9"), "{error}");
    }
}
