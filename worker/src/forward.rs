//! The data path: from a client's call to the owner of its key, and back.
//!
//! `server` listens on the data port; `ingress` finds the owner of a key and stays with the
//! call until it is answered; `pipe` carries it to another node, `park` holds it while its
//! shard moves, `budget` bounds the memory that all of them take, `owing` sees that clients take
//! their answers. Decides nothing by itself: `shoal_core::admit` does. Runs no user work: the
//! [`Owner`] does.

pub mod budget;
pub mod drain;
pub mod frame;
pub mod grpc;
pub mod ingress;
pub mod metrics;
mod owing;
mod park;
pub mod pipe;
pub mod server;
#[cfg(test)]
mod tests;
mod watch;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use futures::future::BoxFuture;
use shoal_core::handoff::Process;

use self::{budget::Budget, metrics::Metrics};
pub use self::{ingress::Ingress, server::DataPort};
use crate::{
    call::{Call, Outcome},
    table::Table,
    tls::Tls,
};

/// What calls under way may take where nothing limits the memory of the process.
pub const DEFAULT_CALL_MEMORY: usize = 256 << 20;
/// A large answer that a client has not taken for this long, or up to twice as long, ends its
/// connection.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);

/// Admits and runs the calls of the shards that this node owns.
///
/// The first poll of a call admits it or not: the pipe's generation was checked right
/// before [S14]. A call that never waits is run in that poll. Dropping it cancels the call.
pub trait Owner: Send + Sync {
    fn call(&self, call: Call) -> BoxFuture<'static, Outcome>;

    /// Whether a second run of the method does no harm.
    fn idempotent(&self, method: &str) -> bool;
}

/// What all parts of the data path share.
pub struct Node {
    pub owner: Arc<dyn Owner>,
    pub table: Table,
    pub metrics: Arc<Metrics>,
    /// MAX_PAYLOAD, the same for requests and answers.
    pub max_payload: usize,
    /// See [`TAKEN_WITHIN`].
    pub taken_within: Duration,
    pub tls: Tls,
    budget: Arc<Budget>,
    me: ArcSwapOption<Process>,
}

impl Node {
    /// Without TLS, and with the default limit of memory.
    pub fn new(
        owner: Arc<dyn Owner>,
        table: Table,
        metrics: Arc<Metrics>,
        max_payload: usize,
    ) -> Self {
        let (tls, me) = (Tls::default(), ArcSwapOption::empty());
        let budget = Self::budget(&metrics, DEFAULT_CALL_MEMORY);
        Self { owner, table, metrics, max_payload, taken_within: TAKEN_WITHIN, tls, budget, me }
    }

    /// Calls under way take at most so many bytes of memory.
    pub fn limited(self, call_memory: usize) -> Self {
        Self { budget: Self::budget(&self.metrics, call_memory), ..self }
    }

    fn budget(metrics: &Metrics, limit: usize) -> Arc<Budget> {
        metrics.memory_limit.set(limit as i64);
        Budget::new(limit, metrics.memory.clone(), metrics.no_memory.clone())
    }

    pub fn secured(self, tls: Tls) -> Self {
        Self { tls, ..self }
    }

    /// Says who this process is, once it is a member and whenever it registers anew.
    pub fn set_me(&self, me: Process) {
        self.me.store(Some(Arc::new(me)));
    }

    pub(crate) fn me(&self) -> Option<Process> {
        self.me.load().as_deref().copied()
    }
}
