//! The leader's side of all moves: what owners report becomes `CommitMove` or `AbortMove`.
//!
//! One tracker per row that moves, rebuilt from the registry by every new leader. It proposes
//! nothing itself and decides nothing that the registry would not compare again; it remembers
//! which pairs of shard and target failed, for the planner.

use std::{collections::BTreeMap, time::Duration};

use super::{GiveUp, News, PROPOSE_AGAIN, Process, Report, SILENCE, earlier};
use crate::{
    id::{NodeId, ShardId, Timestamp},
    registry::{Holding, MoveRef, ShardRow},
};

/// Back-off after the first failure of a move of one shard to one target; doubles each time.
pub const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
/// Longest back-off: a shard that cannot move today is tried once a minute.
pub const LAST_BACK_OFF: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A row as this leader applied it.
    Row {
        shard: ShardId,
        row: ShardRow,
    },
    Report(Report),
    /// The process is no target any more: dead, draining, or its table lags.
    Lost(Process),
    Tick,
}

/// A command to propose; the shell puts those of one tick into one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Commit(MoveRef),
    Abort { key: MoveRef, why: Why },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error("the owner gave up: {0}")]
    GaveUp(GiveUp),
    #[error("the owner has not spoken of it in time")]
    Silent,
    #[error("the commit was not accepted in time")]
    NotAccepted,
    #[error("the target was lost")]
    TargetLost,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Output {
    pub actions: Vec<Action>,
    pub wake_at: Option<Timestamp>,
    /// A move was committed, so long after this leader first knew of it.
    pub moved: Option<Duration>,
}

/// Why the planner should not move this shard to this target yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    pub shard: ShardId,
    pub target: NodeId,
    pub failures: u32,
    pub until: Timestamp,
}

#[derive(Clone, Debug, Default)]
pub struct Leader {
    moves: BTreeMap<ShardId, Tracker>,
    failures: BTreeMap<(ShardId, NodeId), Failure>,
}

#[derive(Clone, Copy, Debug)]
struct Tracker {
    key: MoveRef,
    source: Process,
    target: Process,
    began: Timestamp,
    heard: Timestamp,
    asked: Option<Asked>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    action: Action,
    first: Timestamp,
    last: Timestamp,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    count: u32,
    at: Timestamp,
}

impl Leader {
    /// The machine of a leader that takes over: silence counts from now.
    pub fn rebuild(rows: impl IntoIterator<Item = (ShardId, ShardRow)>, now: Timestamp) -> Self {
        let mut leader = Self::default();
        for (shard, row) in rows {
            let _ = leader.on_row(shard, &row, now);
        }
        leader
    }

    pub fn on(&mut self, event: Event, now: Timestamp) -> Output {
        let (mut actions, mut moved) = (Vec::new(), None);
        match event {
            Event::Row { shard, row } => moved = self.on_row(shard, &row, now),
            Event::Report(report) => self.on_report(report, now, &mut actions),
            Event::Lost(process) => {
                for tracker in self.moves.values_mut() {
                    if tracker.target == process {
                        tracker.abort(Why::TargetLost, now, &mut actions);
                    }
                }
            }
            Event::Tick => {
                for tracker in self.moves.values_mut() {
                    tracker.tick(now, &mut actions);
                }
                self.failures
                    .retain(|_, failure| !now.maybe_past(failure.until().plus(LAST_BACK_OFF)));
            }
        }
        let wake_at = self
            .moves
            .values()
            .fold(None, |wake_at, tracker| earlier(wake_at, Some(tracker.wake_at())));
        Output { actions, wake_at, moved }
    }

    /// Moves that have begun and are not over.
    pub fn in_flight(&self) -> usize {
        self.moves.len()
    }

