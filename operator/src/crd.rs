//! `ShardCluster`: what a user asks for (`spec`) and what the operator answers (`status`).
//!
//! Types, defaults and the rules that the API server checks itself. What those rules cannot say
//! is `validate`; nothing here reads or writes a cluster.

pub mod annotation;
pub mod condition;
pub mod definition;
pub mod policy;
pub mod status;
pub mod storage;

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use policy::{
    Disruption, MaintenanceTaints, NetworkAccess, NetworkPolicyMode, OnTimeout, Rebalance,
    RebalanceMode, ScaleDown, Session, Update, UpdateMode,
};
pub use status::{
    Blocked, Drain, Member, MemberRole, MemberState, ShardClusterStatus, ShardCounts,
};
pub use storage::{
    Ephemeral, OnRegistryLoss, OnVolumeLost, Persistent, Retain, Retention, Storage, StorageType,
};

/// API group of the resource and prefix of its annotations.
pub const GROUP: &str = "shoal.dev";
/// Shard counts a cluster may be founded with: powers of two, so that a key's shard is the top
/// bits of its hash.
pub const SHARD_COUNTS: [i32; 13] =
    [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];
/// Odd, so that one more voter always raises how many may fail.
pub const VOTER_COUNTS: [i32; 4] = [1, 3, 5, 7];

/// What is asked for. Only `image` has no default.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[kube(
    group = "shoal.dev",
    version = "v1alpha1",
    kind = "ShardCluster",
    plural = "shardclusters",
    shortname = "shc",
    category = "all",
    namespaced,
    doc = "A sharded workload: every key has exactly one owner pod, and scaling, rolling and crashes move shards without losing a call.",
    derive = "PartialEq",
    status = "ShardClusterStatus",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether everything is as specified"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is ready, or not yet"
    ),
    printcolumn(
        name = "Desired",
        type_ = "integer",
        format = "int32",
        json_path = ".spec.replicas",
        description = "Nodes asked for"
    ),
    printcolumn(
        name = "ReadyReplicas",
        type_ = "integer",
        format = "int32",
        json_path = ".status.readyReplicas",
        description = "Pods that are ready"
    ),
    printcolumn(
        name = "Shards",
        type_ = "integer",
        format = "int32",
        json_path = ".status.shards.assigned",
        description = "Shards that have an owner"
    ),
    printcolumn(
        name = "Moving",
        type_ = "integer",
        format = "int32",
        json_path = ".status.shards.moving",
        priority = 1,
        description = "Shards changing their owner now"
    ),
    printcolumn(
        name = "Leader",
        type_ = "string",
        json_path = ".status.leader",
        priority = 1,
        description = "Node that leads the registry"
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.version",
        description = "Version the workers report"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')")
        .message("name must be 1 to 40 characters of a-z, 0-9 and '-', begin with a letter and not end with '-'")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule(
        "self.replicas <= self.shards",
        "replicas must not exceed shards: a node without a shard has nothing to do",
    ),
    rule(
        "self.storage.type != 'Ephemeral' || self.replicas == 0 || self.replicas >= 3",
        "ephemeral storage needs 0 or at least 3 replicas: with fewer, one crash loses the registry",
    ),
    rule(
        "has(self.app) == has(oldSelf.app)",
        "app can be neither added nor taken away: the built-in kv host and an app share no state",
    ),
]))]
pub struct ShardClusterSpec {
    /// Nodes, 0 to 1000, at most `shards`. 0 hibernates the cluster: every node closes its shards
    /// in place and every volume is kept. With ephemeral storage it wakes as another cluster.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,

    /// Shards of the cluster, a power of two from 16 to 65536. Immutable.
    #[serde(default = "default_shards")]
    #[schemars(extend(
        "enum" = SHARD_COUNTS,
        "x-kubernetes-validations" = [rule("self == oldSelf", "shards is immutable: keys are mapped to shards by their number")]
    ))]
    pub shards: i32,

    /// Image of the worker, for example `registry.example/shoal:0.1.0`. Never defaulted and never
    /// written by the operator.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^\S+$"))]
    pub image: String,

    /// Running; Paused: the operator writes only the status and the disruption budget while the
    /// workers go on; Stopped: like 0 replicas, without losing the number.
    #[serde(default)]
    pub state: State,

    /// How the worker reaches the container `app` of the pod template. Absent: the built-in kv
    /// host. Can be neither added nor taken away later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<App>,

    /// Most nodes that vote in the registry: 1, 3, 5 or 7.
    #[serde(default = "default_max_voters")]
    #[schemars(extend("enum" = VOTER_COUNTS))]
    pub max_voters: i32,

    /// The lease that each node holds.
    #[serde(default)]
    pub session: Session,

    /// How shards are spread while nothing is wrong.
    #[serde(default)]
    pub rebalance: Rebalance,

    /// How nodes leave.
    #[serde(default)]
    pub scale_down: ScaleDown,

    /// How a new pod template reaches the pods.
    #[serde(default)]
    pub update: Update,

    /// What the operator does about nodes under maintenance.
    #[serde(default)]
    pub disruption: Disruption,

    /// Where a node keeps its copy of the registry. Shards' data is not in it.
    #[serde(default)]
    pub storage: Storage,

    /// Encryption and who may speak to whom.
    #[serde(default)]
    pub tls: Tls,

    /// The NetworkPolicy of the workers.
    #[serde(default)]
    pub network_policy: NetworkAccess,

    /// A PodTemplateSpec merged over the rendered one: containers, initContainers, volumes and
    /// env by name, volumeMounts by path, other lists replaced. The containers are named `worker`
    /// and `app`. What the operator itself sets is refused with its path.
    #[serde(default)]
    pub pod_template: PodTemplate,
}

