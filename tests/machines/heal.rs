//! The end of a run: all faults end, and everything must come right by itself.

use shoal_core::{
    handoff::Process,
    id::{NodeId, ShardId},
    planner,
    registry::{Drain, Holding, Life},
};

use crate::{
    clock::{MS, SECOND, True},
    world::{Event, SHARDS, World},
};

/// Longest wait for the owners of before a power cycle (L11), and what follows it.
const COMEBACK: True = 32 * SECOND;

/// Within so much simulated time everything is as it should be, at a lease of up to 3 s;
/// each second of it beyond that costs three: an expiry, and what waited for it.
fn converges_within(lease_ms: u32) -> True {
    15 * SECOND + 3 * True::from(lease_ms.saturating_sub(3_000)) * MS
}

impl World {
    /// Ends every fault and waits until the cluster is whole; else says what is not.
    pub fn heal(&mut self) {
        self.network.heal();
        self.setup.weather = crate::network::CALM;
        self.log.extra_delay = 0;
        self.log.no_election_until = 0;
        self.traps.clear();
        self.deaf = None;
        for place in 0..self.nodes.len() {
            self.clock(place);
            let node = &mut self.nodes[place];
            node.paused_until = 0;
            node.clock.asleep = false;
            node.stays_down = false;
            if let Some(live) = &mut node.live {
                live.probe = None;
                live.wedged = None;
                live.lags_until = 0;
                live.watch.half_open = false;
                live.owner.stubborn_until = 0;
            }
            self.schedule(self.now + 10 * MS, Event::Start(place));
        }
        self.note(format_args!("healed"));
        let healed = self.now;
        let within = converges_within(self.truth().settings().longest_lease_ms());
        let clients_end = healed + within - 9 * SECOND;
        self.run_to(clients_end);
        self.clients = false;
        let waited = self.waits_for_owners();
        let end = healed + within;
        self.run_while(end, |world| world.unfinished().is_some());
        if self.unfinished().is_some() && (waited || self.waits_for_owners()) {
            // Half of the nodes are not back, and may be for so long.
            self.saw("waited for owners to come back");
            self.run_while(end + COMEBACK, |world| world.unfinished().is_some());
        }
        if let Some(what) = self.unfinished() {
            let why = self.plan_report();
            self.oracle.late(format!("not whole in time: {what}\n{why}"));
        }
        if self.oracle.violation.is_none() {
            self.converged_after = self.now - healed;
        }
    }

    /// What is still not as it should be.
    pub fn unfinished(&self) -> Option<String> {
        let open = self.oracle.open_calls();
        if open > 0 {
            return Some(format!("{open} calls without an answer"));
        }
        for shard in (0..SHARDS).map(ShardId) {
            if let Some(what) = self.unserved(shard) {
                return Some(format!("{shard} {what}"));
            }
        }
        for node in &self.nodes {
            let row = node.disk.node.and_then(|id| self.truth().node(id));
            let up = row.is_some_and(|row| row.life == Life::Up);
            // A node without a session that shall be removed waits for somebody to do so.
            let parked = row.is_some_and(|row| !row.life.is_left() && row.drain == Drain::Removal);
            if node.live.is_none() || !up && !parked {
                return Some(format!("place {} is not up: {row:?}", node.place));
            }
        }
        self.unbalanced()
    }

    fn unserved(&self, shard: ShardId) -> Option<String> {
        let row = *self.truth().shard(shard)?;
        let Holding::Owned { node, incarnation, .. } = row.holding else {
            return Some(format!("{:?}", row.holding));
        };
        let me = Process::new(node, incarnation);
        let place = self.place_of(node)?;
        let Some(live) = &self.nodes[place].live else { return Some(format!("{node} is dead")) };
        if live.node() != Some(me) {
            return Some(format!("of {me:?}, which runs no more"));
        }
        let local = self.local(place, shard);
        let open = shoal_core::handoff::Local::Open { epoch: row.epoch };
        (local != open || live.right.is_none()).then(|| format!("is {local:?} at {place}"))
    }

    /// Counts of the nodes that may receive differ by one at most.
    fn unbalanced(&self) -> Option<String> {
        let held_back = |id: NodeId| {
            let leader = self.log.leader.and_then(|leader| self.nodes[leader].live.as_ref());
            leader.is_none_or(|live| {
                let now = live.last_clock;
                live.memory.repeats.holds_back(id, live.memory.lease, now)
            })
        };
        let counts: Vec<(NodeId, u32)> = self
            .truth()
            .nodes()
            .filter(|(_, node)| node.is_target())
            .filter(|(id, _)| !held_back(*id))
            .map(|(id, _)| (id, self.truth().held(id).owned))
            .collect();
        let all = counts.iter().map(|(_, owned)| *owned);
        let spread = all.clone().max()? - all.min()?;
        (spread > 1).then(|| format!("unbalanced: {counts:?}"))
    }

    fn waits_for_owners(&self) -> bool {
        let leader = self.log.leader.and_then(|leader| self.nodes[leader].live.as_ref());
        let term = leader.and_then(|live| live.term.as_ref());
        term.is_some_and(|term| !term.fencing.may_assign_orphans())
    }

    /// What the leader says of its plans, where one leads.
    fn plan_report(&mut self) -> String {
        let Some(leader) = self.log.leader.filter(|leader| self.nodes[*leader].live.is_some())
        else {
            return format!("nobody leads: {}", self.log);
        };
        let now = self.clock(leader);
        let plan = self.with_plan_input(leader, now, planner::plan);
        plan.map_or_else(
            || format!("{leader} cannot plan: {}", self.log),
            |plan| format!("{leader} leads: {}, {plan}", self.log),
        )
    }

    /// One line for a person.
    pub fn report(&self) -> String {
        let setup = &self.setup;
        format!(
            "seed {} at {} ms ({} nodes, L {} ms): {}",
            setup.seed,
            self.now / MS,
            setup.nodes,
            setup.lease_ms,
            self.oracle.violation.as_deref().unwrap_or("nothing is wrong"),
        )
    }
}
