//! The answers of a cluster as JSON for programs: shapes that stay, see docs/cli.md.

use serde_json::{Value, json};
use shoal_proto::shoal::admin::v1 as pb;

/// The whole token; the count alone is what people see.
fn epoch(epoch: u64) -> (u64, u32) {
    (epoch, epoch as u32)
}

pub fn node(node: &pb::Node) -> Value {
    json!({
        "id": node.id, "name": node.name, "node_address": node.node_address,
        "raft_address": node.raft_address, "admin_address": node.admin_address,
        "http_address": node.http_address, "zone": node.zone, "weight": node.weight,
        "revision": node.revision, "feature_level": node.feature_level, "life": node.life,
        "drain": node.drain, "marked": node.marked, "role": node.role,
        "shards_owned": node.shards_owned, "shards_receiving": node.shards_receiving,
        "incarnation": node.incarnation, "pod_uid": node.pod_uid,
    })
}

pub fn shard(shard: &pb::Shard) -> Value {
    let (epoch, epoch_count) = epoch(shard.epoch);
    json!({
        "id": shard.id, "state": shard.state, "owner": shard.owner, "epoch": epoch,
        "epoch_count": epoch_count, "target": shard.target, "move": shard.r#move,
        "changed": shard.changed,
    })
}

pub fn settings(settings: &pb::Settings) -> Value {
    json!({
        "shard_count": settings.shard_count, "lease_ms": settings.lease_ms,
        "previous_lease_ms": settings.previous_lease_ms,
        "feature_level": settings.feature_level, "operator_epoch": settings.operator_epoch,
        "rebalance": settings.rebalance, "max_moves": settings.max_moves,
        "max_moves_per_node": settings.max_moves_per_node, "cooldown_ms": settings.cooldown_ms,
        "max_voters": settings.max_voters, "max_learners": settings.max_learners,
    })
}

pub fn status(status: &pb::StatusResponse) -> Value {
    let shards = status.shards.unwrap_or_default();
    json!({
        "cluster_id": status.cluster_id, "formed": status.formed, "node_id": status.node_id,
        "leader_id": status.leader_id, "term": status.term, "applied": status.applied,
        "map_version": status.map_version,
        "settings": status.settings.as_ref().map(settings),
        "shards": {
            "total": shards.total, "assigned": shards.assigned, "moving": shards.moving,
            "unassigned": shards.unassigned,
        },
        "nodes": status.nodes.iter().map(node).collect::<Vec<_>>(),
        "voters": status.voters, "learners": status.learners,
        "moving": status.moving.iter().map(shard).collect::<Vec<_>>(),
        "waiting": status.waiting, "version": status.version,
    })
}

pub fn plan(plan: &pb::PlanResponse) -> Value {
    let moves = plan.moves.iter().map(|planned| {
        json!({
            "shard": planned.shard, "from": planned.from, "to": planned.to,
            "reason": planned.reason,
        })
    });
    let refusals = plan.refusals.iter().map(|refusal| {
        json!({ "shards": refusal.shards, "node": refusal.node, "reason": refusal.reason })
    });
    json!({
        "moves": moves.collect::<Vec<_>>(),
        "refusals": refusals.collect::<Vec<_>>(),
        "report": plan.report,
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;
    use crate::env::disk;

    const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");

    /// The example in JSON that stands below a heading of the document.
    fn example(heading: &str) -> Value {
        let text = disk::read(Path::new(DOCUMENT)).unwrap().expect("docs/cli.md");
        let text = String::from_utf8(text).unwrap();
        let section = text.split(&format!("\n## {heading}\n")).nth(1).expect(heading);
        let section = section.split("\n## ").next().unwrap();
        let block = section.split("```json\n").nth(1).expect(heading).split("```").next().unwrap();
        serde_json::from_str(block).unwrap_or_else(|error| panic!("{heading}: {error}"))
    }

    fn keys(value: &Value) -> BTreeSet<&str> {
        value.as_object().expect("an object").keys().map(String::as_str).collect()
    }

    #[test]
    fn the_document_shows_every_field_and_no_other() {
        let documented = example("status");
        let told = status(&pb::StatusResponse {
            nodes: vec![pb::Node::default()],
            settings: Some(pb::Settings::default()),
            ..pb::StatusResponse::default()
        });
        assert_eq!(keys(&documented), keys(&told));
        for part in ["settings", "shards"] {
            assert_eq!(keys(&documented[part]), keys(&told[part]), "{part}");
        }
        assert_eq!(keys(&documented["nodes"][0]), keys(&told["nodes"][0]));
        assert_eq!(keys(&example("shards")[0]), keys(&shard(&pb::Shard::default())));
        assert_eq!(keys(&example("configure")), keys(&settings(&pb::Settings::default())));
        assert_eq!(keys(&example("plan")), keys(&plan(&pb::PlanResponse::default())));
    }

    #[test]
    fn an_epoch_is_whole_and_has_its_count() {
        let told = shard(&pb::Shard { epoch: (7 << 32) + 3, ..pb::Shard::default() });
        assert_eq!((&told["epoch"], &told["epoch_count"]), (&json!((7_u64 << 32) + 3), &json!(3)));
    }
}
