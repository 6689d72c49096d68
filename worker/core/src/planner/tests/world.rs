//! A cluster of rows that carries plans out at once and without failure.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    id::{Epoch, Incarnation, LogIndex, MoveId, NodeId, ShardId},
    planner::{HeldBack, Leave, Plan, PlanInput, PlanNode, Standing, plan},
    registry::{Holding, Settings, ShardRow},
};

const FIRST_EPOCH: Epoch = Epoch(1 << 32);

#[derive(Clone, Copy, Debug)]
pub struct Member {
    pub has: u32,
    pub weight: u32,
    pub standing: Standing,
    pub revision: &'static str,
}

pub fn up(has: u32) -> Member {
    heavy(has, 100)
}

pub fn heavy(has: u32, weight: u32) -> Member {
    Member { has, weight, standing: Standing::Target, revision: "r1" }
}

pub fn leaving(has: u32) -> Member {
    let standing = Standing::Leaving { leave: Leave::Restart, deadline: None };
    Member { standing, ..up(has) }
}

pub fn flapping(has: u32) -> Member {
    let left = Duration::from_secs(6);
    Member { standing: Standing::HeldBack(HeldBack::Flapping { left }), ..up(has) }
}

#[derive(Clone, Debug)]
pub struct World {
    pub members: BTreeMap<NodeId, Member>,
    pub newest_revision: &'static str,
    pub shards: Vec<ShardRow>,
    pub settings: Settings,
    pub backing_off: BTreeMap<(ShardId, NodeId), Duration>,
    pub cooldown_left: Duration,
    pub at_once: u32,
    pub assigns_held: Duration,
    index: u64,
}

impl World {
    pub fn new(members: &[Member]) -> Self {
        let mut world = Self {
            members: (1..).map(NodeId).zip(members.iter().copied()).collect(),
            newest_revision: "r1",
            shards: Vec::new(),
            settings: Settings::default(),
            backing_off: BTreeMap::new(),
            cooldown_left: Duration::ZERO,
            at_once: u32::MAX,
            assigns_held: Duration::ZERO,
            index: 0,
        };
        for (node, has) in (1..).map(NodeId).zip(members.iter().map(|member| member.has)) {
            let incarnation = Incarnation::default();
            let owned = Holding::Owned { node, incarnation, via: None };
            world.shards.extend((0..has).map(|_| row(FIRST_EPOCH.next(), owned)));
        }
        world
    }

    /// Adds shards that never had an owner.
    pub fn unassigned(mut self, shards: u32) -> Self {
        let fresh = row(FIRST_EPOCH, Holding::Unassigned);
        self.shards.extend((0..shards).map(|_| fresh));
        self
    }

