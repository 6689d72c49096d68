//! The rules of founding as pure functions over what one node knows: found, join, leave, form.
//!
//! Nothing here remembers or sends; the machine in `found` does. Each rule closes an
//! execution in which two clusters formed, or none could.

use std::collections::BTreeMap;

use super::directory::{Directory, FoundingSet, Joined, Member, Renounced};
use super::message::{Formed, PeerState};
use super::mutant::Mutant;
use crate::id::{ClusterId, Epoch};

/// The latest counted answer of one name, and where it came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub state: PeerState,
    pub address: String,
}

/// No directory draws it; stands for a name without an answer.
const NEVER_SEEN: u128 = 0;

pub(super) type View = BTreeMap<String, Seen>;

/// Everything a decision rests on.
pub(super) struct Scene<'a> {
    pub name: &'a str,
    pub set: Option<&'a FoundingSet>,
    pub directory: &'a Directory,
    pub formed: Formed,
    pub view: &'a View,
    pub voters: &'a [u128],
    /// No other cluster was heard of while listening; founding alone waits for that [S5].
    pub listened: bool,
    /// The operator has recorded the cluster id, or nobody asks for that.
    pub confirmed: bool,
    /// Nobody has said yet who founds.
    pub waits: bool,
    /// The only cluster this node may be in, where the operator has recorded one.
    pub recorded: Option<ClusterId>,
    /// The recorded cluster, while the operator is about to give it up.
    pub abandons: Option<ClusterId>,
    /// A member of another formed cluster addressed this node.
    pub foreign: bool,
    pub mutant: Option<Mutant>,
}

/// One change of the directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Found {
        on: Vec<Member>,
    },
    Join(Joined),
    Renounce(Renounced),
    Leave,
    /// The founder may propose Formed, after a pause if any directory ever left a cluster.
    Form {
        pause: bool,
        highest_epoch: Epoch,
    },
    /// Formed reached this log.
    Record,
}

