//! Shoal on a real Kubernetes node, as its users run it: the operator by Helm, real images, real
//! volumes, and calls by stock clients while things change or break.
//!
//! One test at a time. E2E_FLAPS, E2E_KILLS and E2E_RATE make more of it: figures are taken so.
// Everything here is a test, outside of the product.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod bare;
mod calls;
mod certificates;
mod drain;
mod flap;
mod kill;
mod life;
mod machine;
mod mistakes;
mod operators;
mod refound;
mod removal;
mod stage;
mod volumes;
mod watch;
