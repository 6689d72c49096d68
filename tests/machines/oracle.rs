//! What must hold at every true instant of every run. Reads what no machine can see: the
//! committed log as it is, all processes at once, and true time.

use std::collections::BTreeMap;

use shoal_core::{
    admit::{Class, ingress::Status},
    handoff::Process,
    id::{Epoch, ShardId},
    registry::{Command, Event as Applied, Holding, Life, Refused, Registry, ShardRow, check_step},
};

use crate::{
    clock::{MS, True},
    handover::Counter,
    log::{Entry, What},
    world::{Place, SHARDS, World},
};

#[derive(Default)]
pub struct Oracle {
    /// The first thing that went wrong.
    pub violation: Option<String>,
    /// It was only too slow: nothing unsafe was seen.
    pub late: bool,
    lineages: BTreeMap<(ShardId, Epoch), u64>,
    last_lineage: u64,
    shards: BTreeMap<ShardId, Served>,
    /// Who served under which token.
    tokens: BTreeMap<(ShardId, Epoch), Process>,
    store: BTreeMap<ShardId, Epoch>,
    calls: BTreeMap<u64, Record>,
    pub tally: Tally,
}

/// What became of the calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub answered: u64,
    pub unavailable: u64,
    pub unknown: u64,
    pub exhausted: u64,
    /// Longest beyond what the handler took, of calls with a result.
    pub longest: True,
    pub stale_writes_refused: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Served {
    /// Increments acknowledged in the present lineage, and the highest value told.
    acknowledged: u64,
    highest: u64,
    /// The highest token under which anybody admitted or acknowledged.
    token: Epoch,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    place: Place,
    run: u64,
    class: Class,
    began: True,
    length: True,
    executions: u32,
    ended: bool,
}

impl Oracle {
    pub fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    pub fn late(&mut self, what: String) {
        self.late = self.violation.is_none();
        self.fail(what);
    }

    /// The state of a shard that opens with nothing under this epoch.
    pub fn empty(&self, shard: ShardId, epoch: Epoch) -> Counter {
        let lineage = self.lineages.get(&(shard, epoch)).copied().unwrap_or_default();
        Counter { lineage, count: 0 }
    }

    pub fn highest_value(&self, shard: ShardId) -> u64 {
        self.shards.get(&shard).map_or(0, |served| served.highest)
    }

    pub fn call_begins(
        &mut self,
        call: u64,
        place: Place,
        run: u64,
        class: Class,
        length: True,
        now: True,
    ) {
        let record = Record { place, run, class, began: now, length, executions: 0, ended: false };
        self.calls.insert(call, record);
    }

    /// The client's entry died, and with it everybody who waited for an answer.
    pub fn calls_died(&mut self, place: Place, run: u64) {
        for record in self.calls.values_mut() {
            if (record.place, record.run) == (place, run) {
                record.ended = true;
            }
        }
    }

    pub fn execution_begins(&mut self, call: u64) {
        let Some(record) = self.calls.get_mut(&call) else { return };
        record.executions += 1;
        let executions = record.executions;
        match record.class {
            Class::Plain if executions > 1 => {
                self.fail(format!("call {call} ran {executions} times"));
            }
            Class::Plain | Class::Idempotent | Class::Deduplicated => {}
        }
    }

    pub fn call_ends(&mut self, call: u64, status: Status, now: True) {
        let Some(record) = self.calls.get_mut(&call) else { return };
        if std::mem::replace(&mut record.ended, true) {
            return self.fail(format!("call {call} was answered twice"));
        }
        let (ran, took) = (record.executions > 0, now - record.began);
        let length = record.length;
        match status {
            Status::Result => {
                self.tally.answered += 1;
                self.tally.longest = self.tally.longest.max(took.saturating_sub(length));
            }
            Status::Unavailable { .. } | Status::ResourceExhausted { .. } if ran => {
                self.fail(format!("call {call} ran and was answered {status:?}"));
            }
            Status::Unavailable { .. } => self.tally.unavailable += 1,
            Status::ResourceExhausted { .. } => self.tally.exhausted += 1,
            Status::OutcomeUnknown => self.tally.unknown += 1,
        }
    }

