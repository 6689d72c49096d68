//! How the data port leaves without losing a call.
//!
//! Outside of pods the port ends first. Then every connection is told to end (GOAWAY, then what it
//! still sends is answered), each later one a second after it opened. The port is gone once
//! nothing came for a while.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

/// A connection that opens during the leave is used for this long, so that its client does
/// not meet a closed door on every try.
const LATE_CONNECTION: Duration = Duration::from_secs(1);
/// The leave is over when neither a connection nor a call came for this long.
const QUIET: Duration = Duration::from_secs(2);
/// Longest leave, whatever the budget.
const LONGEST: Duration = Duration::from_secs(30);
/// A handshake that has begun when the port ends is over by then, also between zones.
pub(super) const HANDSHAKES: Duration = Duration::from_millis(50);
/// The port has ended by then, so that who is told to go and tries it again is refused at once.
const PORT_ENDS: Duration = HANDSHAKES.saturating_mul(2);
/// Between two looks at what came.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Outside of pods the port ends; nobody is told to go.
    Closing,
    Leaving(Instant),
    Left,
}

/// What happens on the port.
#[derive(Default)]
pub(super) struct Activity {
    open: AtomicU64,
    running: AtomicU64,
    /// Connections and calls that came so far.
    came: AtomicU64,
}

/// Counts one thing that goes on, until it is dropped.
pub(super) struct GoingOn<'a> {
    count: &'a AtomicU64,
    gauge: Option<&'a Gauge>,
}

impl Drop for GoingOn<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        if let Some(gauge) = self.gauge {
            gauge.dec();
        }
    }
}

impl Activity {
    pub(super) fn connection<'a>(&'a self, gauge: &'a Gauge) -> GoingOn<'a> {
        gauge.inc();
        self.came.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        GoingOn { count: &self.open, gauge: Some(gauge) }
    }

    pub(super) fn call(&self) -> GoingOn<'_> {
        self.came.fetch_add(1, Ordering::Relaxed);
        self.running.fetch_add(1, Ordering::Relaxed);
        GoingOn { count: &self.running, gauge: None }
    }

    fn goes_on(&self) -> bool {
        self.open.load(Ordering::Relaxed) + self.running.load(Ordering::Relaxed) > 0
    }
}

/// Begins and watches the leave of one data port.
#[derive(Clone)]
pub struct Leave {
    phase: Arc<watch::Sender<Phase>>,
    activity: Arc<Activity>,
}

impl Leave {
    pub(super) fn new() -> Self {
        Self { phase: Arc::new(watch::Sender::new(Phase::Serving)), activity: Arc::default() }
    }

    /// Leaves, after the last shard: returns once nothing came for 2 s, at most after
    /// `budget` or 30 s. The port ends by itself then.
    pub async fn leave(&self, budget: Duration) {
        let end = Instant::now() + budget.min(LONGEST);
        self.goes_from(Phase::Serving, Phase::Closing);
        sleep(PORT_ENDS.min(budget)).await;
        let begun = Instant::now();
        self.goes_from(Phase::Closing, Phase::Leaving(begun));
        let (mut came, mut quiet_since) = (self.came(), begun);
        loop {
            let now = Instant::now();
            if self.activity.goes_on() || self.came() != came {
                (came, quiet_since) = (self.came(), now);
            }
            if now >= end || now - quiet_since >= QUIET {
                break;
            }
            sleep(LOOK.min(end - now)).await;
        }
        self.phase.send_replace(Phase::Left);
    }

    fn goes_from(&self, from: Phase, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let is_there = *phase == from;
            if is_there {
                *phase = to;
            }
            is_there
        });
    }

    pub(super) fn activity(&self) -> &Activity {
        &self.activity
    }

    pub(super) async fn closing(&self) {
        self.reached(|phase| *phase != Phase::Serving).await;
    }

    pub(super) async fn left(&self) {
        self.reached(|phase| *phase == Phase::Left).await;
    }

    /// When a connection that opened at `opened` shall end.
    pub(super) async fn end_of_connection(&self, opened: Instant) {
        self.reached(|phase| matches!(phase, Phase::Leaving(_) | Phase::Left)).await;
        let phase = *self.phase.borrow();
        match phase {
            Phase::Leaving(begun) if opened >= begun => sleep_until(opened + LATE_CONNECTION).await,
            Phase::Serving | Phase::Closing | Phase::Leaving(_) | Phase::Left => {}
        }
    }

    async fn reached(&self, phase: impl FnMut(&Phase) -> bool) {
        // The sender lives as long as this.
        let _ = self.phase.subscribe().wait_for(phase).await;
    }

    fn came(&self) -> u64 {
        self.activity.came.load(Ordering::Relaxed)
    }
}
