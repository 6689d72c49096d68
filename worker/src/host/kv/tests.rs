//! kv through its public steps.

use std::time::Duration;

use futures::FutureExt as _;

use super::*;
use crate::host::api::{Ownership, Token};

const SHARD: ShardId = ShardId(3);
const EPOCH: Epoch = Epoch(7);

fn now<T>(step: Step<'_, T>) -> Result<T, Error> {
    step.now_or_never().expect("kv never waits")
}

fn opened() -> Kv {
    let kv = Kv::default();
    now(kv.open(SHARD, EPOCH, Start::Empty)).unwrap();
    kv
}

fn call(kv: &Kv, method: &str, key: &str, payload: &[u8]) -> Result<Bytes, AppError> {
    let token = Token { shard: SHARD, epoch: EPOCH };
    kv.call(HostCall {
        key: Bytes::copy_from_slice(key.as_bytes()),
        method: method.to_owned(),
        payload: Bytes::copy_from_slice(payload),
        remaining: Duration::from_secs(1),
        ownership: Ownership::new(token, Arc::new(|_| true)),
    })
    .now_or_never()
    .expect("kv never waits")
}

fn code(result: Result<Bytes, AppError>) -> Code {
    Code::from_i32(result.unwrap_err().code)
}

#[test]
fn values_come_back_as_they_were_put() {
    let kv = opened();
    assert_eq!(code(call(&kv, "get", "a", b"")), Code::NotFound);
    call(&kv, "put", "a", b"\x00\xff").unwrap();
    assert_eq!(call(&kv, "get", "a", b"").unwrap(), &b"\x00\xff"[..]);
    call(&kv, "delete", "a", b"").unwrap();
    call(&kv, "delete", "a", b"").unwrap();
    assert_eq!(code(call(&kv, "get", "a", b"")), Code::NotFound);
}

#[test]
fn incr_counts_in_decimal() {
    let kv = opened();
    assert_eq!(call(&kv, "incr", "n", b"").unwrap(), "1");
    assert_eq!(call(&kv, "incr", "n", b"-5").unwrap(), "-4");
    assert_eq!(code(call(&kv, "incr", "n", b"five")), Code::InvalidArgument);
    call(&kv, "put", "n", i64::MAX.to_string().as_bytes()).unwrap();
    assert_eq!(code(call(&kv, "incr", "n", b"1")), Code::OutOfRange);
    call(&kv, "put", "n", b"text").unwrap();
    assert_eq!(code(call(&kv, "incr", "n", b"")), Code::FailedPrecondition);
}

#[test]
fn compare_and_set_stores_only_over_what_was_expected() {
    let kv = opened();
    let set = |expected: Option<&'static str>, value: &'static str| {
        let wish = CompareAndSet { expected: expected.map(Bytes::from), value: value.into() };
        call(&kv, "compare-and-set", "k", &wish.encode_to_vec())
    };
    assert_eq!(code(set(Some("x"), "y")), Code::Aborted);
    set(None, "x").unwrap();
    assert_eq!(code(set(None, "y")), Code::Aborted);
    set(Some("x"), "y").unwrap();
    assert_eq!(call(&kv, "get", "k", b"").unwrap(), "y");
    assert_eq!(code(call(&kv, "compare-and-set", "k", b"\xff")), Code::InvalidArgument);
}

#[test]
fn an_unknown_method_names_itself_and_the_known_ones() {
    let error = call(&opened(), "decr", "n", b"").unwrap_err();
    assert_eq!(Code::from_i32(error.code), Code::Unimplemented);
    assert_eq!(
        error.message,
        "unknown method \"decr\"; kv knows get, put, delete, incr, compare-and-set"
    );
}

#[test]
fn a_shard_moves_from_one_kv_to_another() {
    let (source, target) = (opened(), Kv::default());
    call(&source, "put", "a", b"1").unwrap();
    now(target.prepare(SHARD)).unwrap();
    let Export::Piece(piece) = now(source.export(SHARD, 0)).unwrap() else { panic!("kv exports") };
    now(target.import(SHARD, piece.bytes)).unwrap();
    assert!(now(target.imported(SHARD)).is_err(), "the end has not come");
    call(&source, "incr", "a", b"").unwrap();
    for bytes in now(source.freeze(SHARD)).unwrap() {
        now(target.import(SHARD, bytes)).unwrap();
    }
    now(target.imported(SHARD)).unwrap();
    now(target.open(SHARD, EPOCH.next(), Start::Imported)).unwrap();
    assert_eq!(call(&target, "get", "a", b"").unwrap(), "2");
    now(source.close(SHARD)).unwrap();
    assert_eq!(code(call(&source, "get", "a", b"")), Code::Internal);
}

#[test]
fn p3_an_aborted_move_leaves_everything_with_the_source() {
    let kv = opened();
    call(&kv, "put", "a", b"1").unwrap();
    now(kv.export(SHARD, 0)).unwrap();
    let rest = now(kv.freeze(SHARD)).unwrap();
    assert_eq!(now(kv.freeze(SHARD)).unwrap(), rest);
    assert!(now(kv.export(SHARD, 0)).is_err(), "frozen shards are not exported");
    now(kv.open(SHARD, EPOCH, Start::Frozen)).unwrap();
    now(kv.open(SHARD, EPOCH, Start::Frozen)).unwrap();
    assert_eq!(call(&kv, "incr", "a", b"").unwrap(), "2");
}

#[test]
fn s12_what_was_received_serves_nobody_before_it_is_opened() {
    let kv = Kv::default();
    now(kv.prepare(SHARD)).unwrap();
    assert_eq!(code(call(&kv, "get", "a", b"")), Code::Internal);
    assert!(now(kv.open(SHARD, EPOCH, Start::Imported)).is_err(), "nothing came");
    assert!(now(kv.open(SHARD, EPOCH, Start::Frozen)).is_err());
    now(kv.open(SHARD, EPOCH, Start::Empty)).unwrap();
    call(&kv, "put", "a", b"1").unwrap();
    now(kv.reset()).unwrap();
    assert_eq!(code(call(&kv, "get", "a", b"")), Code::Internal);
}
