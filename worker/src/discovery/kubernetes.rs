//! Pods of a label selector in the own namespace: names and addresses of nodes, by list and watch.
//!
//! The name of a pod is the name of its node. A pod that is listed no more stays known: a list
//! that is empty, stale or short hides nobody. A name with a new pod takes its address.

use std::{collections::BTreeSet, net::IpAddr};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tokio::sync::watch;
use tracing::{info, warn};

use super::PeerSet;
use crate::{config::HostPort, peer::AddressBook, pod::client};

/// Names known at once, of pods long gone too: twice the largest cluster.
const MOST: usize = 2_048;

pub struct Kubernetes {
    client: Client,
    namespace: String,
    selector: String,
    /// Of the RAFT_ADDRESS: the pods of one cluster all have the same.
    port: u16,
    /// Told first: nobody is dialled before it is known who must answer there.
    book: AddressBook,
    /// Listed, and not gone since.
    present: BTreeSet<String>,
    /// The API server does not answer, and that was logged.
    failing: bool,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes").field("selector", &self.selector).finish_non_exhaustive()
    }
}

impl Kubernetes {
    pub fn new(
        client: Client,
        namespace: String,
        selector: String,
        port: u16,
        book: AddressBook,
    ) -> Self {
        let present = BTreeSet::new();
        Self { client, namespace, selector, port, book, present, failing: false }
    }

    pub async fn run(mut self, peers: &watch::Sender<PeerSet>) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let config =
            watcher::Config::default().labels(&self.selector).timeout(client::WATCH_SECONDS);
        let mut events = std::pin::pin!(watcher(pods, config).default_backoff());
        // The stream begins anew after every failure.
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.on(event, peers),
                Err(error) => self.failed(&error, peers),
            }
        }
    }

    fn on(&mut self, event: Event<Pod>, peers: &watch::Sender<PeerSet>) {
        if std::mem::take(&mut self.failing) {
            info!(namespace = self.namespace, "pods are listed again");
        }
        match event {
            Event::Init => self.present.clear(),
            Event::InitApply(pod) | Event::Apply(pod) => self.learn(&pod, peers),
            Event::InitDone => {
                peers.send_if_modified(|peers| {
                    let news = !peers.listed || peers.trouble.is_some();
                    (peers.listed, peers.trouble) = (true, None);
                    news
                });
            }
            Event::Delete(pod) => {
                self.present.remove(&pod.metadata.name.unwrap_or_default());
            }
        }
    }

    fn failed(&mut self, error: &watcher::Error, peers: &watch::Sender<PeerSet>) {
        let why = client::line(error);
        if !std::mem::replace(&mut self.failing, true) {
            let remedy = "let the service account get, list and watch pods of its namespace";
            warn!(namespace = self.namespace, why, remedy, "pods cannot be listed");
        }
        peers.send_if_modified(|peers| peers.trouble.replace(why.clone()) != Some(why));
    }

    fn learn(&mut self, pod: &Pod, peers: &watch::Sender<PeerSet>) {
        let Some((name, address)) = node(pod, self.port) else { return };
        self.present.insert(name.clone());
        self.book.name(&address, &name);
        peers.send_if_modified(|peers| {
            if peers.named.len() >= MOST && !peers.named.contains_key(&name) {
                let gone = peers.named.keys().find(|name| !self.present.contains(*name)).cloned();
                if gone.and_then(|gone| peers.named.remove(&gone)).is_none() {
                    return false;
                }
            }
            peers.named.insert(name, address.clone()) != Some(address)
        });
    }
}

/// The name and the RAFT_ADDRESS of the node in a pod that has an address and may still run.
pub(crate) fn node(pod: &Pod, port: u16) -> Option<(String, String)> {
    let status = pod.status.as_ref()?;
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let ip: IpAddr = status.pod_ip.as_deref()?.parse().ok()?;
    Some((pod.metadata.name.clone()?, HostPort { host: ip.to_string(), port }.to_string()))
}

#[cfg(test)]
mod tests;