    pub fn input(&self) -> PlanInput<'_> {
        PlanInput {
            settings: &self.settings,
            first_epoch: FIRST_EPOCH,
            nodes: (self.members.iter())
                .map(|(&id, member)| PlanNode {
                    id,
                    incarnation: Incarnation::default(),
                    weight: member.weight,
                    revision: member.revision,
                    standing: member.standing,
                })
                .collect(),
            newest_revision: self.newest_revision,
            shards: self.shards.iter().collect(),
            backing_off: self.backing_off.clone(),
            cooldown_left: self.cooldown_left,
            at_once: self.at_once,
            assigns_held: self.assigns_held,
        }
    }

    pub fn plan(&self) -> Plan {
        plan(&self.input())
    }

    pub fn apply(&mut self, plan: &Plan) {
        for planned in &plan.assigns {
            let assign = planned.assign;
            let (node, incarnation) = (assign.target, assign.incarnation);
            let row = self.touch(assign.shard);
            assert_eq!((row.epoch, row.holding), (assign.epoch, Holding::Unassigned));
            row.holding = Holding::Owned { node, incarnation, via: None };
        }
        for planned in &plan.moves {
            let begin = planned.begin;
            let row = self.touch(begin.shard);
            let id = MoveId(row.changed.0);
            assert_eq!(row.epoch, begin.epoch);
            let Holding::Owned { node, incarnation, via } = row.holding else {
                panic!("{} is not at rest", begin.shard);
            };
            assert_eq!(node, planned.from);
            let (target, target_incarnation) = (begin.target, begin.incarnation);
            row.holding =
                Holding::Moving { node, incarnation, via, target, target_incarnation, id };
        }
    }

    /// How many there were.
    pub fn finish_moves(&mut self) -> usize {
        let mut finished = 0;
        for shard in (0..self.shards.len() as u32).map(ShardId) {
            if let Holding::Moving { target, target_incarnation, id, .. } =
                self.shards[shard.0 as usize].holding
            {
                let row = self.touch(shard);
                row.epoch = row.epoch.next();
                let (node, incarnation, via) = (target, target_incarnation, Some(id));
                row.holding = Holding::Owned { node, incarnation, via };
                finished += 1;
            }
        }
        finished
    }

    /// Plans and carries out until nothing is planned; the moves it took.
    pub fn settle(&mut self) -> usize {
        let mut moves = 0;
        self.finish_moves();
        loop {
            let plan = self.plan();
            if plan.is_empty() {
                return moves;
            }
            moves += plan.moves.len();
            self.apply(&plan);
            self.finish_moves();
        }
    }

    /// What each node has, in the order of ids, moves in flight counted at their target.
    pub fn counts(&self) -> Vec<u32> {
        let mut counts: BTreeMap<NodeId, u32> =
            self.members.keys().map(|&node| (node, 0)).collect();
        for row in &self.shards {
            match row.holding {
                Holding::Owned { node, .. } | Holding::Moving { target: node, .. } => {
                    *counts.get_mut(&node).unwrap() += 1;
                }
                Holding::Unassigned => {}
            }
        }
        counts.into_values().collect()
    }

    pub fn owner(&self, shard: ShardId) -> Option<NodeId> {
        self.shards[shard.0 as usize].owner().map(|(node, _)| node)
    }

    /// Ends the session of a node: its shards lose their owner.
    pub fn fence(&mut self, node: NodeId) {
        self.members.remove(&node);
        for shard in (0..self.shards.len() as u32).map(ShardId) {
            if self.owner(shard) == Some(node) {
                let row = self.touch(shard);
                row.epoch = row.epoch.next();
                row.holding = Holding::Unassigned;
            }
        }
    }

    /// Begins moves of the first `count` shards that `from` has at rest.
    pub fn apply_first(&mut self, from: NodeId, target: NodeId, count: usize) {
        let shards: Vec<_> = (0..self.shards.len() as u32)
            .map(ShardId)
            .filter(|&shard| self.owner(shard) == Some(from))
            .take(count)
            .collect();
        for shard in shards {
            let moves = vec![super::request(&self.input(), shard, target).unwrap()];
            self.apply(&Plan { moves, ..Plan::default() });
        }
    }

    pub fn stand(&mut self, node: NodeId, leave: Leave, deadline: Option<Duration>) {
        self.member(node).standing = Standing::Leaving { leave, deadline };
    }

    pub fn stay(&mut self, node: NodeId) {
        self.member(node).standing = Standing::Target;
    }

    /// The node now runs this revision, the newest.
    pub fn revise(&mut self, node: NodeId, revision: &'static str) {
        self.newest_revision = revision;
        self.member(node).revision = revision;
    }

    pub fn back_off(&mut self, shard: u32, target: NodeId) {
        self.backing_off.insert((ShardId(shard), target), Duration::from_secs(9));
    }

    pub fn join(&mut self, node: NodeId, member: Member) {
        self.members.insert(node, member);
    }

    fn member(&mut self, node: NodeId) -> &mut Member {
        self.members.get_mut(&node).unwrap()
    }

    fn touch(&mut self, shard: ShardId) -> &mut ShardRow {
        self.index += 1;
        let row = &mut self.shards[shard.0 as usize];
        row.changed = LogIndex(self.index);
        row
    }
}

fn row(epoch: Epoch, holding: Holding) -> ShardRow {
    ShardRow { epoch, holding, changed: LogIndex(0) }
}
