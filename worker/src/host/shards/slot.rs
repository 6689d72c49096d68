//! One shard of one incarnation: its machine, its calls, and what is under way for it.
//!
//! Everything that must be decided together happens under one short lock. What takes time
//! is queued for `jobs`, one after the other.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use shoal_core::{
    admit::{
        Header, Nack,
        owner::{Facts, Queue, Recheck, Verdict, Withheld, admit, recheck},
    },
    handoff::{
        Action, Body, Local, Message, News, Process, Report, Shard, Step, Tombstone, shard::Event,
    },
    id::{Epoch, ShardId, Timestamp},
    registry::MoveRef,
};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    Ground, MAX_CALLS,
    jobs::{Held, Job},
    receiver::Replies,
    sender::Link,
};
use crate::{
    call::Call,
    env::clock,
    host::api::{Ownership, Token},
    wire,
};

pub(super) struct Slot {
    pub(super) shard: ShardId,
    pub(super) me: Process,
    pub(super) ground: Arc<Ground>,
    /// Answers `Ownership::check` of its calls.
    judge: Arc<dyn Fn(Token) -> bool + Send + Sync>,
    state: Mutex<State>,
    /// What the host holds; locked by whoever runs the jobs.
    pub(super) held: tokio::sync::Mutex<Held>,
    /// The machine took a step, or the last call ended.
    pub(super) changed: Notify,
}

pub(super) struct State {
    machine: Shard,
    wake_at: Option<Timestamp>,
    /// Admitted and not yet acknowledged.
    calls: u32,
    /// Waiting for the table or the host.
    waiting: u32,
    /// The move that waits for the last call to end.
    draining: Option<MoveRef>,
    /// Cancels the running calls.
    cancel: CancellationToken,
    /// Bounded by the machine, which asks for one step at a time, and by the stream of a
    /// move, which waits for each piece.
    jobs: VecDeque<Job>,
    working: bool,
    /// This incarnation ends: no event counts any more.
    shut: bool,
    link: Option<Link>,
    /// Where answers to the sources of moves go.
    replies: Vec<(MoveRef, Replies)>,
    /// Since when calls are refused because of a move.
    paused: Option<Timestamp>,
    /// A report of this kind is on its way.
    reporting: Vec<News>,
    aborted: Option<MoveRef>,
}

/// What admission made of a call.
pub(super) enum Admitted {
    Run(Running),
    /// Ask again when the slot or the table changed, at the latest after this.
    Wait(Duration),
    Nack(Nack),
}

/// An admitted call. The shard is not handed over before it is dropped.
pub(super) struct Running {
    slot: Arc<Slot>,
    pub(super) epoch: Epoch,
    pub(super) cancel: CancellationToken,
}

impl Slot {
    pub(super) fn new(ground: Arc<Ground>, shard: ShardId, me: Process) -> Arc<Self> {
        Arc::new_cyclic(|slot: &Weak<Self>| {
            let slot = Weak::clone(slot);
            let judge = move |token: Token| slot.upgrade().is_some_and(|slot| slot.owns(token));
            Self {
                shard,
                me,
                judge: Arc::new(judge),
                state: Mutex::new(State {
                    machine: Shard::new(shard, me),
                    wake_at: None,
                    calls: 0,
                    waiting: 0,
                    draining: None,
                    cancel: ground.parts.right.ended().child_token(),
                    jobs: VecDeque::new(),
                    working: false,
                    shut: false,
                    link: None,
                    replies: Vec::new(),
                    paused: None,
                    reporting: Vec::new(),
                    aborted: None,
                }),
                ground,
                held: tokio::sync::Mutex::default(),
                changed: Notify::new(),
            }
        })
    }

    pub(super) fn on(self: &Arc<Self>, event: Event) {
        let mut state = self.state.lock();
        self.step(&mut state, event);
    }

    pub(super) fn tick(self: &Arc<Self>, now: Timestamp) {
        let mut state = self.state.lock();
        if state.wake_at.is_some_and(|at| now.maybe_past(at)) {
            self.step(&mut state, Event::Tick);
        }
    }

    fn step(self: &Arc<Self>, state: &mut State, event: Event) {
        if state.shut {
            return;
        }
        let now = clock::now();
        let output = state.machine.on(event, now);
        state.wake_at = output.wake_at;
        for action in output.actions {
            self.perform(state, action);
        }
        self.measure(state, now);
        self.ground.time(self.shard, state.wake_at.is_some());
        self.changed.notify_waiters();
    }

