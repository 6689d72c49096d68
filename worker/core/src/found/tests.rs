//! Founding under faults, and one test per execution that a rule was written for.

mod abandon;
mod sim;

use super::*;
use crate::id::Epoch;
use sim::{CALM, STORM, Sim, name, set};

/// Episodes per size: a few seconds in all.
const SEEDS: u64 = 400;

/// Disks that may be lost, by the size of the founding set.
fn tolerated(size: usize) -> u32 {
    match size {
        1 => 0,
        2 | 3 => 1,
        _ => 2,
    }
}

/// A set of two has one voter, whose disk must last once it may have formed.
fn may_lose(sim: &Sim, i: usize, size: usize) -> bool {
    size > 2 || !sim.holds_formed(i)
}

fn storm(sim: &mut Sim, size: usize) {
    let mut losses = tolerated(size);
    sim.weather = STORM;
    for _ in 0..sim.random.below(40) {
        let span = 1 + sim.random.below(1_500);
        sim.pass(span);
        let i = sim.random.below(sim.nodes.len() as u64) as usize;
        let other = sim.random.below(sim.nodes.len() as u64) as usize;
        match sim.random.below(10) {
            0 | 1 => {
                let boot = sim.random.below(3) * 1_000_000;
                sim.start_at_boot(i, boot);
            }
            2 | 3 => sim.start(i),
            4 => sim.crash(i),
            5 if losses > 0 && sim.directory(i).is_some() && may_lose(sim, i, size) => {
                losses -= 1;
                if size > 2 && sim.random.percent(30) && !sim.is_zombie(i) {
                    let new = sim.replace(i);
                    sim.start(new);
                } else if !sim.is_zombie(i) {
                    sim.lose_disk(i);
                }
            }
            6 => sim.isolate(i),
            7 => {
                sim.cut.insert((i, other));
            }
            _ => sim.cut.clear(),
        }
    }
}

fn healed(sim: &mut Sim) -> Result<(), String> {
    sim.end_zombies();
    sim.weather = CALM;
    sim.cut.clear();
    let living: Vec<usize> = (0..sim.nodes.len()).filter(|i| !sim.is_zombie(*i)).collect();
    living.iter().for_each(|i| sim.start(*i));
    let all = living.clone();
    let formed = sim.run(60_000, move |sim| {
        all.iter().all(|i| sim.formed_in(*i).is_some()) || sim.violation.is_some()
    });
    if let Some(violation) = &sim.violation {
        return Err(violation.clone());
    }
    let states: Vec<_> = living.iter().map(|i| sim.nodes[*i].waiting.clone()).collect();
    if formed { Ok(()) } else { Err(format!("never forms: {states:?}")) }
}

fn episode(size: usize, seed: u64, mutant: Option<Mutant>) -> (Sim, Result<(), String>) {
    let mut sim = Sim::of(size, seed, mutant);
    storm(&mut sim, size);
    let outcome = healed(&mut sim);
    (sim, outcome)
}

/// What a batch of episodes went through; a batch without its faults proves nothing.
#[derive(Default, Debug)]
struct Coverage {
    abandoned: usize,
    left: usize,
    disks_lost: usize,
    replaced: usize,
    exits: usize,
}

impl Coverage {
    fn add(&mut self, sim: &Sim) {
        let count = |what| sim.trace.iter().filter(|line| line.contains(what)).count();
        self.abandoned += sim.founded.len().saturating_sub(1);
        self.left += count(" leaves");
        self.disks_lost += count(" loses its disk");
        self.replaced += count(" is replaced");
        self.exits += count(" exits: ");
    }
}

fn always_one_cluster(size: usize) -> Coverage {
    let mut coverage = Coverage::default();
    for seed in 0..SEEDS {
        let (sim, outcome) = episode(size, seed, None);
        if let Err(error) = outcome {
            panic!("seed {seed}: {error}\n{}", sim.trace.join("\n"));
        }
        coverage.add(&sim);
    }
    coverage
}

#[test]
fn one_of_one_always_forms() {
    always_one_cluster(1);
}

#[test]
fn two_form_one_cluster() {
    let seen = always_one_cluster(2);
    assert!(seen.left > 0 && seen.disks_lost > 0, "{seen:?}");
}

