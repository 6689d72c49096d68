//! The registry of all workers, their processes, and what was done against the rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use shoal_core::{
    id::{ClusterId, Incarnation, LogIndex, NodeId, ShardId},
    registry::{Command, Drain, Event, Life, MoveRef, Refused, Registry, check_step},
};
use shoal_worker::raft::Members;
use tokio::time::Instant;

use super::{Knobs, Process, Seen, process::Directory};

/// Something that must never be, in words.
pub type Violation = String;

/// Kept of what was found: the first ones tell the story.
const MOST_FINDINGS: usize = 20;

pub(super) struct World {
    pub knobs: Knobs,
    pub registry: Registry,
    entries: u64,
    pub term: u64,
    pub leader: Option<NodeId>,
    pub voters: BTreeSet<NodeId>,
    pub voters_changed: Option<Instant>,
    pub learners: BTreeSet<NodeId>,
    pub directories: BTreeMap<String, Directory>,
    /// By the uid of the pod.
    pub processes: BTreeMap<String, Process>,
    pub moves: BTreeMap<ShardId, (Instant, MoveRef)>,
    pub balanced: Option<Instant>,
    /// Nodes that are up in the registry and whose process does not run, since when.
    pub silent: BTreeMap<NodeId, Instant>,
    /// Nodes that are closed in the registry, since when.
    pub closed: BTreeMap<NodeId, Instant>,
    pub founded: Vec<ClusterId>,
    pub refused_epochs: u32,
    pub deletions_allowed: bool,
    pub findings: Vec<Violation>,
}

impl World {
    pub fn new(knobs: Knobs) -> Self {
        Self {
            knobs,
            registry: Registry::new(),
            entries: 0,
            term: 0,
            leader: None,
            voters: BTreeSet::new(),
            voters_changed: None,
            learners: BTreeSet::new(),
            directories: BTreeMap::new(),
            processes: BTreeMap::new(),
            moves: BTreeMap::new(),
            balanced: None,
            silent: BTreeMap::new(),
            closed: BTreeMap::new(),
            founded: Vec::new(),
            refused_epochs: 0,
            deletions_allowed: false,
            findings: Vec::new(),
        }
    }

    /// The only way to change the registry; every entry is judged by the core's own checks.
    pub fn apply(&mut self, command: &Command) -> Result<Event, Refused> {
        let before = self.registry.clone();
        self.entries += 1;
        let (outcome, _) = self.registry.apply(LogIndex(self.entries), command);
        let violations = self.registry.check().into_iter();
        let violations = violations.chain(check_step(&before, &self.registry));
        let found: Vec<_> =
            violations.map(|violation| format!("{command:?}: {violation}")).collect();
        found.into_iter().for_each(|finding| self.note(finding));
        if let Err(Refused::OperatorEpoch { .. }) = outcome {
            self.refused_epochs += 1;
        }
        outcome
    }

