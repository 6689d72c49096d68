//! Random walks over one shard with every fault that a network, a process or a leader has,
//! and the planted faults that they must find.

use std::time::Duration;

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};

use super::world::{Checked, Command, Coverage, Mutant, NODES, World};

#[derive(Clone, Debug)]
enum Fate {
    Net(Net, usize),
    Fault(Fault),
    Work(usize),
    Learn(usize, usize),
    LearnLate(usize, usize),
    Tick(u64),
    /// A command under way is applied; it may come again.
    Apply {
        which: usize,
        again: bool,
    },
    Begin(usize),
    Abort,
    Assign(usize),
    /// One call at the owner, from admission to acknowledgement.
    Serve,
    Call(usize),
    Finish(usize),
    /// Some rounds without a fault, so that walks get deep.
    Rounds(usize),
    /// A move up to its most delicate point: released, and the commit on its way.
    UntilReleased(usize),
}

#[derive(Clone, Copy, Debug)]
enum Net {
    Deliver,
    Lose,
    Repeat,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Crash(usize),
    LoseRight(usize),
    Fence(usize),
    Register(usize),
    /// The target of the move under way dies and comes back at once.
    RestartTarget,
    /// The owner dies and the shard is assigned before any table shows that.
    FailOver(usize),
    NewLeader,
    /// Commands stay under way for a while.
    Hold(bool),
    /// A table stands still for a while.
    Lag(usize, bool),
}

fn fates() -> impl Strategy<Value = Fate> {
    let node = 0..NODES;
    let some = 0..16_usize;
    prop_oneof![
        24 => some.clone().prop_map(|which| Fate::Net(Net::Deliver, which)),
        2 => some.clone().prop_map(|which| Fate::Net(Net::Lose, which)),
        3 => some.clone().prop_map(|which| Fate::Net(Net::Repeat, which)),
        18 => faults().prop_map(Fate::Fault),
        16 => node.clone().prop_map(Fate::Work),
        12 => (node.clone(), 0..4_usize).prop_map(|(node, skip)| Fate::Learn(node, skip)),
        3 => (node.clone(), 0..6_usize).prop_map(|(node, back)| Fate::LearnLate(node, back)),
        6 => prop_oneof![Just(50), Just(300), Just(1_500), Just(12_000)].prop_map(Fate::Tick),
        13 => (some, prop::bool::weighted(0.25))
            .prop_map(|(which, again)| Fate::Apply { which, again }),
        6 => node.clone().prop_map(Fate::Begin),
        3 => Just(Fate::Abort),
        4 => node.clone().prop_map(Fate::Assign),
        8 => Just(Fate::Serve),
        8 => node.clone().prop_map(Fate::Call),
        8 => node.clone().prop_map(Fate::Finish),
        8 => (1..16_usize).prop_map(Fate::Rounds),
        4 => node.prop_map(Fate::UntilReleased),
    ]
}

fn faults() -> impl Strategy<Value = Fault> {
    let node = 0..NODES;
    prop_oneof![
        2 => node.clone().prop_map(Fault::Crash),
        1 => node.clone().prop_map(Fault::LoseRight),
        1 => node.clone().prop_map(Fault::Fence),
        3 => node.clone().prop_map(Fault::Register),
        2 => Just(Fault::RestartTarget),
        2 => node.clone().prop_map(Fault::FailOver),
        1 => Just(Fault::NewLeader),
        3 => any::<bool>().prop_map(Fault::Hold),
        2 => (node, any::<bool>()).prop_map(|(node, lags)| Fault::Lag(node, lags)),
    ]
}

fn walk() -> impl Strategy<Value = Vec<Fate>> {
    prop::collection::vec(fates(), 40..240)
}

fn take(world: &mut World, fate: &Fate) -> Checked {
    match *fate {
        Fate::Net(net, which) => carry(world, net, which),
        Fate::Fault(fault) => strike(world, fault),
        Fate::Work(node) => world.work(node),
        Fate::Learn(node, skip) => {
            let row = world.rows[world.rows.len().saturating_sub(1 + skip)];
            world.learn(node, row)
        }
        Fate::LearnLate(node, back) => {
            let row = world.rows[world.rows.len().saturating_sub(1 + back)];
            world.learn_late(node, row)
        }
        Fate::Tick(millis) => world.tick(Duration::from_millis(millis)),
        Fate::Apply { which, again } => {
            let Some(which) = pick(which, world.pending.len()) else { return Ok(()) };
            let command = world.pending[which];
            if !again {
                world.pending.remove(which);
            }
            world.apply(command)
        }
        Fate::Begin(node) => world.apply(Command::Begin(world.nodes[node].process)),
        Fate::Abort => {
            if let Some(key) = world.moving() {
                world.abort(key);
            }
            Ok(())
        }
        Fate::Assign(node) => world.apply(Command::Assign(world.nodes[node].process)),
        Fate::Serve => match world.owner() {
            Some(owner) if world.call(owner) => world.finish(owner).map(|_| ()),
            Some(_) | None => Ok(()),
        },
        Fate::Call(node) => {
            world.call(node);
            Ok(())
        }
        Fate::Finish(node) => world.finish(node).map(|_| ()),
        Fate::Rounds(count) => (0..count).try_for_each(|_| world.round()),
        Fate::UntilReleased(to) => until_released(world, to),
    }
}

