//! The conversation: whom to ask and when, what to answer, which answers count.
//!
//! It decides nothing about founding; it fills the view that `rules` judges.

use std::time::Duration;

use super::{
    ASK_EVERY, Action, Answer, Content, Formed, Found, FoundingSet, JoinedState, Member, Peer,
    PeerState, Question, Reason, Renounced, Token, mutant::Mutant, rules::Seen,
};
use crate::id::{ClusterId, Timestamp};

/// An unanswered question is given up and asked anew: far above a round trip.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Hearsay that never answered is dropped after so many questions; it may be heard again.
const HEARSAY_TRIES: u32 = 8;
/// A set has at most five names; the rest is room for addresses they once had.
const MAX_CONTACTS: usize = 64;
/// Questions that wait for the disk: one per member of the largest set, and as many joiners.
const MAX_HELD: usize = 16;

#[derive(Debug)]
pub(super) struct Contact {
    /// Number of the question under way: any other answer from here is late.
    pub(super) asked: Option<u64>,
    pub(super) next_at: Timestamp,
    /// From discovery, never dropped.
    given: bool,
    unanswered: u32,
}

impl Found {
    pub(super) fn contact(&mut self, address: &str, given: bool, now: Timestamp) {
        if address == self.config.address {
            return;
        }
        if let Some(contact) = self.contacts.get_mut(address) {
            contact.given |= given;
        } else if given || self.contacts.len() < MAX_CONTACTS {
            let contact = Contact { asked: None, next_at: now, given, unanswered: 0 };
            self.contacts.insert(address.to_owned(), contact);
        }
    }

    pub(super) fn forget(&mut self, address: &str) {
        self.contacts.remove(address);
        self.differing.remove(address);
        self.view.retain(|_, seen| seen.address != address);
    }

    fn hearsay(&mut self, peer: &Peer, now: Timestamp) {
        let of_set = self.set.as_ref().is_some_and(|set| set.contains(&peer.name));
        if of_set && peer.name != self.config.name {
            self.contact(&peer.address, false, now);
        }
    }

    pub(super) fn ask(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        match self.formed() {
            Formed::Committed => return self.greet(now, actions),
            Formed::InLog => return,
            Formed::No => {}
        }
        self.contacts.retain(|_, contact| contact.given || contact.unanswered < HEARSAY_TRIES);
        let due = |contact: &Contact| now.surely_past(contact.next_at);
        let due: Vec<String> = self
            .contacts
            .iter()
            .filter(|(_, contact)| due(contact))
            .map(|(address, _)| address.clone())
            .collect();
        for address in due {
            let question = self.new_question(None);
            if let Some(contact) = self.contacts.get_mut(&address) {
                contact.asked = Some(question.number);
                contact.next_at = now.plus(ASK_TIMEOUT);
                contact.unanswered = contact.unanswered.saturating_add(1);
            }
            actions.push(Action::Ask { address, question });
        }
    }

    /// A silent node may have lost its directory and founded alone: it must hear of us [S5].
    fn greet(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if !now.surely_past(self.greet_at) {
            return;
        }
        self.greet_at = now.plus(self.config.lease);
        for Peer { name, address } in self.silent.clone() {
            let question = self.new_question(Some(name));
            actions.push(Action::Ask { address, question });
        }
    }

    fn new_question(&mut self, to: Option<String>) -> Question {
        self.next_number = self.next_number.wrapping_add(1);
        let formed = self.formed() == Formed::Committed;
        let directory = self.directory();
        let founder = directory.joined.as_ref().map(|j| j.founder.nonce);
        // It founds nothing, so that whoever founded its cluster may have been another set.
        let of_no_set = directory.joined.as_ref().is_none_or(|joined| joined.on.is_empty());
        let bound = of_no_set && self.config.recorded.is_some();
        Question {
            number: self.next_number,
            nonce: directory.nonce,
            from: Peer { name: self.config.name.clone(), address: self.config.address.clone() },
            founding_set: self.set.as_ref().filter(|_| !formed && !bound).map(FoundingSet::hash),
            to,
            formed: directory.cluster().filter(|_| formed),
            // Only while it is about the own cluster: an old one would unseat a new one.
            renounced: directory.renounced.filter(|r| Some(r.dead) == founder),
        }
    }

    pub(super) fn question(
        &mut self,
        token: Token,
        question: Question,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        self.hearsay(&question.from, now);
        if let Some(cluster) = question.formed
            && question.to.as_ref().is_none_or(|to| self.is_called(to))
        {
            actions.extend(self.foreign(cluster, question.from.address.clone()));
        }
        if let Some(renounced) = question.renounced
            && self.pending.is_none()
            && self.must_renounce(renounced)
        {
            self.renounce(renounced, actions);
        }
        if self.pending.is_some() && self.mutant != Some(Mutant::JoinBeforePersist) {
            if self.held.len() == MAX_HELD {
                let (token, _) = self.held.remove(0);
                actions.push(Action::Drop { token });
            }
            self.held.push((token, question));
            return;
        }
        let answer = Answer {
            nonce: question.nonce,
            number: question.number,
            content: self.content_for(&question),
        };
        actions.push(Action::Reply { token, answer });
    }

