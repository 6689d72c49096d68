//! A real Kubernetes for the suites: one that the harness brings up on this machine, or one that
//! the user names with SHOAL_TEST_KUBECONFIG and no other.
//!
//! All processes of a cluster of our own run in namespaces of their own: two clusters never
//! meet, nothing outside of them is changed but a cgroup, and they end as a whole. Who wants to
//! speak to one must be in its network: [`Cluster::command`] starts programs there,
//! [`Cluster::block_on`] runs a future there, [`Cluster::enter`] moves a thread there.
//! A cluster outlives the tests that share it; [`down`] ends it.

mod cgroup;
mod cluster;
mod component;
mod lifecycle;
mod named;
mod namespace;
mod pki;
mod place;
mod process;
mod sandbox;
mod volumes;

pub(crate) use self::process::children;
pub use self::{
    cluster::{Cluster, Left, Victim, all, down, left},
    component::{Backoff, Component, Node, Tier},
    namespace::Namespace,
    process::within,
    volumes::keep as keep_volumes,
};
