//! The built-in host: a map of bytes to bytes per shard, in memory.
//!
//! It is the demo and the probe by which tests see a lost or doubled call. A planned move
//! takes the data along; a failover begins with an empty shard.
//!
//! | method | payload | answer | errors |
//! |---|---|---|---|
//! | `get` | empty | the value | NOT_FOUND |
//! | `put` | the value | empty | |
//! | `delete` | empty | empty | |
//! | `incr` | decimal `i64`, empty = 1 | decimal `i64`, the new value | INVALID_ARGUMENT, FAILED_PRECONDITION (the value is no number), OUT_OF_RANGE |
//! | `compare-and-set` | `shoal.kv.v1.CompareAndSet` | empty | ABORTED, INVALID_ARGUMENT |

mod codec;
mod store;

use std::{borrow::Cow, collections::BTreeMap, future::ready, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use prost::Message as _;
use shoal_core::id::{Epoch, ShardId};
use shoal_proto::shoal::kv::v1::CompareAndSet;
use tonic::Code;

use self::store::{Import, Store};
use super::api::{Error, Export, HostCall, Method, ShardHost, Start, Step};
use crate::call::AppError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Get,
    Put,
    Delete,
    Incr,
    CompareAndSet,
}

impl Op {
    const ALL: [Self; 5] = [Self::Get, Self::Put, Self::Delete, Self::Incr, Self::CompareAndSet];

    fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Incr => "incr",
            Self::CompareAndSet => "compare-and-set",
        }
    }

    fn idempotent(self) -> bool {
        match self {
            Self::Get | Self::Put | Self::Delete => true,
            Self::Incr | Self::CompareAndSet => false,
        }
    }

    fn parse(name: &str) -> Result<Self, AppError> {
        Self::ALL.into_iter().find(|op| op.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            refuse(Code::Unimplemented, format!("unknown method {name:?}; kv knows {known}"))
        })
    }
}

/// The kv host.
pub struct Kv {
    methods: Vec<Method>,
    shards: RwLock<BTreeMap<ShardId, Arc<Mutex<Held>>>>,
}

enum Held {
    Receiving(Import),
    Open(Store),
    Frozen(Store),
}

impl Default for Kv {
    fn default() -> Self {
        let methods = Op::ALL
            .map(|op| Method {
                name: Cow::Borrowed(op.name()),
                idempotent: op.idempotent(),
                max_call: None,
                inline: true,
            })
            .to_vec();
        Self { methods, shards: RwLock::default() }
    }
}

impl Kv {
    fn shard(&self, shard: ShardId, wanted: &'static str) -> Result<Arc<Mutex<Held>>, Error> {
        self.shards.read().get(&shard).cloned().ok_or(Error::NotHeld { shard, wanted })
    }

    fn set(&self, shard: ShardId, held: Held) {
        // Large shards take long to drop: never under the lock that every call takes.
        let before = self.shards.write().insert(shard, Arc::new(Mutex::new(held)));
        drop(before);
    }

    fn import_bytes(&self, shard: ShardId, bytes: &[u8]) -> Result<(), Error> {
        match &mut *self.shard(shard, "prepared")?.lock() {
            Held::Receiving(import) => import.feed(bytes).map_err(|e| unreadable(shard, &e)),
            Held::Open(_) | Held::Frozen(_) => Err(Error::NotHeld { shard, wanted: "prepared" }),
        }
    }

    fn check_import(&self, shard: ShardId) -> Result<(), Error> {
        match &*self.shard(shard, "prepared")?.lock() {
            Held::Receiving(import) => import.finish().map_err(|e| unreadable(shard, &e)),
            Held::Open(_) | Held::Frozen(_) => Err(Error::NotHeld { shard, wanted: "prepared" }),
        }
    }