    /// All moves that recently failed and may not be tried again yet.
    pub fn back_offs(&self, now: Timestamp) -> impl Iterator<Item = BackOff> + '_ {
        self.failures
            .iter()
            .map(|(&(shard, target), failure)| BackOff {
                shard,
                target,
                failures: failure.count,
                until: failure.until(),
            })
            .filter(move |back_off| !now.maybe_past(back_off.until))
    }

    /// Until when this move must wait. An owner that must leave by a deadline gets at least
    /// four attempts in the time that was left at the failure.
    pub fn held_back(
        &self,
        shard: ShardId,
        target: NodeId,
        leave_by: Option<Timestamp>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let failure = self.failures.get(&(shard, target))?;
        let mut pause = failure.pause();
        if let Some(by) = leave_by {
            pause = pause.min(by.at_least_since(failure.at) / 4);
        }
        let until = failure.at.plus(pause);
        (!now.maybe_past(until)).then_some(until)
    }

    fn on_row(&mut self, shard: ShardId, row: &ShardRow, now: Timestamp) -> Option<Duration> {
        let tracker = Tracker::of(shard, row, now);
        let known = self.moves.get(&shard).copied();
        if known.map(|known| known.key) == tracker.map(|tracker| tracker.key) {
            return None;
        }
        let moved = known.and_then(|known| self.ended(&known, row, now));
        match tracker {
            Some(tracker) => self.moves.insert(shard, tracker),
            None => self.moves.remove(&shard),
        };
        moved
    }

    /// An end under the same epoch is an abort; a fence of the owner is nobody's failure.
    fn ended(&mut self, tracker: &Tracker, row: &ShardRow, now: Timestamp) -> Option<Duration> {
        let pair = (tracker.key.shard, tracker.target.node);
        if row.epoch == tracker.key.epoch {
            let count = self.failures.get(&pair).map_or(0, |failure| failure.count) + 1;
            self.failures.insert(pair, Failure { count, at: now });
            return None;
        }
        if row.owner() != Some((tracker.target.node, tracker.target.incarnation)) {
            return None;
        }
        self.failures.remove(&pair);
        Some(now.at_most_since(tracker.began))
    }

    fn on_report(&mut self, report: Report, now: Timestamp, actions: &mut Vec<Action>) {
        let Some(tracker) = self.moves.get_mut(&report.key.shard) else {
            return;
        };
        if tracker.key != report.key
            || tracker.source != report.source
            || tracker.target != report.target
        {
            return;
        }
        tracker.heard = now;
        match report.news {
            News::Working => {}
            News::Released => tracker.ask(Action::Commit(report.key), now, actions),
            News::GaveUp(why) => tracker.abort(Why::GaveUp(why), now, actions),
        }
    }
}

impl Tracker {
    fn of(shard: ShardId, row: &ShardRow, now: Timestamp) -> Option<Self> {
        match row.holding {
            Holding::Moving { node, incarnation, target, target_incarnation, id, .. } => {
                Some(Self {
                    key: MoveRef { shard, epoch: row.epoch, id },
                    source: Process::new(node, incarnation),
                    target: Process::new(target, target_incarnation),
                    began: now,
                    heard: now,
                    asked: None,
                })
            }
            Holding::Owned { .. } | Holding::Unassigned => None,
        }
    }

    /// Once asked for, a command stands until the row changes; the log decides between
    /// a commit and an abort that are both under way.
    fn ask(&mut self, action: Action, now: Timestamp, actions: &mut Vec<Action>) {
        if self.asked.is_none() {
            self.asked = Some(Asked { action, first: now, last: now });
            actions.push(action);
        }
    }

    fn abort(&mut self, why: Why, now: Timestamp, actions: &mut Vec<Action>) {
        if let Some(Asked { action: Action::Commit(_), .. }) = self.asked {
            self.asked = None;
        }
        self.ask(Action::Abort { key: self.key, why }, now, actions);
    }

    fn tick(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        match &mut self.asked {
            None if now.maybe_past(self.heard.plus(SILENCE)) => {
                self.abort(Why::Silent, now, actions);
            }
            None => {}
            Some(Asked { action: Action::Commit(_), first, .. })
                if now.maybe_past(first.plus(SILENCE)) =>
            {
                self.abort(Why::NotAccepted, now, actions);
            }
            Some(asked) if now.maybe_past(asked.last.plus(PROPOSE_AGAIN)) => {
                asked.last = now;
                actions.push(asked.action);
            }
            Some(_) => {}
        }
    }

    fn wake_at(&self) -> Timestamp {
        match self.asked {
            None => self.heard.plus(SILENCE),
            Some(asked) => asked.last.plus(PROPOSE_AGAIN),
        }
    }
}

impl Failure {
    fn pause(&self) -> Duration {
        let doublings = self.count.saturating_sub(1).min(6);
        (FIRST_BACK_OFF * (1 << doublings)).min(LAST_BACK_OFF)
    }

    fn until(&self) -> Timestamp {
        self.at.plus(self.pause())
    }
}
