//! The worker's side of its session: registers, renews, serves, and gives up in time.
//!
//! One machine per process; it lives through several incarnations. It never serves a
//! shard nor closes one itself: it says until when that may be done and when it must be.
//! Which shards are owned is the table's matter, when they may be acknowledged this one's.

use std::time::Duration;

use crate::{
    id::{Incarnation, LogIndex, Timestamp},
    registry::{Drain, Life},
};

use super::{
    Output,
    freshness::{Freshness, History},
    lease::Lease,
};

mod requests;
mod state;
mod words;

use requests::{Failed, Requests};
use state::{State, Then};

pub use requests::RequestId;
pub use words::{Action, Answer, Call, Event, OwnRow, Refusal, Via, Why};

/// A failed request is sent again, to another member, after this: well within 100 ms.
const RETRY: Duration = Duration::from_millis(50);
/// A Register that must wait for the old session asks again after L / 16: a cluster of
/// 1,000 nodes coming back asks the leader some 5,000 times a second at L = 3 s.
const WAIT_SHARE: u32 = 16;
/// A probe of the disk pending for more than 3 L: the node could not even keep a log.
const DEAD_DISK_LEASES: u32 = 3;
/// A disk that was slow counts as well again after this long without: shards that came back at
/// once would go again with the next stall.
const WELL_LEASES: u32 = 10;

#[derive(Clone, Debug)]
pub struct Holder {
    lease: Lease,
    incarnation: Incarnation,
    state: State,
    right: Option<Timestamp>,
    /// `StopServing` was not yet said of the right.
    serving: bool,
    requests: Requests,
    next_send: Timestamp,
    via: Via,
    jitter: f64,
    oldest_tick: Timestamp,
    probe_pending_since: Option<Timestamp>,
    /// What the table says of its drain.
    drain: Drain,
    /// When the disk was slow last.
    slow: Option<Timestamp>,
    /// When it last asked to be drained, or took that back.
    asked: Option<Timestamp>,
    /// It hands over to end, whatever its disk does.
    leaves: bool,
    granted: History,
    table: LogIndex,
    changed_source: Option<Timestamp>,
    told_to_stop: bool,
}

impl Holder {
    /// `lease` is a guess that rules the pace until the first answer tells the one in force.
    pub fn new(lease: Lease, now: Timestamp) -> (Self, Output<Action>) {
        let holder = Self {
            lease,
            incarnation: Incarnation::default(),
            state: State::Unregistered,
            right: None,
            serving: false,
            requests: Requests::default(),
            next_send: now,
            via: Via::Usual,
            jitter: 0.0,
            oldest_tick: now,
            probe_pending_since: None,
            drain: Drain::None,
            slow: None,
            asked: None,
            leaves: false,
            granted: History::default(),
            table: LogIndex::default(),
            changed_source: None,
            told_to_stop: false,
        };
        (holder, Output::sleeping(vec![Action::NewIncarnation], None, now))
    }

    /// The last check before an acknowledgement: no await may follow it.
    pub fn may_serve(&self, now: Timestamp) -> bool {
        self.right.is_some_and(|right| !now.maybe_past(right))
    }

