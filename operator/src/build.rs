//! What a cluster owns, as objects of Kubernetes. Pure: the same cluster, the same bytes.
//!
//! Nothing is read and nothing written here; `apply` does that. The only input beside the
//! ShardCluster is what a caller passes.

pub mod access;
pub mod identity;
pub mod merge;
pub mod pod;
pub mod secret;
pub mod service;
pub mod stateful_set;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
        rbac::v1::{Role, RoleBinding},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference},
};
use kube::Resource as _;

use crate::{
    crd::{ShardCluster, ShardClusterSpec, annotation},
    names::Names,
};

/// Value of `app.kubernetes.io/part-of` on everything of a cluster.
const PART_OF: &str = "shoal";
/// Value of `app.kubernetes.io/name` on the pods of the operator, in whatever namespace.
pub const OPERATOR_APP: &str = "shoal-operator";

/// Ports of a worker: clients and pipes, peers, people and the operator, probes and metrics.
pub const DATA_PORT: i32 = 11000;
pub const RAFT_PORT: i32 = 12000;
pub const ADMIN_PORT: i32 = 13000;
pub const HTTP_PORT: i32 = 14000;

/// One ShardCluster as the builders see it.
#[derive(Clone, Debug)]
pub struct Cluster<'a> {
    pub names: Names,
    pub namespace: &'a str,
    pub uid: &'a str,
    pub spec: &'a ShardClusterSpec,
    /// Size of volumes that are still to be created, with persistent storage. Cannot differ
    /// between the ordinals of one StatefulSet.
    pub volume_size: Option<String>,
}

/// All that needs no knowledge of the pods.
#[derive(Clone, Debug)]
pub struct Children {
    pub service_account: ServiceAccount,
    pub role: Role,
    pub role_binding: RoleBinding,
    pub peers: Service,
    pub clients: Service,
    /// None = there must be none.
    pub budget: Option<PodDisruptionBudget>,
    /// None = there must be none.
    pub network_policy: Option<NetworkPolicy>,
}

impl<'a> Cluster<'a> {
    /// None while the API server has not named it: such an object was never stored.
    pub fn of(cluster: &'a ShardCluster) -> Option<Self> {
        Some(Self {
            names: cluster.metadata.name.as_ref().map(|_| Names::of(cluster))?,
            namespace: cluster.metadata.namespace.as_deref()?,
            uid: cluster.metadata.uid.as_deref()?,
            spec: &cluster.spec,
            volume_size: cluster.spec.storage.as_persistent().map(|storage| storage.size),
        })
    }

    /// All that needs no knowledge of the pods.
    pub fn children(&self) -> Children {
        Children {
            service_account: access::service_account(self),
            role: access::role(self),
            role_binding: access::role_binding(self),
            peers: service::peers(self),
            clients: service::clients(self),
            budget: service::budget(self),
            network_policy: access::network_policy(self),
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.names.selector();
        labels.insert(annotation::LABEL_PART_OF.to_owned(), PART_OF.to_owned());
        labels.insert(annotation::LABEL_MANAGED_BY.to_owned(), OPERATOR_APP.to_owned());
        labels
    }

    fn selector(&self) -> LabelSelector {
        LabelSelector { match_labels: Some(self.names.selector()), match_expressions: None }
    }

    /// Names this cluster as the owner.
    pub fn owner_reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: ShardCluster::api_version(&()).into_owned(),
            kind: ShardCluster::kind(&()).into_owned(),
            name: self.names.cluster().to_owned(),
            uid: self.uid.to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    fn metadata(&self, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.to_owned()),
            labels: Some(self.labels()),
            owner_references: Some(vec![self.owner_reference()]),
            ..ObjectMeta::default()
        }
    }
}

#[cfg(test)]
mod tests;
