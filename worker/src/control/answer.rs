//! Requests to the leader: which become a command, and which are judged first.

use std::time::Duration;

use shoal_core::{
    handoff,
    id::{NodeId, ShardId, Timestamp},
    planner,
    registry::{self, Command, NodeInfo, Refused},
    session::{
        freshness::Freshness,
        lease::Lease,
        register::{self, Ask, Standing, Verdict},
    },
};

use super::{
    Control, Denied, Granted, Outcome, Register, Renew, Request,
    leader::Kind,
    request::{Envelope, Reply},
};
use crate::env::clock;

impl Control {
    pub(super) fn on_request(&mut self, envelope: Envelope) {
        let Envelope { request, reply } = envelope;
        if self.term.is_none() {
            let _ = reply.send(Err(Denied::NotLeader { leader: self.leader() }));
            return;
        }
        let now = clock::now();
        match request {
            Request::Join { info, directory } => self.join(info, directory, reply, now),
            Request::Register(register) => self.register(register, reply, now),
            Request::Renew(renew) => self.renew(renew, reply, now),
            Request::Report(report) => self.report(report, reply, now),
            Request::Propose(command) => match self.fits(&command) {
                Ok(()) => self.propose(Kind::Asked(reply), command),
                Err(denied) => drop(reply.send(Err(denied))),
            },
            Request::Move { shard, to, operator_epoch } => {
                let judged = self.requested_move(shard, to, now);
                self.propose_judged(judged, operator_epoch, reply);
            }
            Request::TransferLeader { to, operator_epoch } => {
                match self.asked_transfer(to, operator_epoch, now) {
                    Ok(()) => self.grant(reply, Outcome::Noted),
                    Err(denied) => drop(reply.send(Err(denied))),
                }
            }
            Request::Plan => {
                let (plan, _) = self.plan(now);
                self.grant(reply, Outcome::Plan(plan));
            }
            Request::Current => {
                let current = self.current_tables(now);
                self.grant(reply, Outcome::Current(current));
            }
            Request::Barrier => self.propose(Kind::Asked(reply), Command::Blank),
        }
    }

    /// What no apply may look at: the elections that run bound a lease, and who votes who may go.
    fn fits(&self, command: &Command) -> Result<(), Denied> {
        let command =
            if let Command::Guarded { command, .. } = command { command } else { command };
        match command {
            Command::Configure(registry::Configure { lease_ms: Some(millis), .. }) => {
                Lease::from_millis(*millis)
                    .and_then(|lease| lease.fits(self.raft.elections()))
                    .map_err(|why| Denied::Impossible(why.to_string()))
            }
            Command::Remove { node, .. } if !self.spares(*node) => Err(Denied::Later(format!(
                "node {node} still votes, and the other voters are no majority without it: wait \
                 until others vote"
            ))),
            _ => Ok(()),
        }
    }

    fn grant(&self, reply: Reply, outcome: Outcome) {
        let registry = self.table.registry();
        let (index, lease_ms) = (registry.applied(), registry.settings().lease_ms);
        let _ = reply.send(Ok(Granted { index, lease_ms, outcome }));
    }

    /// Before the cluster is formed only its founding set may join.
    fn join(&mut self, info: NodeInfo, directory: u128, reply: Reply, now: Timestamp) {
        let registry = self.table.registry();
        let founds = |name: &String| *name == info.addresses.data || *name == info.name;
        let refusal = if !registry.founded() {
            Some(Denied::Later("the cluster is being founded".into()))
        } else if !registry.formed() && !self.config.founding.iter().any(founds) {
            Some(Denied::Later("NOT_FORMED: the founding nodes have not all joined yet".into()))
        } else {
            self.name_in_use(&registry, &info, directory, now)
        };
        let replaces = registry
            .nodes()
            .filter(|(_, node)| {
                node.info.name == info.name && node.directory != directory && !node.life.is_left()
            })
            .map(|(id, node)| (id, node.renewed))
            .collect();
        drop(registry);
        match refusal {
            Some(denied) => {
                let _ = reply.send(Err(denied));
            }
            None => self.propose(Kind::Asked(reply), Command::Join { info, directory, replaces }),
        }
    }

    /// A name may be taken over only from a session that has certainly ended.
    fn name_in_use(
        &self,
        registry: &registry::Registry,
        info: &NodeInfo,
        directory: u128,
        now: Timestamp,
    ) -> Option<Denied> {
        let term = self.term.as_ref()?;
        let (id, node) = registry.nodes().find(|(id, node)| {
            let ended = term
                .fencing
                .end_of(*id, &self.memory.expiry)
                .is_some_and(|end| now.surely_past(end));
            node.info.name == info.name
                && node.directory != directory
                && node.life.is_up()
                && !ended
        })?;
        Some(Denied::Refused(Refused::NameInUse {
            name: info.name.clone(),
            node: id,
            address: node.info.addresses.data.clone(),
            renewed: node.renewed,
        }))
    }

