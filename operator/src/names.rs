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
        let digits = pod.strip_prefix(&self.cluster)?.strip_prefix('-')?;
        let plain = digits == "0" || !digits.starts_with('0');
        let all = digits.bytes().all(|byte| byte.is_ascii_digit());
        if plain && all { digits.parse().ok() } else { None }
    }

    pub fn claim(&self, ordinal: u32) -> String {
        format!("{DATA_VOLUME}-{}", self.pod(ordinal))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::ShardClusterSpec;

    #[test]
    fn ordinals_are_read_back_and_nothing_else_is() {
        let names = Names::of(&ShardCluster::new("a-1", ShardClusterSpec::of_image("x")));
        for number in [0, 7, 10, 999] {
            assert_eq!(names.ordinal(&names.pod(number)), Some(number));
            assert_eq!(names.ordinal_of_claim(&names.claim(number)), Some(number));
        }
        for other in ["a-1", "a-1-", "a-1-x", "a-1-01", "a-1-+1", "b-1-0", "a-1-0-0", "a-10"] {
            assert_eq!(names.ordinal(other), None, "{other}");
        }
    }
}
