//! States that count as one must have the same future: what tells two of them apart may be left
//! out of a state only if no step depends on it.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

use shoal_model::{
    configurations::ALL,
    protocol::Protocol,
    setup::{Kind, Setup},
    world::World,
};
use stateright::Model;

/// States looked at in each configuration, the shallowest first.
const STATES: usize = 20_000;

fn digest(world: &World) -> u64 {
    let mut state = DefaultHasher::new();
    world.hash(&mut state);
    state.finish()
}

/// Everything that may come next, whichever way this very state was reached.
fn future(model: &Protocol, world: &World) -> Vec<u64> {
    let mut next: Vec<u64> = model.next_states(world).iter().map(digest).collect();
    next.sort_unstable();
    next
}

/// How many states were met a second time, by another way.
fn compare(setup: &'static Setup) -> usize {
    let model = Protocol::new(setup, None);
    let mut known: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut waiting: VecDeque<World> = model.init_states().into();
    let mut met_again = 0;
    while let Some(world) = waiting.pop_front().filter(|_| known.len() < STATES) {
        let future = future(&model, &world);
        if let Some(first) = known.get(&digest(&world)) {
            assert_eq!(*first, future, "{}: {world:#?}", setup.name);
            met_again += 1;
            continue;
        }
        known.insert(digest(&world), future);
        waiting.extend(model.next_states(&world));
    }
    met_again
}

#[test]
fn states_that_count_as_one_have_one_future() {
    for setup in ALL.iter().filter(|setup| setup.kind == Kind::Protocol) {
        let met_again = compare(setup);
        println!("{}: {met_again} states met again", setup.name);
        assert!(met_again > STATES / 2, "{}: hardly a state was met twice", setup.name);
    }
}
