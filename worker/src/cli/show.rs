//! Answers of a cluster as tables for people and as JSON for programs.

use serde_json::{Value, json};
use shoal_proto::shoal::admin::v1 as pb;

/// Columns as wide as their widest cell.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<_> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<_> =
            cells.zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut head.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

pub const NODE_HEAD: [&str; 8] =
    ["ID", "NAME", "ADDRESS", "LIFE", "DRAIN", "ROLE", "SHARDS", "RECEIVING"];

pub fn node_row(node: &pb::Node) -> Vec<String> {
    vec![
        node.id.to_string(),
        node.name.clone(),
        node.node_address.clone(),
        if node.marked { format!("{}, marked", node.life) } else { node.life.clone() },
        node.drain.clone(),
        node.role.clone(),
        node.shards_owned.to_string(),
        node.shards_receiving.to_string(),
    ]
}

pub fn nodes(nodes: &[pb::Node]) -> String {
    table(&NODE_HEAD, &nodes.iter().map(node_row).collect::<Vec<_>>())
}

pub fn name(nodes: &[pb::Node], id: u64) -> String {
    match nodes.iter().find(|node| node.id == id) {
        Some(node) => node.name.clone(),
        None if id == 0 => "-".to_owned(),
        None => format!("n{id}"),
    }
}

/// One line about the cluster.
pub fn headline(status: &pb::StatusResponse) -> String {
    let shards = status.shards.unwrap_or_default();
    format!(
        "cluster {}  {}  leader {}  term {}  map v{}  shards {}: {} assigned, {} moving, {} unassigned",
        status.cluster_id,
        if status.formed { "formed" } else { "forming" },
        name(&status.nodes, status.leader_id),
        status.term,
        status.map_version,
        shards.total,
        shards.assigned,
        shards.moving,
        shards.unassigned,
    )
}

pub fn settings(settings: &pb::Settings) -> String {
    format!(
        "shard_count={} lease_ms={} rebalance={} max_moves={} max_moves_per_node={} cooldown_ms={} max_voters={} max_learners={}",
        settings.shard_count,
        settings.lease_ms,
        settings.rebalance,
        settings.max_moves,
        settings.max_moves_per_node,
        settings.cooldown_ms,
        settings.max_voters,
        settings.max_learners,
    )
}

/// The lower half of an epoch counts, the upper half is its era.
fn epoch(epoch: u64) -> String {
    format!("e{}", epoch as u32)
}

pub fn shards(shards: &[pb::Shard], nodes: &[pb::Node]) -> String {
    let rows: Vec<_> = shards
        .iter()
        .map(|shard| {
            vec![
                shard.id.to_string(),
                shard.state.clone(),
                name(nodes, shard.owner),
                epoch(shard.epoch),
                name(nodes, shard.target),
            ]
        })
        .collect();
    table(&["SHARD", "STATE", "OWNER", "EPOCH", "TARGET"], &rows)
}

pub fn status(status: &pb::StatusResponse) -> String {
    let mut lines = vec![headline(status)];
    lines.extend(status.settings.as_ref().map(settings));
    if !status.waiting.is_empty() {
        lines.push(format!("waiting: {}", status.waiting));
    }
    lines.push(nodes(&status.nodes));
    if !status.moving.is_empty() {
        lines.push(shards(&status.moving, &status.nodes));
    }
    lines.join("\n\n")
}

pub fn node_json(node: &pb::Node) -> Value {
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

pub fn shard_json(shard: &pb::Shard) -> Value {
    json!({
        "id": shard.id, "state": shard.state, "owner": shard.owner, "epoch": shard.epoch,
        "target": shard.target, "move": shard.r#move, "changed": shard.changed,
    })
}

pub fn settings_json(settings: &pb::Settings) -> Value {
    json!({
        "shard_count": settings.shard_count, "lease_ms": settings.lease_ms,
        "previous_lease_ms": settings.previous_lease_ms,
        "feature_level": settings.feature_level, "operator_epoch": settings.operator_epoch,
        "rebalance": settings.rebalance, "max_moves": settings.max_moves,
        "max_moves_per_node": settings.max_moves_per_node, "cooldown_ms": settings.cooldown_ms,
        "max_voters": settings.max_voters, "max_learners": settings.max_learners,
    })
}

pub fn status_json(status: &pb::StatusResponse) -> Value {
    let shards = status.shards.unwrap_or_default();
    json!({
        "cluster_id": status.cluster_id, "formed": status.formed, "node_id": status.node_id,
        "leader_id": status.leader_id, "term": status.term, "applied": status.applied,
        "map_version": status.map_version,
        "settings": status.settings.as_ref().map(settings_json),
        "shards": {
            "total": shards.total, "assigned": shards.assigned, "moving": shards.moving,
            "unassigned": shards.unassigned,
        },
        "nodes": status.nodes.iter().map(node_json).collect::<Vec<_>>(),
        "voters": status.voters, "learners": status.learners,
        "moving": status.moving.iter().map(shard_json).collect::<Vec<_>>(),
        "waiting": status.waiting, "version": status.version,
    })
}

pub fn plan(plan: &pb::PlanResponse, nodes: &[pb::Node]) -> String {
    let moves: Vec<_> = plan
        .moves
        .iter()
        .map(|planned| {
            let (from, to) = (name(nodes, planned.from), name(nodes, planned.to));
            vec![planned.shard.to_string(), from, to, planned.reason.clone()]
        })
        .collect();
    let refusals: Vec<_> = plan
        .refusals
        .iter()
        .map(|refusal| {
            let node = refusal.node.map_or_else(|| "-".to_owned(), |node| name(nodes, node));
            vec![refusal.shards.to_string(), node, refusal.reason.clone()]
        })
        .collect();
    let mut parts = plan.report.clone();
    if !moves.is_empty() {
        parts.push(table(&["SHARD", "FROM", "TO", "REASON"], &moves));
    }
    if !refusals.is_empty() {
        parts.push(table(&["NOT MOVED", "NODE", "REASON"], &refusals));
    }
    if parts.is_empty() {
        parts.push("nothing to do".to_owned());
    }
    parts.join("\n")
}

pub fn plan_json(plan: &pb::PlanResponse) -> Value {
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
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows =
            [vec!["1".to_owned(), "node-a".to_owned()], vec!["22".to_owned(), String::new()]];
        assert_eq!(table(&["ID", "N"], &rows), "ID  N\n1   node-a\n22");
    }
}