/// Whether the operator acts on the cluster and whether its pods run.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Running,
    Paused,
    Stopped,
}

/// How the worker reaches the app in its own pod.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule("has(self.port) != has(self.socket)", "exactly one of port and socket must be set"),
]))]
pub struct App {
    /// Sidecar: the app serves shoal.v1.App. Transparent: any gRPC method is relayed to it
    /// undecoded.
    pub protocol: AppProtocol,
    /// Port of the app on localhost, 1 to 65535.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// Absolute path of a Unix socket that both containers mount, at most 107 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 107), regex(pattern = "^/"))]
    pub socket: Option<String>,
}

/// How calls reach the app.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppProtocol {
    Sidecar,
    Transparent,
}

/// Encryption and who may speak to whom.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    rule(
        "(self.mode == 'CertManager') == has(self.certManager)",
        "certManager must be set exactly when mode is CertManager",
    ),
    rule(
        "(self.mode == 'Disabled') == (oldSelf.mode == 'Disabled')",
        "tls can be neither switched off nor on: nodes of both kinds cannot speak to each other",
    ),
    rule(
        "self.mode != 'Disabled' || self.clients == 'Optional'",
        "clients cannot be required to use what mode Disabled takes away",
    ),
]))]
pub struct Tls {
    /// BuiltIn: the operator issues the certificates. CertManager: cert-manager does. Disabled:
    /// nothing is encrypted; cannot be changed to or from.
    pub mode: TlsMode,
    /// The issuer, with mode CertManager.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_manager: Option<CertManager>,
    /// What the data port asks of clients. Optional: TLS and plaintext. Required: TLS. Mutual:
    /// TLS with a certificate of the cluster's CA.
    pub clients: TlsClients,
}

/// Where certificates come from.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    #[default]
    BuiltIn,
    CertManager,
    Disabled,
}

/// What the data port asks of clients.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsClients {
    #[default]
    Optional,
    Required,
    Mutual,
}

/// Certificates by cert-manager.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CertManager {
    /// The issuer of the nodes' certificates; it must fill in `ca.crt`.
    pub issuer_ref: IssuerRef,
}

/// Names a cert-manager issuer.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct IssuerRef {
    /// Name of the issuer.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its kind: Issuer or ClusterIssuer, or that of an external issuer.
    #[serde(default = "default_issuer_kind")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Its API group.
    #[serde(default = "default_issuer_group")]
    #[schemars(length(min = 1, max = 253))]
    pub group: String,
}

/// A PodTemplateSpec as the user wrote it: kept as JSON, so that the API server's own words about
/// a misspelt field reach the user.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(transparent)]
pub struct PodTemplate(pub Map<String, Value>);

impl JsonSchema for PodTemplate {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PodTemplate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
    }
}

impl ShardClusterSpec {
    /// A spec of defaults with this image, as `spec: {image: …}` is read by the API server.
    pub fn of_image(image: &str) -> Self {
        Self {
            replicas: default_replicas(),
            shards: default_shards(),
            image: image.to_owned(),
            state: State::default(),
            app: None,
            max_voters: default_max_voters(),
            session: Session::default(),
            rebalance: Rebalance::default(),
            scale_down: ScaleDown::default(),
            update: Update::default(),
            disruption: Disruption::default(),
            storage: Storage::default(),
            tls: Tls::default(),
            network_policy: NetworkAccess::default(),
            pod_template: PodTemplate::default(),
        }
    }

    /// Pods that should run: none while stopped, whatever `replicas` says.
    pub fn wanted(&self) -> i32 {
        match self.state {
            State::Running | State::Paused => self.replicas,
            State::Stopped => 0,
        }
    }
}

/// A rule that the API server checks, in CEL.
fn rule(rule: &str, message: &str) -> Value {
    json!({ "rule": rule, "message": message })
}

fn default_replicas() -> i32 {
    3
}

fn default_shards() -> i32 {
    1024
}

fn default_max_voters() -> i32 {
    5
}

fn default_issuer_kind() -> String {
    "Issuer".to_owned()
}

fn default_issuer_group() -> String {
    "cert-manager.io".to_owned()
}

#[cfg(test)]
pub(crate) mod tests;
