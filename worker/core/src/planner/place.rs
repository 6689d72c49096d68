//! Turns quotas into assignments and moves, shard by shard, within the budgets.
//!
//! A target is open while it is below its quota and below its budget. Budgets bind drains and
//! balancing, never assignments. What is left undone is refused with its reason.

use std::{cmp::Reverse, collections::BTreeSet, mem, time::Duration};

use crate::{
    id::{NodeId, ShardId},
    registry::{Assign, BeginMove, Rebalance},
};

use super::{
    Leave, Plan, PlanInput, PlannedAssign, PlannedMove, Reason, Standing,
    problem::{Problem, Role, Stock},
    report::{Refusal, Report, Share, Why},
    solve::quotas,
};

/// A target's place in the order of filling: lower goes first.
type Rank = (bool, u32, u64, usize);

#[derive(Clone, Copy)]
enum Order {
    /// The emptiest for its weight: assignments take effect at once.
    Emptiest,
    /// The newest revision, then the least busy, so that hand-overs run side by side.
    NewestThenIdle,
}

pub(super) struct Draft<'a> {
    input: &'a PlanInput<'a>,
    problem: Problem,
    stock: Stock,
    quotas: Vec<u32>,
    plan: Plan,
}

impl<'a> Draft<'a> {
    pub fn new(input: &'a PlanInput<'a>, problem: Problem, stock: Stock) -> Self {
        let quotas = quotas(&problem);
        let shares = (input.nodes.iter().zip(&problem.nodes).zip(&quotas))
            .map(|((node, candidate), &share)| Share {
                node: node.id,
                weight: node.weight,
                have: candidate.have,
                share,
                standing: node.standing,
            })
            .collect();
        let report = Report { shares, refusals: Vec::new() };
        let plan = Plan { report, ..Plan::default() };
        Self { input, problem, stock, quotas, plan }
    }

    pub fn finish(self) -> Plan {
        self.plan
    }

    /// Gives every unassigned shard a target. The quotas leave room for all of them.
    pub fn assign(&mut self) {
        let shards = mem::take(&mut self.stock.unassigned);
        if shards.is_empty() {
            return;
        }
        let held = self.input.assigns_held;
        if held > Duration::ZERO {
            return self.refuse(None, shards.len(), Why::AssignsHeld { left: held });
        }
        let mut open = self.open_targets(Order::Emptiest);
        for (done, &shard) in shards.iter().enumerate() {
            let Some((.., target)) = open.pop_first() else {
                return self.refuse(None, shards.len() - done, Why::NoTarget);
            };
            let epoch = self.input.shards[shard.0 as usize].epoch;
            let first = epoch == self.input.first_epoch;
            self.plan.assigns.push(PlannedAssign {
                assign: Assign {
                    shard,
                    epoch,
                    target: self.input.nodes[target].id,
                    incarnation: self.input.nodes[target].incarnation,
                },
                reason: if first { Reason::FirstOwner } else { Reason::Failover },
            });
            self.problem.nodes[target].have += 1;
            if self.below_quota(target) {
                open.insert(self.rank(target, Order::Emptiest));
            }
        }
    }

    /// Empties the leavers, all planned together, the earliest deadline first.
    pub fn drain(&mut self) {
        let mut leavers: Vec<(Duration, usize, Leave)> = (self.input.nodes.iter().enumerate())
            .filter_map(|(i, node)| match node.standing {
                Standing::Leaving { leave, deadline } => {
                    Some((deadline.unwrap_or(Duration::MAX), i, leave))
                }
                Standing::Target | Standing::HeldBack(_) => None,
            })
            .collect();
        leavers.sort_by_key(|&(deadline, i, _)| (deadline, i));
        let mut open = self.open_targets(Order::NewestThenIdle);
        for (_, leaver, leave) in leavers {
            self.empty(leaver, leave, &mut open);
        }
    }

