//! One entry of the log applied: dispatch, founding and settings.
//!
//! Total and deterministic: reads the registry and the command, nothing else. A command is
//! compared with what its author saw first and changes rows only then, so a refused one
//! leaves no trace but `applied`.

mod nodes;
mod shards;

use std::sync::Arc;

use crate::id::{ClusterId, Epoch, Incarnation, LogIndex, MapVersion, NodeId, ShardId};

use super::{
    COOLDOWNS_MS, Changes, ClusterState, Command, Configure, Drain, Event, Holding, LEARNERS,
    LEASES_MS, Life, MAX_BATCH, MOVES, Node, NodeInfo, Refused, Registry, SHARD_COUNTS, Settings,
    ShardRow, Shards, VOTERS,
};

/// The founder has no Join entry; every later id is the index of one, so it is above this.
const FOUNDER: NodeId = NodeId(1);

/// Added to the highest epoch of the cluster before: the next era.
const ONE_ERA: u64 = 1 << 32;

/// Of a cluster that is founded or recovered: above every token before it [S13]. None where the
/// last era has no room above it for a cluster after this one.
pub(super) fn first_epoch(unix_seconds: u32, highest_found: Epoch) -> Option<Epoch> {
    let above = Epoch(highest_found.0.checked_add(ONE_ERA)?);
    (above.era() < u32::MAX).then(|| Epoch::new(unix_seconds, 0).max(above))
}

impl Registry {
    /// Applies the entry at `index`. A refused command changes nothing but `applied`.
    pub fn apply(
        &mut self,
        index: LogIndex,
        command: &Command,
    ) -> (Result<Event, Refused>, Changes) {
        debug_assert!(index > self.applied, "{index} after {}", self.applied);
        let mut step = Step { registry: self, index, changes: Changes::default() };
        let outcome = step.run(command);
        let mut changes = step.changes;
        changes.map_version_changed = !changes.nodes.is_empty() || !changes.shards.is_empty();
        if changes.map_version_changed {
            self.map_version = MapVersion(index.0);
        }
        if changes.settings {
            self.settings_changed = index;
        }
        self.advance(index);
        (outcome, changes)
    }
}

/// One entry on its way in: the registry, the index that every changed row gets, and what
/// changed so far.
struct Step<'a> {
    registry: &'a mut Registry,
    index: LogIndex,
    changes: Changes,
}

