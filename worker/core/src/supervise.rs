//! What the first process of a container does with the node's process, its only child of interest:
//! tells it to stop when told so itself, and starts it again when it was killed.
//!
//! A container's runtime notices an end late and by its own schedule; a parent knows at once. What
//! ended by itself has said why in its exit code, and what is killed again and again is better off
//! with the runtime, which waits longer each time and counts where people look.

use crate::{
    id::Timestamp,
    session::repeats::{REOWN_WINDOW, REOWNS},
};

/// Added to a signal's number in the exit code of a process that it has ended, as shells do.
const KILLED: u8 = 128;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Exited(u8),
    Killed { signal: u8 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The container is to stop.
    Stop,
    /// The node's process has ended: nothing of it runs any more.
    Ended(End),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The node's process is to stop as well.
    PassOn,
    Restart,
    /// The container ends, with this exit code.
    Exit(u8),
}

/// Both live as long as the container.
#[derive(Debug, Default)]
pub struct Supervisor {
    restarts: Vec<Timestamp>,
    stopping: bool,
}

impl Supervisor {
    pub fn on(&mut self, event: Event, now: Timestamp) -> Action {
        match event {
            Event::Stop => {
                self.stopping = true;
                Action::PassOn
            }
            Event::Ended(End::Exited(code)) => Action::Exit(code),
            Event::Ended(End::Killed { signal }) => {
                self.restarts.retain(|restart| now.at_least_since(*restart) < REOWN_WINDOW);
                // A process that came back once more would be given none of its shards.
                if self.stopping || self.restarts.len() == REOWNS {
                    return Action::Exit(KILLED.saturating_add(signal));
                }
                self.restarts.push(now);
                Action::Restart
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const KILL: Event = Event::Ended(End::Killed { signal: 9 });

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_secs(seconds))
    }

    #[test]
    fn a_killed_process_is_started_again_but_not_for_the_third_time_in_a_minute() {
        let mut supervisor = Supervisor::default();
        assert_eq!(supervisor.on(KILL, at(0)), Action::Restart);
        assert_eq!(supervisor.on(KILL, at(30)), Action::Restart);
        assert_eq!(supervisor.on(KILL, at(59)), Action::Exit(137));
        let mut supervisor = Supervisor::default();
        for seconds in [0, 30, 60, 90, 120] {
            assert_eq!(supervisor.on(KILL, at(seconds)), Action::Restart, "{seconds}");
        }
    }

    #[test]
    fn what_ended_by_itself_ends_the_container_with_its_own_code() {
        for code in [0, 64, 70] {
            let ended = Event::Ended(End::Exited(code));
            assert_eq!(Supervisor::default().on(ended, at(0)), Action::Exit(code));
        }
    }

    #[test]
    fn what_was_told_to_stop_is_not_started_again() {
        let mut supervisor = Supervisor::default();
        assert_eq!(supervisor.on(Event::Stop, at(0)), Action::PassOn);
        assert_eq!(supervisor.on(Event::Stop, at(1)), Action::PassOn);
        assert_eq!(supervisor.on(KILL, at(2)), Action::Exit(137));
    }
}
