//! Harness of the suites that run real processes: nodes as children with real sockets and
//! real disks, what they say, and calls to them; and a real Kubernetes ([`kube`]).
//!
//! A test waits on conditions with deadlines ([`wait::until`]) and panics with the last
//! thing it saw. It holds no oracle of its own: what must be true stands in the tests.
#![allow(clippy::disallowed_methods)] // a harness outside of the product reads the clock

pub mod admin;
pub mod authority;
pub mod calls;
pub mod cluster;
pub mod command;
pub mod deploy;
pub mod fault_proxy;
pub mod faults;
pub mod grpc;
pub mod http;
pub mod image;
pub mod kube;
pub mod load;
pub mod node;
pub mod pods;
pub mod ports;
pub mod space;
pub mod standin;
pub mod stock;
pub mod tls;
pub mod vip;
pub mod wait;

pub use calls::{Client, Counters};
pub use cluster::Cluster;
pub use image::Image;
pub use load::Load;
pub use node::Node;
pub use pods::ApiServer;
pub use ports::Ports;
pub use space::Space;
pub use vip::Vip;