    /// What takes no time is done here; the host's work and the state's bytes are queued.
    fn perform(self: &Arc<Self>, state: &mut State, action: Action) {
        match action {
            Action::Send { to, message } => self.send(state, to, message),
            Action::Report(report) => self.report(state, report),
            Action::Drain(key) if state.calls == 0 => {
                self.step(state, Event::Host { key, step: Step::Idle });
            }
            Action::Drain(key) => state.draining = Some(key),
            Action::CancelCalls(_) => state.cancel.cancel(),
            Action::StopTransfer(key) => {
                state.link.take_if(|link| link.key == key);
            }
            Action::Resume(_) => state.draining = None,
            Action::Close => {
                state.draining = None;
                state.cancel.cancel();
                self.enqueue(state, Job::Act(action));
            }
            Action::Prepare(_)
            | Action::Export { .. }
            | Action::Freeze { .. }
            | Action::Open { .. }
            | Action::Discard(_) => self.enqueue(state, Job::Act(action)),
        }
    }

    fn send(self: &Arc<Self>, state: &mut State, to: Process, message: Message) {
        match message.body {
            Body::Prepare { .. } => {
                if state.link.as_ref().is_none_or(|link| link.key != message.key) {
                    state.link = Some(Link::open(self, message.key, to));
                } else if let Some(link) = &state.link {
                    link.prepare(self, to);
                }
            }
            Body::Whole(whole) => {
                if let Some(link) = state.link.as_ref().filter(|link| link.key == message.key) {
                    link.seal(whole);
                }
            }
            Body::Prepared | Body::Holds(_) | Body::Refused(_) => {
                let reply = wire::handover::reply(message.body);
                let to = state.replies.iter().find(|(key, _)| *key == message.key);
                if let (Some((_, replies)), Some(reply)) = (to, reply) {
                    // Full: its source asks again.
                    let _ = replies.try_send(Ok(reply));
                }
            }
        }
    }

    /// One report of a kind is under way at a time; the machine repeats them.
    fn report(self: &Arc<Self>, state: &mut State, report: Report) {
        if matches!(report.news, News::GaveUp(_)) && state.aborted != Some(report.key) {
            state.aborted = Some(report.key);
            self.ground.parts.metrics.aborted.inc();
            tracing::info!(shard = %self.shard, id = %report.key.id, news = ?report.news, "gave a move up");
        }
        if state.reporting.contains(&report.news) {
            return;
        }
        state.reporting.push(report.news);
        let (slot, said) = (Arc::clone(self), (self.ground.parts.report)(report));
        self.ground.parts.executor.spawn(async move {
            said.await;
            slot.state.lock().reporting.retain(|news| *news != report.news);
        });
    }

    /// From the moment that calls are refused until the row decides.
    fn measure(&self, state: &mut State, now: Timestamp) {
        let local = state.machine.local();
        let pausing = matches!(local, Local::Draining { .. } | Local::Frozen { .. });
        match state.paused {
            None if pausing => state.paused = Some(now),
            Some(since) if !pausing => {
                state.paused = None;
                let metrics = &self.ground.parts.metrics;
                metrics.pause.observe(now.at_least_since(since).as_secs_f64());
                // A fence in the middle leaves the shard to nobody.
                let gone = |tombstone: Tombstone| tombstone.to.is_some();
                if matches!(local, Local::Closed { tombstone } if tombstone.is_some_and(gone)) {
                    metrics.moved_out.inc();
                }
            }
            None | Some(_) => {}
        }
    }

    fn enqueue(self: &Arc<Self>, state: &mut State, job: Job) {
        state.jobs.push_back(job);
        if !std::mem::replace(&mut state.working, true) {
            let slot = Arc::clone(self);
            self.ground.parts.executor.spawn(async move { slot.work().await });
        }
    }

    pub(super) fn ask(self: &Arc<Self>, job: Job) {
        self.enqueue(&mut self.state.lock(), job);
    }

    pub(super) fn next_job(&self) -> Option<Job> {
        let mut state = self.state.lock();
        let job = state.jobs.pop_front();
        state.working = job.is_some();
        job
    }

    /// Somebody waits for the job under way to end.
    pub(super) fn is_pressed(&self) -> bool {
        !self.state.lock().jobs.is_empty()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Admits nothing more; told when no call runs and the host holds nothing.
    pub(super) fn shut(self: &Arc<Self>) -> oneshot::Receiver<()> {
        let (done, closed) = oneshot::channel();
        let mut state = self.state.lock();
        state.shut = true;
        state.link = None;
        state.wake_at = None;
        self.ground.time(self.shard, false);
        self.enqueue(&mut state, Job::Shut(done));
        self.changed.notify_waiters();
        closed
    }

    pub(super) fn cancel_calls(&self) {
        self.state.lock().cancel.cancel();
    }

    /// Ends when no admitted call runs.
    pub(super) async fn idle(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.state.lock().calls == 0 {
                return;
            }
            changed.await;
        }
    }

