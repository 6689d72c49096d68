//! The rules of a roll, one by one and together.

mod abandon;
mod volumes;
mod world;

use super::*;
use world::World;

/// Ticks and steps until everything is as specified, and a while longer: nothing more happens.
fn settle(world: &mut World, limit: u32) -> u32 {
    let (mut ticks, mut steps) = (0, 0);
    loop {
        let decision = world.step();
        steps += 1;
        assert!(steps < 100, "rules that undo each other: {decision:?}\n{}", world.picture());
        if decision.step.is_none() {
            steps = 0;
            if world.is_settled() {
                break;
            }
            world.tick();
            ticks += 1;
        }
        assert!(
            ticks < limit,
            "not settled after {limit} ticks: {decision:?}\n{}",
            world.picture()
        );
    }
    for _ in 0..20 {
        world.tick();
        let decision = world.step();
        assert_eq!(decision.step, None, "a settled cluster is left alone");
    }
    ticks
}

/// Ticks and steps until the world is so.
fn until(world: &mut World, wanted: impl Fn(&World, &Decision) -> bool) {
    let mut decision = Decision::default();
    for _ in 0..500 {
        if wanted(world, &decision) {
            return;
        }
        decision = world.step();
        if decision.step.is_none() {
            world.tick();
        }
    }
    panic!("it never comes: {}", world.picture());
}

fn formed(replicas: u32, seed: u64) -> World {
    let mut world = World::new(replicas, seed);
    settle(&mut world, 200);
    world
}

#[test]
fn clusters_of_every_size_form_and_then_rest() {
    for replicas in [1, 2, 3, 4, 5, 8, 12] {
        let world = formed(replicas, 1);
        let identity = world.seen.identity.expect("an identity");
        assert_eq!(identity.founding.len() as u32, replicas.min(3));
        assert_eq!(identity.cluster.as_deref(), Some("c"));
    }
}

#[test]
fn sizes_up_and_down_end_where_they_should() {
    for seed in 0..50 {
        let mut world = formed(3, seed);
        for replicas in [5, 2, 12, 1, 3, 7, 1] {
            world.desired.replicas = replicas;
            settle(&mut world, 600);
        }
    }
}

#[test]
fn removals_take_the_highest_ordinal_first_and_as_a_number() {
    let mut world = formed(12, 3);
    world.desired.replicas = 9;
    let mut drained = Vec::new();
    for _ in 0..400 {
        if let Some(Step::DrainForRemoval { name, .. }) = world.step().step {
            drained.push(name);
        } else {
            world.tick();
        }
    }
    assert_eq!(drained, ["x-11", "x-10", "x-9"]);
}

#[test]
fn a_pod_that_may_be_joining_is_not_taken_away_unseen() {
    let mut world = formed(3, 4);
    world.desired.replicas = 4;
    until(&mut world, |world, _| world.seen.pods.contains_key(&3));
    world.desired.replicas = 3;
    let pod = world.seen.pods.get_mut(&3).unwrap();
    (pod.down, pod.age) = (Duration::ZERO, Duration::from_secs(5));
    let decision = next(&world.desired, &world.seen);
    assert_eq!(decision.step, None, "{decision:?}");
    assert!(decision.waits[0].contains("x-3 joins"), "{decision:?}");
    // One that does not run joins nothing, and one that runs for long will not.
    for (down, age) in [(1, 5), (0, 30)] {
        let pod = world.seen.pods.get_mut(&3).unwrap();
        (pod.down, pod.age) = (Duration::from_secs(down), Duration::from_secs(age));
        let step = next(&world.desired, &world.seen).step;
        assert!(matches!(step, Some(Step::Resize { replicas: 3, .. })), "{step:?}");
    }
}

