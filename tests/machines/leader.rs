//! The leader's loop of one process: gathers facts, asks the core, proposes.

mod answer;
mod plan;

use std::{collections::BTreeMap, time::Duration};

use shoal_core::{
    autopilot::{self, Autopilot, Contact},
    handoff,
    id::{Incarnation, LogIndex, NodeId, ShardId, Timestamp},
    planner::{self, HeldBack, PlanInput, Reason, Standing as PlanStanding},
    registry::{
        Assign, BeginMove, Changes, Command, Drain, Event as Applied, Life, MoveRef, NodeInfo,
        Refused, Register,
    },
    session::{
        expiry::Expiry,
        fencing::{self, Fencing, NodeFact, View},
        freshness::Freshness,
        holder::{Answer, Call, Refusal},
        lease::Lease,
        register::{self, Ask as RegisterAsk, Standing, Verdict},
        repeats,
    },
};

use crate::{
    log::{What, index},
    mutant::Mutant,
    requests::{Ask, AskBody, ReplyBody, ReplyTo, refusal},
    world::{Place, World},
};

/// Between two looks of the autopilot.
const VOTERS_EVERY: Duration = Duration::from_millis(200);

/// Everything a leader remembers beside the registry.
pub struct Term {
    pub number: u64,
    began: Timestamp,
    pub fencing: Fencing,
    pub moves: handoff::Leader,
    waiting: BTreeMap<(NodeId, Incarnation), Vec<ReplyTo>>,
    renewing: bool,
    bulk_in_flight: u32,
    plan_dirty: bool,
    last_balance: Option<Timestamp>,
    removing: Option<NodeId>,
    pub tables: BTreeMap<NodeId, LogIndex>,
    autopilot: Autopilot,
    voters_at: Timestamp,
    heard: BTreeMap<NodeId, Timestamp>,
    ticked: Timestamp,
    /// Requests came since the last tick.
    inbox: Vec<Ask>,
    members_asked: Option<usize>,
}

/// Why an entry was proposed, and who waits.
#[derive(Clone, Debug)]
pub enum Kind {
    Asked(ReplyTo),
    Register { node: NodeId, to: ReplyTo },
    Renewals(Vec<(NodeId, Incarnation, ReplyTo)>),
    Bulk,
    Upkeep,
}

/// The leader and another who hears more nodes than a registry knows as facts.
fn facts(world: &World, place: Place) -> Vec<NodeFact> {
    let live = world.live(place);
    let fact = |(id, node): (NodeId, &shoal_core::registry::Node)| NodeFact {
        id,
        incarnation: node.incarnation,
        life: node.life,
        drain: node.drain,
        voter: world.log.voters.contains(&id),
        renewed: node.renewed,
    };
    live.table.nodes().map(fact).collect()
}

fn view<'a>(
    lease: Lease,
    nodes: &'a [NodeFact],
    expiry: &'a Expiry,
    me: Option<NodeId>,
) -> View<'a> {
    let mine = nodes.iter().find(|node| Some(node.id) == me);
    let has_session = mine.is_some_and(|node| node.life.is_up());
    View { lease, nodes, expiry, has_session }
}

impl World {
    /// The first entry of the own term was applied: the loop begins.
    pub fn leads_now(&mut self, place: Place) {
        let live = self.live(place);
        let Some((term, blank)) = live.leads else { return };
        if live.applied < blank || live.term.as_ref().is_some_and(|known| known.number >= term) {
            return;
        }
        let now = self.clock(place);
        let Some(me) = self.nodes[place].disk.node else { return };
        let facts = facts(self, place);
        let live = self.live(place);
        let view = view(live.memory.lease, &facts, &live.memory.expiry, Some(me));
        let established = index(blank - 1);
        let fresh = Term {
            number: term,
            began: now,
            fencing: Fencing::new(me, established, view, now),
            moves: handoff::Leader::rebuild(live.table.shards().map(|(id, row)| (id, *row)), now),
            waiting: BTreeMap::new(),
            renewing: false,
            bulk_in_flight: 0,
            plan_dirty: true,
            last_balance: None,
            removing: None,
            tables: BTreeMap::new(),
            autopilot: Autopilot::default(),
            voters_at: now,
            heard: BTreeMap::new(),
            ticked: now,
            inbox: Vec::new(),
            members_asked: None,
        };
        self.note(format_args!("{place} leads term {term}"));
        self.live_mut(place).term = Some(fresh);
    }

    pub fn stop_leading(&mut self, place: Place) {
        let live = self.live_mut(place);
        live.leads = None;
        live.pending.clear();
        if live.term.take().is_some() {
            self.note(format_args!("{place} leads no more"));
        }
    }

    pub fn rebuild_moves(&mut self, place: Place) {
        let now = self.clock(place);
        let live = self.live_mut(place);
        if let Some(term) = &mut live.term {
            let rows = live.table.shards().map(|(id, row)| (id, *row));
            term.moves = handoff::Leader::rebuild(rows, now);
            term.plan_dirty = true;
        }
    }

    pub fn applied_as_leader(&mut self, place: Place, changes: &Changes, now: Timestamp) {
        let live = self.live_mut(place);
        let Some(term) = &mut live.term else { return };
        for shard in &changes.shards {
            if let Some(row) = live.table.shard(*shard).copied() {
                let event = handoff::leader::Event::Row { shard: *shard, row };
                // Rows ask for nothing; reports and ticks do.
                drop(term.moves.on(event, now));
            }
        }
        if changes.map_version_changed || changes.settings {
            term.plan_dirty = true;
        }
    }

