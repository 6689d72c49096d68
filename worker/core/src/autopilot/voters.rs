//! Who votes, and who leads. Learners are the only candidates; `autopilot` chose those.

use std::{cmp::Reverse, collections::BTreeSet};

use crate::id::NodeId;

use super::{Change, Finding, MOST_VOTERS, View, Why};

impl View<'_> {
    /// The first of these that is needed and possible.
    pub(super) fn change_voters(&self, report: &mut Vec<Finding>) -> Option<Change> {
        if self.settling() {
            report.push(Finding::Settling);
        }
        let change = self
            .hand_on_leadership(report)
            .or_else(|| self.replace_gone(report))
            .or_else(|| {
                if self.settling() {
                    return None;
                }
                self.replace_silent(report)
                    .or_else(|| self.promote(report))
                    .or_else(|| self.spread(report))
            })?;
        if self.can_commit(&change) {
            return Some(change);
        }
        report.push(Finding::NoQuorum);
        None
    }

    /// A joint change ends only by a majority of the new voters.
    fn can_commit(&self, change: &Change) -> bool {
        match change {
            Change::Membership { voters, .. } => {
                voters.iter().filter(|id| self.answers(**id)).count() * 2 > voters.len()
            }
            Change::TransferLeadership { .. } => true,
        }
    }

    /// Voters wanted: by the nodes that belong to the cluster, dead or alive, so that a crash
    /// takes no vote away. Always odd.
    pub(super) fn target(&self) -> usize {
        let belong = self.input.nodes.keys().filter(|id| !self.gone(**id)).count();
        match (self.input.founding, belong) {
            (Some(0..=2), _) => 1,
            (Some(founding), _) => founding,
            (None, 0..=2) => 1,
            (None, belong) => {
                let most =
                    belong.min(self.input.settings.max_voters as usize).clamp(1, MOST_VOTERS);
                most - usize::from(most.is_multiple_of(2))
            }
        }
    }

    /// A leader that leaves lets another voter lead first; a sole voter has none. One that
    /// restarts names only a node that stays: where all stop together nobody gains by it.
    fn hand_on_leadership(&self, report: &mut Vec<Finding>) -> Option<Change> {
        let me = self.input.me;
        let voters = self.voters();
        let leaves = self.gone(me) || self.restarts(me);
        if !leaves || !voters.contains(&me) || voters.len() == 1 {
            return None;
        }
        let heir = (voters.iter().copied())
            .filter(|&id| id != me && !self.gone(id) && self.caught_up(id))
            .filter(|&id| self.gone(me) || self.stays(id))
            .min_by_key(|&id| (!self.stays(id), self.behind(id), id));
        if heir.is_none() {
            report.push(Finding::NoHeir { leader: me });
        }
        heir.map(|to| Change::TransferLeadership { to })
    }

    /// Takes the votes of nodes that leave for good, and of a sole voter that restarts: with
    /// it the whole cluster would stand still. Shrinks only to the target. A leader keeps its
    /// vote while another voter may still take the lead.
    fn replace_gone(&self, report: &mut Vec<Finding>) -> Option<Change> {
        let voters = self.voters();
        let sole = voters.len() == 1;
        let must_go = |&id: &NodeId| {
            if sole {
                self.gone(id) || self.restarts(id)
            } else {
                self.gone(id) && id != self.input.me
            }
        };
        let size = voters.len().min(self.target());
        // Fewer votes weigh more: none of them should rest with the dead.
        let shrinks = size < voters.len();
        if shrinks && self.settling() {
            return None;
        }
        let leaving: BTreeSet<NodeId> = (voters.iter().copied())
            .filter(|id| must_go(id) || shrinks && !self.answers(*id))
            .collect();
        let candidates = self.learners().filter(|&id| self.stays(id) && self.caught_up(id));
        let chosen = self.choose(&leaving, candidates.collect(), size);
        let stuck = chosen.iter().filter(|id| must_go(id));
        report.extend(stuck.map(|&voter| Finding::KeepsVote { voter }));
        self.to(chosen, |promoted, demoted| {
            if promoted.is_empty() {
                Why::Shrink { demoted }
            } else {
                Why::Replace { demoted, promoted }
            }
        })
    }

    fn replace_silent(&self, report: &mut Vec<Finding>) -> Option<Change> {
        let voters = self.voters();
        let silent: BTreeSet<NodeId> =
            voters.iter().copied().filter(|&id| self.silent(id)).collect();
        let chosen = self.choose(&silent, self.candidates(), voters.len());
        for &voter in silent.intersection(&chosen) {
            report.push(Finding::Silent { voter, span: self.silent_for(voter) });
        }
        self.to(chosen, |promoted, demoted| Why::Replace { demoted, promoted })
    }

    /// Adds voters so that their number stays odd, or becomes it.
    fn promote(&self, report: &mut Vec<Finding>) -> Option<Change> {
        let (voters, target) = (self.voters(), self.target());
        if voters.len() >= target {
            return None;
        }
        let step = if voters.len().is_multiple_of(2) { 1 } else { 2 };
        let candidates = self.candidates();
        if candidates.len() < step {
            let (have, ready) = (voters.len(), candidates.len());
            report.push(Finding::TooFewVoters { have, target, ready, step });
            let behind = self.learners().filter(|&id| !self.caught_up(id));
            report.extend(behind.map(|node| Finding::Behind { node, entries: self.behind(node) }));
            return None;
        }
        let chosen = self.choose(&BTreeSet::new(), candidates, voters.len() + step);
        self.to(chosen, |promoted, _| Why::Promote { promoted })
    }

    /// Where there are three zones or more, losing one must not lose the quorum.
    fn spread(&self, report: &mut Vec<Finding>) -> Option<Change> {
        let voters = self.voters();
        let zones: BTreeSet<&str> = (self.input.nodes.keys())
            .filter(|id| !self.gone(**id))
            .filter_map(|&id| self.zone(id))
            .collect();
        let is_majority = |count: usize| count * 2 > voters.len();
        if zones.len() < 3 || voters.len() < 3 {
            return None;
        }
        let out = (voters.iter().copied())
            .filter(|&id| is_majority(1 + self.crowd(id, voters)))
            .max_by_key(|&id| self.dispensable(id, voters))?;
        let candidates: Vec<NodeId> = (self.candidates().into_iter())
            .filter(|&id| !is_majority(1 + self.crowd(id, voters)))
            .collect();
        if candidates.is_empty() {
            let zone = self.zone(out).unwrap_or_default().to_owned();
            report.push(Finding::ZoneHoldsMajority { zone });
        }
        let chosen = self.choose(&BTreeSet::from([out]), candidates, voters.len());
        self.to(chosen, |promoted, demoted| Why::Spread { demoted, promoted })
    }

    /// `size` voters: those of now without `leaving`, then candidates, spread over zones; a
    /// leaving one stays where nobody can follow it.
    fn choose(
        &self,
        leaving: &BTreeSet<NodeId>,
        mut candidates: Vec<NodeId>,
        size: usize,
    ) -> BTreeSet<NodeId> {
        let names: BTreeSet<_> = leaving.iter().filter_map(|&id| self.name(id)).collect();
        let mut chosen: BTreeSet<NodeId> = self.voters().difference(leaving).copied().collect();
        while chosen.len() > size {
            let out = chosen.iter().copied().max_by_key(|&id| self.dispensable(id, &chosen));
            chosen.retain(|&id| Some(id) != out);
        }
        while chosen.len() < size {
            let fit = |&id: &NodeId| {
                let same_name = self.name(id).is_some_and(|name| names.contains(name));
                (self.crowd(id, &chosen), !same_name, id)
            };
            let Some(best) = candidates.iter().copied().min_by_key(fit) else {
                break;
            };
            candidates.retain(|&id| id != best);
            chosen.insert(best);
        }
        let mut staying: Vec<NodeId> = leaving.iter().copied().collect();
        staying.sort_by_key(|&id| (!self.answers(id), self.gone(id), id));
        let missing = size.saturating_sub(chosen.len());
        chosen.extend(staying.into_iter().take(missing));
        chosen
    }

    /// Order in which votes are taken where too many vote: the dead, then the crowded; the
    /// leader last.
    fn dispensable(&self, id: NodeId, voters: &BTreeSet<NodeId>) -> impl Ord + use<> {
        let is_leader = id == self.input.me;
        (Reverse(is_leader), !self.answers(id), self.crowd(id, voters), id)
    }

    /// The change to these voters, unless they vote already.
    fn to(
        &self,
        voters: BTreeSet<NodeId>,
        why: impl FnOnce(BTreeSet<NodeId>, BTreeSet<NodeId>) -> Why,
    ) -> Option<Change> {
        if voters == *self.voters() {
            return None;
        }
        let promoted: BTreeSet<NodeId> = voters.difference(self.voters()).copied().collect();
        let demoted: BTreeSet<NodeId> = self.voters().difference(&voters).copied().collect();
        let learners = (self.learners().filter(|id| !promoted.contains(id)))
            .chain(demoted.iter().copied().filter(|&id| !self.forgotten(id)))
            .collect();
        Some(Change::Membership { voters, learners, why: why(promoted, demoted) })
    }

    fn restarts(&self, id: NodeId) -> bool {
        self.node(id).is_some_and(|node| node.drain.is_restart())
    }

    fn candidates(&self) -> Vec<NodeId> {
        self.learners().filter(|&id| self.stays(id) && self.proven(id)).collect()
    }

    fn voters(&self) -> &BTreeSet<NodeId> {
        &self.input.membership.voters
    }

    fn learners(&self) -> impl Iterator<Item = NodeId> {
        self.input.membership.learners.iter().copied()
    }

    fn name(&self, id: NodeId) -> Option<&str> {
        self.node(id).map(|node| node.info.name.as_str())
    }
}