#[test]
fn three_form_one_cluster() {
    let seen = always_one_cluster(3);
    assert!(seen.abandoned > 0 && seen.left > 0, "{seen:?}");
    assert!(seen.disks_lost > 0 && seen.replaced > 0 && seen.exits > 0, "{seen:?}");
}

#[test]
fn five_form_one_cluster() {
    let seen = always_one_cluster(5);
    assert!(seen.abandoned > 0 && seen.left > 0, "{seen:?}");
    assert!(seen.disks_lost > 0 && seen.replaced > 0 && seen.exits > 0, "{seen:?}");
}

fn assert_caught(mutant: Mutant) {
    let failing = [2, 3, 5]
        .into_iter()
        .flat_map(|size| (0..SEEDS).map(move |seed| (size, seed)))
        .find(|(size, seed)| episode(*size, *seed, Some(mutant)).1.is_err());
    assert!(failing.is_some(), "{mutant:?} survives");
}

/// The founder loses its disk while the only other holder of Formed is cut off.
fn holder_cut_off(mutant: Option<Mutant>) -> (Sim, Result<(), String>) {
    let mut sim = Sim::of(3, 1, mutant);
    (0..3).for_each(|i| sim.start(i));
    assert!(sim.run(5_000, |sim| sim.holds_formed(0)));
    sim.isolate(1);
    assert!(sim.run(5_000, |sim| sim.formed_in(2).is_some()));
    sim.cut.clear();
    sim.isolate(2);
    sim.lose_disk(0);
    sim.start(0);
    sim.pass(10_000);
    let outcome = healed(&mut sim);
    (sim, outcome)
}

#[test]
fn a_majority_in_place_of_all_is_caught() {
    let (sim, outcome) = holder_cut_off(None);
    assert_eq!((outcome, sim.founded.len()), (Ok(()), 1));
    let (_, outcome) = holder_cut_off(Some(Mutant::MajorityIsEnough));
    assert!(outcome.is_err_and(|error| error.contains("founds beside n2")));
}

#[test]
fn answers_to_an_old_nonce_are_caught() {
    assert_caught(Mutant::OldAnswersCount);
}

#[test]
fn a_join_shown_before_it_is_on_disk_is_caught() {
    assert_caught(Mutant::JoinBeforePersist);
}

#[test]
fn every_start_order_ends_with_the_oldest_as_founder() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut sim = Sim::of(3, 1, None);
        for i in order {
            sim.start(i);
            sim.pass(700);
        }
        assert!(sim.run(5_000, |sim| sim.formed_by(3)), "{:?}", sim.trace);
        let joined = sim.directory(1).and_then(|d| d.joined.clone()).unwrap();
        assert_eq!(joined.founder.name, name(order[0]));
    }
}

#[test]
fn readiness_names_the_peers_that_are_missing() {
    let mut sim = Sim::of(3, 1, None);
    sim.start(0);
    sim.start(1);
    sim.pass(2_000);
    assert_eq!(sim.waiting(0), "waiting for 1 of 3 founding peers: n2");
    sim.start(2);
    assert!(sim.run(5_000, |sim| sim.formed_by(3)));
    assert_eq!(sim.nodes[0].waiting, None);
}

#[test]
fn a_node_outside_the_set_joins_what_has_formed() {
    let mut sim = Sim::of(3, 1, None);
    let fourth = sim.add(name(3), Plan::Found(set(3)));
    let by_address = sim.add(name(4), Plan::Join);
    (0..5).for_each(|i| sim.start(i));
    assert!(sim.run(10_000, |sim| sim.formed_by(5)), "{:?}", sim.trace);
    assert!([fourth, by_address].iter().all(|i| sim.formed_in(*i) == sim.formed_in(0)));
}

#[test]
fn a_node_outside_the_set_founds_nothing() {
    let mut sim = Sim::new(1, None);
    let stranger = sim.add(name(7), Plan::Found(set(1)));
    sim.start(stranger);
    sim.pass(10_000);
    assert!(sim.founded.is_empty());
    assert_eq!(sim.waiting(stranger), "waiting for n0 to form a cluster");
}

