//! How the data port leaves without losing a call.
//!
//! Every connection is told to end (GOAWAY, then what it still sends is answered), each
//! later one a second after it opened. The port is gone once nothing came for a while.

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
/// Between two looks at what came.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
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
        let begun = Instant::now();
        self.phase.send_if_modified(|phase| {
            let first = *phase == Phase::Serving;
            if first {
                *phase = Phase::Leaving(begun);
            }
            first
        });
        let end = begun + budget.min(LONGEST);
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

    pub(super) fn activity(&self) -> &Activity {
        &self.activity
    }

    pub(super) async fn begun(&self) {
        self.reached(|phase| *phase != Phase::Serving).await;
    }

    pub(super) async fn left(&self) {
        self.reached(|phase| *phase == Phase::Left).await;
    }

    /// When a connection that opened at `opened` shall end.
    pub(super) async fn end_of_connection(&self, opened: Instant) {
        self.begun().await;
        let phase = *self.phase.borrow();
        match phase {
            Phase::Leaving(begun) if opened >= begun => sleep_until(opened + LATE_CONNECTION).await,
            Phase::Serving | Phase::Leaving(_) | Phase::Left => {}
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
