//! The answers of a cluster as text for people, in lines that fit 100 columns.

use shoal_proto::shoal::admin::v1 as pb;

use super::table::{Cell, Colour, Tone, table};

pub const NODE_HEAD: [&str; 7] = ["ID", "NAME", "ADDRESS", "STATE", "ROLE", "SHARDS", "IN"];

/// What a node is doing, in a word or three.
pub fn state(node: &pb::Node) -> Cell {
    match (node.life.as_str(), node.drain.as_str(), node.marked) {
        (life, _, true) => Cell::toned(format!("{life}, to be removed"), Tone::Warn),
        ("up", "none", false) => Cell::toned("up", Tone::Good),
        ("up", "removal", false) => Cell::toned("up, leaves for good", Tone::Warn),
        ("up", "own", false) => Cell::toned("up, drains by itself", Tone::Warn),
        ("up", drain, false) => Cell::toned(format!("up, drains for {drain}"), Tone::Warn),
        ("fenced", _, false) => Cell::toned("fenced", Tone::Bad),
        ("left", _, false) => Cell::toned("left", Tone::Dim),
        (life, _, false) => Cell::toned(life, Tone::Warn),
    }
}

pub fn node_row(node: &pb::Node) -> Vec<Cell> {
    vec![
        node.id.into(),
        node.name.as_str().into(),
        node.node_address.as_str().into(),
        state(node),
        node.role.as_str().into(),
        node.shards_owned.into(),
        node.shards_receiving.into(),
    ]
}

pub fn nodes(nodes: &[pb::Node], colour: Colour) -> String {
    table(&NODE_HEAD, &nodes.iter().map(node_row).collect::<Vec<_>>(), colour)
}

pub fn name(nodes: &[pb::Node], id: u64) -> String {
    match nodes.iter().find(|node| node.id == id) {
        Some(node) => node.name.clone(),
        None if id == 0 => "-".to_owned(),
        None => format!("n{id}"),
    }
}

/// What stands about the shards of a cluster, in one line.
pub fn shard_counts(status: &pb::StatusResponse) -> String {
    let shards = status.shards.unwrap_or_default();
    format!(
        "{}: {} owned, {} moving, {} without an owner",
        shards.total,
        shards.assigned - shards.moving.min(shards.assigned),
        shards.moving,
        shards.unassigned,
    )
}

/// One line about the cluster.
pub fn headline(status: &pb::StatusResponse) -> String {
    format!(
        "{}  leader {}  term {}  map v{}  shards {}",
        if status.formed { "formed" } else { "forming" },
        name(&status.nodes, status.leader_id),
        status.term,
        status.map_version,
        shard_counts(status),
    )
}

/// As `shoal configure` takes them.
pub fn settings(settings: &pb::Settings) -> Vec<(&'static str, String)> {
    vec![
        ("lease_ms", settings.lease_ms.to_string()),
        ("rebalance", settings.rebalance.clone()),
        ("max_moves", settings.max_moves.to_string()),
        ("max_moves_per_node", settings.max_moves_per_node.to_string()),
        ("cooldown_ms", settings.cooldown_ms.to_string()),
        ("max_voters", settings.max_voters.to_string()),
        ("max_learners", settings.max_learners.to_string()),
        ("shard_count", settings.shard_count.to_string()),
    ]
}

/// `key=value` pairs in lines of a bearable length.
pub fn settings_lines(all: &pb::Settings) -> Vec<String> {
    let pairs: Vec<_> =
        settings(all).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.chunks(4).map(|some| some.join("  ")).collect()
}

/// The lower half of an epoch counts, the upper half is its era.
pub fn epoch(epoch: u64) -> String {
    format!("e{}", epoch as u32)
}

pub fn shards(shards: &[pb::Shard], nodes: &[pb::Node], colour: Colour) -> String {
    let rows: Vec<_> = shards
        .iter()
        .map(|shard| {
            let tone = match shard.state.as_str() {
                "owned" => Tone::Plain,
                "moving" => Tone::Warn,
                _ => Tone::Bad,
            };
            vec![
                shard.id.into(),
                Cell::toned(shard.state.as_str(), tone),
                name(nodes, shard.owner).into(),
                epoch(shard.epoch).into(),
                name(nodes, shard.target).into(),
            ]
        })
        .collect();
    table(&["SHARD", "STATE", "OWNER", "EPOCH", "TO"], &rows, colour)
}

