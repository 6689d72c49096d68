//! The workers' own part, as coarse as the operator can tell: they find each other, found, join
//! and register; whoever leads ends sessions, assigns, moves and gives votes.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use shoal_core::{
    id::{ClusterId, LogIndex, NodeId},
    planner::{self, Judgement, PlanInput, Reason},
    registry::{
        Addresses, Assign, BeginMove, Command, Drain, Event, FEATURE_LEVEL, Holding, Life, MoveRef,
        NodeInfo, Register,
    },
    session::leave::Standing,
};
use tokio::time::Instant;

use super::{
    Process, Shared,
    process::{Directory, FOUNDER},
    world::{World, goes},
};

const TICK: Duration = Duration::from_millis(50);
/// A change of the votes takes a moment to commit.
const VOTES_EVERY: Duration = Duration::from_millis(300);
/// A process that closed and was not told to end registers anew.
const CLOSED_FOR: Duration = Duration::from_secs(10);
/// A new voter must have heard the log for so long.
const CAUGHT_UP_AFTER: Duration = Duration::from_millis(300);

pub(super) async fn run(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        shared.world.lock().tick(Instant::now());
    }
}

impl World {
    pub fn tick(&mut self, now: Instant) {
        self.find_each_other(now);
        self.elect();
        if self.leader.is_some() {
            self.join(now);
            self.form();
            self.register(now);
            self.end_sessions(now);
            self.end_marked();
            self.give_votes(now);
            self.finish_moves(now);
            self.plan(now);
        }
        self.end_processes();
    }

    /// Each process that has no cluster yet founds one or takes that of a peer it sees.
    fn find_each_other(&mut self, now: Instant) {
        let running: Vec<Process> = self.processes.values().filter(|p| p.runs).cloned().collect();
        for process in running.iter().filter(|p| !p.stopping) {
            self.let_go(process);
            let booted = now >= process.since + self.knobs.boot;
            if !booted || self.cluster_of(process).is_some() {
                continue;
            }
            let Some(identity) = &process.identity else { continue };
            let peers = || running.iter().filter(|peer| process.sees(peer, now));
            // Before it is formed a cluster is joined through its founder alone.
            let leads_there = |peer: &&Process| self.registry.formed() || self.founded(peer);
            let theirs = peers().filter(leads_there).find_map(|peer| self.cluster_of(peer));
            if identity.abandoning.is_some() {
                continue;
            }
            let recorded = identity.formed_cluster_id.as_ref().and_then(|id| id.parse().ok());
            let founds = identity.founding.contains(&process.pod);
            let joins = match recorded {
                Some(recorded) => theirs.filter(|theirs| *theirs == recorded),
                None => theirs.filter(|_| founds || self.registry.formed()),
            };
            if let Some(cluster) = joins {
                self.directory(&process.volume).cluster = Some(cluster);
            } else if recorded.is_none() && identity.founding.first() == Some(&process.pod) {
                let sees = |name: &String| peers().any(|peer| peer.pod == *name);
                if identity.founding.iter().all(sees) {
                    self.found(process);
                }
            }
        }
    }

    /// One that waits to be admitted to a marked cluster leaves it; so does everybody whose founder
    /// lost its directory before the cluster was formed.
    fn let_go(&mut self, process: &Process) {
        let Some(cluster) = self.cluster_of(process) else { return };
        let marked = process.identity.as_ref().and_then(|i| i.abandoning.as_ref()?.parse().ok());
        let joining = self.registry.formed() && self.node_of(process).is_none();
        let founded = self.directories.values().any(Directory::founded);
        if joining && marked == Some(cluster) || !self.registry.formed() && !founded {
            let directory = self.directory(&process.volume);
            (directory.cluster, directory.node) = (None, None);
        }
    }

    fn founded(&self, process: &Process) -> bool {
        self.directories.get(&process.volume).is_some_and(Directory::founded)
    }

    fn cluster_of(&self, process: &Process) -> Option<ClusterId> {
        self.directories.get(&process.volume)?.cluster
    }

