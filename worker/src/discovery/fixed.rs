//! A fixed list of NODE_ADDRESSes: each is asked where its peers reach it, for ever.
//!
//! The answer is hearsay, for anyone may give it: it says where to ask, and no more [S21].

use std::time::Duration;

use futures::future::join_all;
use shoal_proto::shoal::v1::{WhereIsPeerRequest, WhereIsPeerResponse, shoal_client::ShoalClient};
use tokio::sync::watch;

use super::PeerSet;
use crate::{env::random, peer::Channels, tls};

/// A node in the same cluster answers well within it.
const TIMEOUT: Duration = Duration::from_secs(1);
/// While an address does not answer: from the first pause, doubling, to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Once it has answered; it may move.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Longest answer: an address and a cluster id.
const MAX_ANSWER: usize = 4_096;
/// Of one address, old ones included; more is not believed.
const MAX_PER_ADDRESS: usize = 8;

#[derive(Debug)]
pub struct Fixed {
    node_addresses: Vec<String>,
    channels: Channels,
}

impl Fixed {
    pub fn new(node_addresses: Vec<String>, channels: Channels) -> Self {
        Self { node_addresses, channels }
    }

    pub async fn run(self, peers: &watch::Sender<PeerSet>) {
        let most = MAX_PER_ADDRESS * self.node_addresses.len();
        let all = self.node_addresses.iter().map(|at| follow(&self.channels, peers, at, most));
        join_all(all).await;
    }
}

/// Asks this NODE_ADDRESS for ever; `most` RAFT_ADDRESSes in all are believed.
pub(super) async fn follow(
    channels: &Channels,
    peers: &watch::Sender<PeerSet>,
    address: &str,
    most: usize,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        match where_is(channels, address).await {
            Ok(answer) => {
                pause = FIRST_PAUSE;
                learn(peers, address, answer.raft_address, most);
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            Err(why) => {
                tracing::debug!(address, why, "a peer does not say where it is");
                peers.send_if_modified(|peers| {
                    peers.silent.insert(address.to_owned(), why.clone()) != Some(why)
                });
                tokio::time::sleep(pause.mul_f64(0.5 + random::fraction() / 2.0)).await;
                pause = LONGEST_PAUSE.min(pause * 2);
            }
        }
    }
}

fn learn(peers: &watch::Sender<PeerSet>, address: &str, raft_address: String, most: usize) {
    peers.send_if_modified(|peers| {
        let spoke = peers.silent.remove(address).is_some();
        let new = !raft_address.is_empty()
            && peers.raft_addresses.len() < most
            && peers.raft_addresses.insert(raft_address);
        spoke || new
    });
}

/// What the node at this NODE_ADDRESS says of itself, or why it says nothing.
pub async fn where_is(channels: &Channels, address: &str) -> Result<WhereIsPeerResponse, String> {
    let channel = channels.dial(address).map_err(|error| error.to_string())?;
    let mut client = ShoalClient::new(channel).max_decoding_message_size(MAX_ANSWER);
    let asked = tokio::time::timeout(TIMEOUT, client.where_is_peer(WhereIsPeerRequest {}));
    match asked.await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(why_silent(&status)),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// The cause that a person can act on: that of the socket, else that something else answers.
fn why_silent(status: &tonic::Status) -> String {
    if let Some(reason) = tls::failure(status) {
        return format!("no TLS with what answers there ({reason})");
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(status);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>()
            && error.raw_os_error().is_some()
        {
            return error.to_string();
        }
        cause = error.source();
    }
    format!("what answers there is no shoal node ({})", status.code())
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use futures::Stream;
    use shoal_proto::shoal::v1::{
        CallRequest, CallResponse, WatchRoutesRequest, WatchRoutesResponse, WhereIsPeerResponse,
        shoal_server::{Shoal, ShoalServer},
    };
    use tokio_util::sync::CancellationToken;
    use tonic::{Request, Response, Status};

    use super::*;
    use crate::{
        discovery::{Discovery, Source},
        env::net,
        peer::{self, AddressBook},
    };

    struct DataPort;

    #[tonic::async_trait]
    impl Shoal for DataPort {
        type WatchRoutesStream =
            Pin<Box<dyn Stream<Item = Result<WatchRoutesResponse, Status>> + Send>>;

        async fn call(&self, _: Request<CallRequest>) -> Result<Response<CallResponse>, Status> {
            Err(Status::unimplemented("not asked here"))
        }

        async fn watch_routes(
            &self,
            _: Request<WatchRoutesRequest>,
        ) -> Result<Response<Self::WatchRoutesStream>, Status> {
            Err(Status::unimplemented("not asked here"))
        }

        async fn where_is_peer(
            &self,
            _: Request<WhereIsPeerRequest>,
        ) -> Result<Response<WhereIsPeerResponse>, Status> {
            let raft_address = "127.0.0.1:12000".to_owned();
            Ok(Response::new(WhereIsPeerResponse { raft_address, ..Default::default() }))
        }
    }

    #[tokio::test]
    async fn a_peer_that_comes_late_is_found() {
        let reserved = net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = reserved.local_addr().unwrap();
        drop(reserved);
        let channels = Channels::new(AddressBook::default());
        let addresses = vec![address.to_string(), "127.0.0.1:1".to_owned()];
        let fixed = Source::Fixed(Fixed::new(addresses, channels));
        let discovery = Discovery::new(PeerSet::default(), vec![fixed]);
        let mut peers = discovery.peers();
        let stop = CancellationToken::new();
        let looking = tokio::spawn(discovery.run(stop.clone()));
        assert!(peers.borrow().raft_addresses.is_empty());
        let listener = net::listen(address).unwrap();
        let serving =
            peer::server().add_service(ShoalServer::new(DataPort)).serve_with_incoming_shutdown(
                peer::incoming(listener, crate::tls::Tls::default()),
                stop.clone().cancelled_owned(),
            );
        let serving = tokio::spawn(serving);
        let found = peers.wait_for(|peers| peers.raft_addresses.contains("127.0.0.1:12000"));
        tokio::time::timeout(Duration::from_secs(10), found).await.unwrap().unwrap();
        let silent = peers.wait_for(|peers| peers.silent.keys().eq(["127.0.0.1:1"]));
        let silent = tokio::time::timeout(Duration::from_secs(10), silent).await.unwrap();
        let why = silent.unwrap().silent["127.0.0.1:1"].clone();
        assert!(why.contains("refused"), "{why}");
        stop.cancel();
        looking.await.unwrap();
        serving.await.unwrap().unwrap();
    }
}