#[test]
fn a_drain_is_taken_back_until_it_is_closed() {
    let mut world = formed(5, 4);
    world.desired.replicas = 4;
    until(&mut world, |_, now| matches!(now.step, Some(Step::DrainForRemoval { .. })));
    world.desired.replicas = 5;
    let step = world.step().step;
    assert!(matches!(step, Some(Step::CancelDrain { ref name, .. }) if name == "x-4"), "{step:?}");
    let pods: Vec<String> = world.seen.pods.values().map(|pod| pod.uid.clone()).collect();
    settle(&mut world, 100);
    let after: Vec<String> = world.seen.pods.values().map(|pod| pod.uid.clone()).collect();
    assert_eq!(pods, after, "no pod was touched");
}

/// Its word may come before that of the API server: a pod that is being evicted still looks well.
#[test]
fn what_a_node_asks_for_itself_is_not_taken_back() {
    let mut world = formed(3, 4);
    for (drain, back) in [(Drain::Own, false), (Drain::Restart, true)] {
        let node = world.node(2);
        (node.drain, node.target) = (drain, false);
        let step = world.step().step;
        assert_eq!(matches!(step, Some(Step::CancelDrain { .. })), back, "{drain:?}: {step:?}");
    }
}

#[test]
fn a_node_that_closed_before_it_was_wanted_again_makes_room_for_its_successor() {
    for asleep in [false, true] {
        let mut world = formed(5, 4);
        world.desired.replicas = 4;
        until(&mut world, |_, now| matches!(now.step, Some(Step::Close { .. })));
        if asleep {
            world.desired.replicas = 0;
            for _ in 0..50 {
                if world.step().step.is_none() {
                    world.tick();
                }
            }
            assert!(world.seen.pods.is_empty());
        }
        world.desired.replicas = 5;
        settle(&mut world, 300);
    }
}

#[test]
fn a_roll_replaces_every_pod_voters_one_by_one_and_the_leader_last() {
    for seed in 0..30 {
        let mut world = formed(7, seed);
        world.seen.pods.values().for_each(|pod| assert_eq!(pod.revision, "r1"));
        world.revision = 2;
        let mut order = Vec::new();
        for _ in 0..600 {
            let leader = match &world.seen.registry {
                Registry::Known(known) => known.leader,
                Registry::Unknown { .. } | Registry::Founding { .. } => 0,
            };
            match world.step().step {
                Some(Step::DrainForRestart { node, .. }) => order.push((node, node == leader)),
                Some(_) => {}
                None => world.tick(),
            }
        }
        assert!(world.is_settled(), "{}", world.picture());
        assert_eq!(order.len(), 7, "{order:?}");
        assert!(order.last().expect("seven").1, "the leader goes last: {order:?}");
    }
}

#[test]
fn a_template_that_never_runs_takes_one_pod_and_its_revert_brings_it_back() {
    for seed in 0..30 {
        let mut world = formed(3, seed);
        world.desired.progress_deadline = Duration::from_secs(30);
        world.revision = 2;
        world.broken.insert("r2".to_owned());
        let mut stuck = false;
        for _ in 0..200 {
            let decision = world.step();
            stuck |= decision.blocked.is_some_and(|b| b.halt == Some(Halt::RollStuck));
            if decision.step.is_none() {
                world.tick();
            }
            let down = world.seen.pods.values().filter(|pod| !pod.ready).count();
            assert!(down + 3 - world.seen.pods.len() <= 1, "at most one pod is down");
        }
        assert!(stuck, "the roll stops: {}", world.picture());
        world.revision = 3;
        settle(&mut world, 300);
    }
}

#[test]
fn a_template_that_never_ran_is_repaired_by_an_edit() {
    let mut world = World::new(3, 5);
    world.broken.insert("r1".to_owned());
    for _ in 0..60 {
        if world.step().step.is_none() {
            world.tick();
        }
    }
    world.revision = 2;
    settle(&mut world, 300);
}