    pub fn open_calls(&self) -> usize {
        self.calls.values().filter(|record| !record.ended).count()
    }

    /// A store outside that takes no token below the highest it saw.
    pub fn store_write(&mut self, shard: ShardId, epoch: Epoch, me: Process, now: True) {
        let highest = self.store.entry(shard).or_default();
        if epoch < *highest {
            self.tally.stale_writes_refused += 1;
            return;
        }
        *highest = epoch;
        match self.tokens.get(&(shard, epoch)) {
            Some(owner) if *owner != me => {
                self.fail(format!("{now}: {me:?} writes {shard} with {epoch:?} of {owner:?}"));
            }
            Some(_) | None => {}
        }
    }

    pub fn acknowledged(&mut self, shard: ShardId, epoch: Epoch, state: Counter, floor: u64) {
        let lineage = self.lineages.get(&(shard, epoch)).copied().unwrap_or_default();
        let served = self.shards.entry(shard).or_default();
        if state.lineage != lineage {
            let text = format!("{shard} {epoch:?} is served from state of {state:?}");
            return self.fail(text);
        }
        served.acknowledged += 1;
        if state.count < served.acknowledged {
            let text = format!("{shard}: {} acknowledged, {state:?}", served.acknowledged);
            return self.fail(text);
        }
        if state.count <= floor {
            let text = format!("{shard}: {floor} was told before, now {}", state.count);
            return self.fail(text);
        }
        served.highest = served.highest.max(state.count);
    }

    /// A new epoch: by a planned move the state goes on, else it begins anew.
    pub fn row_changed(&mut self, shard: ShardId, old: Option<&ShardRow>, new: &ShardRow) {
        if old.is_some_and(|old| old.epoch == new.epoch) {
            return;
        }
        let known = old.and_then(|old| self.lineages.get(&(shard, old.epoch)).copied());
        let planned = match new.holding {
            Holding::Owned { via: Some(_), .. } => true,
            Holding::Owned { via: None, .. } | Holding::Moving { .. } | Holding::Unassigned => {
                false
            }
        };
        let lineage = match (known, planned) {
            (Some(known), true) => known,
            (Some(_) | None, _) => {
                self.last_lineage += 1;
                let served = self.shards.entry(shard).or_default();
                *served = Served { token: served.token, ..Served::default() };
                self.last_lineage
            }
        };
        self.lineages.insert((shard, new.epoch), lineage);
    }
}

/// The rows of the move that an entry may call off by naming it.
fn names(command: &Command, shard: ShardId, id: shoal_core::id::MoveId) -> bool {
    match command {
        Command::AbortMove { items } => {
            items.iter().any(|item| item.shard == shard && item.id == id)
        }
        _ => true,
    }
}

impl World {
    /// Everything that one committed entry may have done wrong.
    pub fn judge_entry(&mut self, entry: &Entry, outcome: Option<Result<Applied, Refused>>) {
        let last = self.log.history.len() - 1;
        let (before, after) = (self.log.history[last - 1].clone(), self.truth().clone());
        for violation in after.check().into_iter().chain(check_step(&before, &after)) {
            self.oracle.fail(format!("after {entry:?}: {violation}"));
        }
        let What::Command(command) = &entry.what else { return };
        let still = matches!(
            &**command,
            Command::Renew { .. }
                | Command::Blank
                | Command::Configure(_)
                | Command::SettleLease { .. }
        );
        if still && before.map_version() != after.map_version() {
            self.oracle.fail(format!("{command:?} moved the map version"));
        }
        for (shard, new) in after.shards() {
            let old = before.shard(shard);
            self.oracle.row_changed(shard, old, new);
            self.judge_abort(command, shard, old, new);
        }
        self.judge_sessions(command, &before, &after);
        if let (Command::Fence { node, incarnation, .. }, Some(Ok(_))) = (&**command, &outcome) {
            self.judge_fence(Process::new(*node, *incarnation));
        }
        self.cover_entry(command, &before, outcome.as_ref());
    }

    fn judge_abort(
        &mut self,
        command: &Command,
        shard: ShardId,
        old: Option<&ShardRow>,
        new: &ShardRow,
    ) {
        let Some(old) = old else { return };
        let Holding::Moving { id, .. } = old.holding else { return };
        if new.changed != old.changed && new.epoch == old.epoch && !names(command, shard, id) {
            self.oracle.fail(format!("{id} of {shard} was called off by {command:?}"));
        }
    }

