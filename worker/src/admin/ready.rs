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

/// Of a node that no member gives its table to any more.
pub const REMOVED: &str =
    "parked: this node was removed from the cluster; it forwards calls and owns nothing";

/// What is missing; `None`: ready. `founding` is what founding waits for.
pub fn missing(registry: &Registry, me: Option<NodeId>, founding: Option<&str>) -> Option<String> {
    let mine = me.and_then(|me| registry.node(me));
    match mine.and_then(parked) {
        Some(why) => Some(format!("parked: {why}; it forwards calls and owns nothing")),
        None if registry.formed() => None,
        None => Some(founding.unwrap_or("waiting for the table of the cluster").to_owned()),
    }
}

fn parked(node: &Node) -> Option<&'static str> {
    match (node.life, node.drain) {
        (Life::Left, _) => Some("this node was removed from the cluster"),
        (Life::Closed, Drain::Removal) => Some("this node is drained for its removal"),
        (Life::Closed | Life::Fenced, _) if node.marked => {
            Some("this node is marked for its removal")
        }
        (Life::Joining | Life::Up | Life::Closed | Life::Fenced, _) => None,
    }
}

/// What a ready node tells besides.
pub fn note(registry: &Registry, me: Option<NodeId>) -> String {
    let Some((me, node)) = me.and_then(|me| Some((me, registry.node(me)?))) else {
        return "ready; not registered yet, so it owns nothing".to_owned();
    };
    let held = registry.held(me).owned;
    match (node.life, node.drain) {
        (Life::Up, Drain::None) => format!("ready; owns {held} shards"),
        (Life::Up, Drain::Restart(_)) => {
            format!("ready; draining for a restart, {held} shards left")
        }
        (Life::Up, Drain::Removal) => {
            format!("ready; draining for its removal, {held} shards left")
        }
        (Life::Joining | Life::Closed | Life::Fenced | Life::Left, _) => {
            "ready; not registered, so it owns nothing".to_owned()
        }
    }
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
        assert_eq!(note(&formed()), "ready; not registered, so it owns nothing");
        assert_eq!(note(&up()), "ready; owns 0 shards");
        let drained = |drain: Command| {
            let mut commands = up();
            commands.push(drain);
            note(&commands)
        };
        let restart = Command::DrainRestart { node: ME, incarnation: INCARNATION };
        assert_eq!(drained(restart), "ready; draining for a restart, 0 shards left");
        let removal = Command::DrainRemoval { node: ME };
        assert_eq!(drained(removal), "ready; draining for its removal, 0 shards left");
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
