//! Shoal as its users deploy it: images, the operator by Helm, ShardClusters. For threads that
//! are in the network of the cluster (`kube::Cluster::enter`).

mod images;
mod operator;
mod outage;
mod site;

pub use self::{
    images::Images,
    operator::Operator,
    outage::Outage,
    site::{Site, condition, digest_of, is_ready, name, node_of, restarts, uid},
};
