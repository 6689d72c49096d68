//! Why a node is not ready, and what else is worth saying of one that is.
//!
//! Ready means: it has the table of a formed cluster, so calls may enter here. It depends on
//! no leader and on no shard, or a whole cluster would be taken out of its Service at once.

use shoal_core::{
    id::NodeId,
    registry::{Drain, Life, Node, Registry},
};

/// Nothing is said of a leaver any more but this.
pub const LEAVING: &str = "leaving: this process was told to stop";

const REMOVED: &str = "this node was removed from the cluster";

/// What is missing; `None`: ready. `founding` is what founding waits for.
pub fn missing(registry: &Registry, me: Option<NodeId>, founding: Option<&str>) -> Option<String> {
    let why = me.and_then(|me| match registry.node(me) {
        Some(node) => parked(node),
        // It left so long ago that its row is gone.
        None => registry.has_left(me).then_some(REMOVED),
    });
    match why {
        Some(why) => Some(as_parked(why)),
        None if registry.formed() => None,
        None => Some(founding.unwrap_or("waiting for the table of the cluster").to_owned()),
    }
}

/// Of a node that no member gives its table to any more.
pub fn removed() -> String {
    as_parked(REMOVED)
}

fn as_parked(why: &str) -> String {
    format!("parked: {why}; it forwards calls and owns nothing")
}

fn parked(node: &Node) -> Option<&'static str> {
    match (node.life, node.drain) {
        (Life::Left, _) => Some(REMOVED),
        (Life::Closed, Drain::Removal) => Some("this node is drained for its removal"),
        (Life::Closed | Life::Fenced, _) if node.marked => {
            Some("this node is marked for its removal")
        }
        (Life::Joining | Life::Up | Life::Closed | Life::Fenced, _) => None,
    }
}

/// What a ready node says: also that it is going, but is still good for calls.
pub fn note(registry: &Registry, me: Option<NodeId>) -> String {
    let drain = me.and_then(|me| Some((me, registry.node(me)?.drain)));
    let (me, why) = match drain {
        Some((me, Drain::Restart(_) | Drain::Own(_))) => (me, "for a restart"),
        Some((me, Drain::Removal)) => (me, "for its removal"),
        Some((_, Drain::None)) | None => return "ready".to_owned(),
    };
    format!("ready: draining {why}, {} shards left", registry.held(me).owned)
}

#[cfg(test)]
mod tests {
    use shoal_core::{
        id::{ClusterId, Epoch, Incarnation, LogIndex},
        registry::{Command, NodeInfo, Register},
    };

    use super::*;

    const ME: NodeId = NodeId(1);
    const INCARNATION: Incarnation = Incarnation { counter: 1, nonce: 1 };

    /// A cluster of one after some commands.
    fn after(commands: &[Command]) -> Registry {
        let mut registry = Registry::new();
        for (command, index) in commands.iter().zip(1..) {
            let (result, _) = registry.apply(LogIndex(index), command);
            result.unwrap_or_else(|why| panic!("{command:?}: {why}"));
        }
        registry
    }

    fn info() -> NodeInfo {
        NodeInfo { name: "a".into(), weight: 1, feature_level: 1, ..NodeInfo::default() }
    }

    fn formed() -> Vec<Command> {
        vec![
            Command::Found {
                cluster: ClusterId(1),
                founder: info(),
                directory: 1,
                shard_count: 16,
                lease_ms: 3_000,
            },
            Command::Form { unix_seconds: 1, highest_epoch_found: Epoch(0) },
        ]
    }

    fn up() -> Vec<Command> {
        let mut commands = formed();
        commands.push(Command::Register(Register {
            node: ME,
            replaces: Incarnation::default(),
            incarnation: INCARNATION,
            info: info(),
            lock: None,
            renewed: LogIndex(1),
            proof: false,
            reown: false,
        }));
        commands
    }

    #[test]
    fn a_node_waits_for_what_founding_waits_for() {
        let waits = "waiting for 1 of 3 founding peers: localhost:11002";
        assert_eq!(missing(&Registry::new(), None, Some(waits)).as_deref(), Some(waits));
        let table = missing(&Registry::new(), None, None);
        assert_eq!(table.as_deref(), Some("waiting for the table of the cluster"));
    }

    #[test]
    fn once_formed_neither_leader_nor_session_nor_shards_matter() {
        assert_eq!(missing(&after(&formed()), Some(ME), None), None);
        assert_eq!(missing(&after(&formed()), None, Some("anything")), None);
        assert_eq!(missing(&after(&up()), Some(ME), None), None);
    }

    #[test]
    fn a_ready_node_tells_how_it_stands() {
        let note = |commands: &[Command]| note(&after(commands), Some(ME));
        assert_eq!(note(&formed()), "ready");
        assert_eq!(note(&up()), "ready");
        let drained = |drain: Command| {
            let mut commands = up();
            commands.push(drain);
            note(&commands)
        };
        let restart = Command::DrainRestart { node: ME, incarnation: INCARNATION };
        assert_eq!(drained(restart), "ready: draining for a restart, 0 shards left");
        let removal = Command::DrainRemoval { node: ME };
        assert_eq!(drained(removal), "ready: draining for its removal, 0 shards left");
    }

    #[test]
    fn a_node_that_is_going_for_good_is_parked() {
        let mut commands = up();
        commands.push(Command::DrainRemoval { node: ME });
        commands.push(Command::Close { node: ME, incarnation: INCARNATION });
        let why = |commands: &[Command]| missing(&after(commands), Some(ME), None).unwrap();
        assert!(why(&commands).starts_with("parked: this node is drained for its removal"));
        commands.push(Command::Remove { node: ME, incarnation: INCARNATION });
        assert!(why(&commands).starts_with("parked: this node was removed from the cluster"));
    }

    #[test]
    fn a_node_closed_for_a_restart_still_takes_calls() {
        let mut commands = up();
        commands.push(Command::DrainRestart { node: ME, incarnation: INCARNATION });
        commands.push(Command::Close { node: ME, incarnation: INCARNATION });
        assert_eq!(missing(&after(&commands), Some(ME), None), None);
    }
}
