//! Requests to the leader: which become an entry, and which are judged first; and what an
//! entry that was applied means to those who wait for it.

use super::*;

impl World {
    pub fn requested(&mut self, place: Place, ask: Ask) {
        let now = self.clock(place);
        match &mut self.live_mut(place).term {
            Some(term) if self_is_busy(&ask) => term.inbox.push(ask),
            Some(_) | None => self.serve(place, ask, now),
        }
    }

    pub fn serve(&mut self, place: Place, ask: Ask, now: Timestamp) {
        let to = ask.reply_to();
        match ask.body {
            AskBody::Join { info, directory } => self.admit_node(place, info, directory, to, now),
            AskBody::Session { call, node, incarnation, table, info, lock, .. } => match call {
                Call::Register => {
                    let ask = RegisterAsk { incarnation, lock: Some(&lock), lock_is_local: true };
                    self.register(place, node, ask, info, to, now);
                }
                Call::Renew => self.renew(place, node, incarnation, table, to, now),
                Call::CloseInPlace => {
                    let command = Command::CloseInPlace { node, incarnation };
                    self.propose(place, Kind::Asked(to), command);
                }
            },
            AskBody::Report(report) => {
                let Some(term) = &mut self.live_mut(place).term else { return };
                let output = term.moves.on(handoff::leader::Event::Report(report), now);
                self.perform_moves(place, output.actions);
            }
            AskBody::Propose(command) => self.propose(place, Kind::Asked(to), command),
            AskBody::Move { shard, to: target } => self.requested_move(place, shard, target, now),
            AskBody::TransferLeader => {
                if let Some(successor) = self.successor(place) {
                    self.transfer(place, successor);
                }
            }
        }
    }

    fn admit_node(
        &mut self,
        place: Place,
        info: NodeInfo,
        directory: u128,
        to: ReplyTo,
        now: Timestamp,
    ) {
        let live = self.live(place);
        let Some(term) = &live.term else { return };
        let others = live.table.nodes().filter(|(_, node)| {
            node.info.name == info.name && node.directory != directory && !node.life.is_left()
        });
        let mut replaces = Vec::new();
        for (id, node) in others {
            let end = term.fencing.end_of(id, &live.memory.expiry);
            if node.life.is_up() && !end.is_some_and(|end| now.surely_past(end)) {
                return; // the name is in use: asked again
            }
            replaces.push((id, node.renewed));
        }
        self.propose(place, Kind::Asked(to), Command::Join { info, directory, replaces });
    }

    fn register(
        &mut self,
        place: Place,
        node: NodeId,
        ask: RegisterAsk<'_>,
        info: NodeInfo,
        to: ReplyTo,
        now: Timestamp,
    ) {
        let live = self.live(place);
        let (Some(row), Some(term)) = (live.table.node(node), &live.term) else { return };
        let standing = Standing {
            expires: term.fencing.end_of(node, &live.memory.expiry),
            may_reown: live.memory.repeats.may_reown(node, now),
        };
        match register::judge(row, ask, standing, now) {
            Verdict::Propose { replaces, renewed, proof, reown } => {
                if proof {
                    self.saw("register with proof");
                }
                let incarnation = ask.incarnation;
                let lock = ask.lock.cloned();
                let register =
                    Register { node, replaces, incarnation, info, lock, renewed, proof, reown };
                self.propose(place, Kind::Register { node, to }, Command::Register(register));
            }
            Verdict::Wait { .. } => {
                self.saw("register waits for the old session");
                self.refuse(place, to, Refusal::Retry);
            }
            Verdict::Refuse(refused) => {
                let refusal = match refused {
                    register::Refusal::Left => Refusal::Left,
                    register::Refusal::Marked => Refusal::Marked,
                    register::Refusal::AlreadyRegistered => Refusal::AlreadyRegistered,
                    register::Refusal::RestoredCopy { .. } => {
                        self.saw("restored copy refused");
                        Refusal::Identity
                    }
                };
                self.refuse(place, to, refusal);
            }
        }
    }

    pub fn refuse(&mut self, place: Place, to: ReplyTo, refusal: Refusal) {
        self.reply(place, to, ReplyBody::Answer(Answer::Refused(refusal)));
    }