    pub fn right(&self) -> Option<Timestamp> {
        self.right
    }

    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    pub fn on(&mut self, event: Event, now: Timestamp) -> Output<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Incarnation(incarnation) => self.start(incarnation, now),
            Event::Wake { jitter } => self.jitter = jitter,
            Event::Health { oldest_tick, probe_pending_since } => {
                self.oldest_tick = oldest_tick;
                self.probe_pending_since = probe_pending_since;
            }
            Event::Answered { request, answer } => {
                self.answered(request, answer, &mut actions, now)
            }
            Event::Table { index, row } => self.read_table(index, row, &mut actions, now),
            Event::AllClosed(incarnation) => self.all_closed(incarnation, &mut actions, now),
            Event::Leaving => self.leaves = true,
            Event::ToldToStop => self.stop(&mut actions),
            Event::GiveUp => self.give_up(&mut actions, now),
        }
        self.advance(&mut actions, now);
        Output::sleeping(actions, self.sleep(now), now)
    }

    fn start(&mut self, incarnation: Incarnation, now: Timestamp) {
        if self.state == State::Unregistered {
            self.incarnation = incarnation;
            self.state = State::Registering { known: false };
            self.requests.clear();
            self.next_send = now;
        }
    }

    fn answered(
        &mut self,
        request: RequestId,
        answer: Answer,
        actions: &mut Vec<Action>,
        now: Timestamp,
    ) {
        // the t_s of the very request answered; an answer to no known request grants nothing
        let Some(request) = self.requests.take(request) else { return };
        match answer {
            Answer::Granted { index, lease } => {
                self.grant(request.sent, index, lease, actions, now)
            }
            Answer::NotLeader { hint } => self.retry(hint.map_or(Via::Another, Via::Member), now),
            Answer::Failed => self.retry(Via::Another, now),
            Answer::Refused(refusal) => self.refused(request.call, refusal, actions, now),
        }
    }

    fn grant(
        &mut self,
        sent: Timestamp,
        index: LogIndex,
        lease: Lease,
        actions: &mut Vec<Action>,
        now: Timestamp,
    ) {
        self.via = Via::Usual;
        match self.state {
            State::Registering { .. } => self.state = State::Registered,
            State::Reporting { then, .. } => return self.finish(then, actions),
            State::Registered | State::Closing { then: Then::Exit(_), .. } => {}
            State::Unregistered
            | State::Closing { then: Then::RegisterAnew, .. }
            | State::Closed { .. }
            | State::Ended => return,
        }
        if lease < self.lease {
            self.next_send = earlier(self.next_send, now.plus(lease.renew_after(self.jitter)), now);
        }
        self.lease = lease;
        self.granted.record(index, lease, now);
        let right = lease.right(sent);
        // later on both clocks, or it is no gain that is certain
        if self.right.is_none_or(|held| right != held && right.surely_past(held)) {
            self.right = Some(right);
            if !now.maybe_past(right) {
                self.serving = true;
                actions.push(Action::ServeUntil { right });
            }
        }
    }

    fn retry(&mut self, via: Via, now: Timestamp) {
        self.via = via;
        self.next_send = earlier(self.next_send, now.plus(RETRY), now);
    }

    fn refused(&mut self, call: Call, refusal: Refusal, actions: &mut Vec<Action>, now: Timestamp) {
        if let State::Reporting { then, .. } = self.state {
            return self.finish(then, actions);
        }
        match refusal {
            Refusal::Retry => self.next_send = now.plus(self.lease.length() / WAIT_SHARE),
            Refusal::AlreadyRegistered => {
                if let State::Registering { .. } = self.state {
                    self.state = State::Registering { known: true };
                    self.next_send = now;
                }
            }
            // of two Registers in flight the second is stale because the first was applied
            Refusal::Stale if call == Call::Register => {}
            Refusal::Stale => self.lose(actions, now),
            Refusal::Closed => self.rest(false, actions, now),
            Refusal::TableBehind => self.change_source(actions, now),
            Refusal::Marked => self.close(Then::Exit(Why::Marked), actions, now),
            Refusal::Left => self.exit(Why::Left, actions),
            Refusal::Identity => self.exit(Why::Identity, actions),
        }
    }

    fn read_table(
        &mut self,
        index: LogIndex,
        row: Option<OwnRow>,
        actions: &mut Vec<Action>,
        now: Timestamp,
    ) {
        self.table = self.table.max(index);
        let Some(row) = row else { return };
        if row.life == Life::Left {
            return self.exit(Why::Left, actions);
        }
        let parked = row.life == Life::Closed && row.drain == Drain::Removal;
        // a Register under way when it parked was applied, ran out, and the removal was called off
        if self.state.is_parked() && row.drain == Drain::None {
            return self.finish(Then::RegisterAnew, actions);
        }
        self.drain = row.drain;
        if row.incarnation != self.incarnation {
            // an older row is only a table that lags, a newer one took the session over
            if row.incarnation.counter >= self.incarnation.counter {
                self.lose(actions, now);
            } else if parked && self.state == (State::Registering { known: false }) {
                self.rest(true, actions, now);
            }
            return;
        }
        match row.life {
            Life::Closed => self.rest(parked, actions, now),
            Life::Fenced => self.lose(actions, now),
            Life::Up if row.marked => self.close(Then::Exit(Why::Marked), actions, now),
            Life::Up | Life::Joining | Life::Left => {}
        }
    }

    /// The session is over: no right is left, and the shards must go before it begins anew.
    fn lose(&mut self, actions: &mut Vec<Action>, now: Timestamp) {
        match self.state {
            State::Registered | State::Registering { known: true } => {
                self.end_right(actions);
                self.close(Then::RegisterAnew, actions, now);
            }
            State::Closing { .. } => self.end_right(actions),
            State::Reporting { then, .. } => self.finish(then, actions),
            State::Unregistered
            | State::Registering { known: false }
            | State::Closed { .. }
            | State::Ended => {}
        }
    }

    /// Stops admitting; what runs may finish and be acknowledged while the right lasts.
    fn close(&mut self, then: Then, actions: &mut Vec<Action>, now: Timestamp) {
        match self.state {
            State::Registered | State::Registering { known: true } => {
                self.state = State::Closing { then, since: now };
                actions.push(Action::CloseAll(self.incarnation));
            }
            State::Registering { known: false } => match then {
                Then::Exit(why) => self.exit(why, actions),
                Then::RegisterAnew => {}
            },
            State::Closing { since, .. } => self.state = State::Closing { then, since },
            State::Unregistered | State::Reporting { .. } | State::Closed { .. } | State::Ended => {
            }
        }
    }

    fn all_closed(&mut self, closed: Incarnation, actions: &mut Vec<Action>, now: Timestamp) {
        let State::Closing { then, .. } = self.state else { return };
        if closed != self.incarnation {
            return;
        }
        match then {
            Then::RegisterAnew => self.finish(then, actions),
            Then::Exit(_) => {
                self.end_right(actions);
                self.requests.clear();
                self.state = State::Reporting { then, since: now };
                self.next_send = now;
            }
        }
    }

    fn finish(&mut self, then: Then, actions: &mut Vec<Action>) {
        match then {
            Then::Exit(why) => self.exit(why, actions),
            Then::RegisterAnew if self.told_to_stop => self.exit(Why::Stopped, actions),
            Then::RegisterAnew => {
                self.requests.clear();
                self.state = State::Unregistered;
                actions.push(Action::NewIncarnation);
            }
        }
    }

    fn rest(&mut self, for_ever: bool, actions: &mut Vec<Action>, now: Timestamp) {
        match self.state {
            State::Ended => return,
            State::Closed { since, .. } => self.state = State::Closed { since, for_ever },
            State::Unregistered
            | State::Registering { .. }
            | State::Registered
            | State::Closing { .. }
            | State::Reporting { .. } => {
                self.end_right(actions);
                self.requests.clear();
                self.state = State::Closed { since: now, for_ever };
            }
        }
        if self.told_to_stop {
            self.exit(Why::Stopped, actions);
        }
    }

    fn stop(&mut self, actions: &mut Vec<Action>) {
        self.told_to_stop = true;
        match self.state {
            State::Unregistered | State::Registering { .. } | State::Closed { .. } => {
                self.exit(Why::Stopped, actions);
            }
            State::Registered | State::Closing { .. } | State::Reporting { .. } | State::Ended => {}
        }
    }

    fn give_up(&mut self, actions: &mut Vec<Action>, now: Timestamp) {
        self.stop(actions);
        if self.state == State::Registered {
            self.close(Then::Exit(Why::Stopped), actions, now);
        }
    }

    fn exit(&mut self, why: Why, actions: &mut Vec<Action>) {
        if self.state != State::Ended {
            self.end_right(actions);
            self.requests.clear();
            self.state = State::Ended;
            actions.push(Action::Exit(why));
        }
    }

    fn end_right(&mut self, actions: &mut Vec<Action>) {
        self.right = None;
        if std::mem::take(&mut self.serving) {
            actions.push(Action::StopServing);
        }
    }

    fn change_source(&mut self, actions: &mut Vec<Action>, now: Timestamp) {
        let lease = self.lease.length();
        if self.changed_source.is_none_or(|last| now.at_least_since(last) >= lease) {
            self.changed_source = Some(now);
            actions.push(Action::ChangeSource);
        }
    }

    /// What has become due, whatever the event was.
    fn advance(&mut self, actions: &mut Vec<Action>, now: Timestamp) {
        if self.serving && !self.may_serve(now) {
            // not lost yet: a renewal may still succeed before anybody fences this node
            self.serving = false;
            actions.push(Action::StopServing);
        }
        if self.state.overdue_at(self.lease).is_some_and(|end| now.surely_past(end)) {
            self.overdue(actions);
        }
        self.watch_disk(actions, now);
        match self.requests.expire(self.lease.renew_every(), now) {
            Failed::None => {}
            Failed::Some => self.retry(Via::Another, now),
        }
        self.send(actions, now);
    }

    fn overdue(&mut self, actions: &mut Vec<Action>) {
        match self.state {
            State::Closing { .. } => self.exit(Why::StillRunning, actions),
            State::Reporting { then, .. } => self.finish(then, actions),
            State::Closed { .. } => self.finish(Then::RegisterAnew, actions),
            State::Unregistered | State::Registering { .. } | State::Registered | State::Ended => {}
        }
    }

    fn watch_disk(&mut self, actions: &mut Vec<Action>, now: Timestamp) {
        let lease = self.lease.length();
        let pending = |since| now.at_most_since(since) > lease;
        let slow = self.probe_pending_since.is_some_and(pending);
        if slow {
            self.slow = Some(now);
        }
        let well = self.slow.is_none_or(|last| now.at_least_since(last) > lease * WELL_LEASES);
        let action = match self.drain {
            Drain::None if slow => Action::Leave,
            Drain::Own(of) if well && of == self.incarnation => Action::Stay,
            Drain::None | Drain::Own(_) | Drain::Restart(_) | Drain::Removal => return,
        };
        let under_way = self.asked.is_some_and(|last| now.at_least_since(last) < lease);
        if self.state == State::Registered && !self.leaves && !under_way {
            self.asked = Some(now);
            actions.push(action);
        }
    }

    fn send(&mut self, actions: &mut Vec<Action>, now: Timestamp) {
        let Some(call) = self.state.call() else { return };
        if !now.maybe_past(self.next_send) {
            return;
        }
        if call == Call::Renew
            && self.granted.judge(self.table, self.lease, now) != Freshness::Fresh
        {
            self.change_source(actions, now);
        }
        if !self.is_healthy(now) {
            self.next_send = now.plus(RETRY);
            return;
        }
        self.next_send = now.plus(self.lease.renew_after(self.jitter));
        let request = self.requests.add(call, now);
        let via = std::mem::replace(&mut self.via, Via::Usual);
        actions.push(Action::Send { request, call, incarnation: self.incarnation, via });
    }

    /// A session proves that the node works, not that one task of it still runs.
    fn is_healthy(&self, now: Timestamp) -> bool {
        let lease = self.lease.length();
        now.at_most_since(self.oldest_tick) <= lease
            && self
                .probe_pending_since
                .is_none_or(|since| now.at_most_since(since) <= DEAD_DISK_LEASES * lease)
    }

    fn sleep(&self, now: Timestamp) -> Option<Duration> {
        let right = self.right.filter(|_| self.serving).map(|right| now.until_maybe_past(right));
        let send = self.state.call().map(|_| now.until_maybe_past(self.next_send));
        let expire = self.requests.until_expiry(self.lease.renew_every(), now);
        let overdue = self.state.overdue_at(self.lease).map(|end| now.until_surely_past(end));
        [right, send, expire, overdue].into_iter().flatten().min()
    }
}

fn earlier(one: Timestamp, other: Timestamp, now: Timestamp) -> Timestamp {
    if now.until_maybe_past(one) <= now.until_maybe_past(other) { one } else { other }
}

#[cfg(test)]
mod tests;
