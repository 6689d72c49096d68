//! The ConfigMap `<name>-identity`: who founds the cluster, and which cluster it became.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use serde::{Deserialize, Serialize};

use super::Cluster;

/// Most members of a founding set: with three, one may be missing.
const MAX_FOUNDING: i32 = 3;
/// Key of the ConfigMap and name of the file in the pods.
pub const IDENTITY_FILE: &str = "identity.json";

/// The content, as workers read it.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Uid of the ShardCluster.
    #[serde(rename = "crUID")]
    pub cr_uid: String,
    /// Names of the pods that found the cluster; never changed.
    pub founding: Vec<String>,
    /// The cluster they founded, once the operator has recorded it.
    #[serde(rename = "formedClusterID", skip_serializing_if = "Option::is_none")]
    pub formed_cluster_id: Option<String>,
    /// The recorded cluster while it is about to be given up: no empty directory joins it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abandoning: Option<String>,
    /// When that began; workers give it back with their answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abandoning_since: Option<String>,
}

/// Reasons why an identity could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ConfigMap is not one of ours.
    #[error("the config map has no {IDENTITY_FILE}")]
    Missing,
    /// The content was changed by hand.
    #[error("{IDENTITY_FILE} of the config map")]
    Content(#[from] serde_json::Error),
}

impl Identity {
    /// The identity of a cluster that begins with this many replicas, at least 1.
    pub fn of_first(cluster: &Cluster<'_>, replicas: i32) -> Self {
        let founding = (0_u32..).zip(0..replicas.clamp(1, MAX_FOUNDING));
        Self {
            cr_uid: cluster.uid.to_owned(),
            founding: founding.map(|(ordinal, _)| cluster.names.pod(ordinal)).collect(),
            formed_cluster_id: None,
            abandoning: None,
            abandoning_since: None,
        }
    }

    /// What a ConfigMap says.
    pub fn read(map: &ConfigMap) -> Result<Self, Error> {
        let text = map.data.as_ref().and_then(|data| data.get(IDENTITY_FILE));
        Ok(serde_json::from_str(text.ok_or(Error::Missing)?)?)
    }

    /// The ConfigMap. With a resource version it replaces exactly that one.
    pub fn config_map(&self, cluster: &Cluster<'_>, version: Option<&str>) -> ConfigMap {
        let mut metadata = cluster.metadata(cluster.names.identity());
        metadata.resource_version = version.map(str::to_owned);
        // Texts and lists of texts: there is nothing JSON could refuse.
        let text = serde_json::to_string(self).unwrap_or_default();
        ConfigMap {
            metadata,
            data: Some(BTreeMap::from([(IDENTITY_FILE.to_owned(), text)])),
            ..ConfigMap::default()
        }
    }
}
