//! Where shards should be and who should vote, as the leader's loop asks the core.

use super::*;

impl World {
    pub fn with_plan_input<R>(
        &self,
        place: Place,
        now: Timestamp,
        read: impl FnOnce(&PlanInput<'_>) -> R,
    ) -> Option<R> {
        let live = self.live(place);
        let term = live.term.as_ref()?;
        let memory = &live.memory;
        let judge = |id| {
            let flapping = memory.repeats.holds_back(id, memory.lease, now);
            let behind = term.tables.get(&id).is_some_and(|table| {
                memory.history.judge(*table, memory.lease, now) != Freshness::Fresh
            });
            let held_back = match (flapping, behind) {
                (true, _) => Some(HeldBack::Flapping { left: memory.lease.length() }),
                (false, true) => Some(HeldBack::TableBehind),
                (false, false) => None,
            };
            planner::Judgement { held_back, deadline: None }
        };
        let backing_off = term.moves.back_offs(now);
        let backing_off = backing_off
            .map(|one| ((one.shard, one.target), one.until.at_least_since(now)))
            .collect();
        let cooldown = Duration::from_millis(live.table.settings().cooldown_ms.into());
        let since = term.last_balance.map(|last| now.at_least_since(last));
        let fresh =
            memory.formed_at.is_some_and(|at| now.at_most_since(at) < Duration::from_millis(500));
        let joining = live.table.nodes().any(|(_, node)| node.life == Life::Joining);
        let holds = !term.fencing.may_assign_orphans() || fresh && joining;
        let input = PlanInput {
            backing_off,
            cooldown_left: since.map_or(Duration::ZERO, |since| cooldown.saturating_sub(since)),
            assigns_held: if holds { Duration::from_millis(200) } else { Duration::ZERO },
            ..PlanInput::of(&live.table, judge)
        };
        Some(read(&input))
    }

    pub fn tick_plan(&mut self, place: Place, now: Timestamp) {
        let Some(term) = &self.live(place).term else { return };
        if !term.plan_dirty || term.bulk_in_flight > 0 {
            return;
        }
        let planned = self.with_plan_input(place, now, |input| {
            let waits = !input.cooldown_left.is_zero()
                || !input.assigns_held.is_zero()
                || !input.backing_off.is_empty()
                || input
                    .nodes
                    .iter()
                    .any(|node| matches!(node.standing, PlanStanding::HeldBack(_)));
            (planner::plan(input), waits)
        });
        let Some((plan, waits)) = planned else { return };
        let assigns: Vec<Assign> = plan.assigns.iter().map(|planned| planned.assign).collect();
        let moves: Vec<BeginMove> = plan.moves.iter().map(|planned| planned.begin).collect();
        let balances =
            plan.moves.iter().any(|planned| matches!(planned.reason, Reason::Balance { .. }));
        let bulk = u32::from(!assigns.is_empty()) + u32::from(!moves.is_empty());
        let Some(term) = &mut self.live_mut(place).term else { return };
        term.plan_dirty = waits || bulk > 0;
        if balances {
            term.last_balance = Some(now);
        }
        term.bulk_in_flight += bulk;
        if !assigns.is_empty() {
            self.propose(place, Kind::Bulk, Command::Assign { items: assigns });
        }
        if !moves.is_empty() {
            self.propose(place, Kind::Bulk, Command::BeginMove { items: moves });
        }
    }

    pub fn requested_move(&mut self, place: Place, shard: ShardId, to: NodeId, now: Timestamp) {
        let planned = self.with_plan_input(place, now, |input| planner::request(input, shard, to));
        if let Some(Ok(planned)) = planned {
            let command = Command::BeginMove { items: vec![planned.begin] };
            self.propose(place, Kind::Upkeep, command);
        }
    }

    /// Asks the autopilot who should vote, and proposes what it says.
    pub fn tick_voters(&mut self, place: Place, now: Timestamp) {
        let Some(term) = &self.live(place).term else { return };
        if !now.surely_past(term.voters_at) {
            return;
        }
        let Some(me) = self.nodes[place].disk.node else { return };
        for peer in 0..self.nodes.len() {
            let reached = self.awake(peer)
                && self.network.both_ways(place, peer)
                && !self.nodes[peer].disk.restored;
            if let (true, Some(id)) = (reached, self.nodes[peer].disk.node)
                && let Some(term) = &mut self.live_mut(place).term
            {
                term.heard.insert(id, now);
            }
        }
        let membership = autopilot::Membership {
            voters: self.log.voters.clone(),
            next_voters: None,
            learners: self.log.learners.clone(),
            committed: self.log.members_at <= self.live(place).applied,
        };
        let held = |id| self.place_of(id).map_or(0, |place| self.log.held[place]);
        let live = self.live(place);
        let Some(term) = &live.term else { return };
        let contacts = term.heard.iter().map(|(id, heard)| {
            let matched = LogIndex(index(held(*id)).0.saturating_sub(crate::log::STRIDE));
            (*id, Contact { heard: *heard, matched })
        });
        let contacts = contacts.collect();
        let mut autopilot = term.autopilot.clone();
        let input = autopilot::Input {
            me,
            leader_since: term.began,
            founding: None,
            settings: live.table.settings(),
            nodes: live.table.nodes().collect(),
            membership: &membership,
            last: live.table.applied(),
            contacts,
        };
        let decision = autopilot.next(&input, now);
        let mine = live.table.node(me);
        let restarts = mine.is_some_and(|node| node.drain.is_restart());
        let Some(term) = &mut self.live_mut(place).term else { return };
        term.voters_at = now.plus(VOTERS_EVERY);
        term.autopilot = autopilot;
        match decision.change {
            Some(autopilot::Change::Membership { voters, learners, .. }) => {
                let asked = self.log.members_at;
                let Some(term) = &mut self.live_mut(place).term else { return };
                if term.members_asked.replace(asked) != Some(asked) {
                    self.saw("members changed");
                    self.propose_entry(place, Kind::Upkeep, What::Members { voters, learners });
                }
            }
            Some(autopilot::Change::TransferLeadership { to }) => self.transfer(place, to),
            None if restarts => {
                if let Some(to) = self.successor(place) {
                    self.transfer(place, to);
                }
            }
            None => {}
        }
    }

    /// The voter that holds the most of the log and stays.
    pub fn successor(&self, place: Place) -> Option<NodeId> {
        let live = self.live(place);
        let may = |peer: &Place| {
            let Some(id) = self.nodes[*peer].disk.node else { return false };
            let stays =
                |node: &shoal_core::registry::Node| node.life.is_up() && node.drain == Drain::None;
            *peer != place
                && self.log.voters.contains(&id)
                && self.awake(*peer)
                && self.network.both_ways(place, *peer)
                && live.table.node(id).is_some_and(stays)
        };
        let best = (0..self.nodes.len()).filter(may).max_by_key(|peer| self.log.held[*peer]);
        best.and_then(|peer| self.nodes[peer].disk.node)
    }
}