impl Step<'_> {
    fn run(&mut self, command: &Command) -> Result<Event, Refused> {
        let before_founding = matches!(command, Command::Found { .. } | Command::Blank);
        if !self.registry.founded() && !before_founding {
            return Err(Refused::NotFounded);
        }
        match command {
            Command::Found { cluster, founder, directory, shard_count, lease_ms } => {
                self.found(*cluster, founder, *directory, *shard_count, *lease_ms)
            }
            Command::Join { info, directory, replaces } => self.join(info, *directory, replaces),
            Command::Form { unix_seconds, highest_epoch_found } => {
                self.form(*unix_seconds, *highest_epoch_found)
            }
            Command::Register(register) => self.register(register),
            Command::Renew { sessions } => self.renew(sessions),
            Command::Fence { node, incarnation, renewed } => {
                self.fence(*node, *incarnation, Some(*renewed))
            }
            Command::ReportDeath { node, incarnation } => self.fence(*node, *incarnation, None),
            Command::CloseInPlace { node, incarnation } => self.close_in_place(*node, *incarnation),
            Command::Close { node, incarnation } => self.close(*node, *incarnation),
            Command::DrainRestart { node, incarnation } => {
                self.drain_restart(*node, *incarnation, Drain::Restart)
            }
            Command::DrainRemoval { node } => self.drain_removal(*node),
            Command::CancelDrain { node } => self.cancel_drain(*node),
            Command::Leave { node, incarnation } => {
                self.drain_restart(*node, *incarnation, Drain::Own)
            }
            Command::Stay { node, incarnation } => self.stay(*node, *incarnation),
            Command::StopAll => self.stop_all(),
            Command::Mark { node } => self.mark(*node),
            Command::Remove { node, incarnation } => self.remove(*node, *incarnation),
            Command::Assign { items } => self.each(items, Self::assign),
            Command::BeginMove { items } => self.each(items, Self::begin_move),
            Command::CommitMove { items } => self.each(items, Self::commit_move),
            Command::AbortMove { items } => self.each(items, Self::abort_move),
            Command::Configure(configure) => self.configure(configure),
            Command::SettleLease { previous_since } => self.settle_lease(*previous_since),
            Command::RaiseLevel { level } => self.raise_level(*level),
            Command::AcquireOperatorEpoch => self.acquire_operator_epoch(),
            Command::Guarded { operator_epoch, command } => self.guarded(*operator_epoch, command),
            Command::Blank => Ok(Event::Done),
        }
    }

    fn found(
        &mut self,
        cluster: ClusterId,
        founder: &NodeInfo,
        directory: u128,
        shard_count: u32,
        lease_ms: u32,
    ) -> Result<Event, Refused> {
        if self.registry.founded() {
            return Err(Refused::AlreadyFounded(self.registry.cluster.id));
        }
        if cluster == ClusterId::default() {
            return Err(out_of_range("cluster id", 0, "1 and more"));
        }
        if !SHARD_COUNTS.contains(&shard_count) || !shard_count.is_power_of_two() {
            let allowed = "a power of two from 16 to 65536";
            return Err(out_of_range("SHARDS", shard_count, allowed));
        }
        lease_in_range(lease_ms)?;
        self.admissible(founder)?;
        self.registry.cluster = ClusterState { id: cluster, ..ClusterState::default() };
        self.registry.settings = Settings { shard_count, lease_ms, ..Settings::default() };
        self.changes.cluster = true;
        self.changes.settings = true;
        self.admit(FOUNDER, founder, directory);
        Ok(Event::Joined { node: FOUNDER })
    }

    fn form(&mut self, unix_seconds: u32, highest_found: Epoch) -> Result<Event, Refused> {
        if self.registry.formed() {
            return Err(Refused::AlreadyFormed);
        }
        let Some(first_epoch) = first_epoch(unix_seconds, highest_found) else {
            let found = highest_found.era();
            return Err(out_of_range("era found", found, "less than 2^32 - 2"));
        };
        self.registry.cluster.formed = Some(self.index);
        self.registry.cluster.first_epoch = first_epoch;
        let count = self.registry.settings.shard_count;
        self.registry.shards = Shards::unassigned(count, first_epoch, self.index);
        self.changes.cluster = true;
        self.changes.shards = (0..count).map(ShardId).collect();
        Ok(Event::Done)
    }

    fn configure(&mut self, change: &Configure) -> Result<Event, Refused> {
        check_settings(change, &self.registry.settings)?;
        let old = &self.registry.settings;
        let lease_ms = change.lease_ms.unwrap_or(old.lease_ms);
        let previous_lease = if lease_ms == old.lease_ms {
            old.previous_lease
        } else {
            // A right may have been granted under any lease since the last settlement.
            Some((old.longest_lease_ms(), self.index))
        };
        let new = Settings {
            lease_ms,
            previous_lease,
            rebalance: change.rebalance.unwrap_or(old.rebalance),
            max_moves: change.max_moves.unwrap_or(old.max_moves),
            max_moves_per_node: change.max_moves_per_node.unwrap_or(old.max_moves_per_node),
            cooldown_ms: change.cooldown_ms.unwrap_or(old.cooldown_ms),
            max_voters: change.max_voters.unwrap_or(old.max_voters),
            max_learners: change.max_learners.unwrap_or(old.max_learners),
            ..old.clone()
        };
        self.set(new);
        Ok(Event::Done)
    }

    /// Settles that very change: a later one starts the wait anew.
    fn settle_lease(&mut self, previous_since: LogIndex) -> Result<Event, Refused> {
        let old = &self.registry.settings;
        match old.previous_lease {
            Some((_, since)) if since == previous_since => {
                self.set(Settings { previous_lease: None, ..old.clone() });
                Ok(Event::Done)
            }
            Some(_) | None => Err(Refused::NothingToSettle),
        }
    }

    fn raise_level(&mut self, level: u32) -> Result<Event, Refused> {
        let old = &self.registry.settings;
        if level <= old.feature_level || level > self.registry.common_level() {
            return Err(Refused::Level { asked: level, current: old.feature_level });
        }
        self.set(Settings { feature_level: level, ..old.clone() });
        Ok(Event::Done)
    }

    fn acquire_operator_epoch(&mut self) -> Result<Event, Refused> {
        let old = &self.registry.settings;
        let epoch = old.operator_epoch + 1;
        self.set(Settings { operator_epoch: epoch, ..old.clone() });
        Ok(Event::OperatorEpoch { epoch })
    }

    fn guarded(&mut self, seen: u64, command: &Command) -> Result<Event, Refused> {
        let current = self.registry.settings.operator_epoch;
        if seen != current {
            return Err(Refused::OperatorEpoch { seen, current });
        }
        self.run(command)
    }

    fn set(&mut self, settings: Settings) {
        self.changes.settings |= self.registry.settings != settings;
        self.registry.settings = settings;
    }

    /// What a node says of itself must fit the cluster, whether it founds, joins or registers.
    fn admissible(&self, info: &NodeInfo) -> Result<(), Refused> {
        let required = self.registry.settings.feature_level;
        if info.feature_level < required {
            return Err(Refused::LevelTooLow {
                node: info.name.clone(),
                known: info.feature_level,
                required,
            });
        }
        if !super::WEIGHTS.contains(&info.weight) {
            return Err(out_of_range("WEIGHT", info.weight, "1 to 1000"));
        }
        Ok(())
    }

    /// Writes a node's row, with the index of this entry; one left as it was did not change.
    fn change_node(&mut self, id: NodeId, change: impl FnOnce(&mut Node)) {
        if let Some(entry) = self.registry.nodes.get_mut(&id) {
            let mut node = Node::clone(&entry.node);
            change(&mut node);
            if node != *entry.node {
                node.changed = self.index;
                entry.node = Arc::new(node);
                self.changes.nodes.push(id);
            }
        }
    }

    /// Writes a shard's row, with the index of this entry.
    fn change_shard(&mut self, id: ShardId, epoch: Epoch, holding: Holding) {
        let changed = self.index;
        let row = ShardRow { epoch, holding, changed };
        self.registry.put_shard(id, row);
        self.changes.shards.push(id);
    }
}

