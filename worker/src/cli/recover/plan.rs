//! What was found in the directories, what will become of it, and how that is told.

use std::path::PathBuf;

use serde_json::json;
use shoal_core::{
    id::{ClusterId, NodeId},
    recover::{self, Held},
    registry::{FEATURE_LEVEL, Life, NodeInfo, Registry},
};

use super::{Recovery, recovery};
use crate::{identity::recovery::Stopped, raft};

/// Of a node that the registry has no row for.
const DEFAULT_WEIGHT: u32 = 100;

/// What is left of the cluster: each directory under its lock, and what it holds.
#[derive(Debug)]
pub struct Left {
    pub stopped: Vec<Stopped>,
    pub held: Vec<Held>,
    snapshot: bool,
}

impl Left {
    pub fn of_directories(stopped: Vec<Stopped>) -> anyhow::Result<Self> {
        if stopped.iter().any(|one| one.finished_from().is_some()) {
            return Ok(Self { stopped, held: Vec::new(), snapshot: false });
        }
        let held = stopped.iter().map(held_by).collect::<anyhow::Result<_>>()?;
        Ok(Self { stopped, held, snapshot: false })
    }

    pub fn of_snapshot(stopped: Stopped, registry: Registry) -> Self {
        let held = Held {
            cluster: registry.cluster().id,
            node: NodeId::default(),
            last: recover::Position { index: registry.applied().0, ..Default::default() },
            voters: Vec::new(),
            highest_epoch: stopped.directory().highest_epoch,
            registry,
        };
        Self { stopped: vec![stopped], held: vec![held], snapshot: true }
    }

    /// Of the lost cluster; all are of one once there is a plan.
    pub fn cluster(&self) -> ClusterId {
        self.held.first().map(|held| held.cluster).unwrap_or_default()
    }

    /// The directory whose recovery was decided before, the lost cluster and the present one.
    pub fn finished(&self) -> Option<(PathBuf, String, String)> {
        self.stopped.iter().find_map(|one| {
            let (cluster, _) = one.membership().ok()?;
            let from = one.finished_from()?;
            Some((one.path().to_owned(), from.to_string(), cluster.to_string()))
        })
    }

    /// One of them, and the others, which keep their locks as long as they last.
    pub fn split(mut self, at: usize) -> (Stopped, Vec<Stopped>) {
        (self.stopped.swap_remove(at), self.stopped)
    }
}

fn held_by(stopped: &Stopped) -> anyhow::Result<Held> {
    let (cluster, node) = stopped.membership()?;
    let directory = stopped.directory();
    let read = raft::recover::read(stopped.path(), directory.formed)?;
    Ok(Held {
        cluster,
        node,
        last: read.last,
        registry: read.registry,
        voters: read.voters,
        highest_epoch: directory.highest_epoch,
    })
}

/// What will be done.
#[derive(Debug)]
pub struct Plan {
    /// Place of the directory that counts.
    pub newest: usize,
    pub from: ClusterId,
    pub cluster: ClusterId,
    pub node: NodeId,
    pub nonce: u128,
    pub info: NodeInfo,
    pub term: u64,
    pub registry: Registry,
    path: PathBuf,
    aside: Option<PathBuf>,
    /// Names of the members that are forgotten.
    forgotten: Vec<String>,
}

impl Plan {
    pub fn new(left: &Left, cluster: ClusterId) -> anyhow::Result<Self> {
        let newest = recover::newest(&left.held)?;
        let (stopped, held) = (&left.stopped[newest], &left.held[newest]);
        let from = held.cluster;
        let aside = stopped.aside(from)?;
        let info = info_of(held, stopped.name());
        let nonce = recovery::nonce();
        let (node, registry) = held.registry.recover(&Recovery {
            cluster,
            info: info.clone(),
            directory: nonce,
            unix_seconds: recovery::unix_seconds(),
            highest_epoch_found: recover::highest_epoch(&left.held),
        })?;
        let others = held.registry.nodes();
        let others = others.filter(|(_, row)| row.life != Life::Left && row.info.name != info.name);
        Ok(Self {
            newest,
            from,
            cluster,
            node,
            nonce,
            term: held.last.term + 1,
            registry,
            path: stopped.path().to_owned(),
            aside: (!stopped.is_new()).then_some(aside),
            forgotten: others.map(|(_, row)| row.info.name.clone()).collect(),
            info,
        })
    }

