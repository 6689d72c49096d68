//! The owner's side of one move: prepare, stream while serving, drain, freeze, release.
//!
//! It may end the move by itself until it has reported `Released`; from then on only the row
//! decides, and the frozen state is kept until it does. It opens and closes no host: it tells
//! [`super::Shard`] what became of it.

use std::time::Duration;

use super::{
    Action, Body, DRAIN_CAP, GiveUp, LAST_ATTEMPT, Message, News, ONE_CHUNK, PREPARE_CAP, Process,
    REPEAT, REST_CAP, REST_TIME, Report, SMALL_STATE, STREAM_CAP, STUBBORN_ROUNDS, Step, WORKING,
    Whole, began, earlier,
};
use crate::{
    id::Timestamp,
    registry::{Holding, MoveRef, ShardRow},
};

#[derive(Clone, Debug, Hash)]
pub struct Source {
    key: MoveRef,
    me: Process,
    target: Process,
    leave_by: Option<Timestamp>,
    phase: Phase,
    /// When to say again what may have been lost.
    repeat_at: Timestamp,
    /// When to tell the leader that the move is under way.
    working_at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Preparing {
        until: Timestamp,
    },
    Streaming(Streaming),
    Draining {
        until: Timestamp,
        cancelled: bool,
    },
    /// The host freezes and sends the rest.
    Freezing {
        until: Timestamp,
    },
    Acknowledging {
        until: Timestamp,
        whole: Whole,
    },
    Released,
    /// Serving again, or never stopped; reported until the row changes.
    GaveUp(GiveUp),
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Streaming {
    since: Timestamp,
    until: Timestamp,
    sent: u64,
    /// The smallest remainder so far, and the rounds since it shrank.
    remainder: Option<u64>,
    stubborn: u8,
}

/// How the shard is served because of this move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stance {
    Serving,
    Draining,
    Frozen,
}

/// What an event means for the shard itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Stay,
    /// Admit again; the host never froze.
    Resume(MoveRef),
    /// Open the host again from its frozen state, same epoch.
    Reopen,
    /// The shard is somebody else's: drop everything.
    Leave,
}

impl Source {
    pub fn new(
        key: MoveRef,
        me: Process,
        target: Process,
        leave_by: Option<Timestamp>,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) -> Self {
        let mut source = Self {
            key,
            me,
            target,
            leave_by,
            phase: Phase::Preparing { until: now.plus(PREPARE_CAP) },
            repeat_at: now,
            working_at: now,
        };
        source.tick(now, actions);
        source
    }

    pub fn key(&self) -> MoveRef {
        self.key
    }

    pub fn is_with(&self, process: Process) -> bool {
        self.target == process
    }

    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    pub fn stance(&self) -> Stance {
        match self.phase {
            Phase::Preparing { .. } | Phase::Streaming(_) | Phase::GaveUp(_) | Phase::Over => {
                Stance::Serving
            }
            Phase::Draining { .. } => Stance::Draining,
            Phase::Freezing { .. } | Phase::Acknowledging { .. } | Phase::Released => {
                Stance::Frozen
            }
        }
    }

    pub fn wake_at(&self) -> Option<Timestamp> {
        let repeat = (self.phase != Phase::Over).then_some(self.repeat_at);
        earlier(repeat, self.until())
    }

    /// Frozen state never leaves by timer: after `Released` only this ends the move.
    pub fn row(&mut self, row: &ShardRow, actions: &mut Vec<Action>) -> Turn {
        // A row from before the move is a late answer and says nothing of how the move ended.
        if self.is_over() || row.changed < began(self.key.id) || self.is_moving_in(row) {
            return Turn::Stay;
        }
        let mine =
            row.epoch == self.key.epoch && row.owner() == Some((self.me.node, self.me.incarnation));
        let stance = self.stance();
        let gave_up = matches!(self.phase, Phase::GaveUp(_));
        self.phase = Phase::Over;
        if !gave_up {
            actions.push(Action::StopTransfer(self.key));
        }
        match (mine, stance) {
            (false, _) => Turn::Leave,
            (true, Stance::Serving) => Turn::Stay,
            (true, Stance::Draining) => Turn::Resume(self.key),
            (true, Stance::Frozen) => Turn::Reopen,
        }
    }