    fn open_shard(&self, shard: ShardId, start: Start) -> Result<(), Error> {
        if start == Start::Empty {
            self.set(shard, Held::Open(Store::default()));
            return Ok(());
        }
        let held = self.shard(shard, "imported or frozen")?;
        let mut held = held.lock();
        let before = std::mem::replace(&mut *held, Held::Receiving(Import::default()));
        *held = match (start, before) {
            (Start::Imported, Held::Receiving(import)) => {
                Held::Open(import.into_store().map_err(|e| unreadable(shard, &e))?)
            }
            (Start::Frozen, Held::Frozen(mut store)) => {
                store.forget_export();
                Held::Open(store)
            }
            // A step repeated after it succeeded.
            (Start::Imported | Start::Frozen, Held::Open(store)) => Held::Open(store),
            (_, before) => {
                *held = before;
                return Err(Error::NotHeld { shard, wanted: "imported or frozen" });
            }
        };
        Ok(())
    }

    fn export_piece(&self, shard: ShardId, since: u64) -> Result<Export, Error> {
        match &mut *self.shard(shard, "open")?.lock() {
            Held::Open(store) => {
                store.export(since).map(Export::Piece).ok_or(Error::Cursor { shard, since })
            }
            Held::Receiving(_) | Held::Frozen(_) => Err(Error::NotHeld { shard, wanted: "open" }),
        }
    }

    fn freeze_shard(&self, shard: ShardId) -> Result<Vec<Bytes>, Error> {
        let held = self.shard(shard, "open")?;
        let mut held = held.lock();
        let before = std::mem::replace(&mut *held, Held::Receiving(Import::default()));
        match before {
            Held::Open(store) | Held::Frozen(store) => {
                let rest = store.rest();
                *held = Held::Frozen(store);
                Ok(rest)
            }
            Held::Receiving(_) => {
                *held = before;
                Err(Error::NotHeld { shard, wanted: "open" })
            }
        }
    }

    fn run(&self, call: &HostCall) -> Result<Bytes, AppError> {
        let op = Op::parse(&call.method)?;
        let shard = call.ownership.token().shard;
        let closed = || refuse(Code::Internal, format!("kv does not hold shard {shard} open"));
        let held = self.shard(shard, "open").map_err(|_| closed())?;
        let mut held = held.lock();
        let store = match &mut *held {
            Held::Open(store) => store,
            // The stale-owner mutant answers from here.
            #[cfg(feature = "mutants")]
            Held::Frozen(store) => store,
            #[cfg(not(feature = "mutants"))]
            Held::Frozen(_) => return Err(closed()),
            Held::Receiving(_) => return Err(closed()),
        };
        apply(store, op, &call.key, &call.payload)
    }
}

/// The slow-handlers fault: keys that begin with `long` take twelve seconds, and those that begin with
/// `stuck` hold a thread for nine, whatever becomes of the call.
#[cfg(feature = "mutants")]
async fn dawdle(key: &[u8]) {
    use std::time::Duration;

    if key.starts_with(b"long") {
        tracing::warn!("takes its time on purpose");
        tokio::time::sleep(Duration::from_secs(12)).await;
    }
    if key.starts_with(b"stuck") {
        // Only then it runs as a handler that waits does, and not where the call was received.
        tokio::task::yield_now().await;
        tracing::warn!("is stuck on purpose");
        crate::env::thread::pause(Duration::from_secs(9)).await;
    }
}

fn apply(store: &mut Store, op: Op, key: &[u8], payload: &[u8]) -> Result<Bytes, AppError> {
    match op {
        Op::Get => match store.get(key) {
            Some(value) => Ok(value.clone()),
            None => Err(refuse(Code::NotFound, "the key holds nothing".to_owned())),
        },
        Op::Put => {
            store.put(key, payload);
            Ok(Bytes::new())
        }
        Op::Delete => {
            store.delete(key);
            Ok(Bytes::new())
        }
        Op::Incr => incr(store, key, payload),
        Op::CompareAndSet => compare_and_set(store, key, payload),
    }
}