    /// How it stands, the moves it receives, the calls that run.
    pub(super) fn census(&self) -> (Local, u32, u32) {
        let state = self.state.lock();
        (state.machine.local(), state.machine.receiving().count() as u32, state.calls)
    }

    pub(super) fn wait(&self, waits: bool) {
        let mut state = self.state.lock();
        state.waiting = if waits { state.waiting + 1 } else { state.waiting - 1 };
    }

    /// `queued`: the call is already counted as waiting.
    pub(super) fn admit(self: &Arc<Self>, call: &Call, queued: bool) -> Admitted {
        let routes = self.ground.parts.table.routes();
        let mut state = self.state.lock();
        let admission = admit(&Facts {
            me: self.me,
            row: routes.row(self.shard),
            applied: routes.applied(),
            map_version: routes.version(),
            local: state.machine.local(),
            right: self.ground.parts.right.until(),
            now: clock::now(),
            header: Header {
                epoch: call.epoch,
                map_version: call.map_version,
                budget: call.budget,
            },
            waited: call.received.elapsed(),
            queue: Queue {
                calls: state.calls + state.waiting - u32::from(queued),
                max_calls: MAX_CALLS,
            },
        });
        if admission.stop_serving {
            self.step(&mut state, Event::NewerEpoch(call.epoch));
        }
        match admission.verdict {
            // Closing, whatever the row still says; a row that names another says so below.
            Verdict::Admit { .. } | Verdict::Wait(_) if state.shut => {
                Admitted::Nack(Nack::StaleReceiver)
            }
            Verdict::Admit { epoch, hint: _ } => {
                state.calls += 1;
                if state.cancel.is_cancelled() {
                    state.cancel = self.ground.parts.right.ended().child_token();
                }
                let cancel = state.cancel.clone();
                Admitted::Run(Running { slot: Arc::clone(self), epoch, cancel })
            }
            Verdict::Wait(left) => Admitted::Wait(left),
            Verdict::Nack(nack) => Admitted::Nack(nack),
        }
    }

    fn recheck(&self, state: &State, admitted: Epoch) -> Result<(), Withheld> {
        recheck(&Recheck {
            me: self.me,
            admitted,
            row: self.ground.parts.table.routes().row(self.shard),
            local: state.machine.local(),
            right: self.ground.parts.right.until(),
            now: clock::now(),
        })
    }

    fn owns(&self, token: Token) -> bool {
        token.shard == self.shard && self.recheck(&self.state.lock(), token.epoch).is_ok()
    }

    #[cfg(feature = "mutants")]
    pub(super) fn is_frozen(&self) -> bool {
        matches!(self.state.lock().machine.local(), Local::Frozen { .. })
    }
}

impl Running {
    pub(super) fn ownership(&self) -> Ownership {
        let token = Token { shard: self.slot.shard, epoch: self.epoch };
        Ownership::new(token, Arc::clone(&self.slot.judge))
    }

    /// The acknowledgement: the answer may be given if this says so, and nothing may stand
    /// between the two. Dropped only afterwards, so that no move takes the state away first.
    pub(super) fn acknowledge(self) -> Result<(), Withheld> {
        let judged = self.slot.recheck(&self.slot.state.lock(), self.epoch);
        #[cfg(feature = "sim")]
        if judged.is_ok() {
            crate::env::sim::acknowledged(self.slot.shard.0, self.epoch.0);
        }
        judged
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.slot.state.lock();
        state.calls -= 1;
        if state.calls == 0 {
            if let Some(key) = state.draining.take() {
                self.slot.step(&mut state, Event::Host { key, step: Step::Idle });
            }
            self.slot.changed.notify_waiters();
        }
    }
}

impl State {
    pub(super) fn link(&self, key: MoveRef) -> Option<&Link> {
        self.link.as_ref().filter(|link| link.key == key)
    }

    pub(super) fn link_mut(&mut self, key: MoveRef) -> Option<&mut Link> {
        self.link.as_mut().filter(|link| link.key == key)
    }

    pub(super) fn drop_link(&mut self, key: MoveRef) {
        self.link.take_if(|link| link.key == key);
    }

    pub(super) fn reply_to(&mut self, key: MoveRef, replies: Replies) {
        self.replies.retain(|(known, old)| *known != key && !old.is_closed());
        self.replies.push((key, replies));
    }
}