    /// What it will do and what may be lost.
    pub fn text(&self, left: &Left) -> String {
        let held = &left.held[self.newest];
        let mut lines = vec![
            format!("lost      cluster {}", self.from),
            format!("from      {}", self.source(left)),
        ];
        for (stopped, other) in left.stopped.iter().zip(&left.held) {
            if left.stopped.len() > 1 {
                let (path, last) = (stopped.path().display(), other.last);
                lines.push(format!("          {path}: term {}, entry {}", last.term, last.index));
            }
        }
        lines.push(format!(
            "becomes   cluster {}: {} alone, as {}, in {}",
            self.cluster,
            self.info.name,
            self.node,
            self.path.display()
        ));
        lines.push(format!(
            "shards    {}, all without an owner at first, under tokens of a new era",
            self.registry.settings().shard_count
        ));
        lines.push(format!("forgets   {}", list(&self.forgotten)));
        lines.push(format!("may lose  what hosts kept in memory; {}", self.may_lose(left, held)));
        if let Some(aside) = &self.aside {
            lines.push(format!("keeps     what the directory held, in {}", aside.display()));
        }
        lines.join("\n")
    }

    fn source(&self, left: &Left) -> String {
        let (stopped, held) = (&left.stopped[self.newest], &left.held[self.newest]);
        if left.snapshot {
            return format!("a snapshot up to entry {}", held.last.index);
        }
        let (path, last) = (stopped.path().display(), held.last);
        format!("{path}, up to entry {} of term {}", last.index, last.term)
    }

    /// Of the registry.
    fn may_lose(&self, left: &Left, held: &Held) -> String {
        if left.snapshot {
            return "whatever the cluster decided after the snapshot".to_owned();
        }
        let missing = recover::missing_voters(&left.held, self.newest);
        if missing.is_empty() {
            return "nothing that the cluster decided: the directories of all voters are given"
                .to_owned();
        }
        let name = |id: &NodeId| match held.registry.node(*id) {
            Some(row) => row.info.name.clone(),
            None => id.to_string(),
        };
        let names: Vec<String> = missing.iter().map(name).collect();
        format!(
            "whatever the cluster decided after entry {} that only {} kept",
            held.last.index,
            list(&names)
        )
    }

    /// What was done, and what is next.
    pub fn done(&self) -> String {
        let mut text = format!(
            "\nrecovered: start {} on {} with the settings it had",
            self.info.name,
            self.path.display()
        );
        if !self.forgotten.is_empty() {
            text += &format!(
                "; {} join anew with empty directories: move the old ones away",
                list(&self.forgotten)
            );
        }
        text
    }

    pub fn json(&self) -> serde_json::Value {
        json!({
            "recovered_from": self.from.to_string(),
            "cluster_id": self.cluster.to_string(),
            "data_dir": self.path,
            "node_id": self.node.0,
            "name": self.info.name,
            "applied": self.registry.applied().0,
            "first_epoch": self.registry.cluster().first_epoch.0,
            "shards": self.registry.settings().shard_count,
            "forgotten": self.forgotten,
            "set_aside": self.aside,
            "finished": true,
        })
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
}

/// As it was known to the lost cluster; it says the rest itself once it runs.
fn info_of(held: &Held, name: &str) -> NodeInfo {
    let row = held.registry.node(held.node).filter(|row| row.life != Life::Left);
    let known = row.map(|row| row.info.clone()).unwrap_or_else(|| NodeInfo {
        weight: DEFAULT_WEIGHT,
        feature_level: FEATURE_LEVEL,
        ..NodeInfo::default()
    });
    NodeInfo { name: name.to_owned(), pod_uid: None, ..known }
}
