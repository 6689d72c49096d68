//! A registry of a given size, made by its commands alone.

use anyhow::{Context as _, bail, ensure};
use shoal_core::{
    id::{ClusterId, Epoch, Incarnation, LogIndex, NodeId},
    planner::{Judgement, Plan, PlanInput, plan},
    registry::{
        Addresses, Assign, BeginMove, Command, Event, FEATURE_LEVEL, Holding, LockId, MAX_BATCH,
        MoveRef, NodeInfo, Register, Registry,
    },
};

use super::Size;

pub const REVISIONS: [&str; 2] = ["6d4cf56db6", "7f9b8c8d44"];
const CLUSTER: ClusterId = ClusterId(0x5ca1e);
/// Any era of today.
const UNIX_SECONDS: u32 = 1_800_000_000;

#[derive(Clone)]
pub struct World {
    pub registry: Registry,
    pub nodes: Vec<NodeId>,
    index: u64,
}

/// What a pod says of itself: names and addresses as long as on Kubernetes.
pub fn info(number: u32) -> NodeInfo {
    let name = format!("shoal-worker-{number}");
    let host = format!("{name}.shoal-worker.some-team.svc.cluster.local");
    NodeInfo {
        pod_uid: Some(format!("3f1c2f9e-8a55-4c4e-9a5b-{number:012}")),
        addresses: Addresses {
            data: format!("{host}:11000"),
            raft: format!("{host}:12000"),
            admin: format!("{host}:13000"),
            http: format!("{host}:14000"),
        },
        name,
        zone: "europe-west4-a".to_owned(),
        weight: 100,
        feature_level: FEATURE_LEVEL,
        revision: REVISIONS[0].to_owned(),
    }
}

fn lock(number: u32) -> LockId {
    let boot_id = format!("0c2f6a4e-52a8-4b3f-8a10-{number:012}");
    LockId { boot_id, device: 0x801, inode: 1 << 20 }
}

impl World {
    /// Formed, every node up, no shard owned.
    pub fn unowned(size: Size) -> anyhow::Result<Self> {
        let mut world = Self { registry: Registry::new(), nodes: vec![NodeId(1)], index: 0 };
        world.apply(&Command::Found {
            cluster: CLUSTER,
            founder: info(0),
            directory: 1,
            shard_count: size.shards,
            lease_ms: 3_000,
        })?;
        world.apply(&Command::Form {
            unix_seconds: UNIX_SECONDS,
            highest_epoch_found: Epoch::default(),
        })?;
        world.register(world.nodes[0], 0)?;
        for number in 1..size.nodes {
            world.join(number)?;
        }
        Ok(world)
    }

    /// As the planner has it once every shard has an owner.
    pub fn owned(size: Size) -> anyhow::Result<Self> {
        let mut world = Self::unowned(size)?;
        let plan = world.plan();
        world.carry_out(&plan)?;
        ensure!(world.plan().is_empty(), "a second plan has something to add");
        Ok(world)
    }

    pub fn apply(&mut self, command: &Command) -> anyhow::Result<Event> {
        self.index += 1;
        let (result, _) = self.registry.apply(LogIndex(self.index), command);
        let event = result.with_context(|| format!("entry {}", self.index))?;
        if let Event::Items { refused } = &event
            && let Some(first) = refused.iter().flatten().next()
        {
            bail!("entry {}: {first}", self.index);
        }
        Ok(event)
    }

    pub fn join(&mut self, number: u32) -> anyhow::Result<NodeId> {
        let directory = u128::from(number) << 64 | 0x5bd1_e995;
        let join = Command::Join { info: info(number), directory, replaces: Vec::new() };
        let Event::Joined { node } = self.apply(&join)? else { bail!("it did not join") };
        self.nodes.push(node);
        self.register(node, number)?;
        Ok(node)
    }

    fn register(&mut self, node: NodeId, number: u32) -> anyhow::Result<()> {
        let register = self.next_register(node, number, REVISIONS[0])?;
        self.apply(&Command::Register(register)).map(drop)
    }

    /// Of the process after the one that runs.
    pub fn next_register(
        &self,
        node: NodeId,
        number: u32,
        revision: &str,
    ) -> anyhow::Result<Register> {
        let row = self.registry.node(node).context("no such node")?;
        let counter = row.incarnation.counter + 1;
        // A nonce is drawn from all 64 bits.
        let nonce = (node.0 + counter).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Ok(Register {
            node,
            replaces: row.incarnation,
            incarnation: Incarnation { counter, nonce },
            info: NodeInfo { revision: revision.to_owned(), ..info(number) },
            lock: Some(lock(number)),
            renewed: row.renewed,
            proof: true,
            reown: true,
        })
    }

    pub fn incarnation(&self, node: NodeId) -> Incarnation {
        self.registry.node(node).map(|row| row.incarnation).unwrap_or_default()
    }

    pub fn plan(&self) -> Plan {
        plan(&PlanInput::of(&self.registry, |_| Judgement::default()))
    }

    /// Assigns, and begins and ends all moves, in batches as the leader proposes them.
    pub fn carry_out(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let assigns: Vec<Assign> = plan.assigns.iter().map(|planned| planned.assign).collect();
        for items in assigns.chunks(MAX_BATCH) {
            self.apply(&Command::Assign { items: items.to_vec() })?;
        }
        let begins: Vec<BeginMove> = plan.moves.iter().map(|planned| planned.begin).collect();
        for items in begins.chunks(MAX_BATCH) {
            self.apply(&Command::BeginMove { items: items.to_vec() })?;
        }
        let ends = self.moving();
        for items in ends.chunks(MAX_BATCH) {
            self.apply(&Command::CommitMove { items: items.to_vec() })?;
        }
        Ok(())
    }

    pub fn moving(&self) -> Vec<MoveRef> {
        let moves = self.registry.shards().filter_map(|(shard, row)| match row.holding {
            Holding::Moving { id, .. } => Some(MoveRef { shard, epoch: row.epoch, id }),
            Holding::Owned { .. } | Holding::Unassigned => None,
        });
        moves.collect()
    }

    /// Moves that go from each owner to the next node, of the first shards.
    pub fn to_the_next(&self, count: usize) -> Vec<BeginMove> {
        let next = |node: NodeId| {
            let at = self.nodes.partition_point(|known| *known <= node);
            self.nodes.get(at).copied().unwrap_or(self.nodes[0])
        };
        let moves = self.registry.shards().filter_map(|(shard, row)| {
            let (owner, _) = row.owner()?;
            let target = next(owner);
            let incarnation = self.incarnation(target);
            Some(BeginMove { shard, epoch: row.epoch, target, incarnation })
        });
        moves.take(count).collect()
    }
}