fn pick(which: usize, length: usize) -> Option<usize> {
    (length > 0).then(|| which % length)
}

fn carry(world: &mut World, net: Net, which: usize) -> Checked {
    let Some(which) = pick(which, world.net.len()) else { return Ok(()) };
    match net {
        Net::Deliver => {
            let packet = world.net.remove(which);
            world.deliver(packet)
        }
        Net::Lose => {
            world.net.remove(which);
            Ok(())
        }
        Net::Repeat => {
            world.net.push(world.net[which].clone());
            Ok(())
        }
    }
}

fn strike(world: &mut World, fault: Fault) -> Checked {
    match fault {
        Fault::Crash(node) => world.crash(node),
        Fault::LoseRight(node) => world.nodes[node].right = false,
        Fault::Fence(node) => return world.fence(node),
        Fault::Register(node) => return world.register(node),
        Fault::RestartTarget => {
            if let Some(target) = world.target() {
                world.crash(target);
                return world.register(target);
            }
        }
        Fault::FailOver(to) => {
            if let Some(owner) = world.owner() {
                world.crash(owner);
                world.fence(owner)?;
                return world.apply(Command::Assign(world.nodes[to].process));
            }
        }
        Fault::NewLeader => world.new_leader(),
        Fault::Hold(hold) => world.hold_commands = hold,
        Fault::Lag(node, true) => {
            world.lagging.insert(node);
        }
        Fault::Lag(node, false) => {
            world.lagging.remove(&node);
        }
    }
    Ok(())
}

fn until_released(world: &mut World, to: usize) -> Checked {
    world.apply(Command::Begin(world.nodes[to].process))?;
    let held = std::mem::replace(&mut world.hold_commands, true);
    for _ in 0..30 {
        if world.pending.iter().any(|command| matches!(command, Command::Commit(_))) {
            break;
        }
        world.round()?;
    }
    world.hold_commands = held;
    Ok(())
}

fn run(fates: &[Fate], mutant: Option<Mutant>) -> Result<Coverage, String> {
    let mut world = World::new(mutant);
    world.apply(Command::Assign(world.nodes[0].process))?;
    for fate in fates {
        take(&mut world, fate)?;
        world.check()?;
    }
    world.heal()?;
    Ok(world.coverage)
}

proptest! {
    #![proptest_config(Config { max_shrink_iters: 20_000, ..Config::default() })]

    #[test]
    fn one_admits_nothing_acknowledged_is_lost_and_moves_end(fates in walk()) {
        run(&fates, None).map_err(TestCaseError::fail)?;
    }
}

/// The same walks each time: drawn from a fixed seed.
fn fixed_walks() -> impl Iterator<Item = Vec<Fate>> {
    let mut runner = TestRunner::deterministic();
    std::iter::repeat_with(move || walk().new_tree(&mut runner).expect("a walk").current())
}

#[test]
fn walks_reach_what_they_are_for() {
    let mut sum = Coverage::default();
    for fates in fixed_walks().take(200) {
        let seen = run(&fates, None).expect("no violation");
        sum.commits += seen.commits - 1;
        sum.aborts_after_release += seen.aborts_after_release;
        sum.fences_during_move += seen.fences_during_move;
        sum.opened_received += seen.opened_received;
        sum.reopened_frozen += seen.reopened_frozen;
        sum.acknowledged += seen.acknowledged;
        sum.stale_commands += seen.stale_commands;
    }
    let least = [
        sum.commits,
        sum.aborts_after_release,
        sum.fences_during_move,
        sum.opened_received,
        sum.reopened_frozen,
        sum.acknowledged,
        sum.stale_commands,
    ];
    assert!(least.iter().all(|count| *count >= 10), "{sum:?}");
}

fn is_found(mutant: Mutant) {
    let found = fixed_walks().take(2_000).any(|fates| run(&fates, Some(mutant)).is_err());
    assert!(found, "2,000 walks found nothing wrong with {mutant:?}");
}

#[test]
fn mutant_state_dropped_at_released_is_found() {
    is_found(Mutant::StateDroppedAtReleased);
}

#[test]
fn mutant_commit_ignoring_the_incarnation_is_found() {
    is_found(Mutant::CommitIgnoresIncarnation);
}

#[test]
fn mutant_received_state_opened_without_via_is_found() {
    is_found(Mutant::OpenedWithoutVia);
}

#[test]
fn mutant_abort_not_keyed_by_move_is_found() {
    is_found(Mutant::AbortNotKeyed);
}

#[test]
fn mutant_target_dropping_by_timer_is_found() {
    is_found(Mutant::TargetDropsByTimer);
}

#[test]
fn mutant_released_shard_learned_again_is_found() {
    is_found(Mutant::LateAnswerLearned);
}