    fn renew(
        &mut self,
        place: Place,
        node: NodeId,
        incarnation: Incarnation,
        table: LogIndex,
        to: ReplyTo,
        now: Timestamp,
    ) {
        let live = self.live_mut(place);
        let Some(term) = &mut live.term else { return };
        term.tables.insert(node, table);
        if live.memory.history.judge(table, live.memory.lease, now) == Freshness::Stale {
            self.saw("renewal refused for a stale table");
            return self.refuse(place, to, Refusal::TableBehind);
        }
        term.waiting.entry((node, incarnation)).or_default().push(to);
    }

    pub fn flush_renewals(&mut self, place: Place) {
        let Some(term) = &mut self.live_mut(place).term else { return };
        if term.renewing || term.waiting.is_empty() {
            return;
        }
        term.renewing = true;
        let waiting = std::mem::take(&mut term.waiting);
        let sessions: Vec<_> = waiting.keys().copied().collect();
        let waiters: Vec<_> = waiting
            .into_iter()
            .flat_map(|((node, inc), replies)| replies.into_iter().map(move |to| (node, inc, to)))
            .collect();
        if self.setup.mutant == Some(Mutant::AnswerBeforeApply) {
            let index = self.applied_index(place);
            for (_, _, to) in &waiters {
                self.grant(place, *to, index);
            }
        }
        self.propose(place, Kind::Renewals(waiters), Command::Renew { sessions });
    }

    fn grant(&mut self, place: Place, to: ReplyTo, index: LogIndex) {
        let lease = self.lease_at(place);
        self.reply(place, to, ReplyBody::Answer(Answer::Granted { index, lease }));
    }

    /// An entry proposed here was applied here.
    pub fn done(
        &mut self,
        place: Place,
        kind: Kind,
        index: LogIndex,
        outcome: Result<Applied, Refused>,
    ) {
        let now = self.clock(place);
        match kind {
            Kind::Asked(to) => match outcome {
                Ok(Applied::Joined { node }) => self.reply(place, to, ReplyBody::Joined(node)),
                Ok(_) => self.grant(place, to, index),
                Err(refused) => self.refuse(place, to, refusal(&refused)),
            },
            Kind::Register { node, to } => match outcome {
                Ok(event) => {
                    if let Applied::Registered { reowned: 1.., .. } = event {
                        self.saw("shards taken again");
                        let event = repeats::Event::Reowned { node };
                        self.live_mut(place).memory.repeats.on(event, now);
                    }
                    self.grant(place, to, index);
                }
                Err(refused) => self.refuse(place, to, refusal(&refused)),
            },
            Kind::Renewals(waiters) => self.renewed(place, waiters, index, outcome),
            Kind::Bulk => {
                if let Some(term) = &mut self.live_mut(place).term {
                    term.bulk_in_flight = term.bulk_in_flight.saturating_sub(1);
                }
            }
            Kind::Upkeep => {}
        }
    }

    fn renewed(
        &mut self,
        place: Place,
        waiters: Vec<(NodeId, Incarnation, ReplyTo)>,
        index: LogIndex,
        outcome: Result<Applied, Refused>,
    ) {
        if let Some(term) = &mut self.live_mut(place).term {
            term.renewing = false;
        }
        let refused = match outcome {
            Ok(Applied::Renewed { refused, .. }) => refused,
            Ok(_) | Err(_) => return,
        };
        let lenient = self.setup.mutant == Some(Mutant::RenewalAfterFence);
        for (node, incarnation, to) in waiters {
            if lenient || !refused.contains(&node) {
                self.grant(place, to, index);
            } else {
                let why = self.why_not_renewed(place, node, incarnation);
                self.refuse(place, to, why);
            }
        }
    }

    fn why_not_renewed(&self, place: Place, id: NodeId, incarnation: Incarnation) -> Refusal {
        match self.live(place).table.node(id) {
            None => Refusal::Identity,
            Some(row) if row.life.is_left() => Refusal::Left,
            Some(row) if row.marked => Refusal::Marked,
            Some(row) if row.incarnation != incarnation => Refusal::Stale,
            Some(row) if row.life.is_closed() => Refusal::Closed,
            Some(_) => Refusal::Stale,
        }
    }
}

/// Renewals wait for the tick, as in the inbox of the loop; the rest is served at once.
fn self_is_busy(ask: &Ask) -> bool {
    matches!(ask.body, AskBody::Session { call: Call::Renew, .. })
}
