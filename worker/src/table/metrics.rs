//! The cluster as this node's table shows it.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::{Registry as Names, Unit},
};
use shoal_core::registry::{Life, Registry};

use crate::wire::admin as wire;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLife {
    life: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    state: &'static str,
}

#[derive(Clone, Debug, Default)]
pub struct Metrics {
    formed: Gauge,
    version: Gauge,
    applied: Gauge,
    lease: Gauge<f64, std::sync::atomic::AtomicU64>,
    nodes: Family<OfLife, Gauge>,
    shards: Family<OfState, Gauge>,
}

impl Metrics {
    pub fn register(&self, registry: &mut Names) {
        let registry = registry.sub_registry_with_prefix("table");
        registry.register("formed", "1 once the cluster is formed", self.formed.clone());
        let help = "Index of the last entry that changed an owner, an epoch, an address or the \
                    state of a node";
        registry.register("map_version", help, self.version.clone());
        let help = "Index up to which this node's table is current";
        registry.register("applied_index", help, self.applied.clone());
        let help = "Lease in force: how long a silent node keeps its shards";
        registry.register_with_unit("lease", help, Unit::Seconds, self.lease.clone());
        let help = "Nodes of the cluster: life is joining, up, closed or fenced";
        registry.register("nodes", help, self.nodes.clone());
        let help = "Shards of the cluster: state is owned, moving (its owner still serves or \
                    pauses) or unassigned";
        registry.register("shards", help, self.shards.clone());
    }

    /// Takes what is true now; called when somebody scrapes.
    pub fn show(&self, registry: &Registry) {
        self.formed.set(registry.formed().into());
        self.version.set(registry.map_version().0 as i64);
        self.applied.set(registry.applied().0 as i64);
        self.lease.set(f64::from(registry.settings().lease_ms) / 1_000.0);
        for life in [Life::Joining, Life::Up, Life::Closed, Life::Fenced] {
            let count = registry.nodes().filter(|(_, node)| node.life == life).count();
            self.nodes.get_or_create(&OfLife { life: wire::life(life) }).set(count as i64);
        }
        let counts = wire::counts(registry);
        let states = [
            ("owned", counts.assigned - counts.moving),
            ("moving", counts.moving),
            ("unassigned", counts.unassigned),
        ];
        for (state, count) in states {
            self.shards.get_or_create(&OfState { state }).set(count.into());
        }
    }
}
