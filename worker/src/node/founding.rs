//! What the settings and the operator's identity file say of founding, and who finds the others.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use shoal_core::found as core_found;
use tracing::{info, warn};

use super::{EXIT_SETTING, Exit, Shared};
use crate::{
    config::{self, Config, Start},
    discovery::{self, Discovery, PeerSet, dns::Dns, fixed::Fixed, kubernetes::Kubernetes},
    found,
    identity::Identity,
    peer::Channels,
    pod::identity_file::IdentityFile,
};

/// The kubelet takes longer to bring a changed file.
const READ_EVERY: Duration = Duration::from_secs(1);

/// Where members that an empty directory knows of were last: it was retired.
fn former_members(identity: &Identity) -> BTreeSet<String> {
    match identity.directory().joined {
        Some(_) => BTreeSet::new(),
        None => identity.members(),
    }
}

/// `client` is there whenever the settings ask for the API server.
pub(super) fn discovery(
    config: &Config,
    identity: &Identity,
    channels: &Channels,
    client: Option<&kube::Client>,
) -> Discovery {
    let listed: Vec<String> = match &config.start {
        Start::Join(address) => vec![address.to_string()],
        Start::Peers(peers) => peers.iter().map(ToString::to_string).collect(),
        Start::FoundAlone | Start::Found | Start::Pods(_) | Start::Identity(_) => Vec::new(),
    };
    let fixed = discovery::Source::Fixed(Fixed::new(listed, channels.clone()));
    let namespace = config.pod.as_ref().and_then(|pod| pod.namespace.clone());
    let found = match (&config.discovery, client, namespace) {
        (config::Discovery::Dns(name), _, _) => {
            Some(discovery::Source::Dns(Dns::new(name.to_string(), channels.clone())))
        }
        (config::Discovery::Kubernetes(selector), Some(client), Some(namespace)) => {
            let port = config.raft_address.port;
            let book = channels.book().clone();
            let pods = Kubernetes::new(client.clone(), namespace, selector.clone(), port, book);
            Some(discovery::Source::Kubernetes(pods))
        }
        (config::Discovery::Kubernetes(_) | config::Discovery::Static, _, _) => None,
    };
    let known = PeerSet::of(former_members(identity));
    Discovery::new(known, [fixed].into_iter().chain(found).collect())
}

pub(super) fn config(shared: &Shared) -> Result<core_found::Config, Exit> {
    let config = &shared.config;
    // With PEER_ADDRESSES a node's name in the founding set is its NODE_ADDRESS.
    let name = match config.start {
        Start::Peers(_) => config.node_address.to_string(),
        Start::FoundAlone | Start::Join(_) | Start::Found | Start::Pods(_) | Start::Identity(_) => {
            config.raft_id.clone()
        }
    };
    let mut plan = found::plan(&config.start, &name)
        .map_err(|error| Exit::new(EXIT_SETTING, format!("PEER_ADDRESSES: {error}")))?;
    let (mut recorded, mut abandoning) = (None, None);
    if let Start::Identity(path) = &config.start
        && let Ok(file) = IdentityFile::read(path)
    {
        plan = core_found::Plan::Found(file.founding);
        recorded = file.recorded;
        abandoning = file.abandoning;
    }
    // Who was a member founds nothing beside the cluster that it was retired from.
    let retired = !former_members(&shared.identity.lock()).is_empty();
    Ok(core_found::Config {
        name,
        node_name: config.raft_id.clone(),
        address: config.raft_address.to_string(),
        plan: if retired { core_found::Plan::Join } else { plan },
        recorded,
        abandoning,
        lease: config.lease.unwrap_or(Config::DEFAULT_LEASE),
        confirm_required: matches!(config.start, Start::Identity(_)),
    })
}

/// Reads the operator's file until the cluster is formed: it may appear and change.
pub(super) async fn follow_identity_file(shared: Arc<Shared>, founding: found::Handle) {
    let Start::Identity(path) = &shared.config.start else { return };
    let mut known = None;
    while !shared.table.registry().formed() {
        let path = path.clone();
        let read = crate::env::thread::blocking(move || IdentityFile::read(&path));
        // Cancelled only with the runtime.
        let Ok(read) = read.await else { return };
        let now = read.map_err(|error| error.to_string());
        if known.as_ref() != Some(&now) {
            match &now {
                Ok(file) => {
                    let IdentityFile { cluster_uid, founding: set, recorded, abandoning } = file;
                    info!(
                        cluster_uid, founding = %set, ?recorded, ?abandoning,
                        "the operator's identity file"
                    );
                    founding.told(file).await;
                }
                Err(why) => {
                    warn!(why, "no word of the operator");
                    founding.untold(why.clone()).await;
                }
            }
            known = Some(now);
        }
        tokio::time::sleep(READ_EVERY).await;
    }
}