#[test]
fn without_volumes_one_pod_at_most_is_given_up_while_no_quorum_answers() {
    let mut world = World::new(3, 16);
    world.desired.ephemeral = true;
    settle(&mut world, 200);
    let minute = Duration::from_secs(60);
    for ordinal in [1, 2] {
        let pod = world.seen.pods.get_mut(&ordinal).unwrap();
        (pod.ready, pod.down, pod.age) = (false, NOT_RUNNING, minute);
    }
    world.seen.set.as_mut().unwrap().revision = Some("r2".to_owned());
    world.seen.registry = Registry::Unknown { why: "two of three are down".to_owned() };
    let given_up = |world: &World| match next(&world.desired, &world.seen).step {
        Some(Step::DeletePod { name, why: Deletion::NotRunning, .. }) => Some(name),
        None => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(given_up(&world).as_deref(), Some("x-1"));
    let successor = world.seen.pods.get_mut(&1).unwrap();
    (successor.revision, successor.down) = ("r2".to_owned(), Duration::ZERO);
    assert_eq!(given_up(&world), None);
    // One that has never run holds nothing.
    world.seen.pods.get_mut(&2).unwrap().down = minute;
    assert_eq!(given_up(&world).as_deref(), Some("x-2"));
    world.seen.pods.get_mut(&2).unwrap().down = NOT_RUNNING;
    // A directory on a volume outlives its pod.
    world.desired.ephemeral = false;
    assert_eq!(given_up(&world).as_deref(), Some("x-2"));
}

#[test]
fn a_pod_that_keeps_a_cluster_from_forming_is_named_first() {
    let mut world = World::new(3, 5);
    until(&mut world, |world, _| world.seen.pods.len() == 3);
    let words = "no storage class fast".to_owned();
    let pod = world.seen.pods.get_mut(&1).expect("is there");
    (pod.ready, pod.trouble) = (false, Some(Trouble::Other(words)));
    let registries = [
        Registry::Unknown { why: "no worker runs".to_owned() },
        Registry::Founding { joined: BTreeMap::new() },
    ];
    for registry in registries {
        world.seen.registry = registry;
        let decision = next(&world.desired, &world.seen);
        assert_eq!(decision.activity, Activity::Creating);
        assert_eq!(
            decision.waits.first().map(String::as_str),
            Some("pod x-1: no storage class fast")
        );
    }
}

#[test]
fn workers_that_run_but_cannot_found_are_repaired_by_an_edit() {
    let mut world = World::new(3, 5);
    world.mute.insert("r1".to_owned());
    for _ in 0..60 {
        if world.step().step.is_none() {
            world.tick();
        }
    }
    assert!(world.seen.pods.values().all(|pod| pod.down.is_zero() && !pod.ready));
    world.revision = 2;
    settle(&mut world, 300);
}

#[test]
fn hibernation_keeps_every_volume_and_resumes_with_the_former_members() {
    for to in [1, 3, 5, 6] {
        let mut world = formed(5, 6);
        let claims = world.seen.claims.clone();
        world.desired.replicas = 0;
        for _ in 0..50 {
            if world.step().step.is_none() {
                world.tick();
            }
        }
        assert!(world.seen.pods.is_empty());
        assert_eq!(world.seen.claims, claims);
        world.desired.replicas = to;
        settle(&mut world, 600);
    }
}

/// Not before the last pod is gone: one that stays could be what is left of a quorum.
#[test]
fn without_volumes_a_hibernation_goes_to_its_end_and_another_cluster_is_founded() {
    for (to, back_after) in [(3, 0), (5, 0), (3, 1), (7, 30), (5, 200)] {
        let mut world = World::new(5, 6);
        world.desired.ephemeral = true;
        settle(&mut world, 200);
        let before = world.live();
        world.desired.replicas = 0;
        until(&mut world, |_, now| matches!(now.step, Some(Step::Resize { replicas: 0, .. })));
        for _ in 0..back_after {
            if world.step().step.is_none() {
                world.tick();
            }
        }
        if back_after == 200 {
            assert_eq!(world.seen.identity.as_ref().expect("an identity").cluster, None);
            assert_eq!(world.step(), Decision::default(), "it rests");
        }
        world.desired.replicas = to;
        settle(&mut world, 600);
        let after = world.live();
        assert!(after.values().min() > before.values().max(), "{before:?}, {after:?}");
    }
}

#[test]
fn a_cluster_told_to_stop_while_it_forms_forms_and_then_stops() {
    for moment in 0..30 {
        let mut world = World::new(3, 11);
        for _ in 0..moment {
            if world.step().step.is_none() {
                world.tick();
            }
        }
        world.desired.replicas = 0;
        for _ in 0..80 {
            if world.step().step.is_none() {
                world.tick();
            }
        }
        assert!(world.seen.pods.is_empty(), "told at {moment}:\n{}", world.picture());
        world.desired.replicas = 3;
        settle(&mut world, 300);
    }
}

#[test]
fn a_pod_that_joins_while_all_are_told_to_stop_is_told_too() {
    let mut world = formed(3, 12);
    world.desired.replicas = 4;
    until(&mut world, |world, _| world.seen.pods.contains_key(&3));
    world.desired.replicas = 0;
    assert_eq!(world.step().step, Some(Step::StopAll));
    let pod = world.seen.pods.get_mut(&3).unwrap();
    // Whatever chance did with it: this one was never a member.
    pod.uid = "new".to_owned();
    (pod.down, pod.age) = (Duration::ZERO, Duration::from_secs(5));
    let decision = world.step();
    assert_eq!(decision.step, None, "{decision:?}");
    assert_eq!(decision.waits, ["x-3 joins at this moment"]);
    world.seen.pods.get_mut(&3).unwrap().age = JOINS_WITHIN;
    let step = world.step().step;
    assert!(matches!(step, Some(Step::Resize { replicas: 0, .. })), "{step:?}");
}

/// Every node drains then and none is a target: a roll would wait for ever.
#[test]
fn a_hibernation_called_off_with_a_new_template_is_rolled_like_any_other() {
    for replicas in [1, 2, 3, 5] {
        let mut world = formed(replicas, 6);
        world.desired.replicas = 0;
        assert_eq!(world.step().step, Some(Step::StopAll));
        world.desired.replicas = replicas;
        world.revision += 1;
        world.tick();
        settle(&mut world, 300);
    }
}

#[test]
fn changes_of_mind_at_random_moments_end_as_a_fresh_installation_would() {
    for seed in 0..400 {
        let ephemeral = seed % 4 == 3;
        let least = if ephemeral { 3 } else { 1 };
        let mut world = World::new(least + (seed % 5) as u32, seed);
        world.desired.ephemeral = ephemeral;
        for _ in 0..150 {
            let replicas = [0, least, 2.max(least), 3, 4, 5, 7, 11];
            match world.chance.below(40) {
                0..=2 => {
                    let index = world.chance.below(replicas.len() as u64) as usize;
                    world.desired.replicas = replicas[index];
                }
                3 => {
                    world.revision += 1;
                    if world.chance.one_in(3) {
                        world.broken.insert(format!("r{}", world.revision));
                    }
                }
                4 => world.crash(),
                5 => world.desired.parallel_removals = 1 + world.chance.below(3) as u32,
                _ => {}
            }
            if world.step().step.is_none() || world.chance.one_in(3) {
                world.tick();
            }
        }
        world.desired.replicas = least + (seed % 7) as u32;
        world.revision += 1;
        settle(&mut world, 1_500);
    }
}

#[test]
fn as_many_non_voters_restart_at_once_as_the_spec_allows_and_one_voter() {
    for allowed in [1, 2, 3] {
        let mut world = formed(10, 13);
        world.desired.max_unavailable = allowed;
        world.revision = 2;
        let (mut voters, mut others) = (0, 0);
        for _ in 0..600 {
            if world.step().step.is_none() {
                world.tick();
            }
            let Registry::Known(known) = &world.seen.registry else { panic!("a quorum answers") };
            let away = known.nodes.iter().filter(|n| n.life != Life::Left && !n.target);
            let (votes, rest): (Vec<_>, Vec<_>) = away.partition(|node| node.voter);
            (voters, others) = (voters.max(votes.len()), others.max(rest.len()));
        }
        assert!(world.is_settled(), "{}", world.picture());
        assert_eq!((voters, others), (1, allowed as usize));
    }
}

#[test]
fn while_rolls_are_paused_pods_keep_their_revision() {
    let mut world = formed(3, 14);
    world.revision = 2;
    until(&mut world, |_, now| matches!(now.step, Some(Step::DrainForRestart { .. })));
    world.desired.rolls = false;
    let step = world.step().step;
    assert!(matches!(step, Some(Step::CancelDrain { .. })), "{step:?}");
    world.desired.replicas = 5;
    for _ in 0..100 {
        if world.step().step.is_none() {
            world.tick();
        }
    }
    let revisions: Vec<_> = world.seen.pods.values().map(|pod| pod.revision.as_str()).collect();
    assert_eq!(revisions, ["r1", "r1", "r1", "r2", "r2"]);
    world.desired.rolls = true;
    settle(&mut world, 300);
}

#[test]
fn volumes_of_nodes_that_left_stay_where_the_spec_says_so() {
    let mut world = formed(5, 15);
    world.desired.deletes_claims = false;
    let claims = world.seen.claims.clone();
    world.desired.replicas = 2;
    for _ in 0..200 {
        if world.step().step.is_none() {
            world.tick();
        }
    }
    assert_eq!((world.seen.pods.len(), &world.seen.claims), (2, &claims));
    world.desired.replicas = 5;
    settle(&mut world, 300);
    assert_eq!(world.seen.claims, claims);
}

#[test]
fn without_a_quorum_nothing_that_runs_is_touched() {
    let mut world = formed(3, 7);
    world.desired.replicas = 1;
    world.revision = 2;
    world.tick();
    world.seen.registry = Registry::Unknown { why: "cut off".to_owned() };
    let decision = next(&world.desired, &world.seen);
    assert_eq!(decision.step, None, "{decision:?}");
    world.desired.replicas = 4;
    let step = next(&world.desired, &world.seen).step;
    assert!(matches!(step, Some(Step::Resize { replicas: 4, .. })), "growing waits for nobody");
}

#[test]
fn a_death_is_reported_only_for_the_very_process() {
    let mut world = formed(3, 8);
    let incarnation = world.seen.pods[&1].uid.clone();
    world.seen.pods.get_mut(&1).expect("is there").ended = Some("an older one".to_owned());
    assert_eq!(next(&world.desired, &world.seen).step, None);
    world.seen.pods.get_mut(&1).expect("is there").ended = Some(incarnation.clone());
    let step = next(&world.desired, &world.seen).step;
    let reported =
        matches!(step, Some(Step::ReportDeath { incarnation: ref i, .. }) if *i == incarnation);
    assert!(reported, "{step:?}");
}

#[test]
fn a_pod_of_a_lost_machine_is_replaced_whatever_else_is_wrong() {
    let mut world = formed(3, 9);
    world.seen.registry = Registry::Unknown { why: "cut off".to_owned() };
    world.seen.pods.get_mut(&2).expect("is there").node_lost = true;
    let step = next(&world.desired, &world.seen).step;
    let lost = matches!(step, Some(Step::DeletePod { why: Deletion::NodeLost, .. }));
    assert!(lost, "{step:?}");
}

#[test]
fn a_single_member_is_replaced_and_the_downtime_is_named() {
    let mut world = formed(1, 10);
    world.revision = 2;
    let mut alone = false;
    for _ in 0..40 {
        match world.step().step {
            Some(Step::DeletePod { why: Deletion::Alone, .. }) => alone = true,
            Some(_) => {}
            None => world.tick(),
        }
    }
    assert!(alone && world.is_settled(), "{}", world.picture());
}