    pub fn message(&mut self, body: Body, now: Timestamp, actions: &mut Vec<Action>) -> Turn {
        match (body, self.phase) {
            (Body::Prepared, Phase::Preparing { .. }) => {
                self.phase = Phase::Streaming(Streaming {
                    since: now,
                    until: now.plus(STREAM_CAP),
                    sent: 0,
                    remainder: None,
                    stubborn: 0,
                });
                actions.push(Action::Export { key: self.key, to: self.target });
                Turn::Stay
            }
            (Body::Holds(held), Phase::Acknowledging { whole, .. }) if held == whole => {
                self.phase = Phase::Released;
                self.report(News::Released, now, actions);
                Turn::Stay
            }
            // After `Released` a refusal is no longer the owner's to act on: the row decides.
            (Body::Refused(refusal), _) => self.give_up(GiveUp::Refused(refusal), now, actions),
            (Body::Prepared | Body::Holds(_), _) | (Body::Prepare { .. } | Body::Whole(_), _) => {
                Turn::Stay
            }
        }
    }

    pub fn step(&mut self, step: Step, now: Timestamp, actions: &mut Vec<Action>) -> Turn {
        match (step, self.phase) {
            (Step::Round { sent, remainder }, Phase::Streaming(mut streaming)) => {
                streaming.sent += sent;
                self.after_round(streaming, remainder, now, actions)
            }
            (Step::Measured { total }, Phase::Streaming(_)) => {
                if total <= SMALL_STATE || self.is_last_attempt(now) {
                    self.drain(now, actions)
                } else {
                    self.give_up(GiveUp::TooLarge(total), now, actions)
                }
            }
            (Step::Idle, Phase::Draining { .. }) => {
                self.phase = Phase::Freezing { until: self.rest_until(now) };
                actions.push(Action::Freeze { key: self.key, to: self.target });
                Turn::Stay
            }
            (Step::RestSent(whole), Phase::Freezing { until }) => {
                self.phase = Phase::Acknowledging { until, whole };
                self.repeat_at = now;
                self.tick(now, actions)
            }
            (Step::Broken, _) => self.give_up(GiveUp::Broken, now, actions),
            (Step::Round { .. } | Step::Measured { .. } | Step::Idle | Step::RestSent(_), _)
            | (Step::Prepared | Step::CannotPrepare | Step::Stored(_), _) => Turn::Stay,
        }
    }

    pub fn leave_by(&mut self, by: Timestamp) {
        self.leave_by = Some(by);
    }

    pub fn tick(&mut self, now: Timestamp, actions: &mut Vec<Action>) -> Turn {
        let expired = self.until().is_some_and(|until| now.maybe_past(until));
        let turn = match self.phase {
            Phase::Preparing { .. } if expired => self.give_up(GiveUp::SlowPrepare, now, actions),
            Phase::Streaming(_) | Phase::Freezing { .. } | Phase::Acknowledging { .. }
                if expired =>
            {
                self.give_up(GiveUp::SlowTransfer, now, actions)
            }
            Phase::Draining { cancelled, .. } if expired => self.drain_cap(cancelled, now, actions),
            Phase::Preparing { .. }
            | Phase::Streaming(_)
            | Phase::Draining { .. }
            | Phase::Freezing { .. }
            | Phase::Acknowledging { .. }
            | Phase::Released
            | Phase::GaveUp(_)
            | Phase::Over => Turn::Stay,
        };
        if self.phase != Phase::Over && now.maybe_past(self.repeat_at) {
            self.repeat(now, actions);
        }
        turn
    }

    fn after_round(
        &mut self,
        mut streaming: Streaming,
        remainder: u64,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) -> Turn {
        if remainder <= streaming.may_stay(now) || self.is_last_attempt(now) {
            return self.drain(now, actions);
        }
        let shrank = streaming.remainder.is_none_or(|least| remainder < least);
        streaming.stubborn = if shrank { 0 } else { streaming.stubborn + 1 };
        if streaming.stubborn >= STUBBORN_ROUNDS {
            return self.give_up(GiveUp::NotConverging, now, actions);
        }
        if shrank {
            streaming.remainder = Some(remainder);
        }
        streaming.until = now.plus(STREAM_CAP);
        self.phase = Phase::Streaming(streaming);
        actions.push(Action::Export { key: self.key, to: self.target });
        Turn::Stay
    }

    fn drain(&mut self, now: Timestamp, actions: &mut Vec<Action>) -> Turn {
        self.phase = Phase::Draining { until: now.plus(DRAIN_CAP), cancelled: false };
        actions.push(Action::Drain(self.key));
        Turn::Stay
    }

