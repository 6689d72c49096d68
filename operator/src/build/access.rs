//! Who may do what: the workers' identity towards the API server and the NetworkPolicy.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::ServiceAccount,
        networking::v1::{
            NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
            NetworkPolicySpec,
        },
        rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{ADMIN_PORT, Cluster, DATA_PORT, HTTP_PORT, OPERATOR_APP, RAFT_PORT};
use crate::crd::{NetworkPolicyMode, annotation};

/// What the workers may do: see the pods of their own namespace, to find each other.
pub fn worker_rules() -> Vec<PolicyRule> {
    vec![PolicyRule {
        api_groups: Some(vec![String::new()]),
        resources: Some(vec!["pods".to_owned()]),
        verbs: ["get", "list", "watch"].map(str::to_owned).to_vec(),
        ..PolicyRule::default()
    }]
}

pub(super) fn service_account(cluster: &Cluster<'_>) -> ServiceAccount {
    ServiceAccount {
        metadata: cluster.metadata(cluster.names.worker_account()),
        // The pods ask for it themselves.
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

pub(super) fn role(cluster: &Cluster<'_>) -> Role {
    Role { metadata: cluster.metadata(cluster.names.worker_account()), rules: Some(worker_rules()) }
}

pub(super) fn role_binding(cluster: &Cluster<'_>) -> RoleBinding {
    // A user's own account needs the role as well.
    let own =
        cluster.spec.pod_template.0.get("spec").and_then(|spec| spec.get("serviceAccountName"));
    let account = own.and_then(|name| name.as_str()).map(str::to_owned);
    RoleBinding {
        metadata: cluster.metadata(cluster.names.worker_account()),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "Role".to_owned(),
            name: cluster.names.worker_account(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: account.unwrap_or_else(|| cluster.names.worker_account()),
            namespace: Some(cluster.namespace.to_owned()),
            ..Subject::default()
        }]),
    }
}

pub(super) fn network_policy(cluster: &Cluster<'_>) -> Option<NetworkPolicy> {
    let access = &cluster.spec.network_policy;
    match access.mode {
        NetworkPolicyMode::Disabled => return None,
        NetworkPolicyMode::Enabled => {}
    }
    let peers = NetworkPolicyPeer {
        pod_selector: Some(cluster.selector()),
        ..NetworkPolicyPeer::default()
    };
    // In any namespace: an operator that moved must reach its clusters before it can tell them.
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector::default()),
        pod_selector: Some(LabelSelector {
            match_labels: Some(BTreeMap::from([(
                annotation::LABEL_NAME.to_owned(),
                OPERATOR_APP.to_owned(),
            )])),
            match_expressions: None,
        }),
        ip_block: None,
    };
    let clients = (!access.clients.is_empty())
        .then(|| access.clients.iter().cloned().chain([peers.clone()]).collect());
    Some(NetworkPolicy {
        metadata: cluster.metadata(cluster.names.set()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(cluster.selector()),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![
                rule(DATA_PORT, clients),
                rule(RAFT_PORT, Some(vec![peers.clone()])),
                rule(ADMIN_PORT, Some(vec![peers, operator])),
                // Probes come from the Kubernetes node, whose address no selector names.
                rule(HTTP_PORT, None),
            ]),
            egress: None,
        }),
    })
}

fn rule(port: i32, from: Option<Vec<NetworkPolicyPeer>>) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule {
        from,
        ports: Some(vec![NetworkPolicyPort {
            port: Some(IntOrString::Int(port)),
            protocol: Some("TCP".to_owned()),
            end_port: None,
        }]),
    }
}
