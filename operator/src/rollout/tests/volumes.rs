//! Volumes that no Kubernetes node can mount: kept until somebody gives them up.

use super::*;

/// Steps that were taken within so many ticks.
fn steps(world: &mut World, ticks: u32) -> Vec<Step> {
    let mut taken = Vec::new();
    for _ in 0..ticks {
        while let Some(step) = world.step().step {
            taken.push(step);
        }
        world.tick();
    }
    taken
}

fn after_loss(replicas: u32, how: Lost) -> World {
    let mut world = formed(replicas, 5);
    world.lose_volume(1, how);
    world
}

#[test]
fn a_lost_volume_waits_for_a_human_and_says_what_he_can_do() {
    let mut world = after_loss(3, Lost::Gone);
    assert_eq!(steps(&mut world, 60), []);
    let decision = world.step();
    assert!(decision.waits[0].contains("annotation shoal.dev/replace=x-1"), "{decision:?}");
    // Who names another pod gives up nothing.
    world.desired.replace = Some("x-2".to_owned());
    assert_eq!(steps(&mut world, 30), []);
    let before = world.live();
    world.desired.replace = Some("x-1".to_owned());
    settle(&mut world, 200);
    let after = world.live();
    assert!(before["x-1"] < after["x-1"], "a new member: {before:?}, {after:?}");
    assert_eq!((before["x-0"], before["x-2"]), (after["x-0"], after["x-2"]));
    // The annotation is still there: the new volume is not lost, so nothing more happens.
    assert_eq!(steps(&mut world, 30), []);
}

#[test]
fn a_volume_that_went_with_its_machine_is_replaced_where_the_spec_says_so() {
    for replicas in [3, 4, 5, 8] {
        let mut world = after_loss(replicas, Lost::Gone);
        world.desired.replaces_lost = true;
        let taken = steps(&mut world, 60);
        let at = |wanted: fn(&Step) -> bool| taken.iter().position(wanted).expect("was taken");
        let drained = at(|step| matches!(step, Step::DrainForRemoval { .. }));
        let removed = at(|step| matches!(step, Step::Remove { force: false, .. }));
        let deleted = at(|step| matches!(step, Step::DeleteClaim { .. }));
        assert!(drained < removed && removed < deleted, "{taken:?}");
        settle(&mut world, 200);
    }
}

#[test]
fn a_zone_without_nodes_is_waited_for_whatever_the_spec_says() {
    let mut world = after_loss(3, Lost::Unreachable);
    world.desired.replaces_lost = true;
    assert_eq!(steps(&mut world, 60), []);
    world.desired.replace = Some("x-1".to_owned());
    settle(&mut world, 200);
}

#[test]
fn a_machine_that_comes_back_half_way_keeps_its_member() {
    let mut world = after_loss(3, Lost::Gone);
    world.desired.replaces_lost = true;
    let before = world.live();
    until(&mut world, |_, now| matches!(now.step, Some(Step::DrainForRemoval { .. })));
    world.find_volume(1);
    let step = world.step().step;
    assert!(matches!(step, Some(Step::CancelDrain { .. })), "{step:?}");
    settle(&mut world, 200);
    assert_eq!(before, world.live());
}

#[test]
fn without_a_quorum_no_volume_is_given_up() {
    let mut world = after_loss(3, Lost::Gone);
    world.desired.replaces_lost = true;
    world.lose_volume(2, Lost::Gone);
    assert_eq!(steps(&mut world, 60), []);
    let decision = world.step();
    assert!(decision.waits[0].starts_with("no quorum answers"), "{decision:?}");
    world.find_volume(2);
    settle(&mut world, 200);
}
