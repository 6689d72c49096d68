//! Whether a Register may be proposed now, and with which flags.
//!
//! Judged by the leader from the node's row and its own clocks; apply only compares. A
//! reported death (by the operator, or by a parent that reaped the process) is another
//! command and needs no judgement here.

use crate::{
    id::{Incarnation, LogIndex, Timestamp},
    registry::{Drain, Life, LockId, Node},
};

/// What the asking process says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub incarnation: Incarnation,
    /// The lock it holds exclusively now.
    pub lock: Option<&'a LockId>,
    /// The lock file is on a file system of this machine alone.
    pub lock_is_local: bool,
}

/// What the leader knows beside the row.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// End of the replaced session, floors included; `None`: not known, so not over.
    pub expires: Option<Timestamp>,
    /// It did not take its shards again too often lately.
    pub may_reown: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The fields of the same names in the Register command.
    Propose {
        replaces: Incarnation,
        renewed: LogIndex,
        proof: bool,
        reown: bool,
    },
    /// The replaced process may still hold a right; ask again then.
    Wait {
        until: Option<Timestamp>,
    },
    Refuse(Refusal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the node has left this cluster for ever")]
    Left,
    #[error("the node is marked for removal")]
    Marked,
    #[error("this incarnation is registered already")]
    AlreadyRegistered,
    #[error(
        "this directory is a restored copy: it is at incarnation {asked}, {registered} is \
         registered; wipe it to join anew"
    )]
    RestoredCopy { asked: u64, registered: u64 },
}

pub fn judge(row: &Node, ask: Ask<'_>, standing: Standing, now: Timestamp) -> Verdict {
    if let Some(refusal) = refusal(row, ask.incarnation) {
        return Verdict::Refuse(refusal);
    }
    let alive = match row.life {
        Life::Up => true,
        Life::Joining | Life::Closed | Life::Fenced | Life::Left => false,
    };
    let proof = alive && proves_death(row.lock.as_ref(), ask.lock, ask.lock_is_local);
    let expired = standing.expires.is_some_and(|end| now.surely_past(end));
    if alive && !proof && !expired {
        return Verdict::Wait { until: standing.expires };
    }
    Verdict::Propose {
        replaces: row.incarnation,
        renewed: row.renewed,
        proof,
        reown: proof && standing.may_reown && row.drain == Drain::None,
    }
}

/// The new process holds the very lock that the old one held: the old one is dead.
///
/// Only on one kernel since its boot, and only where no other machine can lock the same
/// file: a volume attached to two machines shows both the same device and inode.
pub fn proves_death(old: Option<&LockId>, new: Option<&LockId>, new_is_local: bool) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => new_is_local && !new.boot_id.is_empty() && old == new,
        (Some(_) | None, Some(_) | None) => false,
    }
}

