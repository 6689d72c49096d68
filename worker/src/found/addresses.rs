//! Which of the addresses that discovery finds the machine is told of, and what is said where
//! there are none.
//!
//! Those without a name all; of those with one the founding set's, and a few of the others where
//! any node may help: founding is talk among five, however many pods there are [protocol 7].

use std::time::Duration;

use shoal_core::found::{Asks, Event, Plan};

use super::{Effects, Error, Found};
use crate::env::random;

/// So often a node that may join anybody's cluster tries some that are not of the founding set.
pub(super) const OTHERS_EVERY: Duration = Duration::from_secs(1);
const OTHERS: usize = 3;

impl<E: Effects> Found<E> {
    pub(super) fn learn_addresses(&mut self) -> Result<(), Error> {
        let peers = self.peers.borrow_and_update().clone();
        for address in peers.raft_addresses {
            self.apply(Event::AddressLearned { address })?;
        }
        for (name, address) in peers.named {
            if self.machine.asks(&name) != Asks::Always {
                continue;
            }
            match self.told.insert(name, address.clone()) {
                Some(before) if before == address => {}
                before => {
                    if let Some(address) = before {
                        self.apply(Event::AddressGone { address })?;
                    }
                    self.apply(Event::AddressLearned { address })?;
                }
            }
        }
        self.show();
        Ok(())
    }

    pub(super) fn learn_others(&mut self) -> Result<(), Error> {
        let mut others: Vec<String> = {
            let peers = self.peers.borrow();
            let may_help =
                peers.named.iter().filter(|(name, _)| self.machine.asks(name) == Asks::Also);
            may_help.map(|(_, address)| address.clone()).collect()
        };
        for _ in 0..OTHERS.min(others.len()) {
            let at = (random::u64() % others.len() as u64) as usize;
            self.apply(Event::AddressHeard { address: others.swap_remove(at) })?;
        }
        Ok(())
    }

    /// What the machine waits for; where nobody is there to be asked, also why.
    pub(super) fn missing(&self) -> Option<String> {
        let waiting = self.waiting.clone()?;
        if let (Plan::Wait, Some(why)) = (self.machine.plan(), &self.untold) {
            return Some(format!("{waiting}: {why}"));
        }
        let peers = self.peers.borrow();
        let empty = self.machine.directory().joined.is_none();
        if let (true, Some(why)) = (empty && !peers.listed, &peers.trouble) {
            return Some(format!("{waiting}; pods cannot be listed: {why}"));
        }
        let joins = empty && *self.machine.plan() == Plan::Join;
        let silent = peers.silent.iter().next();
        match silent.filter(|_| joins && peers.addresses().is_empty()) {
            Some((address, why)) => {
                Some(format!("{waiting} at {address}, which does not answer: {why}"))
            }
            None => Some(self.refused(waiting)),
        }
    }
}
