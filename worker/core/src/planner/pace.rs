//! When balancing may begin moves: rounds, and a cooldown between two of them.
//!
//! A round begins with its first move and goes on, as the budgets let it, until a plan has
//! nothing more to balance; the cooldown counts from there. So the in-flight budgets alone
//! set the pace of a round, and cheap moves make a short one. Which moves, the plan decides.

use std::time::Duration;

use crate::id::Timestamp;

use super::{Plan, Reason};

/// The memory of one leadership.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Fresh,
    Round,
    Rests {
        since: Timestamp,
    },
}

impl Pace {
    /// How long no balancing move may begin.
    pub fn cooldown_left(&self, cooldown: Duration, now: Timestamp) -> Duration {
        match self.phase {
            Phase::Fresh | Phase::Round => Duration::ZERO,
            Phase::Rests { since } => cooldown.saturating_sub(now.at_least_since(since)),
        }
    }

    /// To be told of every plan that is carried out.
    pub fn planned(&mut self, plan: &Plan, now: Timestamp) {
        let begins =
            (plan.moves.iter()).any(|planned| matches!(planned.reason, Reason::Balance { .. }));
        self.phase = match self.phase {
            Phase::Fresh | Phase::Rests { .. } if begins => Phase::Round,
            Phase::Round if !begins && !plan.report.balancing_waits() => {
                Phase::Rests { since: now }
            }
            same @ (Phase::Fresh | Phase::Round | Phase::Rests { .. }) => same,
        };
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        id::NodeId,
        planner::tests::world::{World, leaving, up},
    };

    use super::*;

    const COOLDOWN: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_millis(millis))
    }

    /// Plans each 50 ms, each move taking two of them; when moves began and how many.
    fn run(world: &mut World, pace: &mut Pace, from: u64, until: u64) -> Vec<(u64, usize)> {
        let mut began = Vec::new();
        for now in (from..until).step_by(50) {
            if now % 100 == 0 {
                world.finish_moves();
            }
            world.cooldown_left = pace.cooldown_left(COOLDOWN, at(now));
            let plan = world.plan();
            pace.planned(&plan, at(now));
            world.apply(&plan);
            if !plan.moves.is_empty() {
                began.push((now, plan.moves.len()));
            }
        }
        began
    }

    #[test]
    fn a_round_is_paced_by_the_budgets_alone() {
        let mut world = World::new(&[up(342), up(341), up(341), up(0)]);
        let began = run(&mut world, &mut Pace::default(), 0, 3_000);
        assert_eq!(began.iter().map(|(_, moves)| moves).sum::<usize>(), 256);
        assert!(began.iter().all(|(_, moves)| *moves <= 16), "{began:?}");
        assert_eq!(began.last().unwrap().0, 1_500);
        assert_eq!(world.counts(), [256; 4]);
    }

    #[test]
    fn the_next_round_waits_for_the_cooldown_after_the_last() {
        let mut world = World::new(&[up(10), up(0)]);
        let mut pace = Pace::default();
        assert_eq!(run(&mut world, &mut pace, 0, 400), [(0, 5)]);
        // The round was over at 50 ms: nothing waited any more.
        world.join(NodeId(3), up(0));
        let began = run(&mut world, &mut pace, 400, 2_000);
        assert_eq!(began, [(1_050, 3)]);
    }

    #[test]
    fn a_drain_that_waits_for_its_budget_keeps_no_round_open() {
        let mut world = World::new(&[up(30), leaving(60)]);
        let mut pace = Pace { phase: Phase::Round };
        let plan = world.plan();
        assert!(plan.report.refusals.iter().any(|one| one.node == Some(NodeId(2))));
        pace.planned(&plan, at(0));
        world.apply(&plan);
        assert_eq!(pace.cooldown_left(COOLDOWN, at(0)), COOLDOWN);
    }

    #[test]
    fn a_paused_round_is_over() {
        let mut world = World::new(&[up(40), up(0)]);
        let mut pace = Pace::default();
        pace.planned(&world.plan(), at(0));
        assert_eq!(pace.cooldown_left(COOLDOWN, at(10)), Duration::ZERO);
        world.settings.rebalance = crate::registry::Rebalance::Paused;
        pace.planned(&world.plan(), at(20));
        assert_eq!(pace.cooldown_left(COOLDOWN, at(20)), COOLDOWN);
    }
}
