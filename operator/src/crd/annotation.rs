//! Annotations and labels that are part of the API, beside the well-known ones of Kubernetes.

/// On a ShardCluster, by a user: `<pod name>`: replace this member where its volume is lost.
pub const REPLACE: &str = "shoal.dev/replace";
/// On a ShardCluster, by a user: `<status.clusterID>`: give that cluster up once no pod holds it any
/// more, and found another.
pub const RECOVER: &str = "shoal.dev/recover";
/// On anything the operator guards, by a user: pass with a warning.
pub const BREAK_GLASS: &str = "shoal.dev/break-glass";
/// On the StatefulSet, by the operator: hash of the pod template as rendered.
pub const TEMPLATE_HASH: &str = "shoal.dev/template-hash";
/// On a PersistentVolumeClaim or a TLS secret, by the operator: uid of the ShardCluster.
pub const OWNER_UID: &str = "shoal.dev/cluster-uid";

/// Label keys of selectors: fixed for the life of a cluster.
pub const LABEL_NAME: &str = "app.kubernetes.io/name";
pub const LABEL_INSTANCE: &str = "app.kubernetes.io/instance";
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// Label keys that only inform.
pub const LABEL_PART_OF: &str = "app.kubernetes.io/part-of";
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Label of a pod, by the StatefulSet controller: the revision of its template.
pub const LABEL_REVISION: &str = "controller-revision-hash";
