//! Increments that go on while something happens to the cluster, and what became of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tonic::Status;

use crate::{Client, tls::Door};

/// Keys of one load.
const KEYS: usize = 100;

/// Callers that enter at the given nodes, one call at a time each.
pub struct Load {
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<Tally>>,
}

#[derive(Debug, Default)]
pub struct Tally {
    pub calls: u64,
    pub failed: Vec<Status>,
    /// Answers that were not the last acknowledged value plus one.
    pub wrong: Vec<String>,
    pub longest: Duration,
}

impl Load {
    pub fn start(entries: &[String]) -> Self {
        Self::over(entries.iter().map(|entry| Door::plain(entry)).collect())
    }

    pub fn over(entries: Vec<Door>) -> Self {
        // Counters of one caller begin at nothing.
        static CALLERS: AtomicU64 = AtomicU64::new(0);
        let stop = Arc::new(AtomicBool::new(false));
        let callers = entries.into_iter().map(|entry| {
            let stop = stop.clone();
            let caller = CALLERS.fetch_add(1, Ordering::Relaxed);
            thread::spawn(move || call(&entry, caller, &stop))
        });
        Self { callers: callers.collect(), stop }
    }

    pub fn end(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut whole = Tally::default();
        for caller in self.callers {
            let part = caller.join().expect("a caller ends");
            whole.calls += part.calls;
            whole.failed.extend(part.failed);
            whole.wrong.extend(part.wrong);
            whole.longest = whole.longest.max(part.longest);
        }
        whole
    }
}

impl Tally {
    /// A planned change fails no call and loses no increment.
    #[track_caller]
    pub fn flawless(&self) {
        assert!(self.calls > 0, "nothing was called");
        assert!(self.failed.is_empty() && self.wrong.is_empty(), "{self:?}");
    }
}

fn call(entry: &Door, caller: u64, stop: &AtomicBool) -> Tally {
    let (mut client, mut tally) = (Client::over(entry), Tally::default());
    let mut values = vec![0; KEYS];
    while !stop.load(Ordering::Relaxed) {
        let at = tally.calls as usize % KEYS;
        let key = format!("load-{caller}-{at}");
        let began = Instant::now();
        let answer = client.increment(&key);
        tally.calls += 1;
        tally.longest = tally.longest.max(began.elapsed());
        match answer {
            Ok(value) => {
                if value != values[at] + 1 {
                    tally.wrong.push(format!("{key}: {value} after {}", values[at]));
                }
                values[at] = value;
            }
            Err(status) => tally.failed.push(status),
        }
    }
    tally
}