    fn found(&mut self, founder: &Process) {
        if self.directories.values().any(|directory| directory.cluster.is_some()) {
            self.note(format!("{} founds a second cluster", founder.pod));
            return;
        }
        self.begin_anew();
        let cluster = ClusterId(rand::random());
        let directory = self.directory(&founder.volume).nonce;
        let command = Command::Found {
            cluster,
            founder: founder.info.clone(),
            directory,
            shard_count: founder.shards,
            lease_ms: 3_000,
        };
        if let Err(refused) = self.apply(&command) {
            self.note(format!("founding was refused: {refused}"));
            return;
        }
        self.founded.push(cluster);
        let founded = self.directory(&founder.volume);
        (founded.cluster, founded.node) = (Some(cluster), Some(FOUNDER));
        self.voters = BTreeSet::from([FOUNDER]);
    }

    fn elect(&mut self) {
        let reached = self.leader.is_some_and(|id| self.votes_and_runs(id));
        if self.has_quorum() && !reached {
            self.leader = self.voters.iter().copied().find(|id| self.votes_and_runs(*id));
            self.term += 1;
        } else if !self.has_quorum() {
            self.leader = None;
        }
    }

    fn votes_and_runs(&self, id: NodeId) -> bool {
        self.voters.contains(&id) && self.process_of(id).is_some()
    }

    fn join(&mut self, now: Instant) {
        for process in self.processes.clone().into_values().filter(|p| p.runs && !p.stopping) {
            let cluster = self.registry.cluster().id;
            self.retire(&process);
            let directory = self.directory(&process.volume).clone();
            let ready = now >= process.since + self.knobs.boot;
            if !ready || directory.cluster != Some(cluster) || directory.node.is_some() {
                continue;
            }
            let holders = self.registry.nodes();
            let holders =
                holders.filter(|(_, n)| n.life != Life::Left && n.info.name == process.pod);
            let replaces: Vec<(NodeId, LogIndex)> =
                holders.map(|(id, n)| (id, n.renewed)).collect();
            let info = process.info.clone();
            let joined = self.apply(&Command::Join { info, directory: directory.nonce, replaces });
            if let Ok(Event::Joined { node }) = joined {
                self.directory(&process.volume).node = Some(node);
            }
        }
    }

    /// A node that has left stays parked in its own pod; another pod on its volume begins anew.
    fn retire(&mut self, process: &Process) {
        let node = self.node_of(process).and_then(|id| self.registry.node(id));
        let left = node.filter(|node| node.life == Life::Left);
        if left.is_some_and(|node| node.info.pod_uid.as_ref() != Some(&process.uid)) {
            let directory = self.directory(&process.volume);
            (directory.node, directory.counter, directory.nonce) = (None, 0, rand::random());
        }
    }

    /// Once the operator has confirmed one of the founding set, and all of them are there.
    fn form(&mut self) {
        let confirmed = self.processes.values().any(|p| p.runs && p.confirmed);
        if self.registry.formed() || !confirmed || self.knobs.never_forms {
            return;
        }
        let identity = self.processes.values().find_map(|p| p.identity.clone());
        let founding = identity.map(|identity| identity.founding).unwrap_or_default();
        let joined = |name: &String| self.registry.node_by_name(name).is_some();
        if founding.iter().all(joined) {
            let highest_epoch_found = Default::default();
            let _ = self.apply(&Command::Form { unix_seconds: 1_000, highest_epoch_found });
        }
    }

