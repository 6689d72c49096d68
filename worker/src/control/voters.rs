//! Asks the autopilot who should vote and carries its answer to Raft.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use shoal_core::{
    autopilot::{self, Autopilot, Change, Contact},
    id::{LogIndex, NodeId, Timestamp},
    registry::Drain,
};
use tracing::{debug, info};

use super::Control;
use crate::{
    env::clock,
    raft::{Follower, Member, Members},
};

/// The autopilot's memory of one leadership, and when it is asked next.
pub(super) struct Voters {
    autopilot: Autopilot,
    leader_since: Timestamp,
    next: Timestamp,
}

/// Who was not heard of for longer is not counted on.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// Contacts are judged by the second.
const EVERY: Duration = Duration::from_millis(200);

impl Voters {
    pub fn new(leader_since: Timestamp) -> Self {
        Self { autopilot: Autopilot::default(), leader_since, next: leader_since }
    }
}

impl Control {
    pub(super) fn tick_voters(&mut self, now: Timestamp) {
        let members = self.raft.membership();
        let Some(term) = &mut self.term else { return };
        if !now.surely_past(term.voters.next) {
            return;
        }
        term.voters.next = now.plus(EVERY);
        let registry = self.table.registry();
        if !registry.founded() {
            return;
        }
        let contacts = self.raft.followers().into_iter().filter_map(|follower| {
            let silent = follower.silent?;
            let heard =
                Timestamp::new(now.boottime.saturating_sub(silent), now.raw.saturating_sub(silent));
            let matched = follower.matched.unwrap_or_default();
            Some((follower.node, Contact { heard, matched }))
        });
        let membership = membership(&members);
        let input = autopilot::Input {
            me: self.config.node,
            leader_since: term.voters.leader_since,
            founding: (!registry.formed()).then_some(self.config.founding_size),
            settings: registry.settings(),
            nodes: registry.nodes().collect(),
            membership: &membership,
            last: registry.applied(),
            contacts: contacts.collect(),
        };
        let decision = term.voters.autopilot.next(&input, now);
        let names: BTreeMap<NodeId, Member> = registry
            .nodes()
            .map(|(id, node)| {
                let raft_address = node.info.addresses.raft.clone();
                (id, Member { name: node.info.name.clone(), raft_address })
            })
            .collect();
        drop(registry);
        match decision.change {
            Some(Change::Membership { voters, learners, why }) => {
                info!(?voters, ?learners, %why, "changes the membership");
                let learners = learners
                    .into_iter()
                    .filter_map(|id| Some((id, names.get(&id)?.clone())))
                    .collect();
                self.change_members(voters, learners, &members);
            }
            Some(Change::TransferLeadership { to }) => self.want_transfer(to, 2 * EVERY, now),
            None => {}
        }
    }

    /// One change at a time: the next is decided on what this one made of the membership.
    fn change_members(
        &mut self,
        voters: BTreeSet<NodeId>,
        learners: BTreeMap<NodeId, Member>,
        members: &Members,
    ) {
        let expected = members.entry;
        if self.changing.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let raft = self.raft.clone();
        self.changing = Some(tokio::spawn(async move {
            if let Err(why) = raft.change_membership(voters, learners, expected).await {
                debug!(%why, "the membership did not change");
            }
        }));
    }

    /// Followers that were heard of lately.
    fn heard(&self) -> impl Iterator<Item = Follower> + use<> {
        let followers = self.raft.followers().into_iter();
        followers.filter(|one| one.silent.is_some_and(|silent| silent < HEARD_WITHIN))
    }

    /// The voter that holds the most of the log, heard within the last second.
    pub(super) fn successor(&self) -> Option<NodeId> {
        let members = self.raft.membership();
        let registry = self.table.registry();
        self.heard()
            .filter(|one| members.voters.contains(&one.node))
            .filter(|one| {
                registry
                    .node(one.node)
                    .is_some_and(|node| node.life.is_up() && node.drain == Drain::None)
            })
            .max_by_key(|one| (one.matched.unwrap_or(LogIndex(0)), std::cmp::Reverse(one.node)))
            .map(|one| one.node)
    }

    /// Whether `node` may be removed: its process, told that it was, sets its directory aside, and
    /// who removed it may stop it at once.
    pub(super) fn spares(&self, node: NodeId) -> bool {
        let members = self.raft.membership();
        let registry = self.table.registry();
        let heard: BTreeSet<_> =
            self.heard().map(|one| one.node).chain([self.config.node]).collect();
        let stays = |id: NodeId| {
            let row = registry.node(id);
            heard.contains(&id) && row.is_some_and(|row| !row.life.is_left() && !row.marked)
        };
        let retiring = members.joint.then_some(&members.retiring);
        autopilot::spares(&members.voters, retiring, node, stays)
    }

    /// Leadership passes to `to` at the next quiet moment within `span`.
    pub(super) fn want_transfer(&mut self, to: NodeId, span: Duration, now: Timestamp) {
        if let Some(term) = &mut self.term {
            term.transfer.want(to, span, now);
        }
    }

    pub(super) fn tick_transfer(&mut self, now: Timestamp) {
        let Some(term) = &self.term else { return };
        let Some(to) = term.transfer.due(term.moves.in_flight(), now) else { return };
        if self.transferring.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let raft = self.raft.clone();
        self.transferring = Some(tokio::spawn(async move {
            match raft.transfer_leader(to).await {
                Ok(()) => {
                    let took = clock::now().at_most_since(now);
                    info!(%to, ?took, "handed leadership over");
                }
                // Asked again by the next tick.
                Err(why) => debug!(%to, %why, "leadership stays for now"),
            }
        }));
    }
}

fn membership(members: &Members) -> autopilot::Membership {
    autopilot::Membership {
        // While joint with those whose votes pass on, or they would not be kept as learners.
        voters: members.voters.union(&members.retiring).copied().collect(),
        next_voters: members.joint.then(|| members.voters.clone()),
        learners: members.learners.clone(),
        committed: members.committed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_voter_whose_vote_passes_on_is_known_as_one_until_it_has() {
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
        let mut members = Members {
            voters: nodes(&[1, 2, 4]),
            retiring: nodes(&[3]),
            learners: nodes(&[5]),
            joint: true,
            ..Members::default()
        };
        let joint = membership(&members);
        assert_eq!(joint.voters, nodes(&[1, 2, 3, 4]));
        assert_eq!(joint.next_voters, Some(nodes(&[1, 2, 4])));
        (members.retiring, members.joint) = (BTreeSet::new(), false);
        assert_eq!(membership(&members).voters, nodes(&[1, 2, 4]));
        assert_eq!(membership(&members).next_voters, None);
    }
}
