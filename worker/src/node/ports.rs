//! The ports of a node: bound together before anything is asked of anybody, and served.

use std::{net::SocketAddr, sync::Arc};

use tokio::task::JoinSet;
use tonic::{Request, Status, service::InterceptorLayer};
use tracing::warn;

use super::{EXIT_SETTING, Exit, Shared};
use crate::{
    admin::{http, pages::NodePages},
    config::{Config, HostPort},
    env::net,
    found, peer, raft,
    tls::Caller,
};

/// Listeners, bound before anything is asked of anybody.
pub(super) struct Ports {
    pub data: Vec<SocketAddr>,
    raft: Vec<net::TcpListener>,
    admin: Vec<net::TcpListener>,
    http: Vec<net::TcpListener>,
}

/// All addresses are those of IPv4 on a machine without the other family.
pub(super) fn usable_host(host: String) -> String {
    let (all, of_ipv4) = (std::net::Ipv6Addr::UNSPECIFIED, std::net::Ipv4Addr::UNSPECIFIED);
    let without = host == all.to_string() && net::listen((all, 0).into()).is_err();
    if without { of_ipv4.to_string() } else { host }
}

impl Ports {
    pub async fn bind(config: &Config) -> Result<Self, Exit> {
        let at = |setting, port| listen_addresses(&config.bind_host, setting, port);
        let data = at("NODE_ADDRESS", config.node_address.port).await?;
        let listen = |setting: &'static str, addresses: Vec<SocketAddr>| {
            addresses.into_iter().map(move |address| {
                net::listen(address).map_err(|error| {
                    let text = format!(
                        "{setting}: cannot listen on {address}: {error}; free it, or set another"
                    );
                    Exit::new(EXIT_SETTING, text)
                })
            })
        };
        let raft = at("RAFT_ADDRESS", config.raft_address.port).await?;
        let admin = at("ADMIN_ADDRESS", config.admin_address.port).await?;
        let http = at("HTTP_ADDRESS", config.http_address.port).await?;
        Ok(Self {
            data,
            raft: listen("RAFT_ADDRESS", raft).collect::<Result<_, _>>()?,
            admin: listen("ADMIN_ADDRESS", admin).collect::<Result<_, _>>()?,
            http: listen("HTTP_ADDRESS", http).collect::<Result<_, _>>()?,
        })
    }

    /// Everything but the data port, which serves itself; ends with the life.
    pub fn serve(
        self,
        shared: &Arc<Shared>,
        slot: &raft::Slot,
        founding: &found::Handle,
        servers: &mut JoinSet<()>,
    ) {
        serve_peers(shared, self.raft, slot, founding, servers);
        serve_admin(shared, self.admin, self.http, servers);
    }
}

async fn listen_addresses(
    host: &str,
    setting: &'static str,
    port: u16,
) -> Result<Vec<SocketAddr>, Exit> {
    let address = HostPort { host: host.to_owned(), port };
    let mut found = net::resolve(&address.to_string())
        .await
        .map_err(|error| Exit::new(EXIT_SETTING, format!("{setting}: {address}: {error}")))?;
    found.sort();
    found.dedup();
    // A name of this machine may stand for a family that its kernel lacks.
    if found.len() > 1 {
        found.retain(|address| net::listen(SocketAddr::new(address.ip(), 0)).is_ok());
    }
    Ok(found)
}

fn serve_peers(
    shared: &Arc<Shared>,
    listeners: Vec<net::TcpListener>,
    slot: &raft::Slot,
    founding: &found::Handle,
    tasks: &mut JoinSet<()>,
) {
    for listener in listeners {
        let router = peer::server()
            .layer(InterceptorLayer::new(only_nodes))
            .add_service(slot.service())
            .add_service(founding.service())
            .add_service(shared.late.session.clone())
            .add_service(shared.late.handover.clone())
            .add_service(shared.late.map.clone());
        let (tls, shutdown) = (shared.tls.clone(), shared.shutdown.clone());
        tasks.spawn(async move {
            let incoming = peer::incoming(listener, tls);
            let served = router.serve_with_incoming_shutdown(incoming, shutdown.cancelled()).await;
            if let Err(error) = served {
                warn!(%error, "the peer port ended");
            }
        });
    }
}

/// Which node it is the services ask that know who speaks.
#[allow(clippy::result_large_err)] // as interceptors answer
fn only_nodes(request: Request<()>) -> Result<Request<()>, Status> {
    Caller::of(&request).must_be(None)?;
    Ok(request)
}

fn serve_admin(
    shared: &Arc<Shared>,
    admin: Vec<net::TcpListener>,
    http: Vec<net::TcpListener>,
    tasks: &mut JoinSet<()>,
) {
    for listener in admin {
        let router = peer::server().add_service(shared.late.admin.clone());
        let (tls, shutdown) = (shared.tls.clone(), shared.shutdown.clone());
        tasks.spawn(async move {
            let incoming = peer::incoming(listener, tls);
            let served = router.serve_with_incoming_shutdown(incoming, shutdown.cancelled()).await;
            if let Err(error) = served {
                warn!(%error, "the admin port ended");
            }
        });
    }
    let pages = Arc::new(NodePages::new(shared.clone()));
    for listener in http {
        let (pages, shutdown) = (pages.clone(), shared.shutdown.clone());
        tasks.spawn(http::serve(listener, pages, http::Limits::default(), shutdown));
    }
}