    /// At the cap the move ends, not the calls; only an owner without time for another
    /// attempt cancels them.
    fn drain_cap(&mut self, cancelled: bool, now: Timestamp, actions: &mut Vec<Action>) -> Turn {
        if cancelled || !self.is_last_attempt(now) {
            return self.give_up(GiveUp::SlowCalls, now, actions);
        }
        self.phase = Phase::Draining { until: now.plus(REST_CAP), cancelled: true };
        actions.push(Action::CancelCalls(self.key));
        Turn::Stay
    }

    /// Allowed only while `Released` was never said: the leader cannot have committed.
    fn give_up(&mut self, why: GiveUp, now: Timestamp, actions: &mut Vec<Action>) -> Turn {
        let turn = match self.phase {
            Phase::Preparing { .. } | Phase::Streaming(_) => Turn::Stay,
            Phase::Draining { .. } => Turn::Resume(self.key),
            Phase::Freezing { .. } | Phase::Acknowledging { .. } => Turn::Reopen,
            Phase::Released | Phase::GaveUp(_) | Phase::Over => return Turn::Stay,
        };
        self.phase = Phase::GaveUp(why);
        actions.push(Action::StopTransfer(self.key));
        self.report(News::GaveUp(why), now, actions);
        turn
    }

    /// Says again what may have been lost. That a move is under way is told rarely: it only
    /// keeps the leader's patience.
    fn repeat(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let body = match self.phase {
            Phase::Preparing { .. } => Body::Prepare { target: self.target.incarnation },
            Phase::Acknowledging { whole, .. } => Body::Whole(whole),
            Phase::Streaming(_) | Phase::Draining { .. } | Phase::Freezing { .. } => {
                return self.working(now, actions);
            }
            Phase::Released => return self.report(News::Released, now, actions),
            Phase::GaveUp(why) => return self.report(News::GaveUp(why), now, actions),
            Phase::Over => return,
        };
        actions.push(Action::Send { to: self.target, message: Message { key: self.key, body } });
        self.working(now, actions);
    }

    fn working(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if now.maybe_past(self.working_at) {
            self.working_at = now.plus(WORKING);
            self.report(News::Working, now, actions);
        }
        self.repeat_at = now.plus(REPEAT);
    }

    fn report(&mut self, news: News, now: Timestamp, actions: &mut Vec<Action>) {
        self.repeat_at = now.plus(REPEAT);
        actions.push(Action::Report(Report {
            key: self.key,
            source: self.me,
            target: self.target,
            news,
        }));
    }

    fn until(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Preparing { until }
            | Phase::Streaming(Streaming { until, .. })
            | Phase::Freezing { until }
            | Phase::Acknowledging { until, .. } => Some(until),
            // The last attempt cancels before the cap, while the rest still fits.
            Phase::Draining { until, cancelled } => {
                let by = self.leave_by.filter(|_| !cancelled);
                earlier(Some(until), by.map(|by| minus(by, REST_CAP)))
            }
            Phase::Released | Phase::GaveUp(_) | Phase::Over => None,
        }
    }

    /// Without time for another attempt the state matters more than the calls parked for it.
    fn rest_until(&self, now: Timestamp) -> Timestamp {
        let until = now.plus(REST_CAP);
        match self.leave_by {
            Some(by) if self.is_last_attempt(now) => until.max_each(by),
            Some(_) | None => until,
        }
    }

    fn is_last_attempt(&self, now: Timestamp) -> bool {
        self.leave_by.is_some_and(|by| now.plus(LAST_ATTEMPT).maybe_past(by))
    }

    fn is_moving_in(&self, row: &ShardRow) -> bool {
        match row.holding {
            Holding::Moving { id, .. } => id == self.key.id,
            Holding::Owned { .. } | Holding::Unassigned => false,
        }
    }
}

impl Streaming {
    /// The remainder that may be sent with calls parked, at the rate seen so far; judged by
    /// the clock that makes the rate look slower.
    fn may_stay(&self, now: Timestamp) -> u64 {
        let elapsed = now.at_most_since(self.since).as_millis().max(1);
        let carried = u128::from(self.sent) * REST_TIME.as_millis() / elapsed;
        u64::try_from(carried).unwrap_or(u64::MAX).max(ONE_CHUNK)
    }
}

fn minus(instant: Timestamp, span: Duration) -> Timestamp {
    Timestamp::new(instant.boottime.saturating_sub(span), instant.raw.saturating_sub(span))
}
