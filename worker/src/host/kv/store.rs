//! One shard of the kv host: its entries, and an export that keeps up with its changes.
//!
//! The export walks the keys in order. A change to a key that it has passed is noted, and
//! given again after the walk; what is left over when the shard freezes is the rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use bytes::{Bytes, BytesMut};

use super::codec::{self, Decoder, Encoder, Record};
use crate::host::api::Piece;

/// Size at which a piece is closed: what the hand-over sends as one frame.
const PIECE_SIZE: usize = 256 << 10;

/// Changes beyond twice the shard that nobody fetches: the move was given up, and its export
/// is forgotten before it eats the memory. One that still goes on has to begin anew.
const ABANDONED: u64 = 16 << 20;

#[derive(Debug, Default)]
pub(super) struct Store {
    entries: BTreeMap<Bytes, Bytes>,
    /// Encoded size of all entries.
    size: u64,
    export: Option<Export>,
}

/// How far an export has come.
#[derive(Clone, Debug, Default)]
struct Export {
    encoder: Encoder,
    /// Pieces given so far: what the next `since` must say.
    pieces: u64,
    walk: Walk,
    /// Encoded size of the entries that the walk has not reached.
    ahead: u64,
    /// Keys changed behind the walk.
    dirty: BTreeSet<Bytes>,
    dirty_size: u64,
}

#[derive(Clone, Debug, Default)]
enum Walk {
    #[default]
    Start,
    After(Bytes),
    Done,
}

impl Export {
    fn has_passed(&self, key: &[u8]) -> bool {
        match &self.walk {
            Walk::Start => false,
            Walk::After(last) => key <= last.as_ref(),
            Walk::Done => true,
        }
    }

    fn remaining(&self) -> u64 {
        self.ahead + self.dirty_size
    }
}

impl Store {
    pub(super) fn get(&self, key: &[u8]) -> Option<&Bytes> {
        self.entries.get(key)
    }

    /// Copies both: a call's bytes are slices of a larger network buffer.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) {
        let new = codec::put_size(key, value);
        let old = self
            .entries
            .insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))
            .map_or(0, |old| codec::put_size(key, &old));
        self.changed(key, old, new);
    }

    pub(super) fn delete(&mut self, key: &[u8]) {
        if let Some(old) = self.entries.remove(key) {
            self.changed(key, codec::put_size(key, &old), 0);
        }
    }

    fn changed(&mut self, key: &[u8], old: u64, new: u64) {
        self.size = self.size + new - old;
        let Some(export) = &mut self.export else { return };
        if !export.has_passed(key) {
            export.ahead = export.ahead + new - old;
            return;
        }
        // What is gone travels as a delete.
        let cost = |size: u64| if size == 0 { codec::delete_size(key) } else { size };
        if export.dirty.insert(Bytes::copy_from_slice(key)) {
            export.dirty_size += cost(new);
        } else {
            export.dirty_size = export.dirty_size + cost(new) - cost(old);
        }
        if export.dirty_size > 2 * self.size + ABANDONED {
            self.export = None;
        }
    }

    pub(super) fn apply(&mut self, record: Record) {
        match record {
            Record::Put { key, value } => self.put(&key, &value),
            Record::Delete { key } => self.delete(&key),
        }
    }

    /// The next piece while the shard serves; `None` if `since` is not where it stands.
    pub(super) fn export(&mut self, since: u64) -> Option<Piece> {
        if since == 0 {
            self.export = Some(Export { ahead: self.size, ..Export::default() });
        }
        let export = self.export.as_mut().filter(|export| export.pieces == since)?;
        let mut bytes = BytesMut::new();
        write_piece(&self.entries, export, &mut bytes);
        export.pieces += 1;
        Some(Piece { bytes: bytes.freeze(), next: export.pieces, remaining: export.remaining() })
    }

    /// What no piece has given yet, closed by the end mark. Changes nothing, so that a
    /// repeated freeze gives the same.
    pub(super) fn rest(&self) -> Vec<Bytes> {
        let mut export =
            self.export.clone().unwrap_or_else(|| Export { ahead: self.size, ..Export::default() });
        let mut pieces = Vec::new();
        let mut bytes = BytesMut::new();
        while !matches!(export.walk, Walk::Done) || !export.dirty.is_empty() {
            write_piece(&self.entries, &mut export, &mut bytes);
            pieces.push(bytes.split().freeze());
        }
        export.encoder.end(&mut bytes);
        pieces.push(bytes.freeze());
        pieces
    }

    /// The move was aborted: what was exported is void.
    pub(super) fn forget_export(&mut self) {
        self.export = None;
    }
}