fn out_of_range(field: &'static str, value: u32, allowed: &'static str) -> Refused {
    Refused::OutOfRange { field, value: value.into(), allowed }
}

fn lease_in_range(lease_ms: u32) -> Result<(), Refused> {
    if LEASES_MS.contains(&lease_ms) {
        Ok(())
    } else {
        Err(out_of_range("lease_ms", lease_ms, "2000 to 60000"))
    }
}

fn check_settings(change: &Configure, old: &Settings) -> Result<(), Refused> {
    if let Some(asked) = change.shard_count
        && asked != old.shard_count
    {
        return Err(Refused::ShardCountFixed { founded: old.shard_count, asked });
    }
    change.lease_ms.map_or(Ok(()), lease_in_range)?;
    let checks = [
        ("max_moves", change.max_moves, MOVES, "1 to 4096"),
        ("max_moves_per_node", change.max_moves_per_node, MOVES, "1 to 4096"),
        ("cooldown_ms", change.cooldown_ms, COOLDOWNS_MS, "0 to 3600000"),
        ("max_learners", change.max_learners, LEARNERS, "0 to 64"),
    ];
    for (field, value, range, allowed) in checks {
        if let Some(value) = value.filter(|value| !range.contains(value)) {
            return Err(out_of_range(field, value, allowed));
        }
    }
    match change.max_voters.filter(|count| !VOTERS.contains(count)) {
        Some(count) => Err(out_of_range("max_voters", count, "1, 3, 5 or 7")),
        None => Ok(()),
    }
}
