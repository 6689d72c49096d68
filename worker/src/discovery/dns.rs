//! All addresses of a DNS name, as of a headless Service: each is asked where its peers reach it.
//! With TLS each must hold that name.
//!
//! The name is resolved for ever. An address that it has no more is asked on: a name server that
//! fails or knows but a part must not hide anybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use tokio::{sync::watch, task::JoinSet, time::sleep};

use super::{PeerSet, fixed};
use crate::{env::net, peer::Channels};

/// Between two looks; a name that has no address yet is looked up more often.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
const FIRST_LOOKS: Duration = Duration::from_secs(1);
/// Addresses asked at once. Beyond it those that the name has no more give way.
const MOST: usize = 256;
/// RAFT_ADDRESSes believed in all: a few generations of as many nodes.
const MOST_BELIEVED: usize = 8 * MOST;

#[derive(Debug)]
pub struct Dns {
    /// `host:port`; the port is that of the data ports.
    name: String,
    channels: Channels,
}

impl Dns {
    pub fn new(name: String, channels: Channels) -> Self {
        Self { name, channels }
    }

    /// What the certificates of all that it finds hold.
    fn host(&self) -> &str {
        self.name.rsplit_once(':').map_or(&self.name, |(host, _)| host)
    }

    pub async fn run(self, peers: &watch::Sender<PeerSet>) {
        let mut asked = Asked::default();
        loop {
            let pause = match net::resolve(&self.name).await {
                Ok(found) => {
                    peers.send_if_modified(|peers| peers.silent.remove(&self.name).is_some());
                    asked.see(&self, peers, found.into_iter().collect());
                    AGAIN_AFTER
                }
                Err(error) => {
                    let why = error.to_string();
                    tracing::debug!(name = self.name, why, "a name is not resolved");
                    peers.send_if_modified(|peers| {
                        peers.silent.insert(self.name.clone(), why.clone()) != Some(why)
                    });
                    FIRST_LOOKS
                }
            };
            sleep(pause).await;
        }
    }
}

/// The addresses that are followed; dropped, it asks none any more.
#[derive(Default)]
struct Asked {
    tasks: JoinSet<()>,
    following: BTreeMap<SocketAddr, tokio::task::AbortHandle>,
}

impl Asked {
    fn see(&mut self, dns: &Dns, peers: &watch::Sender<PeerSet>, found: BTreeSet<SocketAddr>) {
        for address in &found {
            // No certificate needs the address itself. Said each time: the book forgets.
            dns.channels.book().name(&address.to_string(), dns.host());
            if self.following.contains_key(address) || !self.has_room(&found) {
                continue;
            }
            let (channels, peers, at) = (dns.channels.clone(), peers.clone(), address.to_string());
            let task = self.tasks.spawn(async move {
                fixed::follow(&channels, &peers, &at, MOST_BELIEVED).await;
            });
            self.following.insert(*address, task);
        }
    }

    /// True unless all that are followed are addresses of the name now.
    fn has_room(&mut self, found: &BTreeSet<SocketAddr>) -> bool {
        if self.following.len() < MOST {
            return true;
        }
        let gone = self.following.keys().find(|address| !found.contains(*address)).copied();
        gone.and_then(|gone| self.following.remove(&gone)).inspect(|task| task.abort()).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::AddressBook;

    fn at(last: usize) -> SocketAddr {
        format!("127.1.{}.{}:1", last / 256, last % 256).parse().unwrap()
    }

    #[tokio::test]
    async fn addresses_stay_though_the_name_has_them_no_more_until_room_runs_out() {
        let dns = Dns::new("name:1".to_owned(), Channels::new(AddressBook::default()));
        let peers = watch::Sender::default();
        let mut asked = Asked::default();
        asked.see(&dns, &peers, (0..3).map(at).collect());
        asked.see(&dns, &peers, BTreeSet::new());
        asked.see(&dns, &peers, [at(1)].into());
        assert_eq!(asked.following.len(), 3, "an answer that lacks some forgets none");
        asked.see(&dns, &peers, (2..MOST + 1).map(at).collect());
        assert_eq!(asked.following.len(), MOST);
        assert!(asked.following.contains_key(&at(MOST)) && asked.following.contains_key(&at(2)));
        let kept = |last| asked.following.contains_key(&at(last));
        assert_ne!(kept(0), kept(1), "one gave way");
    }

    #[tokio::test]
    async fn every_address_of_a_name_is_asked() {
        let dns = Dns::new("localhost:1".to_owned(), Channels::new(AddressBook::default()));
        let peers = watch::Sender::default();
        let mut seen = peers.subscribe();
        let told = seen.wait_for(|peers: &PeerSet| peers.silent.contains_key("127.0.0.1:1"));
        tokio::select! {
            () = dns.run(&peers) => panic!("it looks for ever"),
            told = tokio::time::timeout(Duration::from_secs(20), told) => {
                told.unwrap().unwrap();
            }
        }
    }
}
