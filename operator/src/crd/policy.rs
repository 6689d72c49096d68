//! The parts of a `ShardCluster` that say how the operator and the cluster behave: leases,
//! balancing, scaling down, rolling, disruptions and the network.

use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The lease that each node holds.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Session {
    /// Length of the lease, 2 to 60 seconds. After a crash its shards are served again once it
    /// has run out, or sooner if the death is proved. Changes reach the nodes without a roll.
    #[schemars(range(min = 2, max = 60))]
    pub lease_seconds: i32,
}

impl Default for Session {
    fn default() -> Self {
        Self { lease_seconds: 3 }
    }
}

/// How shards are spread while nothing is wrong. Changes reach the nodes without a roll.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Rebalance {
    /// Automatic, or Paused: shards move only off nodes that leave.
    pub mode: RebalanceMode,
    /// Most shards on the move at once in the cluster, 1 to 4096.
    #[schemars(range(min = 1, max = 4096))]
    pub max_moves: i32,
    /// Most shards on the move at once from or to one node, 1 to 4096.
    #[schemars(range(min = 1, max = 4096))]
    pub max_moves_per_node: i32,
    /// Rest of a shard between two moves for balance, 0 to 3600 seconds.
    #[schemars(range(min = 0, max = 3600))]
    pub cooldown_seconds: i32,
}

impl Default for Rebalance {
    fn default() -> Self {
        Self {
            mode: RebalanceMode::Automatic,
            max_moves: 16,
            max_moves_per_node: 4,
            cooldown_seconds: 10,
        }
    }
}

/// Whether shards move for balance.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RebalanceMode {
    #[default]
    Automatic,
    Paused,
}

/// How nodes leave.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ScaleDown {
    /// Time a leaving node has to hand over its shards, 1 to 86400 seconds. The pods' grace
    /// period is 30 seconds more, so a change rolls them.
    #[schemars(range(min = 1, max = 86400))]
    pub drain_timeout_seconds: i32,
    /// After that time: Wait, or Remove: the shards that are left fail over.
    pub on_timeout: OnTimeout,
    /// Most nodes that leave at once, 1 to 100.
    #[schemars(range(min = 1, max = 100))]
    pub max_parallel: i32,
}

impl Default for ScaleDown {
    fn default() -> Self {
        Self { drain_timeout_seconds: 600, on_timeout: OnTimeout::Wait, max_parallel: 1 }
    }
}

/// What follows a drain that took too long.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnTimeout {
    #[default]
    Wait,
    Remove,
}

/// How a new pod template reaches the pods.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Update {
    /// Automatic, or Paused: pods that run keep their revision.
    pub mode: UpdateMode,
    /// Most non-voting nodes that restart at once, 1 to 100. Voters restart one at a time, the
    /// leader last.
    #[schemars(range(min = 1, max = 100))]
    pub max_unavailable: i32,
    /// Time a restarted pod has to serve again before the roll stops, 10 to 86400 seconds.
    #[schemars(range(min = 10, max = 86400))]
    pub progress_deadline_seconds: i32,
}

impl Default for Update {
    fn default() -> Self {
        Self { mode: UpdateMode::Automatic, max_unavailable: 1, progress_deadline_seconds: 600 }
    }
}

/// Whether outdated pods are restarted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpdateMode {
    #[default]
    Automatic,
    Paused,
}

/// What the operator does about nodes under maintenance.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Disruption {
    /// Ignore, or Drain: shards leave a Kubernetes node as soon as it is cordoned or tainted for
    /// removal.
    pub node_taints: MaintenanceTaints,
}

/// What a taint that announces maintenance leads to.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaintenanceTaints {
    Drain,
    #[default]
    Ignore,
}

/// The NetworkPolicy of the workers.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkAccess {
    /// Enabled, or Disabled: the operator creates none.
    pub mode: NetworkPolicyMode,
    /// Sources that may reach the data port, at most 64. Empty: any source.
    #[schemars(length(max = 64))]
    pub clients: Vec<NetworkPolicyPeer>,
}

/// Whether there is a NetworkPolicy.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkPolicyMode {
    #[default]
    Enabled,
    Disabled,
}
