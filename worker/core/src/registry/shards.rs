//! The rows of all shards in chunks that clones share until one of them writes.
//!
//! Knows no rule: whoever writes a row has judged it.

use std::sync::Arc;

use crate::id::{Epoch, LogIndex, ShardId};

use super::row::{Holding, ShardRow};

/// Rows per chunk: 65,536 shards are 256 pointers to clone and a write after a
/// publication copies 24 KiB.
const CHUNK: usize = 256;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shards {
    chunks: Vec<Arc<Chunk>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Chunk {
    /// The latest change of any row, so that a delta passes over what stood still.
    changed: LogIndex,
    rows: Vec<ShardRow>,
}

impl Shards {
    pub fn unassigned(count: u32, epoch: Epoch, changed: LogIndex) -> Self {
        let row = ShardRow { epoch, holding: Holding::Unassigned, changed };
        Self::from_rows(vec![row; count as usize])
    }

    pub fn from_rows(rows: Vec<ShardRow>) -> Self {
        let chunk = |rows: &[ShardRow]| {
            Arc::new(Chunk {
                changed: rows.iter().map(|row| row.changed).max().unwrap_or_default(),
                rows: rows.to_vec(),
            })
        };
        Self { chunks: rows.chunks(CHUNK).map(chunk).collect() }
    }

    pub fn len(&self) -> usize {
        let last = self.chunks.last().map_or(0, |chunk| chunk.rows.len());
        self.chunks.len().saturating_sub(1) * CHUNK + last
    }

    pub fn get(&self, id: ShardId) -> Option<&ShardRow> {
        let (chunk, row) = place(id);
        self.chunks.get(chunk)?.rows.get(row)
    }

    /// Answers the row that stood there; an unknown shard is left alone.
    pub fn replace(&mut self, id: ShardId, row: ShardRow) -> Option<ShardRow> {
        self.get(id)?;
        let (chunk, place) = place(id);
        let chunk = Arc::make_mut(self.chunks.get_mut(chunk)?);
        chunk.changed = chunk.changed.max(row.changed);
        Some(std::mem::replace(chunk.rows.get_mut(place)?, row))
    }

    pub fn iter(&self) -> impl Iterator<Item = (ShardId, &ShardRow)> {
        numbered(self.chunks.iter().enumerate())
    }

    /// The rows that changed after an index.
    pub fn since(&self, index: LogIndex) -> impl Iterator<Item = (ShardId, &ShardRow)> {
        let chunks = self.chunks.iter().enumerate();
        numbered(chunks.filter(move |(_, chunk)| chunk.changed > index))
            .filter(move |(_, row)| row.changed > index)
    }
}

fn place(id: ShardId) -> (usize, usize) {
    let id = id.0 as usize;
    (id / CHUNK, id % CHUNK)
}

fn numbered<'a>(
    chunks: impl Iterator<Item = (usize, &'a Arc<Chunk>)>,
) -> impl Iterator<Item = (ShardId, &'a ShardRow)> {
    chunks.flat_map(|(number, chunk)| {
        let ids = (number * CHUNK) as u32..;
        ids.map(ShardId).zip(&chunk.rows)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(epoch: u64, changed: u64) -> ShardRow {
        ShardRow { epoch: Epoch(epoch), holding: Holding::Unassigned, changed: LogIndex(changed) }
    }

    #[test]
    fn a_write_leaves_clones_alone_and_copies_one_chunk() {
        let mut shards = Shards::unassigned(1_024, Epoch(1), LogIndex(5));
        let clone = shards.clone();
        assert_eq!(shards.replace(ShardId(300), row(2, 6)), Some(row(1, 5)));
        assert_eq!(clone.get(ShardId(300)), Some(&row(1, 5)));
        let shared = |at: usize| Arc::ptr_eq(&shards.chunks[at], &clone.chunks[at]);
        assert_eq!([0, 1, 2, 3].map(shared), [true, false, true, true]);
    }

    #[test]
    fn a_delta_names_exactly_what_changed_after_its_index() {
        let mut shards = Shards::unassigned(1_024, Epoch(1), LogIndex(5));
        for (shard, changed) in [(0, 6), (255, 7), (256, 8), (1_023, 9)] {
            shards.replace(ShardId(shard), row(2, changed));
        }
        let since = |index| -> Vec<u32> {
            shards.since(LogIndex(index)).map(|(shard, _)| shard.0).collect()
        };
        assert_eq!(since(6), [255, 256, 1_023]);
        assert_eq!(since(9), []);
        assert_eq!(since(0).len(), 1_024);
        assert_eq!(shards.len(), 1_024);
        assert_eq!(shards.replace(ShardId(1_024), row(2, 9)), None);
    }
}