    fn register(&mut self, ask: Register, reply: Reply, now: Timestamp) {
        let registry = self.table.registry();
        let verdict = match (registry.node(ask.node), &self.term) {
            (Some(_) | None, _) if !registry.formed() => {
                Err(Denied::Later("NOT_FORMED: the founding nodes have not all joined yet".into()))
            }
            (Some(row), Some(term)) => {
                let standing = Standing {
                    expires: term.fencing.end_of(ask.node, &self.memory.expiry),
                    may_reown: self.memory.repeats.may_reown(ask.node, now),
                };
                let lock = ask.lock.as_ref();
                let asked =
                    Ask { incarnation: ask.incarnation, lock, lock_is_local: lock.is_some() };
                Ok(register::judge(row, asked, standing, now))
            }
            (None, _) | (_, None) => Err(Denied::Refused(registry.no_row(ask.node))),
        };
        drop(registry);
        match verdict {
            Ok(Verdict::Propose { replaces, renewed, proof, reown }) => {
                let Register { node, incarnation, info, lock } = ask;
                let command = Command::Register(registry::Register {
                    node,
                    replaces,
                    incarnation,
                    info,
                    lock,
                    renewed,
                    proof,
                    reown,
                });
                self.propose(Kind::Register { node, reply }, command);
            }
            Ok(Verdict::Wait { .. }) => {
                let why = "the session of the previous process may still live".to_owned();
                let _ = reply.send(Err(Denied::Later(why)));
            }
            Ok(Verdict::Refuse(refusal)) => {
                let _ = reply.send(Err(self.refused_register(refusal, &ask)));
            }
            Err(denied) => {
                let _ = reply.send(Err(denied));
            }
        }
    }

    fn refused_register(&self, refusal: register::Refusal, ask: &Register) -> Denied {
        match refusal {
            register::Refusal::Left => Denied::Refused(Refused::NodeLeft(ask.node)),
            register::Refusal::Marked => Denied::Refused(Refused::Marked(ask.node)),
            register::Refusal::AlreadyRegistered => Denied::AlreadyRegistered,
            register::Refusal::RestoredCopy { .. } => Denied::Identity(refusal.to_string()),
        }
    }

    fn renew(&mut self, renew: Renew, reply: Reply, now: Timestamp) {
        #[cfg(feature = "mutants")]
        if renew.node != self.config.node
            && crate::mutant::chosen(crate::mutant::Mutant::DeafLeader)
        {
            return;
        }
        self.tables.insert(renew.node, renew.table);
        match renew.leaves_within {
            Some(within) => drop(self.deadlines.insert(renew.node, now.plus(within))),
            None => drop(self.deadlines.remove(&renew.node)),
        }
        if self.memory.history.judge(renew.table, self.memory.lease, now) == Freshness::Stale {
            let _ = reply.send(Err(Denied::TableBehind));
            return;
        }
        if let Some(term) = &mut self.term {
            term.renewals.add(renew.node, renew.incarnation, reply);
        }
    }

    fn report(&mut self, report: handoff::Report, reply: Reply, now: Timestamp) {
        if let Some(term) = &mut self.term {
            let output = term.moves.on(handoff::leader::Event::Report(report), now);
            self.perform_moves(output.actions);
        }
        self.grant(reply, Outcome::Noted);
    }

    fn requested_move(
        &self,
        shard: ShardId,
        to: NodeId,
        now: Timestamp,
    ) -> Result<Command, Denied> {
        use planner::Error;
        let planned = self.with_plan_input(now, |input| planner::request(input, shard, to));
        planned.map(|planned| Command::BeginMove { items: vec![planned.begin] }).map_err(|why| {
            match why {
                Error::UnknownShard(shard) => Denied::Refused(Refused::UnknownShard(shard)),
                // Time alone lifts these.
                Error::Unassigned(_)
                | Error::BackingOff { .. }
                | Error::ClusterBudget { .. }
                | Error::NodeBudget { .. } => Denied::Later(why.to_string()),
                Error::NotUp(_)
                | Error::AlreadyThere { .. }
                | Error::AlreadyMoving { .. }
                | Error::TargetHeldBack { .. }
                | Error::TargetLeaving { .. }
                | Error::SourceMarked(_) => Denied::Impossible(why.to_string()),
            }
        })
    }

    fn propose_judged(
        &mut self,
        judged: Result<Command, Denied>,
        operator_epoch: Option<u64>,
        reply: Reply,
    ) {
        match (judged, operator_epoch) {
            (Ok(command), None) => self.propose(Kind::Asked(reply), command),
            (Ok(command), Some(operator_epoch)) => {
                let command = Command::Guarded { operator_epoch, command: Box::new(command) };
                self.propose(Kind::Asked(reply), command);
            }
            // A requester that went away asks again.
            (Err(denied), _) => drop(reply.send(Err(denied))),
        }
    }

    fn asked_transfer(
        &mut self,
        to: Option<NodeId>,
        operator_epoch: Option<u64>,
        now: Timestamp,
    ) -> Result<(), Denied> {
        /// Who asked waits a little longer for the new leader.
        const SPAN: Duration = Duration::from_secs(4);
        let current = self.table.registry().settings().operator_epoch;
        if let Some(seen) = operator_epoch.filter(|seen| *seen != current) {
            return Err(Denied::Refused(Refused::OperatorEpoch { seen, current }));
        }
        let to = to.or_else(|| self.successor()).ok_or_else(|| {
            Denied::Impossible("no other voter is caught up: nobody can lead instead".to_owned())
        })?;
        if !self.raft.membership().voters.contains(&to) {
            let why = format!("node {to} is no voter: name one of the voters");
            return Err(Denied::Impossible(why));
        }
        // To itself it hands nothing, and holds no moves back for it.
        if to != self.config.node {
            self.want_transfer(to, SPAN, now);
        }
        Ok(())
    }
}
