//! One term of leadership: ticks, what the core asked for, and what became of it.

use shoal_core::{
    autopilot::Transfer,
    handoff,
    id::{LogIndex, NodeId, Timestamp},
    planner::Pace,
    registry::{Assign, BeginMove, Command, Event, MAX_BATCH},
    session::fencing::{self, Fencing},
};
use tracing::{debug, info};

use super::{
    Control, Denied, Done, Granted, Outcome, gather,
    metrics::Counting,
    moves::Ends,
    renewals::{Renewals, Waiter},
    request::Reply,
    voters::Voters,
};
use crate::{env::clock, raft, table::Applied};

/// Bulk entries in flight: renewals wait behind at most these.
const BULK_IN_FLIGHT: usize = 4;

/// Everything a leader remembers beside the registry; dropped with its leadership.
pub(super) struct Term {
    pub number: u64,
    pub fencing: Fencing,
    pub moves: handoff::Leader,
    pub ends: Ends,
    pub renewals: Renewals,
    pub voters: Voters,
    pub transfer: Transfer,
    pub pace: Pace,
    counting: Counting,
    bulk_in_flight: usize,
    /// Something changed that a plan depends on.
    plan_dirty: bool,
    level_asked: u32,
    found_asked: bool,
    removing: Option<NodeId>,
}

/// Why a command was proposed, and who waits for it.
pub(super) enum Kind {
    /// Somebody waits for the answer.
    Asked(Reply),
    Renewals(Vec<Waiter>),
    Register {
        node: NodeId,
        reply: Reply,
    },
    Fence(NodeId),
    /// Assignments and beginnings of moves.
    Bulk,
    /// Commits and aborts of moves.
    Ends,
    /// The leader's own upkeep.
    Upkeep(&'static str),
}

impl Control {
    pub(super) fn new_term(&self, number: u64, established: LogIndex, at: Timestamp) -> Term {
        let now = clock::now();
        let facts = gather::facts(&self.table, &self.raft);
        let view = facts.view(&self.memory.expiry, self.config.node);
        let registry = self.table.registry();
        Term {
            number,
            fencing: Fencing::new(self.config.node, established, view, now),
            moves: handoff::Leader::rebuild(registry.shards().map(|(id, row)| (id, *row)), now),
            ends: Ends::default(),
            renewals: Renewals::default(),
            voters: Voters::new(at),
            transfer: Transfer::default(),
            pace: Pace::default(),
            counting: Counting::new(registry.shards()),
            bulk_in_flight: 0,
            plan_dirty: true,
            level_asked: 0,
            found_asked: false,
            removing: None,
        }
    }

    pub(super) fn rebuild_moves(&mut self, now: Timestamp) {
        if let Some(term) = &mut self.term {
            let registry = self.table.registry();
            term.moves =
                handoff::Leader::rebuild(registry.shards().map(|(id, row)| (id, *row)), now);
            term.counting = Counting::new(registry.shards());
            term.plan_dirty = true;
        }
    }

    pub(super) fn on_applied_as_leader(&mut self, applied: &Applied) {
        let Some(term) = &mut self.term else { return };
        let registry = self.table.registry();
        for shard in &applied.changes.shards {
            if let Some(row) = registry.shard(*shard).copied() {
                term.counting.row(&self.config.metrics, *shard, &row, applied.at);
                let event = handoff::leader::Event::Row { shard: *shard, row };
                // Rows ask for nothing; reports and ticks do.
                let output = term.moves.on(event, applied.at);
                if let Some(took) = output.moved {
                    term.pace.moved(took, applied.at);
                }
            }
        }
        if applied.changes.map_version_changed || applied.changes.settings {
            term.plan_dirty = true;
        }
    }

