//! Whether a voter may go for good.

use std::collections::BTreeSet;

use crate::id::NodeId;

/// Whether those of the voters that stay decide alone once `node` is gone: a majority of all of
/// them, as they are until it has lost its vote. `stays` says who runs and means to.
pub fn decide_without(
    voters: &BTreeSet<NodeId>,
    node: NodeId,
    stays: impl Fn(NodeId) -> bool,
) -> bool {
    voters.iter().filter(|id| **id != node && stays(**id)).count() > voters.len() / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vote_is_not_taken_along_unless_the_others_are_a_majority_with_it() {
        let may_go = |voters: u64, away: u64| {
            let all = (1..=voters).map(NodeId).collect();
            decide_without(&all, NodeId(1), |id| id.0 > 1 + away)
        };
        assert!(!may_go(1, 0), "the only voter");
        assert!(!may_go(2, 0), "of two both are asked");
        assert!(may_go(3, 0));
        assert!(!may_go(3, 1), "one of the other two is away");
        assert!(may_go(5, 1));
        assert!(!may_go(5, 2));
    }
}
