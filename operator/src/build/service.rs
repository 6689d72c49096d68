//! The Services and the disruption budget.

use k8s_openapi::{
    api::{
        core::v1::{Service, ServicePort, ServiceSpec},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{ADMIN_PORT, Cluster, DATA_PORT, HTTP_PORT, RAFT_PORT};
use crate::crd::{TlsClients, TlsMode};

/// Peers look for each other before they are ready, so this one lists all pods.
pub(super) fn peers(cluster: &Cluster<'_>) -> Service {
    let ports =
        [("grpc", DATA_PORT), ("raft", RAFT_PORT), ("admin", ADMIN_PORT), ("http", HTTP_PORT)];
    Service {
        metadata: cluster.metadata(cluster.names.peers()),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            ports: Some(ports.map(|(name, number)| port(name, number, None)).to_vec()),
            ..common(cluster)
        }),
        status: None,
    }
}

/// What clients call: any ready pod takes a call for any key.
pub(super) fn clients(cluster: &Cluster<'_>) -> Service {
    let tls = &cluster.spec.tls;
    let plaintext = tls.mode == TlsMode::Disabled || tls.clients == TlsClients::Optional;
    let protocol = if plaintext { "kubernetes.io/h2c" } else { "https" };
    Service {
        metadata: cluster.metadata(cluster.names.set()),
        spec: Some(ServiceSpec {
            ports: Some(vec![port("grpc", DATA_PORT, Some(protocol))]),
            ..common(cluster)
        }),
        status: None,
    }
}

/// One over all workers, so that no pod is under two; none where it could only block.
pub(super) fn budget(cluster: &Cluster<'_>) -> Option<PodDisruptionBudget> {
    (cluster.spec.wanted() > 1).then(|| PodDisruptionBudget {
        metadata: cluster.metadata(cluster.names.set()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(cluster.selector()),
            // A pod that does not serve must not keep its Kubernetes node from being drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            min_available: None,
        }),
        status: None,
    })
}

fn common(cluster: &Cluster<'_>) -> ServiceSpec {
    ServiceSpec {
        type_: Some("ClusterIP".to_owned()),
        ip_family_policy: Some("PreferDualStack".to_owned()),
        selector: Some(cluster.names.selector()),
        ..ServiceSpec::default()
    }
}

fn port(name: &str, port: i32, protocol: Option<&str>) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port,
        target_port: Some(IntOrString::Int(port)),
        protocol: Some("TCP".to_owned()),
        app_protocol: protocol.map(str::to_owned),
        node_port: None,
    }
}
