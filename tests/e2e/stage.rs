//! What all tests here share: one cluster, which no other suite uses meanwhile, the images, and
//! the operator; and how often a scenario is repeated.

use std::{
    env,
    str::FromStr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use shoal_tests::{
    deploy::{Images, Operator, Site},
    kube::{Cluster, Namespace, Tier},
};

/// Where the operator is installed.
pub const SYSTEM: &str = "shoal-system";
/// Of the ShardCluster of a test.
pub const NAME: &str = "orders";
/// Shards of it: enough for each node to own many.
pub const SHARDS: u32 = 128;
/// A step takes a few seconds on an idle machine, several times that on a busy one.
pub const PATIENCE: Duration = Duration::from_secs(180);

pub struct Stage {
    pub cluster: Cluster,
    pub images: Images,
    // Held until the test is over.
    _turn: MutexGuard<'static, ()>,
}

pub struct NamesCached<'a>(&'a Cluster);

impl Drop for NamesCached<'_> {
    fn drop(&mut self) {
        // Without it the next test has slower names, and nothing else.
        let _ = self.0.set_dns_cache(None);
    }
}

impl Stage {
    /// Waits for its turn. The calling thread is in the network of the cluster from then on.
    pub fn of(tier: Tier) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = Cluster::alone(tier).unwrap();
        cluster.enter().unwrap();
        // Each time: another test may have had another cluster, or this one was made anew.
        let images = Images::load(&cluster).unwrap();
        Self { cluster, images, _turn: turn }
    }

    /// Until this is dropped the name server keeps its answers for 30 s, as on many clusters.
    pub fn names_cached(&self) -> NamesCached<'_> {
        self.cluster.set_dns_cache(Some(30)).unwrap();
        NamesCached(&self.cluster)
    }

    /// Installed where it is missing: most tests leave it there.
    pub fn operator(&self) -> Operator<'_> {
        self.operator_in(SYSTEM, &[])
    }

    pub fn operator_in(&self, namespace: &str, values: &[&str]) -> Operator<'_> {
        Operator::install(&self.cluster, namespace, &self.images.operator, values).unwrap()
    }

    pub fn namespace(&self, prefix: &str) -> Namespace<'_> {
        self.cluster.namespace(prefix).unwrap()
    }

    /// Three nodes, ready.
    pub fn founded<'a>(&'a self, namespace: &'a Namespace<'a>) -> Site<'a> {
        let site = self.site(namespace);
        site.apply(&self.spec()).unwrap();
        site.ready(PATIENCE).unwrap();
        site
    }

    /// Of which nothing is there yet.
    pub fn site<'a>(&'a self, namespace: &'a Namespace<'a>) -> Site<'a> {
        Site::new(&self.cluster, namespace, NAME).unwrap()
    }

    pub fn spec(&self) -> Value {
        json!({"image": self.images.worker.name, "replicas": 3, "shards": SHARDS})
    }
}

/// What this environment variable asks for.
pub fn setting<T: FromStr>(name: &str, otherwise: T) -> T {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}