    fn register(&mut self, now: Instant) {
        if !self.registry.formed() {
            return;
        }
        for process in self.processes.clone().into_values().filter(|p| p.runs && !p.stopping) {
            let Some(id) = self.node_of(&process) else { continue };
            let Some(node) = self.registry.node(id).cloned() else { continue };
            let same = node.incarnation == process.incarnation;
            if node.life != Life::Closed {
                self.closed.remove(&id);
            }
            let rests = match node.life {
                Life::Left => true,
                Life::Closed if node.drain == Drain::Removal => true,
                Life::Closed => same && now < *self.closed.entry(id).or_insert(now) + CLOSED_FOR,
                Life::Up => same,
                Life::Joining | Life::Fenced => false,
            };
            if rests || node.marked || now < process.since + self.knobs.boot * 2 {
                continue;
            }
            let incarnation = self.next_incarnation(&process.volume);
            let register = Register {
                node: id,
                replaces: node.incarnation,
                incarnation,
                info: process.info.clone(),
                lock: None,
                // The former process of this directory is known to have ended.
                renewed: node.renewed,
                proof: false,
                reown: false,
            };
            if self.apply(&Command::Register(register)).is_ok()
                && let Some(process) = self.processes.get_mut(&process.uid)
            {
                process.incarnation = incarnation;
                process.registered = true;
            }
        }
    }

    /// Sessions of processes that do not run any more, once the lease has passed.
    fn end_sessions(&mut self, now: Instant) {
        let up: Vec<_> = self
            .registry
            .nodes()
            .filter(|(_, node)| node.life == Life::Up)
            .map(|(id, node)| (id, node.incarnation, node.renewed))
            .collect();
        for (node, incarnation, renewed) in up {
            if self.process_of(node).is_some_and(|process| process.incarnation == incarnation) {
                self.silent.remove(&node);
                continue;
            }
            let since = *self.silent.entry(node).or_insert(now);
            if now >= since + self.lease() {
                let _ = self.apply(&Command::Fence { node, incarnation, renewed });
                self.silent.remove(&node);
            }
        }
    }

    /// A marked node closes at once, and is gone for ever.
    fn end_marked(&mut self) {
        let marked: Vec<_> = self
            .registry
            .nodes()
            .filter(|(_, node)| node.marked && node.life != Life::Left)
            .map(|(id, node)| (id, node.life, node.incarnation))
            .collect();
        for (node, life, incarnation) in marked {
            if life == Life::Up && self.process_of(node).is_some() {
                let _ = self.apply(&Command::CloseInPlace { node, incarnation });
            } else if life != Life::Up && !self.voters.contains(&node) {
                let _ = self.apply(&Command::Remove { node, incarnation });
            }
        }
    }

    /// An odd number of votes by the number of nodes that stay; nobody who leaves keeps his where
    /// another can take it.
    fn give_votes(&mut self, now: Instant) {
        if !self.registry.formed() || self.voters_changed.is_some_and(|at| now < at + VOTES_EVERY) {
            return;
        }
        let stays: Vec<NodeId> =
            self.registry.nodes().filter(|(_, n)| !goes(n)).map(|(id, _)| id).collect();
        let most = self.registry.settings().max_voters as usize;
        let target = match stays.len().min(most) {
            0..=2 => 1,
            count => count - usize::from(count.is_multiple_of(2)),
        };
        let sole = self.voters.len() == 1;
        let restarts =
            |id: NodeId| self.registry.node(id).is_some_and(|node| node.drain.is_restart());
        let shrinks = target < self.voters.len();
        let well = |id: NodeId| {
            self.process_of(id).is_some_and(|p| self.is_up(p) && now >= p.since + CAUGHT_UP_AFTER)
        };
        let fit = |id: &NodeId| self.voters.contains(id) || well(*id);
        let mut order: Vec<NodeId> = stays.into_iter().filter(fit).collect();
        order.sort_by_key(|id| {
            let votes = self.voters.contains(id) && !(sole && restarts(*id));
            (shrinks && !well(*id), !votes, restarts(*id), *id)
        });
        let mut voters: BTreeSet<NodeId> = order.into_iter().take(target).collect();
        if voters.len().is_multiple_of(2) {
            voters.pop_last();
        }
        if !voters.is_empty() && voters != self.voters && self.majority_runs(&voters) {
            self.voters = voters;
            self.voters_changed = Some(now);
        }
        let present = self.registry.nodes().filter(|(_, node)| node.life != Life::Left);
        self.learners = present.map(|(id, _)| id).filter(|id| !self.voters.contains(id)).collect();
    }