impl Scene<'_> {
    pub fn next(&self) -> Option<Step> {
        let Some(joined) = &self.directory.joined else {
            let idle = self.waits || self.abandons.is_some();
            return if idle { None } else { self.found().or_else(|| self.join()) };
        };
        if self.formed >= Formed::InLog {
            return (!self.directory.formed).then_some(Step::Record);
        }
        // Nobody counts on one that was never admitted, and perhaps nobody is left to admit it: it
        // must not be what keeps the cluster [S20].
        let gives_up = self.directory.is_joining() && self.abandons == Some(joined.cluster);
        if gives_up || self.must_leave(joined) {
            return Some(Step::Leave);
        }
        if self.directory.founded().is_some() { self.form(joined) } else { self.renounce(joined) }
    }

    /// All of the founding set answered, all are empty, and this node is the oldest [S4, S7].
    /// An empty directory beside a recorded cluster has lost its own, or comes late.
    fn found(&self) -> Option<Step> {
        if self.recorded.is_some() {
            return None;
        }
        let others = self.all_others()?;
        let willing = others.iter().all(|seen| {
            let state = &seen.state;
            state.joined.is_none()
                && state.formed == Formed::No
                // Who takes another for the oldest would not join.
                && state.oldest.as_deref().is_none_or(|name| name == self.name)
        });
        (self.listened && willing && self.oldest()? == self.name)
            .then(|| Step::Found { on: self.members() })
    }

    fn join(&self) -> Option<Step> {
        self.join_formed().or_else(|| self.join_founder())
    }

    /// Only the founder that the own complete view names, and only while all others are
    /// empty or in that same cluster: a directory in any other blocks [S7].
    fn join_founder(&self) -> Option<Step> {
        let others = self.all_others()?;
        let founder = self.view.get(self.oldest()?)?;
        let joined = founder.state.joined.as_ref()?;
        let founded_it = joined.founder == founder.state.member;
        let none_elsewhere = others.iter().all(|seen| {
            let theirs = seen.state.joined.as_ref();
            theirs.is_none_or(|theirs| theirs.cluster == joined.cluster)
        });
        let wanted = founded_it && self.may_be_in(joined.cluster);
        (wanted && none_elsewhere && !self.is_dead(joined.founder.nonce)).then(|| {
            Step::Join(Joined {
                cluster: joined.cluster,
                founder: joined.founder.clone(),
                on: self.members(),
                node: None,
            })
        })
    }

    fn join_formed(&self) -> Option<Step> {
        let formed = self.view.values().filter(|seen| seen.state.formed == Formed::Committed);
        let joined = formed
            .filter_map(|seen| seen.state.joined.as_ref())
            .find(|joined| self.may_be_in(joined.cluster))?;
        Some(Step::Join(Joined {
            cluster: joined.cluster,
            founder: joined.founder.clone(),
            on: Vec::new(),
            node: None,
        }))
    }

    /// Never called with Formed in the log: such a directory stays for ever.
    fn must_leave(&self, joined: &Joined) -> bool {
        let formed_elsewhere = self.view.values().any(|seen| {
            seen.state.formed == Formed::Committed && cluster_differs(&seen.state, joined)
        });
        if formed_elsewhere || self.foreign {
            return true;
        }
        if self.directory.founded().is_some() {
            return joined.on.iter().any(|member| {
                let seen = self.view.get(&member.name);
                seen.is_some_and(|seen| seen.state.member != *member)
            });
        }
        let Some(others) = self.all_others() else {
            return false;
        };
        if self.outside() {
            let gone = |seen: &&Seen| cluster_differs(&seen.state, joined);
            return !others.is_empty() && others.iter().all(gone);
        }
        // The view was emptied when the founder was renounced, and every question since
        // then carried its new nonce: nobody who answered takes Formed from the old one.
        self.is_dead(joined.founder.nonce)
            && others.iter().all(|seen| {
                seen.state.formed == Formed::No
                    || seen.state.joined.is_none()
                    || cluster_differs(&seen.state, joined)
            })
    }

    fn renounce(&self, joined: &Joined) -> Option<Step> {
        let seen = self.view.get(&joined.founder.name)?;
        let by = seen.state.member.nonce;
        let dead = joined.founder.nonce;
        (by != dead && !self.is_dead(dead)).then_some(Step::Renounce(Renounced { dead, by }))
    }

    /// All of the set have durably joined on the nonces founded on, and a voter more than
    /// the founder holds the log wherever there are three [S6].
    fn form(&self, joined: &Joined) -> Option<Step> {
        let has_joined = |member: &Member| {
            member.nonce == self.directory.nonce
                || self.view.get(&member.name).is_some_and(|seen| {
                    seen.state.member == *member && !cluster_differs(&seen.state, joined)
                })
        };
        let present = joined.on.iter().filter(|member| has_joined(member)).count();
        let ready = self.enough(present, joined.on.len())
            && self.enough(self.voters.len(), self.set?.voter_target())
            && self.strangers_vote(joined).is_none();
        (ready && self.confirmed && self.may_be_in(joined.cluster)).then(|| Step::Form {
            pause: self.directory.ever_left || self.view.values().any(|seen| seen.state.ever_left),
            highest_epoch: self
                .view
                .values()
                .map(|seen| seen.state.highest_epoch)
                .fold(self.directory.highest_epoch, Epoch::max),
        })
    }

    fn strangers_vote(&self, joined: &Joined) -> Option<u128> {
        let known = |voter: &u128| joined.on.iter().any(|member| member.nonce == *voter);
        self.voters.iter().copied().find(|voter| !known(voter))
    }

    /// Answers of all of the set but this node; without a set, all there are.
    pub fn all_others(&self) -> Option<Vec<&Seen>> {
        let Some(set) = self.set else {
            return Some(self.view.values().collect());
        };
        let seen: Vec<&Seen> = self.view.values().collect();
        let others = set.names().iter().filter(|name| *name != self.name);
        let own = set.names().len() - others.count();
        self.enough(seen.len() + own, set.names().len()).then_some(seen)
    }

    /// Names of the set that have not answered.
    pub fn missing(&self) -> Vec<&str> {
        let names = self.set.map_or(&[][..], FoundingSet::names);
        let silent = |name: &&String| *name != self.name && !self.view.contains_key(*name);
        names.iter().filter(silent).map(String::as_str).collect()
    }

    /// The oldest of the set by (boot time, name, nonce), once all have answered. Strangers
    /// never count, whatever boot time they claim [S21].
    pub fn oldest(&self) -> Option<&str> {
        if self.outside() {
            return None;
        }
        self.all_others()?;
        let own = (self.directory.boot_ms, self.name, self.directory.nonce);
        let others = self.view.values().map(|seen| {
            let state = &seen.state;
            (state.boot_ms, state.member.name.as_str(), state.member.nonce)
        });
        others.chain([own]).min().map(|(_, name, _)| name)
    }

    fn may_be_in(&self, cluster: ClusterId) -> bool {
        self.recorded.is_none_or(|recorded| recorded == cluster)
    }

    /// Not of the founding set: may only join what is formed.
    pub fn outside(&self) -> bool {
        !self.set.is_some_and(|set| set.contains(self.name))
    }

    fn members(&self) -> Vec<Member> {
        let nonce = |name: &String| match self.view.get(name) {
            Some(seen) => seen.state.member.nonce,
            None if *name == self.name => self.directory.nonce,
            None => NEVER_SEEN,
        };
        let names = self.set.map_or(&[][..], FoundingSet::names).iter();
        names.map(|name| Member { name: name.clone(), nonce: nonce(name) }).collect()
    }

    fn is_dead(&self, nonce: u128) -> bool {
        self.directory.renounced.is_some_and(|r| r.dead == nonce)
    }

    fn enough(&self, have: usize, all: usize) -> bool {
        match self.mutant {
            Some(Mutant::MajorityIsEnough) => have > all / 2,
            Some(Mutant::OldAnswersCount | Mutant::JoinBeforePersist) | None => have >= all,
        }
    }
}

fn cluster_differs(state: &PeerState, joined: &Joined) -> bool {
    state.joined.as_ref().map(|theirs| theirs.cluster) != Some(joined.cluster)
}