    /// A session may end only when its process can serve no more.
    fn judge_sessions(&mut self, command: &Command, before: &Registry, after: &Registry) {
        for (id, old) in before.nodes().filter(|(_, node)| node.life == Life::Up) {
            let goes_on = after
                .node(id)
                .is_some_and(|new| new.life == Life::Up && new.incarnation == old.incarnation);
            let Some(place) = self.place_of(id).filter(|_| !goes_on) else { continue };
            let Some(live) = &self.nodes[place].live else { continue };
            let me = Process::new(id, old.incarnation);
            if live.node() != Some(me) || matches!(command, Command::Close { .. }) {
                continue;
            }
            let right = live.right;
            let now = self.clock(place);
            if right.is_some_and(|right| !now.maybe_past(right)) {
                let text = format!("{id} has a right and its session ends by {command:?}");
                self.oracle.fail(text);
            }
        }
    }

    /// Leaders come and go: whoever was well all the time keeps its session [L3].
    fn judge_fence(&mut self, process: Process) {
        let weather = self.setup.weather;
        let lossy = weather.loss > 0 || weather.stragglers > 0 || weather.delay > 100 * MS;
        let margin = 2 * True::from(self.truth().settings().longest_lease_ms()) * MS;
        let well = |troubled: True| troubled + margin < self.now;
        let all_well = self.nodes.iter().all(|node| well(node.troubled));
        let mut live = self.nodes.iter().filter_map(|node| node.live.as_ref());
        let runs = live.any(|live| live.node() == Some(process));
        if all_well && runs && !lossy && self.now > margin {
            let text = format!("{process:?} was fenced, and nothing was wrong with it");
            self.oracle.fail(text);
        }
    }

    /// Somebody admits or acknowledges now: nobody else may, and the log must say so too.
    pub fn judge_service(
        &mut self,
        place: Place,
        me: Process,
        shard: ShardId,
        epoch: Epoch,
        what: &str,
    ) {
        let row = self.truth().shard(shard).copied();
        let owns = row.is_some_and(|row| {
            row.owner() == Some((me.node, me.incarnation)) && row.epoch == epoch
        });
        if !owns {
            let text = format!("{place} ({me:?}) {what} {shard} under {epoch:?}: {row:?}");
            self.oracle.fail(text);
        }
        let served = self.oracle.shards.entry(shard).or_default();
        if epoch < served.token {
            let text = format!("{place} {what} {shard} with {epoch:?} after {:?}", served.token);
            self.oracle.fail(text);
        } else {
            served.token = epoch;
        }
        let owner = *self.oracle.tokens.entry((shard, epoch)).or_insert(me);
        if owner != me {
            let text = format!("{me:?} {what} {shard} with {epoch:?} of {owner:?}");
            self.oracle.fail(text);
        }
    }

    /// Looks at all processes at one true instant.
    pub fn judge_instant(&mut self) {
        for shard in (0..SHARDS).map(ShardId) {
            for place in 0..self.nodes.len() {
                if let Some((me, epoch)) = self.would_admit(place, shard) {
                    self.judge_service(place, me, shard, epoch, "would admit");
                }
            }
        }
        for holder in 0..self.nodes.len() {
            self.judge_right(holder);
        }
    }

    /// No member that knows of the renewal may hold a session for expired that has a right.
    fn judge_right(&mut self, holder: Place) {
        let now = self.clock(holder);
        let Some(id) = self.nodes[holder].disk.node else { return };
        let Some(live) = &self.nodes[holder].live else { return };
        if live.right.is_none_or(|right| now.maybe_past(right)) {
            return;
        }
        let granted = live.granted_at;
        for member in 0..self.nodes.len() {
            let clock = self.clock(member);
            let Some(live) = &self.nodes[member].live else { continue };
            if self.is_watcher(member) || live.table.applied() < granted {
                continue;
            }
            if live.memory.expiry.has_passed(id, clock) {
                let text = format!("{member} holds {id} for expired, which has a right");
                self.oracle.fail(text);
            }
        }
    }
}
