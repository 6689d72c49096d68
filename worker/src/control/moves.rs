//! How moves end: what the core's machine asks for becomes entries, one in flight.
//!
//! What is reported while one is under way goes into the next one: on an idle machine each
//! move is committed at once, on a slow disk many share an entry.

use shoal_core::{
    handoff::leader::{Action, Event},
    id::Timestamp,
    registry::{Command, MAX_BATCH, MoveRef},
};
use tracing::warn;

use super::{Control, leader::Kind};

/// Moves that are over and not yet proposed as such.
#[derive(Default)]
pub(super) struct Ends {
    commits: Vec<MoveRef>,
    aborts: Vec<MoveRef>,
    in_flight: bool,
}

impl Ends {
    /// Calls are parked for what is to be committed: that goes first.
    fn next(&mut self) -> Option<Command> {
        let take = |items: &mut Vec<MoveRef>| items.drain(..items.len().min(MAX_BATCH)).collect();
        if !self.commits.is_empty() {
            return Some(Command::CommitMove { items: take(&mut self.commits) });
        }
        (!self.aborts.is_empty()).then(|| Command::AbortMove { items: take(&mut self.aborts) })
    }
}

impl Control {
    pub(super) fn tick_moves(&mut self, now: Timestamp) {
        let Some(term) = &mut self.term else { return };
        let output = term.moves.on(Event::Tick, now);
        self.perform_moves(output.actions);
    }

    pub(super) fn perform_moves(&mut self, actions: Vec<Action>) {
        let Some(term) = &mut self.term else { return };
        for action in actions {
            let (key, items) = match action {
                Action::Commit(key) => (key, &mut term.ends.commits),
                Action::Abort { key, why } => {
                    warn!(shard = %key.shard, id = %key.id, %why, "aborts a move");
                    (key, &mut term.ends.aborts)
                }
            };
            // Asked for again while it still waits.
            if !items.contains(&key) {
                items.push(key);
            }
        }
        self.end_moves();
    }

    pub(super) fn ended_moves(&mut self) {
        if let Some(term) = &mut self.term {
            term.ends.in_flight = false;
        }
        self.end_moves();
    }

    fn end_moves(&mut self) {
        let Some(term) = &mut self.term else { return };
        if term.ends.in_flight {
            return;
        }
        if let Some(command) = term.ends.next() {
            term.ends.in_flight = true;
            self.propose(Kind::Ends, command);
        }
    }
}