    fn empty(&mut self, leaver: usize, leave: Leave, open: &mut BTreeSet<Rank>) {
        let shards = self.take_resting(leaver);
        let reason = Reason::Drain(leave);
        let mut waiting = 0;
        for (done, &shard) in shards.iter().enumerate() {
            if let Some(why) = self.spent_budget(leaver) {
                return self.refuse(Some(leaver), waiting + shards.len() - done, why);
            }
            if let Some(target) = self.open_to(shard, open) {
                self.begin(shard, leaver, target, reason, open);
            } else if let Some(target) = self.detour(shard) {
                self.begin(shard, leaver, target, reason, open);
                // Holding more may have earned it the rounding up of another.
                self.quotas = quotas(&self.problem);
                *open = self.open_targets(Order::NewestThenIdle);
            } else {
                waiting += 1;
            }
        }
        if waiting > 0 {
            let why = self.why_closed(open);
            self.refuse(Some(leaver), waiting, why);
        }
    }

    /// Moves what is above a quota to where something is missing, the busiest source last.
    pub fn balance(&mut self) {
        let over = |i: &usize| self.surplus(*i) > 0;
        let sources: Vec<usize> = (0..self.quotas.len()).filter(over).collect();
        if let Some(why) = self.balancing_held() {
            for source in sources {
                self.refuse(Some(source), self.surplus(source) as usize, why);
            }
            return;
        }
        let mut shards: Vec<_> = (0..self.quotas.len()).map(|_| Vec::new().into_iter()).collect();
        for &source in &sources {
            shards[source] = self.take_resting(source).into_iter();
        }
        let mut open = self.open_targets(Order::NewestThenIdle);
        let rank =
            |draft: &Self, i: usize| (draft.stock.in_flight[i], Reverse(draft.surplus(i)), i);
        let mut sources: BTreeSet<_> = sources.into_iter().map(|i| rank(self, i)).collect();
        while let Some((_, Reverse(surplus), source)) = sources.pop_first() {
            if let Some(why) = self.spent_budget(source).or_else(|| self.spent_pace()) {
                self.refuse(Some(source), surplus as usize, why);
                continue;
            }
            // Targets only close while a plan is made: a shard skipped once stays skipped.
            let next = shards[source].find_map(|shard| Some((shard, self.open_to(shard, &open)?)));
            let Some((shard, target)) = next else {
                let why = self.why_closed(&open);
                self.refuse(Some(source), surplus as usize, why);
                continue;
            };
            let (have, share) = (self.plan.report.shares[source].have, self.quotas[source]);
            self.begin(shard, source, target, Reason::Balance { have, share }, &mut open);
            if self.surplus(source) > 0 {
                sources.insert(rank(self, source));
            }
        }
    }

    fn balancing_held(&self) -> Option<Why> {
        match self.input.settings.rebalance {
            Rebalance::Paused => return Some(Why::Paused),
            Rebalance::Automatic => {}
        }
        if self.problem.nodes.iter().any(|node| !node.newest) {
            return Some(Why::TwoRevisions);
        }
        let left = self.input.cooldown_left;
        (left > Duration::ZERO).then_some(Why::Cooldown { left })
    }

    /// What the node owns at rest: shards that failed to move lately first, while the choice
    /// of targets is widest; then those that stayed longest, so that none is tossed about.
    fn take_resting(&mut self, node: usize) -> Vec<ShardId> {
        let mut shards = mem::take(&mut self.stock.resting[node]);
        shards.sort_by_key(|&shard| {
            let calm = !self.backs_off_somewhere(shard);
            (calm, self.input.shards[shard.0 as usize].changed, shard)
        });
        shards
    }

    fn begin(
        &mut self,
        shard: ShardId,
        source: usize,
        target: usize,
        reason: Reason,
        open: &mut BTreeSet<Rank>,
    ) {
        self.plan.moves.push(PlannedMove {
            begin: BeginMove {
                shard,
                epoch: self.input.shards[shard.0 as usize].epoch,
                target: self.input.nodes[target].id,
                incarnation: self.input.nodes[target].incarnation,
            },
            from: self.input.nodes[source].id,
            reason,
        });
        open.remove(&self.rank(target, Order::NewestThenIdle));
        self.problem.nodes[source].have -= 1;
        self.problem.nodes[target].have += 1;
        self.stock.in_flight[source] += 1;
        self.stock.in_flight[target] += 1;
        self.stock.moves += 1;
        if self.below_quota(target) && self.has_budget(target) {
            open.insert(self.rank(target, Order::NewestThenIdle));
        }
    }

