//! What a ShardCluster asks for, as the rules of a roll read it. Pure.

use std::time::Duration;

use kube::ResourceExt as _;

use crate::{
    crd::{
        OnRegistryLoss, OnTimeout, OnVolumeLost, RebalanceMode, Retain, ShardCluster, StorageType,
        UpdateMode, annotation,
    },
    rollout::{self, Desired, Settings},
};

/// The schema keeps every number in its limits; what is not there counts as none.
fn number(value: i32) -> u32 {
    value.try_into().unwrap_or_default()
}

fn seconds(value: i32) -> Duration {
    Duration::from_secs(number(value).into())
}

pub fn desired(cluster: &ShardCluster) -> Desired {
    let spec = &cluster.spec;
    let persistent = spec.storage.as_persistent();
    Desired {
        name: cluster.name_any(),
        replicas: number(spec.wanted()),
        settings: Settings {
            lease_ms: number(spec.session.lease_seconds) * 1_000,
            rebalance_paused: spec.rebalance.mode == RebalanceMode::Paused,
            max_moves: number(spec.rebalance.max_moves),
            max_moves_per_node: number(spec.rebalance.max_moves_per_node),
            cooldown_ms: number(spec.rebalance.cooldown_seconds) * 1_000,
            max_voters: number(spec.max_voters),
        },
        drain_timeout: seconds(spec.scale_down.drain_timeout_seconds),
        on_drain_timeout: match spec.scale_down.on_timeout {
            OnTimeout::Wait => rollout::OnTimeout::Wait,
            OnTimeout::Remove => rollout::OnTimeout::Remove,
        },
        parallel_removals: number(spec.scale_down.max_parallel),
        rolls: spec.update.mode == UpdateMode::Automatic,
        max_unavailable: number(spec.update.max_unavailable),
        progress_deadline: seconds(spec.update.progress_deadline_seconds),
        deletes_claims: persistent
            .as_ref()
            .is_some_and(|storage| storage.retention.when_scaled == Retain::Delete),
        replaces_lost: persistent
            .is_some_and(|storage| storage.on_volume_lost == OnVolumeLost::Replace),
        replace: cluster.annotations().get(annotation::REPLACE).cloned(),
        ephemeral: spec.storage.kind == StorageType::Ephemeral,
        refounds: spec
            .storage
            .as_ephemeral()
            .is_some_and(|storage| storage.on_registry_loss == OnRegistryLoss::Refound),
        recover: cluster.annotations().get(annotation::RECOVER).cloned(),
    }
}