fn write_piece(entries: &BTreeMap<Bytes, Bytes>, export: &mut Export, to: &mut BytesMut) {
    let from = match &export.walk {
        Walk::Start => Bound::Unbounded,
        Walk::After(last) => Bound::Excluded(last.clone()),
        Walk::Done => return write_dirty(entries, export, to),
    };
    for (key, value) in entries.range((from, Bound::Unbounded)) {
        export.encoder.put(to, key, value);
        export.ahead -= codec::put_size(key, value);
        if to.len() >= PIECE_SIZE {
            export.walk = Walk::After(key.clone());
            return;
        }
    }
    export.walk = Walk::Done;
}

fn write_dirty(entries: &BTreeMap<Bytes, Bytes>, export: &mut Export, to: &mut BytesMut) {
    while to.len() < PIECE_SIZE
        && let Some(key) = export.dirty.pop_first()
    {
        export.dirty_size -= match entries.get(&key) {
            Some(value) => {
                export.encoder.put(to, &key, value);
                codec::put_size(&key, value)
            }
            None => {
                export.encoder.delete(to, &key);
                codec::delete_size(&key)
            }
        };
    }
}

/// A shard on its way in.
#[derive(Debug, Default)]
pub(super) struct Import {
    decoder: Decoder,
    store: Store,
}

impl Import {
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), codec::Error> {
        self.decoder.feed(bytes, |record| self.store.apply(record))
    }

    pub(super) fn finish(&self) -> Result<(), codec::Error> {
        self.decoder.finish()
    }

    pub(super) fn into_store(self) -> Result<Store, codec::Error> {
        self.decoder.finish().map(|()| self.store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(entries: u32, value: usize) -> Store {
        let mut store = Store::default();
        for i in 0..entries {
            store.put(format!("key-{i:06}").as_bytes(), &vec![b'v'; value]);
        }
        store
    }

    fn import(pieces: &[Bytes]) -> Store {
        let mut import = Import::default();
        for piece in pieces {
            import.feed(piece).unwrap();
        }
        import.into_store().unwrap()
    }

    #[test]
    fn changes_during_an_export_arrive_and_the_rest_is_only_them() {
        let mut store = filled(3_000, 1_000);
        let mut pieces = Vec::new();
        let mut since = 0;
        loop {
            let piece = store.export(since).unwrap();
            assert!(piece.bytes.len() <= PIECE_SIZE + 2_000);
            since = piece.next;
            pieces.push(piece.bytes);
            store.put(b"key-000000", format!("round {since}").as_bytes()); // behind the walk
            store.put(b"key-002999", format!("round {since}").as_bytes()); // ahead of it
            store.delete(format!("key-{since:06}").as_bytes());
            if piece.remaining == 0 {
                break;
            }
        }
        let rest = store.rest();
        assert!(rest.iter().map(Bytes::len).sum::<usize>() < 1_000, "the rest is the changes");
        assert_eq!(store.rest(), rest, "a repeated freeze gives the same");
        pieces.extend(rest);
        assert_eq!(import(&pieces).entries, store.entries);
    }

    #[test]
    fn sizes_stay_true_through_every_change() {
        let mut store = filled(10, 10);
        store.put(b"key-000003", b"longer than it was before");
        store.put(b"key-000004", b"");
        store.delete(b"key-000005");
        store.delete(b"never there");
        let size: u64 = store.entries.iter().map(|(k, v)| codec::put_size(k, v)).sum();
        assert_eq!(store.size, size);
        let piece = store.export(0).unwrap();
        assert_eq!(piece.remaining, 0);
        store.put(b"key-000004", b"four");
        store.put(b"key-000004", b"and more");
        store.delete(b"key-000003");
        store.put(b"gone again", b"x");
        store.delete(b"gone again");
        let changed = codec::put_size(b"key-000004", b"and more")
            + codec::delete_size(b"key-000003")
            + codec::delete_size(b"gone again");
        assert_eq!(store.export.as_ref().unwrap().remaining(), changed);
        assert_eq!(store.export(piece.next).unwrap().remaining, 0);
    }

    #[test]
    fn an_abandoned_export_is_forgotten() {
        let mut store = filled(1, 10);
        let next = store.export(0).unwrap().next;
        for i in 0..ABANDONED / 1_000 {
            let key = format!("{i:01000}");
            store.put(key.as_bytes(), b"");
            store.delete(key.as_bytes());
        }
        assert!(store.export.is_none());
        assert!(store.export(next).is_none());
    }

    #[test]
    fn a_shard_that_was_never_exported_is_all_rest() {
        let store = filled(1_000, 1_000);
        let rest = store.rest();
        assert!(rest.len() > 3);
        assert_eq!(import(&rest).entries, store.entries);
    }

    #[test]
    fn an_export_goes_on_only_from_where_it_stands() {
        let mut store = filled(1_000, 1_000);
        assert!(store.export(1).is_none(), "none was begun");
        let first = store.export(0).unwrap();
        assert!(store.export(first.next + 1).is_none());
        let again = store.export(0).unwrap();
        assert_eq!(again.bytes, first.bytes, "0 begins anew");
    }
}
