//! Runs the checker on one thread and keeps what it found.

use std::{
    fmt::{Debug, Write},
    hash::Hash,
    time::{Duration, Instant},
};

use stateright::{Checker, Expectation, HasDiscoveries, Model};

use crate::{
    election::Election,
    protocol::Protocol,
    setup::{Hunt, Kind, Setup},
};

/// A configuration searched to its last state.
#[derive(Clone, Debug)]
pub struct Searched {
    pub setup: &'static Setup,
    pub states: usize,
    pub depth: usize,
    pub took: Duration,
    /// What does not hold, with the steps that lead there.
    pub broken: Vec<(&'static str, String)>,
    /// What was to be reached, and what of it was not.
    pub reached: usize,
    pub missed: Vec<&'static str>,
}

/// A mutant, and the shortest way to the harm that it does.
#[derive(Clone, Debug)]
pub struct Hunted {
    pub hunt: Hunt,
    pub took: Duration,
    pub states: usize,
    pub found: Option<Found>,
}

#[derive(Clone, Debug)]
pub struct Found {
    pub broken: &'static str,
    pub length: usize,
    pub steps: String,
}

pub fn search(setup: &'static Setup) -> Searched {
    match setup.kind {
        Kind::Protocol => search_in(setup, Protocol::new(setup, None)),
        Kind::Election => search_in(setup, Election::new(setup, None)),
    }
}

pub fn hunt(hunt: Hunt) -> Hunted {
    match hunt.setup.kind {
        Kind::Protocol => hunt_in(hunt, Protocol::new(hunt.setup, Some(hunt.mutant))),
        Kind::Election => hunt_in(hunt, Election::new(hunt.setup, Some(hunt.mutant))),
    }
}

/// Every state, whatever is found on the way: no search ends before the last one.
fn search_in<M>(setup: &'static Setup, model: M) -> Searched
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Hash + Send + Sync + PartialEq + 'static,
    M::Action: Clone + Debug + PartialEq,
{
    let began = Instant::now();
    let checker = model.checker().threads(1).spawn_bfs().join();
    let found = checker.discoveries();
    let properties = checker.model().properties();
    let mut broken = Vec::new();
    let mut missed = Vec::new();
    let mut reached = 0;
    for property in properties {
        match (property.expectation, found.get(property.name)) {
            (Expectation::Sometimes, Some(_)) => reached += 1,
            (Expectation::Sometimes, None) => missed.push(property.name),
            (Expectation::Always | Expectation::Eventually, Some(path)) => {
                broken.push((property.name, steps(path.clone().into_actions())));
            }
            (Expectation::Always | Expectation::Eventually, None) => {}
        }
    }
    Searched {
        setup,
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        took: began.elapsed(),
        broken,
        reached,
        missed,
    }
}

fn hunt_in<M>(hunt: Hunt, model: M) -> Hunted
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Hash + Send + Sync + PartialEq + 'static,
    M::Action: Clone + Debug + PartialEq,
{
    let began = Instant::now();
    let checker = model.checker().threads(1).finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_bfs().join();
    let found = checker.discoveries().into_iter().find_map(|(name, path)| {
        let failure = checker.model().property(name).expectation.discovery_is_failure();
        failure.then(|| path.into_actions()).map(|actions| Found {
            broken: name,
            length: actions.len(),
            steps: steps(actions),
        })
    });
    Hunted { hunt, took: began.elapsed(), states: checker.unique_state_count(), found }
}

fn steps<A: Debug>(actions: Vec<A>) -> String {
    actions.into_iter().fold(String::new(), |mut text, step| {
        let _ = writeln!(text, "  {step:?}");
        text
    })
}