pub fn status(status: &pb::StatusResponse, colour: Colour) -> String {
    let formed = if status.formed { "formed" } else { "not formed yet" };
    let cluster = if status.cluster_id.is_empty() { "none" } else { &status.cluster_id };
    let mut lines = vec![
        format!("cluster   {cluster}, {formed}"),
        format!(
            "leader    {}, term {}, map version {}",
            name(&status.nodes, status.leader_id),
            status.term,
            status.map_version
        ),
        format!("shards    {}", shard_counts(status)),
    ];
    let settings = status.settings.as_ref().map(settings_lines).unwrap_or_default();
    let titles = std::iter::once("settings").chain(std::iter::repeat(""));
    lines.extend(settings.iter().zip(titles).map(|(line, title)| format!("{title:8}  {line}")));
    lines.push(format!(
        "asked     {}, version {}",
        name(&status.nodes, status.node_id),
        status.version
    ));
    if !status.waiting.is_empty() {
        lines.push(format!("waits     {}", colour.paint(&status.waiting, Tone::Warn)));
    }
    let mut parts = vec![lines.join("\n"), nodes(&status.nodes, colour)];
    if !status.moving.is_empty() {
        parts.push(shards(&status.moving, &status.nodes, colour));
    }
    parts.join("\n\n")
}

pub fn plan(plan: &pb::PlanResponse, nodes: &[pb::Node], colour: Colour) -> String {
    let moves: Vec<_> = plan
        .moves
        .iter()
        .map(|planned| {
            let (from, to) = (name(nodes, planned.from), name(nodes, planned.to));
            vec![planned.shard.into(), from.into(), to.into(), planned.reason.as_str().into()]
        })
        .collect();
    let refusals: Vec<_> = plan
        .refusals
        .iter()
        .map(|refusal| {
            let node = refusal.node.map_or_else(|| "-".to_owned(), |node| name(nodes, node));
            vec![refusal.shards.into(), node.into(), refusal.reason.as_str().into()]
        })
        .collect();
    let mut parts = Vec::new();
    if !plan.report.is_empty() {
        parts.push(plan.report.join("\n"));
    }
    if !moves.is_empty() {
        parts.push(table(&["SHARD", "FROM", "TO", "WHY"], &moves, colour));
    }
    if !refusals.is_empty() {
        parts.push(table(&["NOT MOVED", "NODE", "WHY"], &refusals, colour));
    }
    if parts.is_empty() {
        parts.push("nothing to do: every shard is where it belongs".to_owned());
    }
    parts.join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A large cluster with long numbers.
    fn cluster() -> pb::StatusResponse {
        let node = |id: u64, drain: &str| pb::Node {
            id,
            name: format!("node-{id}"),
            node_address: format!("localhost:{id}"),
            life: "up".into(),
            drain: drain.into(),
            role: "learner".into(),
            shards_owned: 65_536,
            shards_receiving: 16,
            ..pb::Node::default()
        };
        let settings = pb::Settings {
            shard_count: 65_536,
            lease_ms: 60_000,
            rebalance: "automatic".into(),
            max_moves: 4_096,
            max_moves_per_node: 4_096,
            cooldown_ms: 60_000,
            max_voters: 7,
            max_learners: 1_000,
            ..pb::Settings::default()
        };
        pb::StatusResponse {
            cluster_id: "0".repeat(32),
            formed: true,
            node_id: 10_001,
            leader_id: 10_002,
            term: 12_345,
            map_version: 123_456_789,
            nodes: vec![node(10_001, "none"), node(10_002, "restart"), node(10_003, "removal")],
            shards: Some(pb::ShardCounts { total: 65_536, assigned: 65_536, ..Default::default() }),
            settings: Some(settings),
            ..pb::StatusResponse::default()
        }
    }

    #[test]
    fn a_status_fits_its_columns_and_names_everything() {
        let text = status(&cluster(), Colour::OFF);
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{} columns: {line}", line.chars().count());
        }
        for part in [
            "leader    node-10002, term 12345",
            "65536 owned, 0 moving, 0 without an owner",
            "rebalance=automatic",
            "up, drains for restart",
            "up, leaves for good",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn a_plan_without_anything_says_so() {
        let text = plan(&pb::PlanResponse::default(), &[], Colour::OFF);
        assert!(text.starts_with("nothing to do"), "{text}");
    }
}
