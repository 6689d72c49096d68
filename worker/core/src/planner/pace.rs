//! When balancing may begin moves, and how many at once.
//!
//! A round begins with its first move and goes on, as the budgets let it, until a plan has
//! nothing more to balance; the cooldown counts from there. Within a round the time that moves
//! take sets the pace: as many run side by side as end quickly, so that cheap moves make a
//! short round on an idle machine and a busy one is not pushed over. Which moves, the plan
//! decides.

use std::time::Duration;

use crate::{id::Timestamp, registry::MOVES};

use super::{Plan, Reason};

/// Balancing always goes on with so many moves at once: a busy cluster should not stay uneven.
const FEWEST: u32 = 8;
/// A move of little state on an idle machine takes half of it: room for one more.
const QUICK: Duration = Duration::from_millis(100);
/// Moves wait for each other, or for a busy machine: half as many do as well.
const SLOW: Duration = Duration::from_millis(250);

/// The memory of one leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    phase: Phase,
    at_once: u32,
    /// Moves begun under the larger number end for a while after it was halved.
    halved: Option<Timestamp>,
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

impl Default for Pace {
    fn default() -> Self {
        Self { phase: Phase::Fresh, at_once: FEWEST, halved: None }
    }
}

impl Pace {
    /// How long no balancing move may begin.
    pub fn cooldown_left(&self, cooldown: Duration, now: Timestamp) -> Duration {
        match self.phase {
            Phase::Fresh | Phase::Round => Duration::ZERO,
            Phase::Rests { since } => cooldown.saturating_sub(now.at_least_since(since)),
        }
    }

    /// Moves in flight up to which balancing may begin more.
    pub fn at_once(&self) -> u32 {
        self.at_once
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

    /// A move was committed this long after it began.
    pub fn moved(&mut self, took: Duration, now: Timestamp) {
        let heeded = self.halved.is_none_or(|at| now.at_least_since(at) >= SLOW);
        if took <= QUICK {
            self.at_once = (self.at_once + 1).min(*MOVES.end());
        } else if took >= SLOW && heeded {
            self.at_once = (self.at_once / 2).max(FEWEST);
            self.halved = Some(now);
        }
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
                (0..world.finish_moves()).for_each(|_| pace.moved(QUICK, at(now)));
            }
            world.cooldown_left = pace.cooldown_left(COOLDOWN, at(now));
            world.at_once = pace.at_once();
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
        assert_eq!(began[0], (0, FEWEST as usize));
        assert!(began.iter().all(|(_, moves)| *moves <= 16), "{began:?}");
        assert_eq!(began.last().unwrap().0, 1_600);
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
        let mut pace = Pace { phase: Phase::Round, ..Pace::default() };
        let plan = world.plan();
        assert!(plan.report.refusals.iter().any(|one| one.node == Some(NodeId(2))));
        pace.planned(&plan, at(0));
        world.apply(&plan);
        assert_eq!(pace.cooldown_left(COOLDOWN, at(0)), COOLDOWN);
    }

    #[test]
    fn slow_moves_halve_the_number_once_and_quick_ones_raise_it() {
        let mut pace = Pace::default();
        (0..32).for_each(|_| pace.moved(QUICK, at(0)));
        assert_eq!(pace.at_once(), FEWEST + 32);
        pace.moved(QUICK * 2, at(0));
        assert_eq!(pace.at_once(), 40, "neither quick nor slow");
        (0..40).for_each(|i| pace.moved(SLOW, at(i)));
        assert_eq!(pace.at_once(), 20, "those begun before say nothing new");
        pace.moved(SLOW, at(250));
        pace.moved(SLOW, at(500));
        assert_eq!(pace.at_once(), FEWEST, "and never fewer");
    }

    #[test]
    fn a_busy_cluster_is_balanced_few_moves_at_once() {
        let mut world = World::new(&[up(100), up(0), up(0)]);
        world.at_once = Pace::default().at_once();
        let plan = world.plan();
        assert_eq!(plan.moves.len(), FEWEST as usize);
        let why = crate::planner::Why::Paced { at_once: FEWEST };
        assert_eq!(plan.report.refusals[0].why, why);
        assert!(plan.report.balancing_waits());
        // A drain is not balancing.
        let mut world = World::new(&[leaving(100), up(0), up(0)]);
        world.at_once = 1;
        assert_eq!(world.plan().moves.len(), 16);
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
