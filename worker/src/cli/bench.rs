//! Load on counters, and what it tells: latencies, failures, lost and doubled increments.
//!
//! In the open loop a latency counts from the instant at which the call was due, so that a
//! stall shows in all calls that it held up. Knows nothing of what happens to the cluster;
//! the caller names phases.

mod args;
mod client;
mod counters;
mod record;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt as _;
use shoal_proto::shoal::v1::{CallRequest, CallResponse};
use tokio::{
    sync::{Semaphore, watch},
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Status;

pub use self::{
    args::{Args, execute},
    client::Entries,
    counters::Judgement,
    record::{PhaseReport, Progress, Report},
};
use self::{client::Link, record::Recorder};
use super::ask::Dialer;
use crate::{env::random, tls::Tls};

/// Calls under way at most, in the open loop; what is due beyond waits, and its wait counts.
const MAX_IN_FLIGHT: usize = 10_000;
/// Distance of the keys of successive calls: coprime to any usual number of keys.
const STRIDE: u64 = 7_919;
const FINAL_READS_AT_ONCE: usize = 32;
/// How long the last read of one counter may take, over all its attempts.
const FINAL_READ_PATIENCE: Duration = Duration::from_secs(15);
const FINAL_READ_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// So many callers, each with one call under way.
    Closed { callers: usize },
    /// So many calls a second, whatever the answers.
    Open { rate: f64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Calls(u64),
    Time(Duration),
}

#[derive(Clone)]
pub struct Config {
    pub entries: Entries,
    /// With which the entry nodes are reached.
    pub tls: Tls,
    pub load: Load,
    pub bound: Bound,
    pub connections: usize,
    pub keys: usize,
    pub deadline: Duration,
    /// What happens now; counted by the phase in which a call ends.
    pub phase: Arc<AtomicUsize>,
    /// Calls that are due and have not ended.
    pub in_flight: Arc<AtomicU64>,
    pub stop: CancellationToken,
}

struct Driver {
    links: Vec<Link>,
    keys: Vec<Bytes>,
    deadline: Duration,
    phase: Arc<AtomicUsize>,
    recorder: Recorder,
}

/// Runs until the bound or the stop, then reads every counter once more.
pub async fn run(config: Config, progress: watch::Sender<Progress>) -> Report {
    let dialer = Dialer::new(config.tls.clone());
    // Counters of one run begin at nothing.
    let run = random::u64();
    let driver = Arc::new(Driver {
        links: (0..config.connections.max(1))
            .map(|turn| Link::new(config.entries.clone(), dialer.clone(), turn))
            .collect(),
        keys: (0..config.keys.max(1))
            .map(|at| Bytes::from(format!("bench-{run:016x}-{at}")))
            .collect(),
        deadline: config.deadline,
        phase: config.phase.clone(),
        recorder: Recorder::new(config.keys.max(1), config.in_flight.clone()),
    });
    let ticking = CancellationToken::new();
    let _ends_with_the_run = ticking.clone().drop_guard();
    let ticker = tokio::spawn(tick(driver.clone(), progress, ticking.clone()));
    let begun = Instant::now();
    let calls = match config.bound {
        Bound::Calls(calls) => calls,
        Bound::Time(_) => u64::MAX,
    };
    let until = match config.bound {
        Bound::Calls(_) => None,
        Bound::Time(time) => Some(begun + time),
    };
    match config.load {
        Load::Closed { callers } => closed(&driver, callers, calls, until, &config.stop).await,
        Load::Open { rate } => open(&driver, rate, calls, until, &config.stop).await,
    }
    let lasted = begun.elapsed();
    ticking.cancel();
    let _ = ticker.await;
    let (judgement, unread) = judge(&driver).await;
    driver.recorder.report(lasted, judgement, unread)
}

async fn closed(
    driver: &Arc<Driver>,
    callers: usize,
    calls: u64,
    until: Option<Instant>,
    stop: &CancellationToken,
) {
    let tickets = Arc::new(AtomicU64::new(0));
    let tracker = TaskTracker::new();
    for _ in 0..callers.max(1) {
        let (driver, tickets, stop) = (driver.clone(), tickets.clone(), stop.clone());
        tracker.spawn(async move {
            loop {
                let ticket = tickets.fetch_add(1, Ordering::Relaxed);
                let due = Instant::now();
                let over = until.is_some_and(|until| due >= until);
                if ticket >= calls || over || stop.is_cancelled() {
                    return;
                }
                driver.recorder.began();
                driver.increment(ticket, due).await;
            }
        });
    }
    tracker.close();
    tracker.wait().await;
}

async fn open(
    driver: &Arc<Driver>,
    rate: f64,
    calls: u64,
    until: Option<Instant>,
    stop: &CancellationToken,
) {
    let room = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    let tracker = TaskTracker::new();
    let begun = Instant::now();
    for ticket in 0..calls {
        let due = begun + Duration::from_secs_f64(ticket as f64 / rate);
        if until.is_some_and(|until| due >= until) {
            break;
        }
        if due > Instant::now() {
            tokio::select! {
                () = time::sleep_until(due) => {}
                () = stop.cancelled() => break,
            }
        } else if stop.is_cancelled() {
            break;
        }
        let Ok(permit) = room.clone().acquire_owned().await else { break };
        let driver = driver.clone();
        driver.recorder.began();
        tracker.spawn(async move {
            driver.increment(ticket, due).await;
            drop(permit);
        });
    }
    tracker.close();
    tracker.wait().await;
}

impl Driver {
    async fn increment(&self, ticket: u64, due: Instant) {
        let key = (ticket.wrapping_mul(STRIDE) % self.keys.len() as u64) as usize;
        let link = &self.links[(ticket % self.links.len() as u64) as usize];
        let answer = link.call(&self.request(key, Bytes::new()), due + self.deadline).await;
        let phase = self.phase.load(Ordering::Relaxed);
        self.recorder.ended(key, phase, due.elapsed(), answer.and_then(value));
    }

    fn request(&self, key: usize, payload: Bytes) -> CallRequest {
        CallRequest { key: self.keys[key].clone(), method: "incr".to_owned(), payload }
    }

    /// Where a counter stands, as an increment by nothing tells with its epoch.
    async fn stands_at(&self, key: usize) -> Option<Answer> {
        let until = Instant::now() + FINAL_READ_PATIENCE;
        let link = &self.links[key % self.links.len()];
        while Instant::now() < until {
            let request = self.request(key, Bytes::from_static(b"0"));
            let answer = link.call(&request, Instant::now() + self.deadline).await;
            if let Ok(answer) = answer.and_then(value) {
                return Some(answer);
            }
            time::sleep(FINAL_READ_PAUSE).await;
        }
        None
    }
}

/// What a counter answered.
#[derive(Clone, Copy, Debug)]
struct Answer {
    value: i64,
    epoch: u64,
    forwarded: bool,
}

fn value(response: CallResponse) -> Result<Answer, Status> {
    let text = std::str::from_utf8(&response.payload).ok();
    let value = text
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Status::data_loss("the answer is no number"))?;
    Ok(Answer { value, epoch: response.epoch, forwarded: response.forwarded })
}

async fn judge(driver: &Arc<Driver>) -> (Judgement, u64) {
    let phase = driver.phase.load(Ordering::Relaxed);
    let mut reads = futures::stream::iter(0..driver.keys.len())
        .map(|key| async move { (key, driver.stands_at(key).await) })
        .buffer_unordered(FINAL_READS_AT_ONCE);
    let (mut whole, mut unread) = (Judgement::default(), 0);
    while let Some((key, answer)) = reads.next().await {
        match answer {
            Some(answer) => {
                whole.add(&driver.recorder.judge(key, answer.epoch, answer.value, phase));
            }
            None => unread += 1,
        }
    }
    (whole, unread)
}

async fn tick(driver: Arc<Driver>, progress: watch::Sender<Progress>, end: CancellationToken) {
    let mut seconds = time::interval(Duration::from_secs(1));
    seconds.tick().await;
    loop {
        tokio::select! {
            _ = seconds.tick() => {}
            () = end.cancelled() => return,
        }
        progress.send_replace(driver.recorder.second());
    }
}

#[cfg(test)]
mod tests;