#[test]
fn s3_different_lists_refuse_each_other_and_show_both() {
    let mut sim = Sim::new(1, None);
    let low = FoundingSet::new([0, 1, 2].map(name)).unwrap();
    let high = FoundingSet::new([2, 3, 4].map(name)).unwrap();
    for i in 0..5 {
        let set = if i < 3 { &low } else { &high };
        sim.add(name(i), Plan::Found(set.clone()));
    }
    (0..5).for_each(|i| sim.start(i));
    sim.pass(20_000);
    // The common member sides with one list: the other can never be complete.
    assert_eq!(sim.formed.len(), 1);
    assert_eq!(sim.formed_in(3), None);
    let text = "founding sets differ: this node has n2, n3, n4; a0 has n0, n1, n2";
    assert_eq!(sim.waiting(3), text);
}

#[test]
fn s3_the_size_of_the_set_is_that_of_the_setting() {
    let addresses: Vec<String> = (0..7).map(name).collect();
    let size = |n: usize| FoundingSet::of_addresses(&addresses[..n]).map(|s| s.names().len());
    assert_eq!((1..=7).map(|n| size(n).unwrap()).collect::<Vec<_>>(), [1, 2, 3, 3, 5, 5, 5]);
    assert_eq!(size(0), Err(Error::Size(0)));
    let twice = FoundingSet::new([0, 0].map(name));
    assert_eq!(twice, Err(Error::Twice(name(0))));
}

#[test]
fn s4_founder_loses_its_disk_while_its_partner_is_cut_off() {
    for size in [2, 3] {
        let mut sim = Sim::of(size, 1, None);
        (0..size).for_each(|i| sim.start(i));
        let joined = |sim: &Sim| sim.directory(1).is_some_and(|d| d.joined.is_some());
        assert!(sim.run(5_000, joined));
        sim.isolate(1);
        assert!(sim.formed.is_empty());
        sim.lose_disk(0);
        sim.start(0);
        sim.pass(10_000);
        assert_eq!(sim.founded.len(), 1, "the partner still holds the first cluster");
        sim.cut.clear();
        assert!(sim.run(20_000, |sim| sim.formed_by(size)), "{:?}", sim.trace);
        assert_eq!((sim.founded.len(), sim.formed.len()), (2, 1));
    }
}

#[test]
fn s5_a_directory_founded_alone_stops_when_its_old_cluster_calls() {
    let mut sim = Sim::of(3, 1, None);
    (0..3).for_each(|i| sim.start(i));
    assert!(sim.run(5_000, |sim| sim.formed_by(3)));
    sim.lose_disk(0);
    sim.nodes[0].plan = Plan::Found(set(1));
    let silent = Peer { name: name(0), address: sim::address(0) };
    let greet = |sim: &mut Sim, nodes| sim.event(1, Event::Silent { nodes });
    // Not a word while it listens: it founds.
    sim.start(0);
    assert!(!sim.run(2_900, |sim| sim.founded.len() > 1), "it listens for a lease first");
    assert!(sim.run(2_000, |sim| sim.founded.len() > 1));
    greet(&mut sim, vec![silent.clone()]);
    assert!(sim.run(4_000, |sim| !sim.nodes[0].exits.is_empty()));
    let text = sim.nodes[0].exits[0].to_string();
    let cluster = sim.formed_in(1).unwrap().to_string();
    assert!(text.contains(&cluster) && text.contains("JOIN_ADDRESS"), "{text}");
    // For ever: the next run of it stops too, and one that still listens never founds.
    sim.start(0);
    assert!(sim.run(6_000, |sim| sim.nodes[0].exits.len() > 1));
    sim.lose_disk(0);
    sim.start(0);
    let founded = sim.founded.len();
    assert!(sim.run(6_000, |sim| sim.nodes[0].exits.len() > 2));
    assert_eq!(sim.founded.len(), founded);
}

#[test]
fn s6_one_voter_never_forms_a_cluster_of_three() {
    let mut sim = Sim::of(3, 1, None);
    (0..3).for_each(|i| sim.start(i));
    sim.keep_one_voter = true;
    sim.pass(10_000);
    assert!(sim.formed.is_empty());
    assert_eq!(sim.waiting(0), "waiting for voters: 1 of 3");
    sim.keep_one_voter = false;
    assert!(sim.run(5_000, |sim| sim.formed_by(3)));
}

