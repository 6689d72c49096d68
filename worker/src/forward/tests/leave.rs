//! Nodes that leave under load: nothing is lost, neither by peers nor by clients.

use std::sync::atomic::{AtomicBool, AtomicUsize};

use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::*;
use crate::env;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p5_a_leaver_answers_every_frame_in_its_pipes() {
    let mut world = World::owned_by(3, 1);
    let client = world.peers[0].client().await;
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..64)
        .map(|at| {
            let (mut client, stop) = (client.clone(), stop.clone());
            tokio::spawn(async move {
                let (key, mut calls) = (format!("k{at}"), 0_u64);
                let payload = Bytes::from(vec![1; if at < 4 { 100_000 } else { 100 }]);
                while !stop.load(Ordering::Relaxed) {
                    call(&mut client, &key, "slow", payload.clone()).await.unwrap();
                    calls += 1;
                }
                (key, calls)
            })
        })
        .collect();
    until("calls flow", || world.peers[1].owner.ran("k63") > 10).await;
    // The shards go; the leaver refuses what still comes for them.
    world.move_all(2);
    let nack = Nack::NotOwner {
        owner: Some(world.peers[2].id),
        epoch: world.row(ShardId(0)).epoch,
        row: LogIndex(world.index),
    };
    world.peers[1].owner.set(Mood::Nack(nack));
    world.tell(1);
    world.tell(2);
    let (leave, begun) = (world.peers[1].leave.clone(), Instant::now());
    let leaving = tokio::spawn(async move { leave.leave(Duration::from_secs(20)).await });
    world.tell(0);
    leaving.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(12), "the pipes ended by hand-shake");
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        let (key, calls) = caller.await.unwrap();
        let ran: u64 = world.peers[1..].iter().map(|peer| peer.owner.ran(&key)).sum();
        assert_eq!(ran, calls, "{key}");
    }
    assert_eq!(world.peers[0].node.metrics.unknown.get(), 0);
}

/// A client that, as gRPC's own do, sends again what a connection handed back unsent.
struct Client {
    backends: Arc<[SocketAddr; 2]>,
    open: Arc<[AtomicBool; 2]>,
    turn: usize,
    connection: Option<hyper::client::conn::http2::SendRequest<Full<Bytes>>>,
}

impl Client {
    async fn call(&mut self, key: &str) -> Result<(), String> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let request = CallRequest { key, method: "incr".to_owned(), payload: Bytes::new() };
        let message = grpc::encode(&request);
        loop {
            let request = http::Request::post("http://shoal/shoal.v1.Shoal/Call")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Full::new(message.clone()))
                .map_err(|error| error.to_string())?;
            let connection = self.connected().await;
            let sent = match connection.ready().await {
                Ok(()) => connection.try_send_request(request).await,
                Err(_) => {
                    self.connection = None;
                    continue;
                }
            };
            let response = match sent {
                Ok(response) => response,
                Err(mut error) => {
                    let unsent = error.take_message().is_some();
                    let error = error.into_error();
                    if !unsent && !grpc::is_unprocessed(&error) {
                        return Err(format!("{error:?}"));
                    }
                    self.connection = None;
                    continue;
                }
            };
            let body = response.into_body().collect().await;
            let body = body.map_err(|error| format!("body: {error}"))?;
            let status = body.trailers().and_then(|trailers| trailers.get("grpc-status"));
            return match status {
                Some(status) if status == "0" => Ok(()),
                other => Err(format!("status {other:?}")),
            };
        }
    }

    async fn connected(&mut self) -> &mut hyper::client::conn::http2::SendRequest<Full<Bytes>> {
        while self.connection.is_none() {
            self.turn += 1;
            let at = self.turn % 2;
            if !self.open[at].load(Ordering::Relaxed) {
                continue;
            }
            let Ok(socket) = env::net::connect(&self.backends[at].to_string()).await else {
                continue;
            };
            let made =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket));
            if let Ok((send, connection)) = made.await {
                tokio::spawn(connection);
                self.connection = Some(send);
            }
        }
        self.connection.as_mut().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_two_nodes_lose_nothing_over_repeated_leaves() {
    let mut world = World::owned_by(3, 2);
    let backends = Arc::new([world.peers[0].address, world.peers[1].address]);
    let open = Arc::new([AtomicBool::new(true), AtomicBool::new(true)]);
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|at| {
            let (backends, open) = (backends.clone(), open.clone());
            let (stop, calls) = (stop.clone(), calls.clone());
            let mut client = Client { backends, open, turn: at, connection: None };
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    client.call(&format!("k{at}")).await.unwrap();
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for leaver in [0, 1, 0] {
        let (before, leave) = (calls.load(Ordering::Relaxed), world.peers[leaver].leave.clone());
        until("calls flow", || calls.load(Ordering::Relaxed) > before + 100).await;
        let leaving = tokio::spawn(async move { leave.leave(Duration::from_secs(20)).await });
        // The Service learns of it late: until then clients connect here still.
        let late = calls.load(Ordering::Relaxed) + 200;
        until("calls flow on", || calls.load(Ordering::Relaxed) > late).await;
        open[leaver].store(false, Ordering::Relaxed);
        leaving.await.unwrap();
        world.peers[leaver].crash().await;
        world.peers[leaver].restart().await;
        open[leaver].store(true, Ordering::Relaxed);
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let ran: u64 = (0..8).map(|at| world.peers[2].owner.ran(&format!("k{at}"))).sum();
    assert_eq!(ran, calls.load(Ordering::Relaxed) as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_runs_is_waited_for_within_the_budget() {
    let world = World::owned_by(1, 0);
    world.peers[0].owner.set(Mood::Hang);
    let mut client = world.peers[0].client().await;
    let calling = tokio::spawn(async move { call(&mut client, "k", "incr", "").await });
    until("it runs", || world.peers[0].owner.ran("k") == 1).await;
    let begun = Instant::now();
    world.peers[0].leave.leave(Duration::from_secs(3)).await;
    assert!(begun.elapsed() >= Duration::from_secs(3));
    assert!(calling.await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outside_a_pod_the_listener_closes_first() {
    let world = World::owned_by(1, 0);
    let peer = &world.peers[0];
    let config = server::Config {
        listen: vec!["127.0.0.1:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap()],
        raft_address: String::new(),
        in_pod: false,
    };
    let port = DataPort::bind(config, peer.node.clone(), peer.ingress.clone()).unwrap();
    let (addresses, leave) = (port.addresses().unwrap(), port.leave());
    let running = tokio::spawn(port.run());
    for address in &addresses {
        drop(env::net::connect(&address.to_string()).await.unwrap());
    }
    let leaving = tokio::spawn(async move { leave.leave(PATIENCE).await });
    for address in &addresses {
        until("the door is closed", || env::net::listen(*address).is_ok()).await;
    }
    assert!(!leaving.is_finished(), "it stays for those that are here already");
    leaving.await.unwrap();
    running.await.unwrap();
}