    pub fn note(&mut self, finding: Violation) {
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(finding);
        }
    }

    /// A new registry, for a cluster that is founded now.
    pub fn begin_anew(&mut self) {
        self.registry = Registry::new();
        self.voters.clear();
        self.learners.clear();
        self.moves.clear();
        self.silent.clear();
        self.closed.clear();
        self.leader = None;
    }

    pub fn members(&self) -> Members {
        Members {
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            ..Members::default()
        }
    }

    /// The process that runs on the directory of this node.
    pub fn process_of(&self, node: NodeId) -> Option<&Process> {
        self.processes.values().find(|process| process.runs && self.node_of(process) == Some(node))
    }

    pub fn node_of(&self, process: &Process) -> Option<NodeId> {
        self.directories.get(&process.volume)?.node
    }

    /// A majority of the voters runs.
    pub fn has_quorum(&self) -> bool {
        self.majority_runs(&self.voters)
    }

    pub fn majority_runs(&self, voters: &BTreeSet<NodeId>) -> bool {
        let running = voters.iter().filter(|id| self.process_of(**id).is_some()).count();
        running * 2 > voters.len()
    }

    /// It has registered, and nothing has ended its session since.
    pub fn is_up(&self, process: &Process) -> bool {
        let node = self.node_of(process).and_then(|id| self.registry.node(id));
        process.runs
            && node.is_some_and(|n| n.life == Life::Up && n.incarnation == process.incarnation)
    }

    /// The pod is to end: what it still holds it hands over first.
    pub fn stop(&mut self, uid: &str) {
        let Some(process) = self.processes.get(uid).cloned() else { return };
        if process.stopping {
            return;
        }
        if let Some(process) = self.processes.get_mut(uid) {
            process.stopping = true;
        }
        if !self.deletions_allowed
            && let Some(id) = self.node_of(&process)
        {
            self.judge_deletion(&process, id);
        }
    }

    /// Whoever is deleted owns nothing that another could own, and is no vote that is needed.
    fn judge_deletion(&mut self, process: &Process, id: NodeId) {
        let owned = self.registry.held(id).owned;
        let takers = self.registry.nodes().filter(|(other, _)| *other != id);
        let takers = takers.filter(|(other, _)| self.registry.is_target(*other)).count();
        let pod = &process.pod;
        if self.is_up(process) && owned > 0 && takers > 0 {
            self.note(format!("pod {pod} was deleted while it owned {owned} shards"));
        }
        let others: BTreeSet<NodeId> = self.voters.iter().copied().filter(|v| *v != id).collect();
        let alive = others.iter().filter(|id| self.process_of(**id).is_some()).count();
        // At a hibernation all go; nobody is drained for his vote then.
        let all_go = self.registry.nodes().all(|(_, n)| !n.is_target());
        if self.voters.contains(&id)
            && self.voters.len() > 2
            && alive * 2 <= self.voters.len()
            && !all_go
        {
            self.note(format!("pod {pod} was deleted, and the voters have no majority without it"));
        }
    }

    pub fn kill(&mut self, pod: &str, now: Instant) {
        for process in self.processes.values_mut().filter(|p| p.pod == pod && p.runs) {
            process.end(now);
        }
    }

    /// The process of a pod that is gone, or is about to go.
    pub fn forget(&mut self, uid: &str) {
        self.processes.remove(uid);
    }

    /// Directories of volumes that are no more.
    pub fn keep_directories(&mut self, volumes: &BTreeSet<String>) {
        self.directories.retain(|volume, _| volumes.contains(volume));
    }

    /// A directory as it is found, or a new one.
    pub fn directory(&mut self, volume: &str) -> &mut Directory {
        let nonce = rand::random();
        self.directories.entry(volume.to_owned()).or_insert(Directory {
            nonce,
            counter: 0,
            cluster: None,
            node: None,
        })
    }

    /// A name for the next session: durable before it is used.
    pub fn next_incarnation(&mut self, volume: &str) -> Incarnation {
        let directory = self.directory(volume);
        directory.counter += 1;
        Incarnation { counter: directory.counter, nonce: rand::random() }
    }

    /// The lease that every session has.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.registry.settings().lease_ms.into())
    }

    pub fn seen(&self) -> Seen {
        let present = self.registry.nodes().filter(|(_, node)| node.life != Life::Left);
        let mut owned: Vec<_> = present
            .map(|(id, node)| (node.info.name.clone(), self.registry.held(id).owned))
            .collect();
        owned.sort();
        Seen {
            founded: self.founded.iter().map(ToString::to_string).collect(),
            formed: self.registry.formed(),
            owned,
            voters: self.voters.len(),
            unassigned: shoal_worker::wire::admin::counts(&self.registry).unassigned,
            operator_epoch: self.registry.settings().operator_epoch,
            max_moves: self.registry.settings().max_moves,
            refused_epochs: self.refused_epochs,
            running: self.processes.values().filter(|p| p.runs).map(|p| p.pod.clone()).collect(),
        }
    }
}

/// It leaves for good.
pub(super) fn goes(node: &shoal_core::registry::Node) -> bool {
    node.life == Life::Left || node.drain == Drain::Removal || node.marked
}
