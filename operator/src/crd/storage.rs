//! Where a node keeps its copy of the registry, and what becomes of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rule;

/// Smallest volume: the registry of the largest cluster and its log need less.
const QUANTITY_RULE: &str = "isQuantity(self) && quantity(self).compareTo(quantity('64Mi')) >= 0";
const QUANTITY_MESSAGE: &str = "must be a quantity of at least 64Mi";

/// Where a node keeps its copy of the registry.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule("self.type == oldSelf.type", "storage.type is immutable"),
    rule(
        "self.type == 'Persistent' ? !has(self.ephemeral) : !has(self.persistent)",
        "only the member that storage.type names may be set",
    ),
    rule(
        "quantity(has(self.persistent) ? self.persistent.size : '1Gi').compareTo(quantity(has(oldSelf.persistent) ? oldSelf.persistent.size : '1Gi')) >= 0",
        "storage.persistent.size must not shrink",
    ),
    rule(
        "(has(self.persistent) && has(self.persistent.storageClassName) ? self.persistent.storageClassName : '-') == (has(oldSelf.persistent) && has(oldSelf.persistent.storageClassName) ? oldSelf.persistent.storageClassName : '-')",
        "storage.persistent.storageClassName is immutable",
    ),
]))]
pub struct Storage {
    /// Persistent: a volume for each node. Ephemeral: the node's disk, for 0 or at least 3
    /// replicas. Immutable.
    #[serde(default, rename = "type")]
    pub kind: StorageType,
    /// With type Persistent; absent means its defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent: Option<Persistent>,
    /// With type Ephemeral; absent means its defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<Ephemeral>,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            kind: StorageType::Persistent,
            persistent: Some(Persistent::default()),
            ephemeral: None,
        }
    }
}

impl Storage {
    /// The settings of persistent storage, if that is the type.
    pub fn as_persistent(&self) -> Option<Persistent> {
        match self.kind {
            StorageType::Persistent => Some(self.persistent.clone().unwrap_or_default()),
            StorageType::Ephemeral => None,
        }
    }

    /// The settings of ephemeral storage, if that is the type.
    pub fn as_ephemeral(&self) -> Option<Ephemeral> {
        match self.kind {
            StorageType::Persistent => None,
            StorageType::Ephemeral => Some(self.ephemeral.clone().unwrap_or_default()),
        }
    }
}

/// Whether a node's directory outlives its pod.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StorageType {
    #[default]
    Persistent,
    Ephemeral,
}

/// A volume for each node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Persistent {
    /// Size of each volume, a quantity of at least 64Mi. Never shrinks.
    #[schemars(length(max = 32), extend("x-kubernetes-validations" = [rule(QUANTITY_RULE, QUANTITY_MESSAGE)]))]
    pub size: String,
    /// Storage class of the volumes; absent means the default class of the Kubernetes cluster.
    /// Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 253),
        regex(pattern = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)?$")
    )]
    pub storage_class_name: Option<String>,
    /// What becomes of volumes that no node needs.
    pub retention: Retention,
    /// What follows a volume that is gone with its machine, or was deleted. Wait, or Replace: the
    /// member is removed and its successor begins with an empty volume.
    pub on_volume_lost: OnVolumeLost,
}

impl Default for Persistent {
    fn default() -> Self {
        Self {
            size: "1Gi".to_owned(),
            storage_class_name: None,
            retention: Retention::default(),
            on_volume_lost: OnVolumeLost::Wait,
        }
    }
}

/// What becomes of volumes that no node needs.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Retention {
    /// After a node was removed: Delete or Retain its volume.
    pub when_scaled: Retain,
    /// After the ShardCluster was deleted: Delete or Retain all volumes.
    pub when_deleted: Retain,
}

impl Default for Retention {
    fn default() -> Self {
        Self { when_scaled: Retain::Delete, when_deleted: Retain::Retain }
    }
}

/// Whether a volume is kept.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retain {
    Delete,
    Retain,
}

/// What follows the loss of a volume.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnVolumeLost {
    #[default]
    Wait,
    Replace,
}

/// The node's own disk.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Ephemeral {
    /// Most a node may use, a quantity of at least 64Mi. A change rolls the pods.
    #[schemars(length(max = 32), extend("x-kubernetes-validations" = [rule(QUANTITY_RULE, QUANTITY_MESSAGE)]))]
    pub size_limit: String,
    /// What follows the loss of the registry. Wait, or Refound: the cluster begins anew.
    pub on_registry_loss: OnRegistryLoss,
}

impl Default for Ephemeral {
    fn default() -> Self {
        Self { size_limit: "1Gi".to_owned(), on_registry_loss: OnRegistryLoss::Wait }
    }
}

/// What follows the loss of the registry.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRegistryLoss {
    #[default]
    Wait,
    Refound,
}
