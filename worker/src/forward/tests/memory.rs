//! Calls that find no memory: refused at once and not executed, and nothing is held for them.

use tonic::Code;
use tonic_types::StatusExt as _;

use super::{
    budget::{Charge, Stage},
    *,
};
use crate::wire::status;

/// One largest payload is let in, two are not.
const LITTLE: usize = budget::least(MAX_PAYLOAD);

fn not_executed(status: &Status, code: Code) {
    assert_eq!(status.code(), code, "{status:?}");
    assert_eq!(status.get_details_error_info().unwrap().reason, status::NOT_EXECUTED);
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
}

impl Peer {
    /// Takes room as calls under way would.
    fn take(&self, stage: Stage, bytes: usize) -> Charge {
        self.node.budget.claim(stage, bytes).unwrap()
    }

    async fn all_room_is_back(&self) {
        until("nothing is held", || self.node.budget.used() == 0).await;
    }
}

/// A call of which only the beginning is ever sent.
async fn beginning(peer: &Peer, timeout: &str) -> h2::client::ResponseFuture {
    let socket = env::net::connect(&peer.address.to_string()).await.unwrap();
    let (requests, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("http://shoal/shoal.v1.Shoal/Call")
        .header("content-type", "application/grpc")
        .header("grpc-timeout", timeout)
        .body(())
        .unwrap();
    let (response, mut send) =
        requests.ready().await.unwrap().send_request(request, false).unwrap();
    let mut begins = vec![0];
    begins.extend((MAX_PAYLOAD as u32).to_be_bytes());
    begins.extend([b'x'; 100]);
    send.send_data(begins.into(), false).unwrap();
    // The stream stays open, as that of a client that stops in the middle.
    tokio::spawn(async move {
        tokio::time::sleep(PATIENCE).await;
        drop(send);
    });
    response
}

async fn status_of(response: h2::client::ResponseFuture) -> Status {
    let response = timeout(PATIENCE, response).await.expect("an answer in time").unwrap();
    Status::from_header_map(response.headers()).expect("an error at once")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_without_room_is_refused_before_its_body_comes() {
    let world = World::of(vec![LITTLE]).given_to(0);
    let peer = &world.peers[0];
    let mut client = peer.client().await;
    let others = peer.take(Stage::Entry, LITTLE / 4 + 1);
    let status = status_of(beginning(peer, "60S").await).await;
    not_executed(&status, Code::ResourceExhausted);
    assert!(status.message().contains("CALL_MEMORY"), "{status:?}");
    let status = call(&mut client, "k", "get", vec![1; MAX_PAYLOAD]).await.unwrap_err();
    not_executed(&status, Code::ResourceExhausted);
    assert_eq!(peer.owner.ran("k"), 0);
    assert_eq!(peer.node.metrics.no_memory[Stage::Entry as usize].get(), 2);
    call(&mut client, "k", "get", "small ones have room").await.unwrap();
    let most = peer.take(Stage::Entry, LITTLE / 4 - 1);
    let status = call(&mut client, "k", "get", "none has").await.unwrap_err();
    not_executed(&status, Code::ResourceExhausted);
    drop((others, most));
    call(&mut client, "k", "get", vec![1; MAX_PAYLOAD]).await.unwrap();
    peer.all_room_is_back().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_end_gives_its_room_back_in_time() {
    let world = World::of(vec![LITTLE]).given_to(0);
    let peer = &world.peers[0];
    let response = beginning(peer, "300m").await;
    until("it has room", || peer.node.budget.used() > MAX_PAYLOAD).await;
    assert_eq!(status_of(response).await.code(), Code::DeadlineExceeded);
    peer.all_room_is_back().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_no_answer_is_cut_off_and_its_room_is_back() {
    let world = World::of(vec![LITTLE]).given_to(0);
    let peer = &world.peers[0];
    let node = Node::new(peer.owner.clone(), peer.table.clone(), Arc::default(), MAX_PAYLOAD);
    let taken_within = Duration::from_secs(2);
    let node = Arc::new(Node { taken_within, ..node.limited(LITTLE) });
    node.set_me(peer.node.me().unwrap());
    let port = port("127.0.0.1:0".parse().unwrap(), &node, &Ingress::new(node.clone()));
    let address = port.addresses().unwrap()[0].to_string();
    let running = tokio::spawn(port.run());
    peer.owner.set(Mood::Large(MAX_PAYLOAD));
    peer.owner.gate.send_replace(true);
    let socket = env::net::connect(&address).await.unwrap();
    let mut closed = h2::client::Builder::new();
    let (requests, connection) =
        closed.initial_window_size(0).handshake::<_, Bytes>(socket).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post("http://shoal/shoal.v1.Shoal/Call")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let (response, mut send) =
        requests.ready().await.unwrap().send_request(request, false).unwrap();
    let request = CallRequest {
        key: Bytes::from_static(b"k"),
        method: "read".to_owned(),
        payload: Bytes::new(),
    };
    send.send_data(grpc::encode(&request), true).unwrap();
    let _untaken = timeout(PATIENCE, response).await.expect("an answer begins").unwrap();
    assert!(node.budget.used() >= MAX_PAYLOAD);
    let _ = timeout(PATIENCE, connection).await.expect("it is cut off");
    until("nothing is held", || node.budget.used() == 0).await;
    running.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_without_room_executes_nothing_and_its_pipe_goes_on() {
    let world = World::of(vec![DEFAULT_CALL_MEMORY, LITTLE]).given_to(1);
    let [entry, owner] = &world.peers[..] else { panic!("two nodes") };
    let mut client = entry.client().await;
    // What its own clients may take leaves room for what a peer sends.
    let own = owner.take(Stage::Entry, LITTLE / 2);
    call(&mut client, "k", "put", vec![1; MAX_PAYLOAD]).await.unwrap();
    let more = owner.take(Stage::Pipe, LITTLE / 4);
    let status = call(&mut client, "l", "put", vec![1; 100_000]).await.unwrap_err();
    not_executed(&status, Code::Unavailable);
    assert!(status.message().contains("busy"), "{status:?}");
    assert_eq!(owner.owner.ran("l"), 0);
    assert!(owner.node.metrics.no_memory[Stage::Pipe as usize].get() >= 4);
    drop((own, more));
    call(&mut client, "l", "put", vec![1; MAX_PAYLOAD]).await.unwrap();
    assert_eq!(entry.node.metrics.pipes_opened.get(), 1);
    entry.all_room_is_back().await;
    owner.all_room_is_back().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_without_room_is_given_up_and_its_pipe_goes_on() {
    for (at, size) in [(0, MAX_PAYLOAD), (1, MAX_PAYLOAD), (0, 20_000), (1, 20_000)] {
        let world = World::of(vec![LITTLE, LITTLE]).given_to(1);
        let [entry, owner] = &world.peers[..] else { panic!("two nodes") };
        owner.owner.set(Mood::Large(size));
        let mut client = entry.client().await;
        let calling = tokio::spawn(async move { call(&mut client, "k", "read", "").await });
        until("it runs", || owner.owner.ran("k") == 1).await;
        let limited = &world.peers[at];
        let others = limited.take(Stage::Answer, LITTLE - limited.node.budget.used() - 10_000);
        owner.owner.gate.send_replace(true);
        let status = calling.await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unknown, "{status:?}");
        assert_eq!(status.get_details_error_info().unwrap().reason, status::OUTCOME_UNKNOWN);
        assert_eq!(limited.node.metrics.no_memory[Stage::Answer as usize].get(), 1);
        drop(others);
        let mut client = entry.client().await;
        let answer = call(&mut client, "k", "read", "").await.unwrap();
        assert_eq!(answer.into_inner().payload.len(), size);
        assert_eq!(entry.node.metrics.pipes_opened.get(), 1);
        entry.all_room_is_back().await;
        owner.all_room_is_back().await;
    }
}

/// Entries and owners at once, each with little room: nobody waits for anybody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_full_of_calls_for_each_other_go_on() {
    let mut world = World::of(vec![LITTLE, LITTLE]).given_to(0);
    let half = world.begin_moves((0..SHARDS / 2).map(ShardId), 1);
    world.apply(Command::CommitMove { items: half });
    world.tell_all();
    let clients = futures::future::join_all(world.peers.iter().map(Peer::client)).await;
    let calls = (0..64_usize).map(|at| {
        let mut client = clients[at % 2].clone();
        async move {
            let (mut answered, mut refused) = (0, 0);
            for round in 0..4 {
                let key = format!("k{at}-{round}");
                match call(&mut client, &key, "put", vec![1; 1 << 20]).await {
                    Ok(_) => answered += 1,
                    Err(status) => {
                        let code = status.code();
                        assert_ne!(code, Code::DeadlineExceeded, "{status:?}");
                        refused += 1;
                    }
                }
            }
            (answered, refused)
        }
    });
    let ended = futures::future::join_all(calls).await;
    let answered: usize = ended.iter().map(|(answered, _)| answered).sum();
    let refused: usize = ended.iter().map(|(_, refused)| refused).sum();
    assert!(answered > 0 && refused > 0, "{answered} answered, {refused} refused");
    for peer in &world.peers {
        peer.all_room_is_back().await;
    }
    let mut client = clients[0].clone();
    for at in 0..8 {
        call(&mut client, &format!("l{at}"), "put", vec![1; 1 << 20]).await.unwrap();
    }
}
