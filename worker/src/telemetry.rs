//! The figures of this process: every component owns its own, here they get their names and
//! are read together.
//!
//! They are registered once, before anything runs; what is only true at a moment is asked of
//! the components when somebody scrapes.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

use crate::{
    control,
    env::{clock, process},
    forward,
    host::{self, right::Right, shards::Shards},
    raft, session,
    table::{self, Table},
    tls::Tls,
    watch,
};

/// Of the page that [`Telemetry::page`] writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub struct Telemetry {
    pub forward: Arc<forward::metrics::Metrics>,
    pub host: host::metrics::Metrics,
    pub raft: raft::metrics::Metrics,
    pub session: session::metrics::Metrics,
    pub control: control::metrics::Metrics,
    pub map: watch::Metrics,
    table: table::metrics::Metrics,
    process: Process,
    certificate: Gauge,
    tls: Tls,
    registry: Registry,
    /// What runs only while this node is a member.
    member: Mutex<Option<(raft::Handle, Shards)>>,
    one_scrape: Mutex<()>,
}

impl Default for Telemetry {
    fn default() -> Self {
        let mut telemetry = Self {
            forward: Arc::default(),
            host: host::metrics::Metrics::default(),
            raft: raft::metrics::Metrics::default(),
            session: session::metrics::Metrics::default(),
            control: control::metrics::Metrics::default(),
            map: watch::Metrics::default(),
            table: table::metrics::Metrics::default(),
            process: Process::default(),
            certificate: Gauge::default(),
            tls: Tls::default(),
            registry: Registry::default(),
            member: Mutex::default(),
            one_scrape: Mutex::default(),
        };
        telemetry.register();
        telemetry
    }
}

impl Telemetry {
    /// Tells of the certificates too.
    pub fn secured(self, tls: Tls) -> Self {
        let mut telemetry = Self { tls, ..self };
        if telemetry.tls.is_enabled() {
            telemetry.register_certificate();
        }
        telemetry
    }

    /// The first process of the container has started a node's process so often again.
    pub fn restarted(self, times: u32) -> Self {
        self.process.restarts.inc_by(times.into());
        self
    }

    fn register_certificate(&mut self) {
        self.registry.sub_registry_with_prefix("shoal").register_with_unit(
            "tls_certificate_not_after_timestamp",
            "When the certificate in use ends, since 1970; absent where TLS is disabled",
            Unit::Seconds,
            self.certificate.clone(),
        );
    }

    fn register(&mut self) {
        self.process.register(&mut self.registry);
        let shoal = self.registry.sub_registry_with_prefix("shoal");
        let help = "How often this container started the node's process again after it was killed";
        shoal.register("process_restarts", help, self.process.restarts.clone());
        let build = Info::new([("version", crate::VERSION)]);
        shoal.register("build", "What this process was built from", build);
        self.table.register(shoal);
        self.forward.register(shoal);
        self.host.register(shoal);
        self.session.register(shoal);
        self.control.register(shoal);
        self.map.register(shoal);
        self.raft.register(shoal);
    }

    /// From now on until [`Self::leave`] Raft and the shards are asked too.
    pub fn join(&self, raft: raft::Handle, shards: Shards) {
        *self.member.lock() = Some((raft, shards));
    }

    pub fn leave(&self) {
        *self.member.lock() = None;
    }

    /// All figures as they are now, as OpenMetrics text.
    pub fn page(&self, table: &Table, right: &Right) -> Result<String, fmt::Error> {
        let _one = self.one_scrape.lock();
        self.process.show();
        if let Some(end) = self.tls.not_after() {
            self.certificate.set(end);
        }
        self.table.show(&table.registry());
        self.session.show(right.until(), clock::now());
        let member = self.member.lock().clone();
        if let Some((raft, shards)) = member {
            self.raft.show(&raft);
            self.host.show(shards.owned());
        }
        let mut page = String::new();
        encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

type Real = Gauge<f64, std::sync::atomic::AtomicU64>;

/// Under the names that process exporters agreed on.
struct Process {
    resident: Gauge,
    cpu: Counter<f64, std::sync::atomic::AtomicU64>,
    files: Gauge,
    max_files: Gauge,
    threads: Gauge,
    started: Real,
    restarts: Counter,
}

impl Default for Process {
    fn default() -> Self {
        let started = Real::default();
        started.set(clock::unix_ms() as f64 / 1_000.0);
        Self {
            resident: Gauge::default(),
            cpu: Counter::default(),
            files: Gauge::default(),
            max_files: Gauge::default(),
            threads: Gauge::default(),
            started,
            restarts: Counter::default(),
        }
    }
}

impl Process {
    fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("process");
        let help = "Memory of this process in RAM";
        registry.register_with_unit("resident_memory", help, Unit::Bytes, self.resident.clone());
        let help = "User and system time of this process";
        registry.register_with_unit("cpu", help, Unit::Seconds, self.cpu.clone());
        registry.register("open_fds", "Open file descriptors", self.files.clone());
        registry.register("max_fds", "Most file descriptors allowed", self.max_files.clone());
        registry.register("threads", "Threads of this process", self.threads.clone());
        let help = "When this process started, since 1970";
        registry.register_with_unit("start_time", help, Unit::Seconds, self.started.clone());
    }

    fn show(&self) {
        // Without /proc the last known figures stay.
        let Ok(usage) = process::usage() else { return };
        self.resident.set(usage.resident_bytes as i64);
        // A counter that the kernel keeps can only be copied, not counted up.
        self.cpu.inner().store(usage.cpu.as_secs_f64().to_bits(), Ordering::Relaxed);
        self.files.set(usage.open_files as i64);
        self.max_files.set(i64::try_from(usage.max_files).unwrap_or(i64::MAX));
        self.threads.set(usage.threads as i64);
    }
}

#[cfg(test)]
pub(crate) mod page;
#[cfg(test)]
mod tests;