fn refusal(row: &Node, asked: Incarnation) -> Option<Refusal> {
    if row.life == Life::Left {
        Some(Refusal::Left)
    } else if row.marked {
        Some(Refusal::Marked)
    } else if row.incarnation == asked {
        Some(Refusal::AlreadyRegistered)
    } else if asked.counter <= row.incarnation.counter {
        Some(Refusal::RestoredCopy { asked: asked.counter, registered: row.incarnation.counter })
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::registry::NodeInfo;

    fn lock(boot_id: &str) -> LockId {
        LockId { boot_id: boot_id.to_owned(), device: 8, inode: 42 }
    }

    fn incarnation(counter: u64) -> Incarnation {
        Incarnation { counter, nonce: counter }
    }

    fn row(life: Life) -> Node {
        Node {
            info: NodeInfo::default(),
            directory: 1,
            incarnation: incarnation(4),
            lock: Some(lock("boot-a")),
            life,
            drain: Drain::None,
            marked: false,
            renewed: LogIndex(77),
            changed: LogIndex(5),
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_secs(seconds))
    }

    const STANDING: Standing = Standing { expires: None, may_reown: true };

    fn ask(lock: Option<&LockId>) -> Ask<'_> {
        Ask { incarnation: incarnation(5), lock, lock_is_local: true }
    }

    fn propose(proof: bool, reown: bool) -> Verdict {
        Verdict::Propose { replaces: incarnation(4), renewed: LogIndex(77), proof, reown }
    }

    fn expiring(end: Timestamp) -> Standing {
        Standing { expires: Some(end), ..STANDING }
    }

    #[test]
    fn s1_same_lock_on_another_boot_is_no_proof() {
        let (held, other) = (lock("boot-a"), lock("boot-b"));
        assert!(proves_death(Some(&held), Some(&held), true));
        assert!(!proves_death(Some(&held), Some(&other), true));
        let moved = LockId { inode: 43, ..held.clone() };
        assert!(!proves_death(Some(&held), Some(&moved), true));
        assert!(!proves_death(Some(&held), Some(&held), false), "shared volume");
        assert!(!proves_death(Some(&lock("")), Some(&lock("")), true));
        assert!(!proves_death(None, None, true) && !proves_death(Some(&held), None, true));
        let verdict = judge(&row(Life::Up), ask(Some(&other)), expiring(at(10)), at(1));
        assert_eq!(verdict, Verdict::Wait { until: Some(at(10)) });
    }

    #[test]
    fn s17_a_reboot_without_proof_waits_for_the_expiry() {
        let other = lock("boot-b");
        let verdict = |now| judge(&row(Life::Up), ask(Some(&other)), expiring(at(10)), now);
        assert!(matches!(verdict(at(9)), Verdict::Wait { .. }));
        assert_eq!(verdict(at(10)), propose(false, false));
        let unknown = judge(&row(Life::Up), ask(None), STANDING, at(900));
        assert_eq!(unknown, Verdict::Wait { until: None });
    }

    #[test]
    fn s17_sigterm_then_a_crash_gives_no_shards_back() {
        let held = lock("boot-a");
        let mut row = row(Life::Up);
        row.drain = Drain::Restart(incarnation(4));
        let verdict = judge(&row, ask(Some(&held)), STANDING, at(0));
        assert_eq!(verdict, propose(true, false));
    }

    #[test]
    fn proof_takes_the_shards_again_but_not_for_ever() {
        let held = lock("boot-a");
        let judged = |may_reown| {
            let standing = Standing { may_reown, ..STANDING };
            judge(&row(Life::Up), ask(Some(&held)), standing, at(0))
        };
        assert_eq!(judged(true), propose(true, true));
        assert_eq!(judged(false), propose(true, false));
    }

    #[test]
    fn without_a_session_to_replace_nothing_is_waited_for() {
        let held = lock("boot-a");
        for life in [Life::Joining, Life::Closed, Life::Fenced] {
            let verdict = judge(&row(life), ask(Some(&held)), STANDING, at(0));
            assert_eq!(verdict, propose(false, false), "{life:?}");
        }
    }

    #[test]
    fn s18_a_restored_copy_and_a_duplicate_are_refused() {
        let asked = |counter, nonce| {
            let incarnation = Incarnation { counter, nonce };
            let ask = Ask { incarnation, ..ask(None) };
            judge(&row(Life::Fenced), ask, STANDING, at(0))
        };
        assert_eq!(asked(4, 4), Verdict::Refuse(Refusal::AlreadyRegistered));
        for (counter, nonce) in [(4, 9), (3, 3)] {
            let refusal = Refusal::RestoredCopy { asked: counter, registered: 4 };
            assert_eq!(asked(counter, nonce), Verdict::Refuse(refusal));
        }
    }

    #[test]
    fn a_marked_or_departed_node_never_comes_back() {
        let mut marked = row(Life::Fenced);
        marked.marked = true;
        let verdict = judge(&marked, ask(None), STANDING, at(0));
        assert_eq!(verdict, Verdict::Refuse(Refusal::Marked));
        let verdict = judge(&row(Life::Left), ask(None), STANDING, at(0));
        assert_eq!(verdict, Verdict::Refuse(Refusal::Left));
    }
}