    pub fn propose(&mut self, place: Place, kind: Kind, command: Command) {
        self.propose_entry(place, kind, What::Command(Box::new(command)));
    }

    fn propose_entry(&mut self, place: Place, kind: Kind, what: What) {
        let live = self.live_mut(place);
        let Some(term) = live.term.as_ref().map(|term| term.number) else { return };
        let ticket = live.next_ticket;
        live.next_ticket += 1;
        live.pending.insert(ticket, kind);
        let author = self.author(place, ticket);
        self.append(author, term, what);
    }

    /// One round of the leader's loop, when it is due.
    pub fn poll_leader(&mut self, place: Place) {
        let Some(number) = self.live(place).term.as_ref().map(|term| term.number) else { return };
        if self.doubts_itself(place, number) {
            return self.stop_leading(place);
        }
        let now = self.clock(place);
        self.live_mut(place).last_clock = now;
        let Some(term) = &mut self.live_mut(place).term else { return };
        if now.at_most_since(term.ticked) < fencing::TICK {
            return;
        }
        term.ticked = now;
        let inbox = std::mem::take(&mut term.inbox);
        // What waited in a stopped process is read before the tick judges anybody.
        let inbox_empty = inbox.is_empty();
        for ask in inbox {
            self.serve(place, ask, now);
        }
        self.flush_renewals(place);
        self.tick_fencing(place, inbox_empty, now);
        self.tick_moves(place, now);
        self.tick_plan(place, now);
        self.tick_voters(place, now);
        self.upkeep(place);
    }

    fn tick_fencing(&mut self, place: Place, inbox_empty: bool, now: Timestamp) {
        let me = self.nodes[place].disk.node;
        let nodes = facts(self, place);
        let eager = self.setup.mutant == Some(Mutant::NoWaitAfterElection);
        let live = self.live_mut(place);
        let Some(term) = &mut live.term else { return };
        let mut view = view(live.memory.lease, &nodes, &live.memory.expiry, me);
        view.has_session |= now.at_most_since(term.began) < live.memory.lease.length();
        let output = term.fencing.on(fencing::Event::Tick { inbox_empty, view }, now);
        if eager {
            for NodeFact { id, incarnation, life, renewed, .. } in nodes {
                if life.is_up() && self.live(place).memory.expiry.has_passed(id, now) {
                    let command = Command::Fence { node: id, incarnation, renewed };
                    self.propose(place, Kind::Upkeep, command);
                }
            }
        }
        for action in output.actions {
            match action {
                fencing::Action::ProposeFence { node, incarnation, renewed } => {
                    let command = Command::Fence { node, incarnation, renewed };
                    self.propose(place, Kind::Upkeep, command);
                }
                fencing::Action::ProposeBlank => {
                    self.propose(place, Kind::Upkeep, Command::Blank);
                }
                fencing::Action::ProposeSettle { since } => {
                    self.saw("lease settled");
                    let command = Command::SettleLease { previous_since: since };
                    self.propose(place, Kind::Upkeep, command);
                }
                fencing::Action::TransferLeadership { to } => {
                    self.saw("leader doubts itself");
                    self.transfer(place, to);
                }
            }
        }
    }

    fn tick_moves(&mut self, place: Place, now: Timestamp) {
        let Some(term) = &mut self.live_mut(place).term else { return };
        let output = term.moves.on(handoff::leader::Event::Tick, now);
        self.perform_moves(place, output.actions);
    }

    fn perform_moves(&mut self, place: Place, actions: Vec<handoff::leader::Action>) {
        let (mut commits, mut aborts) = (Vec::new(), Vec::new());
        for action in actions {
            match action {
                handoff::leader::Action::Commit(key) => commits.push(key),
                handoff::leader::Action::Abort { key, .. } => aborts.push(key),
            }
        }
        if !commits.is_empty() {
            self.propose(place, Kind::Upkeep, Command::CommitMove { items: commits });
        }
        if !aborts.is_empty() {
            self.propose(place, Kind::Upkeep, Command::AbortMove { items: aborts });
        }
    }

    /// Removes what was marked and is gone.
    fn upkeep(&mut self, place: Place) {
        let live = self.live(place);
        let Some(term) = &live.term else { return };
        let gone = live.table.nodes().find(|(id, node)| {
            node.marked
                && !node.life.is_up()
                && !node.life.is_left()
                && !self.log.voters.contains(id)
                && term.removing != Some(*id)
        });
        if let Some((node, row)) = gone {
            let command = Command::Remove { node, incarnation: row.incarnation };
            if let Some(term) = &mut self.live_mut(place).term {
                term.removing = Some(node);
            }
            self.propose(place, Kind::Upkeep, command);
        }
    }

    /// The key of a move, for those who call it off by hand.
    pub fn key_of(&self, shard: ShardId) -> Option<MoveRef> {
        let row = self.truth().shard(shard)?;
        match row.holding {
            shoal_core::registry::Holding::Moving { id, .. } => {
                Some(MoveRef { shard, epoch: row.epoch, id })
            }
            shoal_core::registry::Holding::Owned { .. }
            | shoal_core::registry::Holding::Unassigned => None,
        }
    }
}