    /// Whoever learns that the founder's name has a new nonce takes nothing more from the
    /// old one, and answers only after that is on disk.
    fn must_renounce(&self, told: Renounced) -> bool {
        let directory = &self.directory;
        let founder = directory.joined.as_ref().map(|j| j.founder.nonce);
        let concerned = founder.is_none_or(|founder| founder == told.dead);
        concerned
            && self.formed() == Formed::No
            && ![told.dead, told.by].contains(&directory.nonce)
            && directory.renounced.is_none_or(|known| known.dead != told.dead)
    }

    fn content_for(&mut self, question: &Question) -> Content {
        let directory = self.directory();
        if question.from.name == self.config.name && question.nonce != directory.nonce {
            return Content::NameInUse { address: self.config.address.clone() };
        }
        match (&self.set, question.founding_set) {
            (Some(set), Some(theirs)) if set.hash() != theirs => {
                Content::SetsDiffer { names: set.names().to_vec() }
            }
            (Some(_) | None, Some(_) | None) => Content::State(self.state()),
        }
    }

    fn state(&self) -> PeerState {
        let directory = self.directory();
        let known = self
            .view
            .iter()
            .map(|(name, seen)| Peer { name: name.clone(), address: seen.address.clone() });
        PeerState {
            member: Member { name: self.config.name.clone(), nonce: directory.nonce },
            boot_ms: directory.boot_ms,
            known: known.collect(),
            oldest: self.scene(self.listen_until).oldest().map(str::to_owned),
            joined: directory.joined.as_ref().map(|joined| JoinedState {
                cluster: joined.cluster,
                founder: joined.founder.clone(),
            }),
            formed: self.formed(),
            ever_left: directory.ever_left,
            highest_epoch: directory.highest_epoch,
        }
    }

    fn is_called(&self, name: &str) -> bool {
        [&self.config.name, &self.config.node_name].into_iter().any(|own| own == name)
    }

    pub(super) fn answer(
        &mut self,
        from: &str,
        answer: Answer,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let present = answer.nonce == self.directory.nonce;
        let Some(contact) = self.contacts.get_mut(from) else {
            return;
        };
        let counts = present && contact.asked == Some(answer.number);
        if !counts && self.mutant != Some(Mutant::OldAnswersCount) {
            return;
        }
        contact.asked = None;
        contact.unanswered = 0;
        contact.next_at = now.plus(ASK_EVERY);
        self.differing.remove(from);
        match answer.content {
            Content::State(state) => self.heard(from, state, now),
            Content::SetsDiffer { names } => {
                self.view.retain(|_, seen| seen.address != from);
                self.differing.insert(from.to_owned(), names);
            }
            // A node that was admitted stays; the newcomer has to go.
            Content::NameInUse { address } => {
                let joined = self.directory.joined.as_ref();
                if joined.is_none_or(|joined| joined.node.is_none()) {
                    let name = self.config.name.clone();
                    actions.push(Action::Exit(Reason::NameInUse { name, address }));
                }
            }
        }
    }

    fn heard(&mut self, from: &str, state: PeerState, now: Timestamp) {
        for peer in &state.known {
            self.hearsay(peer, now);
        }
        let name = state.member.name.clone();
        let of_set = self.set.as_ref().is_none_or(|set| set.contains(&name));
        let asked_for = of_set || self.is_in_recorded(&state);
        if asked_for && name != self.config.name {
            let address = from.to_owned();
            self.view.insert(name, Seen { state, address });
        }
    }

    /// A member of the one cluster that this empty directory may join.
    fn is_in_recorded(&self, state: &PeerState) -> bool {
        let theirs = state.joined.as_ref().map(|joined| joined.cluster);
        self.directory.joined.is_none()
            && state.formed == Formed::Committed
            && theirs.is_some()
            && theirs == self.config.recorded
    }

    /// A member of another formed cluster addressed this node by its name.
    fn foreign(&mut self, cluster: ClusterId, address: String) -> Option<Action> {
        // With a record an empty directory founds nothing, and so forgets nothing that way.
        let empty = self.directory.joined.is_none();
        if self.directory.cluster() == Some(cluster) || (empty && self.config.recorded.is_some()) {
            return None;
        }
        let alone = match &self.directory.joined {
            Some(_) => self.directory.founded_alone(),
            None => self.set.as_ref().is_some_and(|set| set.names().len() == 1),
        };
        if alone {
            return Some(Action::Exit(Reason::BelongsElsewhere { cluster, address }));
        }
        self.foreign = self.directory.joined.is_some() && self.formed() == Formed::No;
        None
    }

    pub(super) fn release(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        for (token, question) in std::mem::take(&mut self.held) {
            self.question(token, question, now, actions);
        }
    }
}
