//! How much of the log is kept: enough that a follower rarely needs a snapshot, little
//! enough that neither renewals nor a full volume stop the node [L12].

use super::log_store::Extent;

/// Entries that stay behind a snapshot, and entries between two snapshots.
pub const ENTRIES: u64 = 50_000;
/// Most bytes of log, however few entries they are.
pub const BYTES: u64 = 128 << 20;
/// Share of the volume in use, in percent, past which only what no snapshot covers is kept.
pub const VOLUME_PERCENT: u64 = 80;

/// Entries that are worth a snapshot on a full volume: each snapshot is a write, too.
const WORTH: u64 = 1_000;

/// What the policy looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub log: Extent,
    /// Last entry that the newest snapshot covers.
    pub snapshot: Option<u64>,
    pub applied: u64,
    pub volume_percent: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Keep,
    /// A newer snapshot first: without it nothing more may go.
    Snapshot,
    /// Drop the entries up to this one.
    Purge(u64),
}

pub fn decide(seen: Seen) -> Action {
    let Seen { log, snapshot, applied, volume_percent } = seen;
    let full = volume_percent >= VOLUME_PERCENT;
    if log.entries == 0 || !(full || log.bytes > BYTES) {
        return Action::Keep;
    }
    // On a full volume everything a snapshot covers goes; else the older half, so that the
    // limit is not met again at once.
    let wanted = if full { applied } else { applied.min(log.first + log.entries / 2) };
    match snapshot {
        Some(covered) if covered >= wanted && covered >= log.first => {
            Action::Purge(wanted.min(covered))
        }
        Some(covered) if covered >= log.first && full => Action::Purge(covered),
        Some(_) | None if log.entries >= WORTH && applied >= log.first => Action::Snapshot,
        Some(_) | None => Action::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(bytes: u64, snapshot: Option<u64>, volume_percent: u64) -> Seen {
        let log = Extent { first: 1_001, entries: 1_000, bytes };
        Seen { log, snapshot, applied: 1_990, volume_percent }
    }

    #[test]
    fn what_fits_is_kept() {
        assert_eq!(decide(seen(BYTES, Some(1_900), 79)), Action::Keep);
        let empty = Seen { log: Extent::default(), snapshot: None, applied: 0, volume_percent: 99 };
        assert_eq!(decide(empty), Action::Keep);
    }

    #[test]
    fn too_many_bytes_cost_the_older_half() {
        assert_eq!(decide(seen(BYTES + 1, Some(1_990), 10)), Action::Purge(1_501));
        assert_eq!(decide(seen(BYTES + 1, Some(1_200), 10)), Action::Snapshot);
        assert_eq!(decide(seen(BYTES + 1, None, 10)), Action::Snapshot);
    }

    #[test]
    fn l12_a_full_volume_keeps_only_what_no_snapshot_covers() {
        assert_eq!(decide(seen(1, Some(1_400), 80)), Action::Purge(1_400));
        assert_eq!(decide(seen(1, Some(900), 80)), Action::Snapshot);
        // Everything purgeable is gone: a new snapshot would write and free next to nothing.
        let mut settled = seen(1, Some(1_980), 95);
        settled.log.first = 1_981;
        settled.log.entries = 10;
        assert_eq!(decide(settled), Action::Keep);
    }
}
