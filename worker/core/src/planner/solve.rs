//! The pure solution: how many shards each node should hold.
//!
//! Every receiver gets its weighted share, rounded down or up, and the rounding is chosen so
//! that the fewest shards move. Which shards those are is not decided here.

use std::cmp::Reverse;

use super::problem::{Problem, Role};

/// The quota of every node, in the order of the problem.
///
/// The quotas do not change while the moves they call for are carried out: whoever is
/// granted the rounding up keeps it, because holding it already ranks first. That makes a
/// second plan agree with the first one, however much of that a budget let through.
pub(super) fn quotas(problem: &Problem) -> Vec<u32> {
    let receives = |i: &usize| problem.nodes[*i].role == Role::Receives;
    let receivers: Vec<usize> = (0..problem.nodes.len()).filter(receives).collect();
    let weights: u64 = receivers.iter().map(|&i| problem.nodes[i].weight).sum();
    let to_share: u64 = u64::from(problem.unassigned)
        + (problem.nodes.iter())
            .map(|node| match node.role {
                Role::Receives | Role::Leaves => u64::from(node.have),
                Role::Keeps => 0,
            })
            .sum::<u64>();

    let mut quotas: Vec<u32> = (problem.nodes.iter())
        .map(|node| match node.role {
            Role::Receives => (to_share * node.weight / weights) as u32,
            Role::Keeps => node.have,
            Role::Leaves => 0,
        })
        .collect();

    let rounded_down: u64 = receivers.iter().map(|&i| u64::from(quotas[i])).sum();
    let remainder = |i: usize| to_share * problem.nodes[i].weight % weights;
    let mut grants: Vec<usize> = receivers.iter().copied().filter(|&i| remainder(i) > 0).collect();
    grants.sort_by_key(|&i| {
        let node = &problem.nodes[i];
        let holds_it = node.have > quotas[i];
        (Reverse(holds_it), Reverse(remainder(i)), Reverse(node.newest), i)
    });
    let left_over = if receivers.is_empty() { 0 } else { (to_share - rounded_down) as usize };
    for &i in &grants[..left_over] {
        quotas[i] += 1;
    }
    quotas
}
