//! A process that was told to stop: what it does next, by what its own table shows of it.
//!
//! It drains itself, waits until it owns and receives nothing, and closes its session. With nobody
//! to take its shards, or no time left, it gives up: they are closed in place. Any answer may be
//! lost, so that each request is made again while the table does not show what it asked for.

use std::time::Duration;

use crate::{
    id::{Incarnation, NodeId, Timestamp},
    registry::{Drain, Life, Registry},
};

/// Between two requests, and the longest time between two looks at the table.
pub const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What a table shows of an incarnation that leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has no session, or none any more.
    Nothing,
    /// Nobody knows yet that it goes by its own will: it may be given shards, or others may call
    /// off the drain that they asked for.
    Undrained,
    /// Its shards are on their way.
    Holds,
    /// It holds shards that nobody may take.
    NoTarget,
    Empty,
}

impl Standing {
    pub fn of(registry: &Registry, node: NodeId, incarnation: Incarnation) -> Self {
        let row = registry.node(node);
        let Some(row) = row.filter(|row| row.life == Life::Up && row.incarnation == incarnation)
        else {
            return Self::Nothing;
        };
        let held = registry.held(node);
        let empty = held.owned == 0 && held.receiving == 0;
        let others = || registry.nodes().any(|(id, _)| id != node && registry.is_target(id));
        if !empty && !others() {
            Self::NoTarget
        } else {
            match row.drain {
                Drain::None => Self::Undrained,
                // Empty only counts where nothing can be assigned any more.
                Drain::Restart(_) | Drain::Own(_) | Drain::Removal if empty => Self::Empty,
                Drain::Restart(_) => Self::Undrained,
                // Of a removal nothing else can be made.
                Drain::Own(_) | Drain::Removal => Self::Holds,
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Until the table changes, at most for [`LOOK_AGAIN`].
    Wait,
    Drain,
    Close,
    /// A close was committed, whatever became of its answer.
    Closed,
    /// What is left is closed in place.
    GiveUp,
}

#[derive(Clone, Copy, Debug)]
pub struct Leaver {
    by: Timestamp,
    asked: Option<Timestamp>,
    closing: bool,
}

impl Leaver {
    /// Gives up at `by`.
    pub fn new(by: Timestamp) -> Self {
        Self { by, asked: None, closing: false }
    }

    /// A drain was asked for before.
    #[must_use]
    pub fn asked(self, now: Timestamp) -> Self {
        Self { asked: Some(now), ..self }
    }

    /// Whether it has asked for a close.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    pub fn on(&mut self, standing: Standing, now: Timestamp) -> Step {
        if standing == Standing::Nothing && self.closing {
            return Step::Closed;
        }
        if now.maybe_past(self.by) {
            return Step::GiveUp;
        }
        match standing {
            Standing::Nothing | Standing::NoTarget => Step::GiveUp,
            Standing::Holds => Step::Wait,
            Standing::Undrained => self.ask(Step::Drain, now),
            Standing::Empty if self.closing => self.ask(Step::Close, now),
            Standing::Empty => {
                self.closing = true;
                self.asked = None;
                self.ask(Step::Close, now)
            }
        }
    }

    fn ask(&mut self, step: Step, now: Timestamp) -> Step {
        if self.asked.is_some_and(|asked| now.at_least_since(asked) < LOOK_AGAIN) {
            return Step::Wait;
        }
        self.asked = Some(now);
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_millis(ms))
    }

    fn leaver() -> Leaver {
        Leaver::new(at(16_000))
    }

    #[test]
    fn it_drains_waits_and_closes_and_asks_again_while_nothing_shows() {
        let mut leaver = leaver();
        let steps = [
            (Standing::Undrained, 0, Step::Drain),
            (Standing::Undrained, 199, Step::Wait),
            (Standing::Undrained, 200, Step::Drain),
            (Standing::Holds, 250, Step::Wait),
            // Somebody took the drain back.
            (Standing::Undrained, 400, Step::Drain),
            (Standing::Holds, 450, Step::Wait),
            // A close is another request: it waits for no pause of the drain's.
            (Standing::Empty, 500, Step::Close),
            (Standing::Empty, 699, Step::Wait),
            (Standing::Empty, 700, Step::Close),
            (Standing::Nothing, 800, Step::Closed),
        ];
        for (standing, ms, step) in steps {
            assert_eq!(leaver.on(standing, at(ms)), step, "{standing:?} at {ms} ms");
        }
    }

    #[test]
    fn a_drain_that_was_asked_for_before_has_its_time() {
        let mut leaver = leaver().asked(at(0));
        assert_eq!(leaver.on(Standing::Undrained, at(100)), Step::Wait);
        assert_eq!(leaver.on(Standing::Undrained, at(200)), Step::Drain);
    }

    #[test]
    fn it_gives_up_without_a_session_without_a_target_and_without_time() {
        for standing in [Standing::Nothing, Standing::NoTarget] {
            assert_eq!(leaver().on(standing, at(0)), Step::GiveUp, "{standing:?}");
        }
        for standing in [Standing::Undrained, Standing::Holds, Standing::Empty] {
            assert_eq!(leaver().on(standing, at(16_000)), Step::GiveUp, "{standing:?}");
            assert_ne!(leaver().on(standing, at(15_999)), Step::GiveUp, "{standing:?}");
        }
        // A close that was committed in time is one.
        let mut closing = leaver();
        assert_eq!(closing.on(Standing::Empty, at(15_900)), Step::Close);
        assert_eq!(closing.on(Standing::Nothing, at(16_100)), Step::Closed);
    }
}
