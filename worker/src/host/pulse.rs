//! Proof of life of the executors: each says in short intervals that it ran.
//!
//! The session renews only while none is silent for a lease; this module judges nothing.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use shoal_core::id::Timestamp;
use tokio::runtime::Handle;

use crate::env::clock;

/// Between two beats: twenty of them fit into the shortest lease.
const EVERY: Duration = Duration::from_millis(100);

/// All executors of a process.
#[derive(Clone, Default)]
pub struct Pulses {
    all: Arc<Mutex<Vec<Pulse>>>,
}

struct Pulse {
    name: String,
    last: Arc<Mutex<Timestamp>>,
}

impl Pulses {
    /// Beats on `executor` until that ends.
    pub fn watch(&self, name: &str, executor: &Handle) {
        let last = Arc::new(Mutex::new(clock::now()));
        self.all.lock().push(Pulse { name: name.to_owned(), last: Arc::clone(&last) });
        executor.spawn(async move {
            let mut beat = tokio::time::interval(EVERY);
            loop {
                beat.tick().await;
                *last.lock() = clock::now();
            }
        });
    }

    /// When the most silent executor ran last; now, where none is watched.
    pub fn oldest(&self) -> Timestamp {
        let now = clock::now();
        let all = self.all.lock();
        let oldest = all.iter().map(|pulse| *pulse.last.lock());
        oldest.max_by_key(|last| now.at_most_since(*last)).unwrap_or(now)
    }

    /// Executors that have not run within `span`, as far as either clock can tell.
    pub fn silent(&self, now: Timestamp, span: Duration) -> Vec<String> {
        let all = self.all.lock();
        let silent = all.iter().filter(|pulse| now.at_most_since(*pulse.last.lock()) > span);
        silent.map(|pulse| pulse.name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::thread;

    #[test]
    fn l5_a_wedged_executor_is_named() {
        const SPAN: Duration = Duration::from_secs(1);
        let pulses = Pulses::default();
        let alive = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .unwrap();
        let wedged = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        pulses.watch("alive", alive.handle());
        pulses.watch("wedged", wedged.handle()); // nobody drives it
        assert!(pulses.silent(clock::now(), SPAN).is_empty());
        let begin = clock::now();
        while pulses.silent(clock::now(), SPAN) != ["wedged"] {
            assert!(clock::now().at_least_since(begin) < SPAN * 10);
            thread::sleep(Duration::from_millis(20));
        }
        assert!(clock::now().at_most_since(pulses.oldest()) > SPAN);
    }
}