    pub(super) fn on_tick(&mut self) {
        let inbox_empty = self.inbox.is_empty();
        let now = clock::now();
        let Some(term) = &mut self.term else { return };
        term.counting.tick(&self.config.metrics, &self.table.registry(), now);
        self.flush_renewals();
        self.found();
        self.tick_fencing(inbox_empty, now);
        self.tick_moves(now);
        self.tick_plan(now);
        self.tick_voters(now);
        self.tick_transfer(now);
        self.upkeep();
    }

    fn tick_fencing(&mut self, inbox_empty: bool, now: Timestamp) {
        let facts = gather::facts(&self.table, &self.raft);
        let view = facts.view(&self.memory.expiry, self.config.node);
        let Some(term) = &mut self.term else { return };
        let output = term.fencing.on(fencing::Event::Tick { inbox_empty, view }, now);
        for action in output.actions {
            match action {
                fencing::Action::ProposeFence { node, incarnation, renewed } => {
                    info!(%node, %incarnation, "session expired, fences it");
                    self.propose(Kind::Fence(node), Command::Fence { node, incarnation, renewed });
                }
                fencing::Action::ProposeBlank => {
                    self.propose(Kind::Upkeep("blank"), Command::Blank);
                }
                fencing::Action::ProposeSettle { since } => {
                    let command = Command::SettleLease { previous_since: since };
                    self.propose(Kind::Upkeep("settle"), command);
                }
                fencing::Action::TransferLeadership { to } => {
                    info!(%to, "another node should lead");
                    self.want_transfer(to, self.memory.lease.length(), now);
                }
            }
        }
    }

    fn tick_plan(&mut self, now: Timestamp) {
        let Some(term) = &self.term else { return };
        if !term.plan_dirty || term.bulk_in_flight > 0 {
            return;
        }
        let (mut plan, wait) = self.plan(now);
        let Some(term) = &mut self.term else { return };
        // A refusal that time lifts must be looked at again; the rest waits for a change.
        term.plan_dirty = wait;
        if term.transfer.holds_moves(now) {
            term.plan_dirty |= !plan.moves.is_empty();
            plan.moves.clear();
        } else {
            term.pace.planned(&plan, now);
        }
        let assigns: Vec<Assign> = plan.assigns.iter().map(|planned| planned.assign).collect();
        let moves: Vec<BeginMove> = plan.moves.iter().map(|planned| planned.begin).collect();
        for line in plan.moves.iter() {
            debug!(shard = %line.begin.shard, to = %line.begin.target, reason = ?line.reason, "moves");
        }
        let batches =
            assigns.chunks(MAX_BATCH).map(|items| Command::Assign { items: items.to_vec() }).chain(
                moves.chunks(MAX_BATCH).map(|items| Command::BeginMove { items: items.to_vec() }),
            );
        let batches: Vec<_> = batches.take(BULK_IN_FLIGHT).collect();
        if !batches.is_empty() {
            term.plan_dirty = true;
        }
        for command in batches {
            if let Some(term) = &mut self.term {
                term.bulk_in_flight += 1;
            }
            self.propose(Kind::Bulk, command);
        }
    }

    /// The first entry of a cluster names it.
    fn found(&mut self) {
        let Some(term) = &mut self.term else { return };
        if term.found_asked || self.table.registry().founded() {
            return;
        }
        let Some(command) = self.config.found.clone() else { return };
        term.found_asked = true;
        self.propose(Kind::Upkeep("found"), command);
    }

    /// Raises the feature level and removes what was marked and is gone.
    fn upkeep(&mut self) {
        let Some(term) = &mut self.term else { return };
        let registry = self.table.registry();
        if !registry.founded() {
            return;
        }
        let level = registry.common_level();
        let raise = level > registry.settings().feature_level && term.level_asked < level;
        let voters = self.raft.membership();
        let gone = registry.nodes().find(|(id, node)| {
            node.marked && !node.life.is_up() && !node.life.is_left() && !voters.votes(*id)
        });
        let remove = gone
            .filter(|(id, _)| term.removing != Some(*id))
            .map(|(node, row)| Command::Remove { node, incarnation: row.incarnation });
        drop(registry);
        if raise {
            term.level_asked = level;
            self.propose(Kind::Upkeep("level"), Command::RaiseLevel { level });
        }
        if let Some(command) = remove {
            if let (Command::Remove { node, .. }, Some(term)) = (&command, &mut self.term) {
                term.removing = Some(*node);
            }
            self.propose(Kind::Upkeep("remove"), command);
        }
    }

