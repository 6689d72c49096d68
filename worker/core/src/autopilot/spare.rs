//! Whether a node may go for good.

use std::collections::BTreeSet;

use crate::id::NodeId;

/// Whether the log goes on where `node` takes its vote, if it has one, away for ever: those of the
/// other voters that stay must be a majority with its vote counted, for so it is until the vote has
/// passed on. `retiring`: while two configurations are in force, the voters of the older one alone;
/// then both would have to agree, and no voter goes. `stays` says who runs and means to.
pub fn spares(
    voters: &BTreeSet<NodeId>,
    retiring: Option<&BTreeSet<NodeId>>,
    node: NodeId,
    stays: impl Fn(NodeId) -> bool,
) -> bool {
    if !voters.contains(&node) && !retiring.is_some_and(|retiring| retiring.contains(&node)) {
        return true;
    }
    let left = voters.iter().filter(|id| **id != node && stays(**id)).count();
    retiring.is_none() && left > voters.len() / 2
}

/// Whether a node whose directory ends with it may end: its vote is spared, or no other voter stays
/// that would need it. `stays` as for [`spares`].
pub fn may_take_vote_along(
    voters: &BTreeSet<NodeId>,
    retiring: Option<&BTreeSet<NodeId>>,
    node: NodeId,
    stays: impl Fn(NodeId) -> bool,
) -> bool {
    let needed = voters.iter().any(|id| *id != node && stays(*id));
    !needed || spares(voters, retiring, node, stays)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ids: std::ops::RangeInclusive<u64>) -> BTreeSet<NodeId> {
        ids.map(NodeId).collect()
    }

    #[test]
    fn a_vote_is_not_taken_along_unless_the_others_are_a_majority_with_it() {
        let may_go = |voters: u64, away: u64| {
            spares(&nodes(1..=voters), None, NodeId(1), |id| id.0 > 1 + away)
        };
        assert!(!may_go(1, 0), "the only voter");
        assert!(!may_go(2, 0), "of two both are asked");
        assert!(may_go(3, 0));
        assert!(!may_go(3, 1), "one of the other two is away");
        assert!(may_go(5, 1));
        assert!(!may_go(5, 2));
    }

    #[test]
    fn a_directory_that_ends_waits_for_those_who_stay_and_for_nobody_else() {
        let may_end = |voters: u64, away: u64| {
            may_take_vote_along(&nodes(1..=voters), None, NodeId(1), |id| id.0 > 1 + away)
        };
        assert!(may_end(3, 0));
        assert!(!may_end(3, 1), "with it the last of the others is no majority");
        assert!(may_end(3, 2), "all stop together");
        assert!(may_end(1, 0));
        assert!(may_end(5, 1) && !may_end(5, 2) && !may_end(5, 3) && may_end(5, 4));
    }

    #[test]
    fn who_has_no_vote_goes_and_nobody_goes_with_one_while_votes_pass_on() {
        let may_go = |id, retiring| spares(&nodes(1..=3), retiring, NodeId(id), |_| true);
        assert!(may_go(4, None));
        let retiring = nodes(4..=5);
        assert!(!may_go(4, Some(&retiring)));
        assert!(!may_go(1, Some(&retiring)));
        assert!(may_go(6, Some(&retiring)));
    }
}