    fn finish_moves(&mut self, now: Instant) {
        for (shard, (due, item)) in self.moves.clone() {
            let row = self.registry.shard(shard).copied();
            let under_way = row.is_some_and(
                |row| matches!(row.holding, Holding::Moving { id, .. } if id == item.id),
            );
            let owner = row.and_then(|row| row.owner()).and_then(|(id, _)| self.registry.node(id));
            let hangs = owner.is_some_and(|n| self.knobs.hang_in_drain.contains(&n.info.name));
            if !under_way {
                self.moves.remove(&shard);
            } else if now >= due && !hangs {
                self.moves.remove(&shard);
                let _ = self.apply(&Command::CommitMove { items: vec![item] });
            }
        }
    }

    fn plan(&mut self, now: Instant) {
        if !self.registry.formed() {
            return;
        }
        let cooldown = Duration::from_millis(self.registry.settings().cooldown_ms.into());
        let rests =
            self.balanced.map_or(Duration::ZERO, |at| (at + cooldown) - now.min(at + cooldown));
        let plan = planner::plan(&PlanInput {
            cooldown_left: rests,
            ..PlanInput::of(&self.registry, |_| Judgement::default())
        });
        if plan.moves.iter().any(|planned| matches!(planned.reason, Reason::Balance { .. })) {
            self.balanced = Some(now);
        }
        let items: Vec<Assign> = plan.assigns.iter().map(|planned| planned.assign).collect();
        if !items.is_empty() {
            let _ = self.apply(&Command::Assign { items });
        }
        let items: Vec<BeginMove> = plan.moves.iter().map(|planned| planned.begin).collect();
        if items.is_empty() || self.apply(&Command::BeginMove { items: items.clone() }).is_err() {
            return;
        }
        for item in items {
            let row = self.registry.shard(item.shard).copied();
            if let Some(Holding::Moving { id, .. }) = row.map(|row| row.holding) {
                let due = now + self.knobs.move_takes;
                let reference = MoveRef { shard: item.shard, epoch: item.epoch, id };
                self.moves.insert(item.shard, (due, reference));
            }
        }
    }

    /// Processes whose pods were deleted: they drain themselves, close and end.
    fn end_processes(&mut self) {
        for process in self.processes.clone().into_values().filter(|p| p.stopping && !p.ended) {
            if process.runs && self.still_leaves(&process) {
                continue;
            }
            if let Some(process) = self.processes.get_mut(&process.uid) {
                process.runs = false;
                process.ended = true;
            }
        }
    }

    /// Brings the leaving of one process further; false once it has nothing to wait for.
    fn still_leaves(&mut self, process: &Process) -> bool {
        let Some(node) = self.node_of(process).filter(|_| self.is_up(process)) else {
            return false;
        };
        if self.leader.is_none() {
            return false;
        }
        let incarnation = process.incarnation;
        // The drain shows at once, and in the next look the close may follow.
        if Standing::of(&self.registry, node, incarnation) == Standing::Undrained {
            let _ = self.apply(&Command::Leave { node, incarnation });
        }
        match Standing::of(&self.registry, node, incarnation) {
            Standing::Nothing => false,
            Standing::Undrained | Standing::Holds => true,
            Standing::Empty => self.apply(&Command::Close { node, incarnation }).is_err(),
            Standing::NoTarget => {
                let _ = self.apply(&Command::CloseInPlace { node, incarnation });
                false
            }
        }
    }
}

/// What a process says of itself.
pub(super) fn info(pod: &str, uid: &str, address: &str, revision: &str) -> NodeInfo {
    let at = |port: u16| format!("{address}:{port}");
    NodeInfo {
        name: pod.to_owned(),
        pod_uid: Some(uid.to_owned()),
        addresses: Addresses {
            data: at(11_000),
            raft: at(12_000),
            admin: at(13_000),
            http: at(14_000),
        },
        zone: String::new(),
        weight: 1,
        feature_level: FEATURE_LEVEL,
        revision: revision.to_owned(),
    }
}
