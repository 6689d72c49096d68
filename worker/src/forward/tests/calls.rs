//! Calls that nothing disturbs, and requests that are no calls.

use shoal_proto::shoal::v1::{WatchRoutesRequest, WhereIsPeerRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use super::*;
use crate::{call::AppError, env, wire::status};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_size_reaches_its_owner_and_comes_back() {
    let world = World::owned_by(2, 1);
    let mut client = world.peers[0].client().await;
    for size in [0, 1, 100, 16_383, 16_384, 32_767, 32_768, 32_769, 65_536, 200_000, MAX_PAYLOAD] {
        let payload: Bytes = (0..size).map(|at| (at * 7) as u8).collect::<Vec<_>>().into();
        let answer = call(&mut client, "k", "get", payload.clone()).await.unwrap();
        let metadata = answer.metadata().clone();
        let answer = answer.into_inner();
        assert!(answer.payload == payload, "{size} bytes came back different");
        assert!(answer.forwarded);
        assert_eq!(answer.owner, "node-1");
        let owner = world.peers[1].address.to_string();
        assert_eq!(metadata.get("x-shoal-owner").unwrap(), owner.as_str());
        assert_eq!(metadata.get("x-shoal-epoch").unwrap(), answer.epoch.to_string().as_str());
        assert!(metadata.get("x-shoal-version").is_some());
    }
    assert_eq!(world.peers[0].node.metrics.pipes_opened.get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owner_itself_answers_without_a_hint() {
    let world = World::owned_by(1, 0);
    let mut client = world.peers[0].client().await;
    let answer = call(&mut client, "k", "get", "x").await.unwrap();
    assert!(answer.metadata().get("x-shoal-owner").is_none());
    let answer = answer.into_inner();
    assert_eq!((answer.owner.as_str(), answer.forwarded), ("node-0", false));
    let table = world.peers[0].table.routes();
    let shard = table.shard_of_hash(shoal_proto::hash::key_hash(b"k"));
    assert_eq!(answer.shard, shard.0);
    assert_eq!(answer.epoch, world.row(shard).epoch.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_of_mixed_sizes_share_one_pipe() {
    let world = World::owned_by(3, 2);
    let clients = futures::future::join_all((0..4).map(|at| world.peers[at % 2].client())).await;
    let calls = (0..512_usize).map(|at| {
        let mut client = clients[at % 4].clone();
        let size = if at.is_multiple_of(32) { 300_000 } else { at };
        let payload = Bytes::from(vec![at as u8; size]);
        async move {
            for round in 0..4 {
                let method = if round % 2 == 0 { "get" } else { "slow" };
                let answer = call(&mut client, &format!("k{at}"), method, payload.clone()).await;
                assert!(answer.unwrap().into_inner().payload == payload);
            }
        }
    });
    futures::future::join_all(calls).await;
    assert!((0..512).all(|at| world.peers[2].owner.ran(&format!("k{at}")) == 4));
    for entry in &world.peers[..2] {
        assert_eq!(entry.node.metrics.pipes_opened.get(), 1);
    }
}

#[tokio::test]
async fn limits_name_both_sizes() {
    let world = World::owned_by(2, 1);
    let mut client = world.peers[0].client().await;
    let status = call(&mut client, "", "get", "").await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let status = call(&mut client, "k", "", "").await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let status = call(&mut client, &"k".repeat(4_097), "get", "").await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.message(), "the key has 4097 bytes, the limit is 4096");
    let status = call(&mut client, "k", "get", vec![0; MAX_PAYLOAD + 1]).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.message(), "the payload has 4194305 bytes, the limit is 4194304");
    let status = call(&mut client, "k", "get", vec![0; 2 * MAX_PAYLOAD]).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("4194304") || status.message().contains("41"), "{status}");
    call(&mut client, "k", "get", "still served").await.unwrap();
}

#[tokio::test]
async fn a_node_without_a_formed_table_says_so() {
    let peer = Peer::start(DEFAULT_CALL_MEMORY);
    let mut client = peer.client().await;
    let status = call(&mut client, "k", "get", "").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.get_details_retry_info().is_some());
    assert!(status.message().contains("formed"), "{status}");
    let answer = client.where_is_peer(WhereIsPeerRequest {}).await.unwrap().into_inner();
    assert_eq!((answer.raft_address.as_str(), answer.formed), ("127.0.0.1:1", false));
    assert_eq!(answer.cluster_id, "");
}

#[tokio::test]
async fn anyone_may_ask_where_the_peers_are() {
    let world = World::owned_by(1, 0);
    let mut client = world.peers[0].client().await;
    let answer = client.where_is_peer(WhereIsPeerRequest {}).await.unwrap().into_inner();
    assert!(answer.formed);
    assert_eq!(answer.cluster_id, CLUSTER.to_string());
}

#[tokio::test]
async fn the_routes_are_told_whole_and_then_by_change() {
    let mut world = World::owned_by(2, 1);
    let mut client = world.peers[0].client().await;
    let mut routes = client.watch_routes(WatchRoutesRequest {}).await.unwrap().into_inner();
    let first = routes.message().await.unwrap().unwrap();
    assert_eq!((first.shard_count, first.routes.len()), (SHARDS, SHARDS as usize));
    let address = |at: usize| world.peers[at].address.to_string();
    assert!(first.routes.iter().all(|route| route.owner == address(1)));
    let (owner, shard) = (address(0), ShardId(3));
    let items = world.begin_moves(std::iter::once(shard), 0);
    world.apply(Command::CommitMove { items });
    world.tell(0);
    let next = timeout(PATIENCE, routes.message()).await.unwrap().unwrap().unwrap();
    assert!(next.map_version > first.map_version);
    assert_eq!(next.routes.len(), 1);
    assert_eq!((next.routes[0].shard, &next.routes[0].owner), (shard.0, &owner));
    assert_eq!(next.routes[0].epoch, world.row(shard).epoch.0);
}

#[tokio::test]
async fn a_deadline_ends_a_forwarded_call_and_cancels_it() {
    let world = World::owned_by(2, 1);
    world.peers[1].owner.set(Mood::Hang);
    let status = error_of(world.peers[0].address, "k", "incr", "200m").await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let reason = status.get_details_error_info().unwrap().reason;
    assert_eq!(reason, status::OUTCOME_UNKNOWN);
    let cancelled = &world.peers[1].owner.cancelled;
    until("the owner's future is dropped", || cancelled.load(Ordering::Relaxed) == 1).await;

    // A client that goes away cancels as well.
    let mut client = world.peers[0].client().await;
    let mut gone = client.clone();
    let going = tokio::spawn(async move { call(&mut gone, "k", "incr", "").await });
    until("the call runs", || world.peers[1].owner.ran("k") == 2).await;
    going.abort();
    until("the second is dropped", || cancelled.load(Ordering::Relaxed) == 2).await;
    world.peers[1].owner.set(Mood::Echo);
    call(&mut client, "k", "get", "and the pipe goes on").await.unwrap();
    assert_eq!(world.peers[0].node.metrics.pipes_opened.get(), 1);
}

#[tokio::test]
async fn garbage_closes_its_own_connection_only() {
    let world = World::owned_by(1, 0);
    let mut client = world.peers[0].client().await;
    let address = world.peers[0].address.to_string();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4_000], b"\x16\x03\x01\x02\x00\x01"] {
        let mut socket = env::net::connect(&address).await.unwrap();
        socket.write_all(garbage).await.unwrap();
        let closed = timeout(PATIENCE, socket.read(&mut [0; 64])).await.unwrap();
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    }
    // One that says nothing is not waited for.
    let mut socket = env::net::connect(&address).await.unwrap();
    let closed = timeout(PATIENCE, socket.read(&mut [0; 64])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    // A preface with garbage behind it gets as far as HTTP/2, and no further.
    let mut socket = env::net::connect(&address).await.unwrap();
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    socket.write_all(&[0xff; 100]).await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("closed");
    call(&mut client, "k", "get", "").await.unwrap();
}

#[tokio::test]
async fn an_unknown_method_of_the_port_is_unimplemented() {
    let world = World::owned_by(1, 0);
    let channel = Channel::from_shared(format!("http://{}", world.peers[0].address)).unwrap();
    let mut grpc = tonic::client::Grpc::new(channel.connect().await.unwrap());
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/a.B/C");
    let codec = tonic_prost::ProstCodec::<CallRequest, CallResponse>::default();
    let status = grpc.unary(Request::new(CallRequest::default()), path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[test]
fn an_error_of_the_host_keeps_its_code() {
    let error = AppError { code: Code::NotFound as i32, message: "no such key".to_owned() };
    let status = ingress::app_status(error);
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no such key"));
    let status = ingress::app_status(AppError { code: 0, message: String::new() });
    assert_eq!(status.code(), Code::Unknown);
}