#[test]
fn s7_founder_lost_after_one_joined() {
    let mut sim = Sim::of(5, 1, None);
    (0..5).for_each(|i| sim.start(i));
    let one = |sim: &Sim| (1..5).any(|i| sim.directory(i).is_some_and(|d| d.joined.is_some()));
    assert!(sim.run(5_000, one));
    sim.lose_disk(0);
    sim.start(0);
    assert!(sim.run(20_000, |sim| sim.formed_by(5)), "{:?}", sim.trace);
    assert_eq!((sim.founded.len(), sim.formed.len()), (2, 1));
}

#[test]
fn s7_founder_lost_after_formed_was_appended() {
    let mut sim = Sim::of(3, 1, None);
    (0..3).for_each(|i| sim.start(i));
    assert!(sim.run(5_000, |sim| sim.holds_formed(0)));
    // Nobody else has it yet: the founding is given up.
    let mut unheard = sim;
    assert!(!unheard.holds_formed(1) && !unheard.holds_formed(2));
    unheard.lose_disk(0);
    unheard.start(0);
    assert!(unheard.run(20_000, |sim| sim.formed_by(3)), "{:?}", unheard.trace);
    assert_eq!((unheard.founded.len(), unheard.formed.len()), (2, 1));

    let mut heard = Sim::of(3, 1, None);
    (0..3).for_each(|i| heard.start(i));
    assert!(heard.run(5_000, |sim| sim.holds_formed(1) || sim.holds_formed(2)));
    heard.lose_disk(0);
    heard.start(0);
    assert!(heard.run(20_000, |sim| sim.formed_by(3)), "{:?}", heard.trace);
    assert_eq!(heard.founded.len(), 1, "one who holds Formed keeps the cluster");
}

#[test]
fn s7_a_confirmed_id_that_nobody_holds_forms_nothing() {
    let mut sim = Sim::of(3, 1, None);
    sim.nodes.iter_mut().for_each(|node| node.confirm = true);
    (0..3).for_each(|i| sim.start(i));
    sim.pass(5_000);
    let cluster = *sim.founded.first().unwrap();
    let waits = format!("waiting for the operator to confirm the founding of cluster {cluster}");
    assert_eq!(sim.waiting(0), waits);
    sim.event(0, Event::Confirmed { cluster: ClusterId(7) });
    sim.pass(5_000);
    assert!(sim.formed.is_empty());
    sim.event(0, Event::Confirmed { cluster });
    assert!(sim.run(5_000, |sim| sim.formed_by(3)));
}

/// Faults without measure under an operator that records one cluster id; what becomes of it.
fn operated(seed: u64) -> Sim {
    let mut sim = Sim::of(3, seed, None);
    sim.nodes.iter_mut().for_each(|node| node.confirm = true);
    sim.weather = STORM;
    for _ in 0..10 + sim.random.below(40) {
        let span = 1 + sim.random.below(2_000);
        sim.pass(span);
        let i = sim.random.below(sim.nodes.len() as u64) as usize;
        match sim.random.below(12) {
            0..4 => sim.start(i),
            4 => sim.crash(i),
            5 if sim.nodes.len() < 6 && !sim.is_zombie(i) && sim.directory(i).is_some() => {
                let new = sim.replace(i);
                sim.start(new);
            }
            6 => sim.lose_disk(i),
            7 | 8 => sim.operate(),
            9 => (0..sim.nodes.len()).for_each(|i| sim.read_record(i)),
            10 => sim.isolate(i),
            _ => sim.cut.clear(),
        }
    }
    sim
}

#[test]
fn a_recorded_cluster_is_the_only_one_that_forms_whatever_disks_are_lost() {
    let (mut formed, mut lost, mut founded_again) = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut sim = operated(seed);
        sim.end_zombies();
        sim.weather = CALM;
        sim.cut.clear();
        for _ in 0..20 {
            (0..sim.nodes.len()).for_each(|i| {
                sim.start(i);
                sim.read_record(i);
            });
            sim.operate();
            sim.pass(1_000);
        }
        assert_eq!(sim.violation, None, "seed {seed}\n{}", sim.trace.join("\n"));
        assert!(sim.formed.iter().all(|cluster| Some(*cluster) == sim.recorded), "seed {seed}");
        formed += sim.formed.len();
        lost += usize::from(sim.formed.is_empty());
        founded_again += usize::from(sim.founded.len() > 1);
    }
    assert!(formed > 20 && lost > 20 && founded_again > 20, "{formed} {lost} {founded_again}");
}

