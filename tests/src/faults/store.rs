//! A store outside of the cluster that refuses tokens lower than the highest it has seen of a
//! shard, and clients that write to it with the tokens that the cluster gave them.
//!
//! A client asks the owner of a key, then writes under the token of the answer, after a pause in
//! which a fault may have given the shard to somebody else. What the store took is judged apart
//! from its own rule: a write is stale if a write under a newer token had been taken before.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::ensure;
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::scene::Scene;
use crate::Client;

/// Keys of each client.
const KEYS: usize = 16;
const DEADLINE: Duration = Duration::from_secs(2);
/// From the answer to the write: often longer than a change of owners takes.
const LINGER_MS: u64 = 1_500;
/// Writers at each node.
const WRITERS: usize = 4;

/// Accepts, or names the token that is newer.
#[derive(Debug, Default)]
struct Store {
    highest: BTreeMap<u32, u64>,
    /// Every write that was taken, in order.
    taken: Vec<(u32, u64)>,
    refused: u64,
}

impl Store {
    fn write(&mut self, shard: u32, epoch: u64) {
        let highest = self.highest.entry(shard).or_default();
        if epoch < *highest {
            self.refused += 1;
            return;
        }
        *highest = epoch;
        self.taken.push((shard, epoch));
    }
}

/// Writes taken under a lower token than one before.
fn stale(taken: &[(u32, u64)]) -> usize {
    let mut highest: BTreeMap<u32, u64> = BTreeMap::new();
    let mut stale = 0;
    for (shard, epoch) in taken {
        let before = highest.entry(*shard).or_default();
        stale += usize::from(epoch < before);
        *before = (*before).max(*epoch);
    }
    stale
}

/// The store and its writers.
pub struct Fenced {
    store: Arc<Mutex<Store>>,
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
}

impl Fenced {
    /// Writers enter at every member, from the network of the calling thread.
    pub fn start(scene: &Scene) -> anyhow::Result<Self> {
        let (store, stop) = (Arc::<Mutex<Store>>::default(), Arc::<AtomicBool>::default());
        let addresses = scene.members.iter().map(|at| scene.address(*at));
        let writers = addresses.cycle().take(scene.members.len() * WRITERS).enumerate();
        let writers = writers.map(|(number, address)| {
            let (store, stop) = (store.clone(), stop.clone());
            thread::spawn(move || write(&address, number, &store, &stop))
        });
        Ok(Self { writers: writers.collect(), store, stop })
    }

    /// Ends the writers: what the store saw, or what it should never have taken.
    pub fn end(self) -> anyhow::Result<String> {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.join().map_err(|_| anyhow::anyhow!("a writer of the store panicked"))?;
        }
        let store = self.store.lock();
        let (taken, stale) = (store.taken.len(), stale(&store.taken));
        ensure!(taken > 0, "nothing was written to the fenced store");
        ensure!(stale == 0, "the fenced store took {stale} stale writes");
        Ok(format!(
            "fenced store: {taken} writes taken, {} refused for their token, 0 stale ones taken",
            store.refused
        ))
    }
}

fn write(address: &str, number: usize, store: &Mutex<Store>, stop: &AtomicBool) {
    let mut client = Client::to(address);
    client.deadline = DEADLINE;
    let mut chance = StdRng::seed_from_u64(number as u64);
    while !stop.load(Ordering::Relaxed) {
        let key = format!("fenced-{}", chance.random_range(0..KEYS));
        let answer = client.call("incr", &key, "");
        thread::sleep(Duration::from_millis(chance.random_range(0..LINGER_MS)));
        if let Ok(answer) = answer {
            store.lock().write(answer.shard, answer.epoch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_token_is_refused_and_would_be_seen() {
        let mut store = Store::default();
        for (shard, epoch) in [(1, 5), (2, 1), (1, 4), (1, 5), (1, 6)] {
            store.write(shard, epoch);
        }
        assert_eq!((store.refused, store.taken.len()), (1, 4));
        assert_eq!(stale(&store.taken), 0);
        assert_eq!(stale(&[(1, 5), (2, 1), (1, 4)]), 1);
    }
}
