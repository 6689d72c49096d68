//! A namespace of one test.

use std::{
    fmt,
    ops::Deref,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use super::cluster::Cluster;

/// Deleted when it is dropped, without waiting for that; shown where the test failed.
#[derive(Debug)]
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    name: String,
    kept: AtomicBool,
}

impl<'a> Namespace<'a> {
    pub(crate) fn new(cluster: &'a Cluster, prefix: &str, accounts: bool) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let name = format!("{prefix}-{now:x}-{:x}-{number}", std::process::id());
        cluster.apply(&format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{\
             shoal.dev/tests: '', pod-security.kubernetes.io/enforce: restricted}}}}}}"
        ))?;
        if accounts {
            // Pods are refused until there is one.
            let waits = ["wait", "--for=create", "serviceaccount/default", "--timeout=60s", "-n"];
            cluster.kubectl(&[&waits[..], &[&name]].concat())?;
        }
        Ok(Self { cluster, name, kept: AtomicBool::new(false) })
    }

    /// Leaves it there, to be looked at.
    pub fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// `kubectl` in this namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.cluster.kubectl(&[&["--namespace", &self.name], arguments].concat())
    }

    /// Applies manifests that name no namespace.
    pub fn apply(&self, manifests: &str) -> anyhow::Result<String> {
        self.cluster.apply_in(Some(&self.name), manifests)
    }
}

impl Deref for Namespace<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Namespace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            for what in [&["get", "all", "-o", "wide"][..], &["get", "events"]] {
                eprintln!("-- {}: {what:?}", self.name);
                // The API server may be what the test has stopped.
                eprintln!("{}", self.kubectl(what).unwrap_or_else(|error| error.to_string()));
            }
            eprint!("{}", self.cluster.ended());
            eprintln!("-- kept: namespace {}", self.name);
        } else if !self.kept.load(Ordering::Relaxed) {
            let _ = self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
        }
    }
}