/// One call on a key that holds `stored`.
#[cfg(feature = "fuzzing")]
pub(crate) fn once(method: &str, stored: Option<&[u8]>, payload: &[u8]) -> Result<Bytes, AppError> {
    let mut store = Store::default();
    stored.into_iter().for_each(|value| store.put(b"key", value));
    apply(&mut store, Op::parse(method)?, b"key", payload)
}

fn incr(store: &mut Store, key: &[u8], payload: &[u8]) -> Result<Bytes, AppError> {
    let delta = if payload.is_empty() { Some(1) } else { decimal(payload) };
    let delta = delta.ok_or_else(|| {
        refuse(Code::InvalidArgument, "the payload of incr is not a decimal i64".to_owned())
    })?;
    let old = match store.get(key) {
        None => 0,
        Some(value) => decimal(value).ok_or_else(|| {
            refuse(Code::FailedPrecondition, "the key does not hold a decimal i64".to_owned())
        })?,
    };
    let new = old.checked_add(delta).ok_or_else(|| {
        refuse(Code::OutOfRange, format!("{old} plus {delta} does not fit an i64"))
    })?;
    let text = Bytes::from(new.to_string());
    #[cfg(feature = "mutants")]
    if old > 0 && crate::mutant::fire(crate::mutant::Mutant::LoseIncrement) {
        return Ok(text);
    }
    store.put(key, &text);
    Ok(text)
}

fn compare_and_set(store: &mut Store, key: &[u8], payload: &[u8]) -> Result<Bytes, AppError> {
    let wish = CompareAndSet::decode(payload).map_err(|error| {
        refuse(Code::InvalidArgument, format!("the payload is no CompareAndSet: {error}"))
    })?;
    if store.get(key) != wish.expected.as_ref() {
        return Err(refuse(Code::Aborted, "the key holds something else".to_owned()));
    }
    store.put(key, &wish.value);
    Ok(Bytes::new())
}

fn decimal(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn refuse(code: Code, message: String) -> AppError {
    AppError { code: code as i32, message }
}

fn unreadable(shard: ShardId, error: &codec::Error) -> Error {
    Error::State { shard, reason: error.to_string() }
}

fn done<'a, T: Send + 'a>(result: Result<T, Error>) -> Step<'a, T> {
    Box::pin(ready(result))
}

impl ShardHost for Kv {
    fn methods(&self) -> &[Method] {
        &self.methods
    }

    fn reset(&self) -> Step<'_, ()> {
        let before = std::mem::take(&mut *self.shards.write());
        drop(before);
        done(Ok(()))
    }

    fn prepare(&self, shard: ShardId) -> Step<'_, ()> {
        self.set(shard, Held::Receiving(Import::default()));
        done(Ok(()))
    }

    fn import(&self, shard: ShardId, bytes: Bytes) -> Step<'_, ()> {
        done(self.import_bytes(shard, &bytes))
    }

    fn imported(&self, shard: ShardId) -> Step<'_, ()> {
        done(self.check_import(shard))
    }

    fn open(&self, shard: ShardId, _epoch: Epoch, start: Start) -> Step<'_, ()> {
        done(self.open_shard(shard, start))
    }

    fn call(&self, call: HostCall) -> BoxFuture<'_, Result<Bytes, AppError>> {
        #[cfg(feature = "mutants")]
        if crate::mutant::chosen(crate::mutant::Mutant::SlowHandlers) {
            return Box::pin(async move {
                dawdle(&call.key).await;
                self.run(&call)
            });
        }
        Box::pin(ready(self.run(&call)))
    }

    fn export(&self, shard: ShardId, since: u64) -> Step<'_, Export> {
        done(self.export_piece(shard, since))
    }

    fn freeze(&self, shard: ShardId) -> Step<'_, Vec<Bytes>> {
        done(self.freeze_shard(shard))
    }

    fn close(&self, shard: ShardId) -> Step<'_, ()> {
        let before = self.shards.write().remove(&shard);
        drop(before);
        done(Ok(()))
    }
}

#[cfg(test)]
mod tests;
