//! Peers that die, stall or talk nonsense: what was proven unexecuted is sent again.

use h2::{RecvStream, SendStream};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{
    frame::{Batch, Decoder, Frame, Head, Hello, VERSION},
    *,
};
use crate::{env, wire::status};

async fn hanging(world: &World, key: &'static str, method: &'static str) -> Calling {
    let mut client = world.peers[0].client().await;
    let before = world.peers[1].owner.ran(key);
    let calling = tokio::spawn(async move { call(&mut client, key, method, "x").await });
    until("the owner runs it", || world.peers[1].owner.ran(key) == before + 1).await;
    calling
}

type Calling = JoinHandle<Result<Response<CallResponse>, Status>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_pipe_leaves_the_outcome_unknown_and_resends_the_idempotent_once() {
    let mut world = World::owned_by(2, 1);
    world.peers[1].owner.set(Mood::Hang);
    let (incr, put) = (hanging(&world, "i", "incr").await, hanging(&world, "p", "put").await);
    world.peers[1].crash().await;
    let status = incr.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unknown);
    assert_eq!(status.get_details_error_info().unwrap().reason, status::OUTCOME_UNKNOWN);
    world.peers[1].owner.set(Mood::Echo);
    world.peers[1].restart().await;
    put.await.unwrap().unwrap();
    assert_eq!((world.peers[1].owner.ran("i"), world.peers[1].owner.ran("p")), (1, 2));

    // The second unknown outcome of one call is its answer.
    world.peers[1].owner.set(Mood::Hang);
    let put = hanging(&world, "q", "put").await;
    world.peers[1].crash().await;
    world.peers[1].restart().await;
    until("it is sent again", || world.peers[1].owner.ran("q") == 2).await;
    world.peers[1].crash().await;
    assert_eq!(put.await.unwrap().unwrap_err().code(), Code::Unknown);
    assert_eq!(world.peers[1].owner.ran("q"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_never_left_the_queue_is_sent_once_the_peer_is_back() {
    let mut world = World::owned_by(2, 1);
    world.peers[1].crash().await;
    let mut client = world.peers[0].client().await;
    let calling = tokio::spawn(async move { call(&mut client, "k", "incr", "x").await });
    let metrics = world.peers[0].node.metrics.clone();
    until("dialling failed twice", || metrics.pipes_failed.get() >= 2).await;
    world.peers[1].restart().await;
    calling.await.unwrap().unwrap();
    assert_eq!(world.peers[1].owner.ran("k"), 1);
}

/// A pod that comes back under another address, while where it was nothing is heard any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_begins_anew_when_the_peer_is_back_elsewhere() {
    let mut world = World::owned_by(2, 1);
    world.peers[1].crash().await;
    let silent = listen_instead(&world.peers[1]).await;
    let mut client = world.peers[0].client().await;
    let calling = tokio::spawn(async move { call(&mut client, "k", "incr", "x").await });
    let _dialled = env::net::accept(&silent).await.unwrap();
    world.peers[1].move_elsewhere();
    world.register(1, Incarnation { counter: 2, ..world.incarnation(1) });
    let world = world.given_to(1);
    calling.await.unwrap().unwrap();
    assert_eq!(world.peers[0].node.metrics.pipes_failed.get(), 0, "the dial was waited out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_never_left_the_queue_follows_its_shard() {
    let mut world = World::owned_by(3, 1);
    world.peers[1].crash().await;
    let mut client = world.peers[0].client().await;
    let calling = tokio::spawn(async move { call(&mut client, "k", "incr", "x").await });
    let metrics = world.peers[0].node.metrics.clone();
    until("dialling failed", || metrics.pipes_failed.get() >= 1).await;
    world.move_all(2);
    world.tell_all();
    assert_eq!(calling.await.unwrap().unwrap().into_inner().owner, "node-2");
    assert_eq!((world.peers[1].owner.ran("k"), world.peers[2].owner.ran("k")), (0, 1));
}

/// Takes the address of a peer that crashed.
async fn listen_instead(peer: &Peer) -> env::net::TcpListener {
    peer.closed().await;
    env::net::listen(peer.address).unwrap()
}

/// A pipe opened by hand.
struct Raw {
    send: SendStream<Bytes>,
    receive: RecvStream,
    decoder: Decoder,
    _connection: JoinHandle<()>,
}

impl Raw {
    async fn open(world: &World, to: usize, generation: u64) -> Self {
        Self::open_as(world, to, world.incarnation(0), generation).await
    }

    async fn open_as(world: &World, to: usize, incarnation: Incarnation, generation: u64) -> Self {
        let socket = env::net::connect(&world.peers[to].address.to_string()).await.unwrap();
        let (requests, connection) = h2::client::handshake(socket).await.unwrap();
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        let uri = "http://peer/shoal.v1.Pipe/Open";
        let request = http::Request::post(uri).body(()).unwrap();
        let (response, send) =
            requests.ready().await.unwrap().send_request(request, false).unwrap();
        let receive = response.await.unwrap().into_body();
        let mut raw = Self { send, receive, decoder: Decoder::default(), _connection: connection };
        raw.say(&Frame::Hello(Hello {
            version: VERSION,
            node: true,
            cluster: CLUSTER,
            from: world.peers[0].id,
            incarnation,
            to: world.peers[to].id,
            thread: 9,
            generation,
        }));
        raw
    }

    fn say(&mut self, frame: &Frame) {
        let (mut batch, mut parts) = (Batch::default(), Vec::new());
        batch.push(frame);
        batch.take(&mut parts);
        parts.into_iter().for_each(|part| self.send.send_data(part, false).unwrap());
    }

    /// The next frame, or none at the end.
    async fn hear(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                return Some(frame);
            }
            let more = timeout(PATIENCE, self.receive.data()).await.expect("an answer in time");
            self.decoder.push(more?.ok()?);
        }
    }

    fn call(&mut self, key: &'static str) {
        let head = Head {
            request: 1,
            call: 1,
            shard: ShardId(0),
            epoch: Epoch(1),
            map_version: shoal_core::id::MapVersion(1),
            budget_ms: 5_000,
            attempt: 1,
            idempotent: false,
            length: 0,
            key: Bytes::from_static(key.as_bytes()),
            method: "incr".to_owned(),
            metadata: Bytes::new(),
        };
        self.say(&Frame::Call { head, bytes: Bytes::new() });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s14_frames_of_an_older_pipe_are_dropped_once_a_newer_one_is_open() {
    let world = World::owned_by(2, 1);
    let mut old = Raw::open(&world, 1, 1).await;
    assert!(matches!(old.hear().await, Some(Frame::Welcome(_))));
    let mut new = Raw::open(&world, 1, 2).await;
    assert!(matches!(new.hear().await, Some(Frame::Welcome(_))));
    old.call("late");
    assert_eq!(old.hear().await, None);
    new.call("fresh");
    assert!(matches!(new.hear().await, Some(Frame::Result { request: 1, .. })));
    assert_eq!((world.peers[1].owner.ran("late"), world.peers[1].owner.ran("fresh")), (0, 1));
    let mut older = Raw::open(&world, 1, 1).await;
    assert!(matches!(older.hear().await, Some(Frame::Refuse { .. })));
    // A later run of the peer begins anew; the earlier one is shut, and stays out.
    let later = Incarnation { counter: 2, nonce: 5 };
    let mut next = Raw::open_as(&world, 1, later, 1).await;
    assert!(matches!(next.hear().await, Some(Frame::Welcome(_))));
    new.call("late");
    assert_eq!(new.hear().await, None);
    assert_eq!(world.peers[1].owner.ran("late"), 0);
    let mut earlier = Raw::open(&world, 1, 3).await;
    assert!(matches!(earlier.hear().await, Some(Frame::Refuse { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_in_a_pipe_closes_that_pipe_only() {
    let world = World::owned_by(2, 1);
    let mut client = world.peers[0].client().await;
    call(&mut client, "k", "get", "").await.unwrap();
    let (data, drain) = (Frame::Data { request: 5, bytes: Bytes::from_static(b"x") }, Frame::Drain);
    for (generation, nonsense) in [(1, Some(data)), (2, Some(drain)), (3, None)] {
        let mut raw = Raw::open(&world, 1, generation).await;
        assert!(matches!(raw.hear().await, Some(Frame::Welcome(_))));
        match nonsense {
            Some(frame) => raw.say(&frame),
            None => raw.send.send_data(Bytes::from_static(&[0xff; 300]), false).unwrap(),
        }
        assert_eq!(raw.hear().await, None);
    }
    call(&mut client, "k", "get", "").await.unwrap();
    assert_eq!(world.peers[0].node.metrics.pipes_opened.get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_to_the_wrong_node_or_cluster_is_refused() {
    let world = World::owned_by(2, 1);
    let mut raw = Raw::open(&world, 1, 1).await;
    raw.hear().await;
    let stranger = World::owned_by(2, 1);
    stranger.peers[1]
        .node
        .set_me(Process { node: NodeId(99), incarnation: stranger.incarnation(1) });
    let mut raw = Raw::open(&stranger, 1, 1).await;
    let Some(Frame::Refuse { reason }) = raw.hear().await else { panic!("welcomed") };
    assert!(reason.contains("n99"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_talks_nonsense_costs_only_what_it_was_handed() {
    let mut world = World::owned_by(2, 1);
    world.peers[1].crash().await;
    let listener = listen_instead(&world.peers[1]).await;
    let nonsense = tokio::spawn(async move {
        let (socket, _) = env::net::accept(&listener).await.unwrap();
        let mut server = h2::server::handshake(socket).await.unwrap();
        let (_request, mut respond) = server.accept().await.unwrap().unwrap();
        let mut body = respond.send_response(http::Response::new(()), false).unwrap();
        body.send_data(Bytes::from_static(&[7; 500]), false).unwrap();
        let _ =
            timeout(Duration::from_millis(200), std::future::poll_fn(|cx| server.poll_closed(cx)))
                .await;
    });
    let mut client = world.peers[0].client().await;
    let calling = tokio::spawn(async move { call(&mut client, "k", "incr", "x").await });
    nonsense.await.unwrap();
    world.peers[1].restart().await;
    calling.await.unwrap().unwrap();
    assert_eq!(world.peers[1].owner.ran("k"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_falls_silent_is_given_up() {
    let mut world = World::owned_by(2, 1);
    world.peers[1].crash().await;
    let listener = listen_instead(&world.peers[1]).await;
    let mut client = world.peers[0].client().await;
    let calling = tokio::spawn(async move { call(&mut client, "k", "incr", "x").await });
    let (socket, _) = env::net::accept(&listener).await.unwrap();
    let mut server = h2::server::handshake(socket).await.unwrap();
    let (request, mut respond) = server.accept().await.unwrap().unwrap();
    let mut body = respond.send_response(http::Response::new(()), false).unwrap();
    let (mut batch, mut parts) = (Batch::default(), Vec::new());
    batch.push(&Frame::Welcome(frame::Welcome { version: VERSION, requests: 9, bytes: 9_000 }));
    batch.take(&mut parts);
    parts.into_iter().for_each(|part| body.send_data(part, false).unwrap());
    // Says Welcome, reads Hello and the call, and stops there with its socket open.
    let mut frames = request.into_body();
    let mut decoder = Decoder::default();
    let mut called = async || {
        loop {
            match decoder.next().unwrap() {
                Some(Frame::Call { .. }) => return,
                Some(_) => {}
                None => decoder.push(frames.data().await.unwrap().unwrap()),
            }
        }
    };
    tokio::select! {
        () = called() => {}
        _ = std::future::poll_fn(|cx| server.poll_closed(cx)) => panic!("closed before the call"),
    }
    let status = timeout(PATIENCE, calling).await.unwrap().unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unknown, "{status}");
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credit_and_queue_bound_what_one_peer_can_hold() {
    let world = World::owned_by(2, 1);
    world.peers[1].owner.set(Mood::Hang);
    let pipes = pipe::Pipes::new(world.peers[0].node.clone(), 5);
    let payload = Bytes::from(vec![0; MAX_PAYLOAD]);
    let order = |payload: &Bytes| Call {
        id: 1,
        shard: ShardId(0),
        epoch: Epoch(1),
        map_version: shoal_core::id::MapVersion(1),
        budget: PATIENCE,
        received: tokio::time::Instant::now(),
        attempt: 1,
        idempotent: false,
        key: Bytes::from_static(b"k"),
        method: "get".to_owned(),
        payload: payload.clone(),
    };
    let to = || pipes.to(world.peers[1].id);
    let row = LogIndex(world.index);
    let send = |_| to().send(order(&payload), row, None);
    // 64 MiB wait here, less what the credit of 32 MiB lets through meanwhile.
    let (sent, full): (Vec<_>, Vec<_>) = (0..40).map(send).partition(Result::is_ok);
    assert!((15..=23).contains(&sent.len()), "{} of 40", sent.len());
    assert_eq!(sent.len() + full.len(), 40);
    // Seven of 4 MiB and a key fit into 32 MiB.
    until("the credit is used up", || world.peers[1].owner.ran("k") == 7).await;
    drop(sent);
    let cancelled = &world.peers[1].owner.cancelled;
    until("all are cancelled", || cancelled.load(Ordering::Relaxed) == 7).await;
    assert_eq!(world.peers[1].owner.ran("k"), 7, "what waited was never sent");
    world.peers[1].owner.set(Mood::Echo);
    let Ok(pending) = to().send(order(&payload), row, None) else { panic!("the queue is empty") };
    let answer = timeout(PATIENCE, pending).await.unwrap();
    assert!(matches!(answer, pipe::Answer::Outcome(Outcome::Reply(_))));
    timeout(PATIENCE, pipes.close()).await.expect("nothing is on the way");
}