#[test]
fn three_form_under_an_operator_that_records_at_once() {
    for seed in 0..SEEDS {
        let mut sim = Sim::of(3, seed, None);
        sim.nodes.iter_mut().for_each(|node| node.confirm = true);
        (0..3).for_each(|i| sim.start(i));
        let formed = (0..40).any(|_| {
            sim.operate();
            (0..3).for_each(|i| sim.read_record(i));
            sim.run(500, |sim| sim.formed_by(3))
        });
        assert!(formed && sim.founded.len() == 1, "{:?}", sim.trace);
    }
}

#[test]
fn a_lone_founder_that_lost_its_disk_joins_the_recorded_cluster_at_whoever_is_in_it() {
    let mut sim = Sim::of(1, 1, None);
    sim.start(0);
    assert!(sim.run(20_000, |sim| sim.formed_by(1)));
    let joiner = sim.add("n1".to_owned(), Plan::Found(set(1)));
    sim.start(joiner);
    assert!(sim.run(5_000, |sim| sim.formed_in(1).is_some()));
    sim.recorded = sim.formed_in(0);
    sim.nodes[0].confirm = true;
    let known = sim.replace(0);
    let silent = Peer { name: name(0), address: sim::address(known) };
    sim.event(joiner, Event::Silent { nodes: vec![silent] });
    sim.start(known);
    let joined = |sim: &Sim| sim.directory(known).and_then(Directory::cluster);
    assert!(sim.run(5_000, |sim| joined(sim) == sim.recorded), "{}", sim.waiting(known));
    assert!(sim.nodes[known].exits.is_empty(), "greeted as the node it is to be");
    assert_eq!(sim.founded.len(), 1);
}

#[test]
fn the_founding_set_of_before_keeps_nobody_from_the_recorded_cluster() {
    let mut sim = Sim::of(3, 1, None);
    (0..3).for_each(|i| sim.start(i));
    assert!(sim.run(5_000, |sim| sim.formed_by(3)));
    sim.recorded = sim.formed_in(0);
    let joiner = sim.add("n3".to_owned(), Plan::Found(set(1)));
    sim.start(joiner);
    sim.pass(5_000);
    assert!(sim.waiting(joiner).starts_with("founding sets differ"), "{}", sim.waiting(joiner));
    sim.read_record(joiner);
    assert!(sim.run(5_000, |sim| sim.formed_in(joiner) == sim.recorded), "{}", sim.waiting(joiner));
}

#[test]
fn an_empty_directory_refuses_every_cluster_but_the_recorded_one() {
    let mut sim = Sim::of(3, 1, None);
    (0..3).for_each(|i| sim.start(i));
    assert!(sim.run(5_000, |sim| sim.formed_by(3)));
    let theirs = sim.formed_in(0).unwrap();
    sim.recorded = Some(ClusterId(7));
    sim.lose_disk(2);
    sim.nodes[2].confirm = true;
    sim.start(2);
    sim.pass(5_000);
    assert_eq!(sim.directory(2).unwrap().joined, None);
    for words in [
        &format!("cluster {}, which the operator has recorded", ClusterId(7)),
        &format!("is in cluster {theirs}"),
    ] {
        assert!(sim.waiting(2).contains(words), "{}", sim.waiting(2));
    }
    // Nor does a directory of that cluster run under the record of another.
    sim.nodes[1].confirm = true;
    sim.crash(1);
    sim.start(1);
    sim.pass(5_000);
    assert!(
        sim.waiting(1).starts_with(&format!("this data directory belongs to cluster {theirs}"))
    );
    sim.recorded = Some(theirs);
    sim.read_record(1);
    sim.read_record(2);
    assert!(sim.run(5_000, |sim| sim.formed_by(3)));
}

