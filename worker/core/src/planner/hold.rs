//! How long shards without an owner wait for somebody better than who is there now.
//!
//! A right of before the cluster was founded anew is waited out before Formed already, one of
//! before it was recovered here.

use std::time::Duration;

use crate::{
    id::Timestamp,
    registry::{Life, Registry},
};

/// Within it every living founder has registered, and one second is promised.
const FOUNDERS: Duration = Duration::from_millis(500);
/// Past the lease, for rights that an owner in the lost cluster may still hold: clock error.
const BEYOND_LEASE: Duration = Duration::from_secs(1);
/// Who comes back after a restart of the whole cluster is judged elsewhere: ask again then.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What may be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// After a restart of the whole cluster most owners are still missing.
    pub owners_return: bool,
    /// When the cluster formed, if that was just now.
    pub formed_at: Option<Timestamp>,
    /// When this node became a member, in this run.
    pub began: Timestamp,
}

impl Hold {
    /// The span for which nothing should be assigned; zero: now.
    pub fn left(self, registry: &Registry, now: Timestamp) -> Duration {
        if self.owners_return {
            return LOOK_AGAIN;
        }
        let former = self.former_rights(registry, now);
        if !former.is_zero() {
            return former;
        }
        // Shards given to the first founder alone would all be moved again.
        let since = self.formed_at.map_or(FOUNDERS, |at| now.at_most_since(at));
        let registers = registry.nodes().any(|(_, node)| node.life == Life::Joining);
        if registers { FOUNDERS.saturating_sub(since) } else { Duration::ZERO }
    }

    /// Of owners in the cluster that this one was recovered from: paused or out of reach, they
    /// answered nobody who asked. Whoever leads when its first shard is given waits.
    fn former_rights(self, registry: &Registry, now: Timestamp) -> Duration {
        if !registry.is_untouched_since_recovery() {
            return Duration::ZERO;
        }
        let lease = Duration::from_millis(registry.settings().longest_lease_ms().into());
        (lease + BEYOND_LEASE).saturating_sub(now.at_least_since(self.began))
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        id::{ClusterId, Epoch, Incarnation, LogIndex, NodeId, ShardId},
        registry::{Assign, Command, Configure, NodeInfo, Recovery, Register},
    };

    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_millis(millis))
    }

    fn info(name: &str) -> NodeInfo {
        NodeInfo { name: name.to_owned(), weight: 100, feature_level: 1, ..NodeInfo::default() }
    }

    fn register(node: u64, name: &str) -> Command {
        Command::Register(Register {
            node: NodeId(node),
            replaces: Incarnation::default(),
            incarnation: Incarnation { counter: 1, nonce: 1 },
            info: info(name),
            lock: None,
            renewed: LogIndex(0),
            proof: false,
            reown: false,
        })
    }

    /// Two founders, of which `registered` have registered.
    fn founded(registered: usize) -> Registry {
        let found = Command::Found {
            cluster: ClusterId(7),
            founder: info("a"),
            directory: 1,
            shard_count: 16,
            lease_ms: 3_000,
        };
        let join = Command::Join { info: info("b"), directory: 2, replaces: Vec::new() };
        let mut commands = vec![found, join];
        commands.extend([register(1, "a"), register(2, "b")].into_iter().take(registered));
        let mut registry = Registry::new();
        for (command, index) in commands.iter().zip(1..) {
            registry.apply(LogIndex(index), command).0.unwrap();
        }
        registry
    }

    #[test]
    fn founders_about_to_register_are_waited_for_and_half_a_second_at_most() {
        let hold = Hold { owners_return: false, formed_at: Some(at(1_000)), began: at(0) };
        let left = |registered, now| hold.left(&founded(registered), at(now));
        assert_eq!(left(1, 1_100), Duration::from_millis(400));
        assert_eq!(left(1, 1_500), Duration::ZERO);
        assert_eq!(left(2, 1_000), Duration::ZERO);
    }

    #[test]
    fn a_node_that_joins_later_is_not_waited_for() {
        let hold = Hold { owners_return: false, formed_at: None, began: at(0) };
        assert_eq!(hold.left(&founded(1), at(0)), Duration::ZERO);
    }

    #[test]
    fn owners_that_return_are_waited_for_in_any_case() {
        let hold = Hold { owners_return: true, formed_at: None, began: at(0) };
        assert_eq!(hold.left(&founded(2), at(0)), LOOK_AGAIN);
    }

    #[test]
    fn the_first_assignment_after_a_recovery_waits_for_rights_of_the_lost_cluster() {
        let mut lost = founded(2);
        let form = Command::Form { unix_seconds: 1, highest_epoch_found: Epoch(0) };
        lost.apply(LogIndex(5), &form).0.unwrap();
        lost.apply(LogIndex(6), &lease(5_000)).0.unwrap();
        lost.apply(LogIndex(7), &lease(2_000)).0.unwrap();
        let recovery = Recovery {
            cluster: ClusterId(8),
            info: info("a"),
            directory: 9,
            unix_seconds: 2,
            highest_epoch_found: Epoch(0),
        };
        let (node, mut registry) = lost.recover(&recovery).unwrap();
        registry.apply(LogIndex(9), &register(node.0, "a")).0.unwrap();
        let hold = Hold { owners_return: false, formed_at: None, began: at(10_000) };
        // The longest lease that nobody has settled, and a second.
        assert_eq!(hold.left(&registry, at(10_000)), Duration::from_secs(6));
        assert_eq!(hold.left(&registry, at(15_900)), Duration::from_millis(100));
        assert_eq!(hold.left(&registry, at(16_000)), Duration::ZERO);
        // Both clocks must say so: one that was set forward proves nothing.
        let hurried = Timestamp::new(at(16_000).boottime, at(15_000).raw);
        assert_eq!(hold.left(&registry, hurried), Duration::from_secs(1));
        let epoch = registry.shard(ShardId(3)).unwrap().epoch;
        let incarnation = Incarnation { counter: 1, nonce: 1 };
        let item = Assign { shard: ShardId(3), epoch, target: node, incarnation };
        registry.apply(LogIndex(10), &Command::Assign { items: vec![item] }).0.unwrap();
        assert_eq!(hold.left(&registry, at(10_000)), Duration::ZERO, "it is over once it was");
    }

    fn lease(millis: u32) -> Command {
        Command::Configure(Configure { lease_ms: Some(millis), ..Configure::default() })
    }
}
