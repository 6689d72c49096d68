//! Faults put in on purpose: to prove that the demo's verdict, or another node, notices them, and to
//! play executions that need them.
//!
//! Chosen by SHOAL_MUTANT. Not part of a release build.

use std::{
    env,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// kv acknowledges an increment that it does not store.
    LoseIncrement,
    /// An owner answers from its copy of a shard that it has handed over.
    StaleOwner,
    /// A watcher takes nothing that it is told after its first table.
    DeafWatcher,
    /// A leader takes no renewal but its own.
    DeafLeader,
    /// kv takes its time for some keys: see `kv::dawdle`.
    SlowHandlers,
    /// One feature level more is known, as in a later version.
    NextLevel,
}

impl Mutant {
    const ALL: [Self; 6] = [
        Self::LoseIncrement,
        Self::StaleOwner,
        Self::DeafWatcher,
        Self::DeafLeader,
        Self::SlowHandlers,
        Self::NextLevel,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::LoseIncrement => "lose-increment",
            Self::StaleOwner => "stale-owner",
            Self::DeafWatcher => "deaf-watcher",
            Self::DeafLeader => "deaf-leader",
            Self::SlowHandlers => "slow-handlers",
            Self::NextLevel => "next-level",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutant| mutant.name() == name)
    }
}

/// True when this process is to misbehave so.
pub fn chosen(mutant: Mutant) -> bool {
    static CHOSEN: OnceLock<Option<Mutant>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let name = env::var("SHOAL_MUTANT").ok()?;
        let mutant = Mutant::named(&name);
        tracing::warn!(name, known = mutant.is_some(), "this process misbehaves on purpose");
        mutant
    });
    *chosen == Some(mutant)
}

/// True for the one time that the chosen fault happens.
pub fn fire(mutant: Mutant) -> bool {
    static FIRED: AtomicBool = AtomicBool::new(false);
    let fires = chosen(mutant) && !FIRED.swap(true, Ordering::Relaxed);
    if fires {
        tracing::warn!(?mutant, "misbehaved");
    }
    fires
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for mutant in Mutant::ALL {
            assert_eq!(Mutant::named(mutant.name()), Some(mutant));
        }
        assert_eq!(Mutant::named("none"), None);
    }
}