#[test]
fn a_node_founds_nothing_before_it_is_told_who_founds() {
    let mut sim = Sim::of(3, 1, None);
    (0..3).for_each(|i| sim.nodes[i].plan = Plan::Wait);
    (0..3).for_each(|i| sim.start(i));
    sim.pass(5_000);
    assert!(sim.founded.is_empty());
    assert_eq!(sim.waiting(0), "waiting for the operator to name the founding nodes");
    for i in 0..3 {
        sim.event(i, Event::Told { founding: set(3), recorded: None, abandoning: None });
    }
    assert!(sim.run(5_000, |sim| sim.formed_by(3)), "{:?}", sim.trace);
}

#[test]
fn s7_lists_that_name_each_other_in_a_cross_found_nothing() {
    let mut sim = Sim::new(1, None);
    for i in 0..4 {
        let three = (0..4).filter(|other| *other != i).map(name);
        sim.add(name((i + 1) % 4), Plan::Found(FoundingSet::new(three).unwrap()));
    }
    (0..4).for_each(|i| sim.start(i));
    sim.pass(30_000);
    assert!(sim.founded.is_empty(), "{:?}", sim.trace);
    for i in 0..4 {
        assert!(sim.waiting(i).starts_with("founding sets differ: "), "{}", sim.waiting(i));
    }
    // One list for all, and the same directories found with it.
    for i in 0..4 {
        sim.crash(i);
        sim.nodes[i].plan = Plan::Found(set(3));
        sim.start(i);
    }
    assert!(sim.run(10_000, |sim| sim.formed_by(4)), "{:?}", sim.trace);
    assert_eq!((sim.founded.len(), sim.formed.len()), (1, 1));
}

#[test]
fn s13_a_cluster_starts_above_every_token_that_one_of_its_founders_has_seen() {
    let mut sim = Sim::of(3, 1, None);
    sim.begin_above(0, Epoch::new(5, 7));
    sim.begin_above(2, Epoch::new(9, 0));
    (0..3).for_each(|i| sim.start(i));
    assert!(sim.run(5_000, |sim| sim.directory(0).is_some_and(|d| d.formed)));
    // The founder asks nobody any more: what it found must be on its disk.
    sim.crash(0);
    sim.start(0);
    assert!(sim.run(20_000, |sim| sim.formed_by(3)), "{:?}", sim.trace);
    assert_eq!(sim.proposed_above, Epoch::new(9, 0));
}

#[test]
fn s21_a_strangers_boot_time_does_not_count() {
    let mut sim = Sim::of(3, 1, None);
    let stranger = sim.add(name(9), Plan::Found(set(3)));
    sim.start_at_boot(stranger, 0);
    sim.pass(1_000);
    (0..3).for_each(|i| sim.start(i));
    assert!(sim.run(10_000, |sim| sim.formed_by(3)), "{:?}", sim.trace);
}

#[test]
fn a_founder_that_met_a_lost_disk_leaves_and_pauses_before_forming() {
    let mut sim = Sim::of(3, 1, None);
    (0..3).for_each(|i| sim.start(i));
    assert!(sim.run(5_000, |sim| !sim.founded.is_empty()));
    sim.isolate(2);
    sim.lose_disk(2);
    sim.start(2);
    sim.cut.clear();
    assert!(sim.run(10_000, |sim| sim.founded.len() == 2));
    assert!(sim.directory(0).unwrap().ever_left);
    let start = sim.now;
    assert!(sim.run(20_000, |sim| sim.formed_by(3)), "{:?}", sim.trace);
    assert!(sim.now - start >= 4_000, "a lease and a second");
}

#[test]
fn the_name_of_a_directory_in_use_is_refused_to_a_second_one() {
    let mut sim = Sim::of(3, 1, None);
    (0..3).for_each(|i| sim.start(i));
    assert!(sim.run(5_000, |sim| sim.formed_by(3)));
    let twin = sim.add(name(1), Plan::Found(set(3)));
    sim.start(twin);
    assert!(sim.run(3_000, |sim| !sim.nodes[twin].exits.is_empty()));
    let expected = Reason::NameInUse { name: name(1), address: sim::address(1) };
    assert_eq!(sim.nodes[twin].exits[0], expected);
}
