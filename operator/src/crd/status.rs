//! What the operator answers. Holds nothing that changes while nothing happens.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most members listed, unhealthy ones first: a thousand of them would crowd the object.
pub const MAX_MEMBERS: usize = 100;
/// Most next steps listed.
pub const MAX_NEXT_STEPS: usize = 10;

/// What the operator last saw and did.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ShardClusterStatus {
    /// Generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods that exist.
    pub replicas: i32,
    /// Pods that are ready.
    pub ready_replicas: i32,
    /// Pods of the newest revision.
    pub updated_replicas: i32,
    /// Selector of the pods as a string, for autoscalers; never changes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// Version the workers report; the oldest while they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Identity of the cluster, once it is formed.
    #[serde(rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// Name of the node that leads the registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Shards by state, once the cluster is formed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards: Option<ShardCounts>,
    /// Nodes of the cluster, unhealthy ones first, at most 100.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 100),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub members: Vec<Member>,
    /// Nodes that are not listed.
    #[serde(skip_serializing_if = "is_zero")]
    pub members_truncated: i32,
    /// What the operator will do next, in order, at most 10.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub next_steps: Vec<String>,
    /// What the first next step waits for, if it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Blocked>,
    /// What is true of the cluster as a whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}

/// Shards by state.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ShardCounts {
    /// All shards.
    pub total: i32,
    /// Shards that have an owner.
    pub assigned: i32,
    /// Shards changing their owner.
    pub moving: i32,
    /// Shards without an owner.
    pub unassigned: i32,
}

/// One node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Name of the node and of its pod.
    pub name: String,
    /// Id in the registry, for example `n7`; absent before the node has joined.
    #[serde(rename = "nodeID", skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// Uid of the pod, while there is one.
    #[serde(rename = "podUID", skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// Zone of the pod, if its Kubernetes node names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Part in the registry's consensus.
    pub role: MemberRole,
    /// State of the node.
    pub state: MemberState,
    /// Shards it owns.
    pub shards: i32,
    /// Revision of the pod template that the pod runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Set while shards are taken off the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
}

/// Part in the registry's consensus.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemberRole {
    Leader,
    Voter,
    Learner,
    Watcher,
    /// Not known: the node has not joined or nobody who knows was reached.
    #[default]
    Unknown,
}

/// State of a node, worst first.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord,
)]
pub enum MemberState {
    /// Its lease ran out.
    Fenced,
    /// It is in the registry, but its pod is gone or does not run.
    Down,
    /// Its pod runs or waits, but it is not in the registry yet.
    #[default]
    Pending,
    Joining,
    /// It gave up its lease in an orderly way.
    Closed,
    /// It was removed and its pod goes next.
    Left,
    Up,
}

/// Shards are being taken off a node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// When it began.
    pub since: Time,
    /// Whether a change of mind still calls it off.
    pub revocable: bool,
}

/// What the next step waits for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Blocked {
    /// In one word of CamelCase.
    pub reason: String,
    /// The node concerned, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// In a sentence.
    pub message: String,
    /// Since when.
    pub since: Time,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}
