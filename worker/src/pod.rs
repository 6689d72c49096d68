//! The pod that this process runs in: the API server's word of it, the operator's identity file,
//! and what is left for whoever asks once the process has ended.
//!
//! Nothing here is needed for a node outside of Kubernetes, and a node goes on without the API
//! server. It decides nothing about clusters.

#[cfg(test)]
pub(crate) mod api;
pub mod client;
pub mod identity_file;
pub mod own;
pub mod termination;