    fn open_targets(&self, order: Order) -> BTreeSet<Rank> {
        (0..self.quotas.len())
            .filter(|&i| self.below_quota(i))
            .filter(|&i| match order {
                Order::Emptiest => true,
                Order::NewestThenIdle => self.has_budget(i),
            })
            .map(|i| self.rank(i, order))
            .collect()
    }

    fn open_to(&self, shard: ShardId, open: &BTreeSet<Rank>) -> Option<usize> {
        let target = open.iter().find(|&&(.., i)| !self.backs_off(shard, i));
        target.map(|&(.., i)| i)
    }

    /// A target beyond its quota, for a leaver's shard whose move failed lately: going away
    /// comes before balance, and what is over is given back by balancing.
    fn detour(&self, shard: ShardId) -> Option<usize> {
        if !self.backs_off_somewhere(shard) {
            return None;
        }
        (0..self.quotas.len())
            .filter(|&i| self.receives(i) && self.has_budget(i) && !self.backs_off(shard, i))
            .min_by_key(|&i| self.rank(i, Order::NewestThenIdle))
    }

    fn rank(&self, i: usize, order: Order) -> Rank {
        let node = &self.problem.nodes[i];
        let level = (u64::from(node.have) << 16) / node.weight;
        match order {
            Order::Emptiest => (false, 0, level, i),
            Order::NewestThenIdle => (!node.newest, self.stock.in_flight[i], level, i),
        }
    }

    fn receives(&self, i: usize) -> bool {
        self.problem.nodes[i].role == Role::Receives
    }

    fn below_quota(&self, i: usize) -> bool {
        self.receives(i) && self.problem.nodes[i].have < self.quotas[i]
    }

    fn surplus(&self, i: usize) -> u32 {
        match self.problem.nodes[i].role {
            Role::Receives => self.problem.nodes[i].have.saturating_sub(self.quotas[i]),
            Role::Keeps | Role::Leaves => 0,
        }
    }

    fn has_budget(&self, i: usize) -> bool {
        self.stock.in_flight[i] < self.input.settings.max_moves_per_node
    }

    fn spent_budget(&self, source: usize) -> Option<Why> {
        let settings = self.input.settings;
        if self.stock.moves >= settings.max_moves {
            Some(Why::ClusterBudget { limit: settings.max_moves })
        } else if !self.has_budget(source) {
            Some(Why::NodeBudget { limit: settings.max_moves_per_node })
        } else {
            None
        }
    }

    fn spent_pace(&self) -> Option<Why> {
        let at_once = self.input.at_once;
        (self.stock.moves >= at_once).then_some(Why::Paced { at_once })
    }

    /// Why a shard found no target, the source's budget aside.
    fn why_closed(&self, open: &BTreeSet<Rank>) -> Why {
        if !(0..self.quotas.len()).any(|i| self.receives(i)) {
            Why::NoTarget
        } else if open.is_empty() && (0..self.quotas.len()).any(|i| self.below_quota(i)) {
            Why::TargetsBusy { limit: self.input.settings.max_moves_per_node }
        } else {
            Why::BackingOff
        }
    }

    fn backs_off(&self, shard: ShardId, target: usize) -> bool {
        let pair = (shard, self.input.nodes[target].id);
        self.input.backing_off.contains_key(&pair)
    }

    fn backs_off_somewhere(&self, shard: ShardId) -> bool {
        let pairs = (shard, NodeId(0))..=(shard, NodeId(u64::MAX));
        self.input.backing_off.range(pairs).next().is_some()
    }

    fn refuse(&mut self, node: Option<usize>, shards: usize, why: Why) {
        self.plan.report.refusals.push(Refusal {
            node: node.map(|i| self.input.nodes[i].id),
            shards: shards as u32,
            why,
        });
    }
}