    pub(super) fn on_done(&mut self, done: Done) {
        let now = clock::now();
        if let (Ok(_), Some(term)) = (&done.result, &mut self.term) {
            // An entry that this leader proposed was applied: a quorum is there.
            drop(term.fencing.on(fencing::Event::Applied, now));
        }
        let lease_ms = self.table.registry().settings().lease_ms;
        let answer = done.result.map_err(denied).and_then(|proposed| {
            let event = proposed.result.map_err(Denied::Refused)?;
            Ok((proposed.index, event))
        });
        match done.kind {
            Kind::Asked(reply) => respond(reply, answer, lease_ms),
            Kind::Register { node, reply } => {
                if answer.is_ok() {
                    // What the former process lacked says nothing of this one: in a roll its first
                    // renewal would come too late, and the next leaver's shards go elsewhere.
                    self.tables.remove(&node);
                }
                if let Ok((_, Event::Registered { reowned: 1.., .. })) = &answer {
                    let event = shoal_core::session::repeats::Event::Reowned { node };
                    self.memory.repeats.on(event, now);
                }
                respond(reply, answer, lease_ms);
            }
            Kind::Renewals(replies) => self.renewed(replies, answer),
            Kind::Fence(node) => match answer {
                Ok((index, event)) => {
                    self.config.metrics.fenced.inc();
                    info!(%node, %index, ?event, "fenced");
                }
                Err(why) => info!(%node, %why, "was not fenced"),
            },
            Kind::Bulk => {
                if let Some(term) = &mut self.term {
                    term.bulk_in_flight = term.bulk_in_flight.saturating_sub(1);
                }
                log_items("bulk", answer);
            }
            Kind::Ends => {
                log_items("ends of moves", answer);
                self.ended_moves();
            }
            Kind::Upkeep(what) => log_items(what, answer),
        }
    }
}

fn log_items(what: &'static str, answer: Result<(LogIndex, Event), Denied>) {
    match answer {
        Ok((index, Event::Items { refused })) => {
            let count = refused.iter().flatten().count();
            if count > 0 {
                let first = refused.iter().flatten().next();
                debug!(what, %index, count, ?first, "some items were refused");
            }
        }
        Ok(_) => {}
        Err(why) => debug!(what, %why, "not applied"),
    }
}

fn respond(reply: Reply, answer: Result<(LogIndex, Event), Denied>, lease_ms: u32) {
    let lease_of = |event: &Event| match event {
        Event::Registered { lease_ms, .. } | Event::Renewed { lease_ms, .. } => *lease_ms,
        Event::Done
        | Event::Joined { .. }
        | Event::Unassigned { .. }
        | Event::Items { .. }
        | Event::OperatorEpoch { .. } => lease_ms,
    };
    let granted = answer.map(|(index, event)| Granted {
        index,
        lease_ms: lease_of(&event),
        outcome: Outcome::Event(event),
    });
    // A requester that went away asks again.
    let _ = reply.send(granted);
}

pub(super) fn denied(error: raft::ProposeError) -> Denied {
    match error {
        raft::ProposeError::NotLeader { leader } => Denied::NotLeader { leader },
        raft::ProposeError::TooLarge(_) => Denied::Impossible(error.to_string()),
        raft::ProposeError::Unavailable | raft::ProposeError::Fatal(_) => {
            Denied::Later(error.to_string())
        }
    }
}
