//! Names of everything that belongs to one cluster, and the labels by which it is found.

use std::collections::BTreeMap;

use kube::ResourceExt as _;

use crate::crd::{
    ShardCluster,
    annotation::{LABEL_COMPONENT, LABEL_INSTANCE, LABEL_NAME},
};

/// Name of the volume of a node's directory; claims are `<volume>-<pod>`.
pub const DATA_VOLUME: &str = "shoal-data";
const APP: &str = "shoal";
const COMPONENT: &str = "worker";

/// Made from the name of the cluster alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    cluster: String,
}

impl Names {
    pub fn of(cluster: &ShardCluster) -> Self {
        Self { cluster: cluster.name_any() }
    }

    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// StatefulSet, client Service, disruption budget and NetworkPolicy.
    pub fn set(&self) -> String {
        self.cluster.clone()
    }

    /// Headless Service of the peers.
    pub fn peers(&self) -> String {
        format!("{}-peers", self.cluster)
    }

    /// ServiceAccount, Role and RoleBinding of the workers.
    pub fn worker_account(&self) -> String {
        format!("{}-worker", self.cluster)
    }

    /// ConfigMap of the founding set.
    pub fn identity(&self) -> String {
        format!("{}-identity", self.cluster)
    }

    /// Secret of the CA, mounted nowhere.
    pub fn ca_secret(&self) -> String {
        format!("{}-ca", self.cluster)
    }

    /// Secret of the nodes' certificates.
    pub fn tls_secret(&self) -> String {
        format!("{}-tls", self.cluster)
    }

    /// Secret of the operator's own certificate.
    pub fn operator_tls_secret(&self) -> String {
        format!("{}-operator-tls", self.cluster)
    }

    pub fn pod(&self, ordinal: u32) -> String {
        format!("{}-{ordinal}", self.cluster)
    }

    /// Ordinals are numbers: `x-10` comes after `x-2`.
    pub fn ordinal(&self, pod: &str) -> Option<u32> {
        pod.strip_prefix(&self.cluster)?.strip_prefix('-')?.parse().ok()
    }

    pub fn ordinal_of_claim(&self, claim: &str) -> Option<u32> {
        self.ordinal(claim.strip_prefix(DATA_VOLUME)?.strip_prefix('-')?)
    }

    /// What selects the pods, for the life of the cluster.
    pub fn selector(&self) -> BTreeMap<String, String> {
        [(LABEL_NAME, APP), (LABEL_INSTANCE, &self.cluster), (LABEL_COMPONENT, COMPONENT)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    /// The selector as a string, for lists and for autoscalers.
    pub fn selector_text(&self) -> String {
        let pairs: Vec<String> =
            self.selector().iter().map(|(key, value)| format!("{key}={value}")).collect();
        pairs.join(",")
    }
}
