//! What happened to a cluster between two looks at it, as lines for people.

use shoal_proto::shoal::admin::v1 as pb;

use super::show;

/// What is different in `now`, the most important first.
pub fn between(before: &pb::StatusResponse, now: &pb::StatusResponse) -> Vec<String> {
    let mut lines = Vec::new();
    if now.leader_id != before.leader_id {
        lines.push(match now.leader_id {
            0 => "no leader is known".to_owned(),
            leader => format!("{} leads in term {}", show::name(&now.nodes, leader), now.term),
        });
    }
    for node in &now.nodes {
        let state = show::state(node).text;
        match before.nodes.iter().find(|known| known.id == node.id) {
            None => lines.push(format!("{} is new: {state}", node.name)),
            Some(known) if known.incarnation != node.incarnation && state == "up" => {
                lines.push(format!("{} has started anew", node.name));
            }
            Some(known) => {
                let then = show::state(known).text;
                if then != state {
                    lines.push(format!("{}: {then} → {state}", node.name));
                }
            }
        }
    }
    for known in &before.nodes {
        if !now.nodes.iter().any(|node| node.id == known.id) {
            lines.push(format!("{} has left the cluster", known.name));
        }
    }
    lines.extend(shards(before, now));
    lines
}

fn shards(before: &pb::StatusResponse, now: &pb::StatusResponse) -> Option<String> {
    let (then, now) = (before.shards.unwrap_or_default(), now.shards.unwrap_or_default());
    if !before.formed || (then.unassigned, then.moving) == (now.unassigned, now.moving) {
        return None;
    }
    let rests = |counts: pb::ShardCounts| counts.unassigned == 0 && counts.moving == 0;
    if now.unassigned > then.unassigned {
        Some(format!("{} shards have no owner", now.unassigned))
    } else if rests(now) {
        Some("every shard rests on its owner".to_owned())
    } else if rests(then) {
        Some("shards move".to_owned())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, drain: &str) -> pb::Node {
        let (name, life) = (format!("node-{id}"), "up".to_owned());
        pb::Node { id, name, life, drain: drain.to_owned(), ..pb::Node::default() }
    }

    fn status(nodes: &[pb::Node], moving: u32, unassigned: u32) -> pb::StatusResponse {
        let assigned = 16 - unassigned;
        pb::StatusResponse {
            formed: true,
            leader_id: 1,
            term: 3,
            nodes: nodes.to_vec(),
            shards: Some(pb::ShardCounts { total: 16, assigned, moving, unassigned }),
            ..pb::StatusResponse::default()
        }
    }

    #[test]
    fn every_change_is_told_once_and_rest_is_silent() {
        let (a, b) = (node(1, "none"), node(2, "none"));
        let calm = status(&[a.clone(), b.clone()], 0, 0);
        assert_eq!(between(&calm, &calm), Vec::<String>::new());
        let drains = status(&[a.clone(), node(2, "removal")], 4, 0);
        assert_eq!(between(&calm, &drains), ["node-2: up → up, leaves for good", "shards move"]);
        assert_eq!(between(&drains, &status(&[a.clone(), node(2, "removal")], 3, 0)).len(), 0);
        let gone = pb::StatusResponse { leader_id: 2, ..status(std::slice::from_ref(&b), 0, 0) };
        let told = between(&status(&[a.clone(), b.clone()], 1, 0), &gone);
        let expected = [
            "node-2 leads in term 3",
            "node-1 has left the cluster",
            "every shard rests on its owner",
        ];
        assert_eq!(told, expected);
        let lost = status(&[a, b], 0, 8);
        assert_eq!(between(&calm, &lost), ["8 shards have no owner"]);
    }
}
