//! Giving a recorded cluster up [S20]: what a node refuses while the operator's mark stands, and
//! that nobody holds the cluster afterwards.

use super::{
    super::*,
    SEEDS,
    sim::{CALM, STORM, Sim},
};

/// A founding of three whose id the operator has recorded and that has not formed.
fn recorded(seed: u64) -> (Sim, ClusterId) {
    let mut sim = Sim::of(3, seed, None);
    sim.nodes.iter_mut().for_each(|node| node.confirm = true);
    (0..3).for_each(|i| sim.start(i));
    let joined = |sim: &Sim| (0..3).all(|i| sim.directory(i).is_some_and(|d| d.joined.is_some()));
    assert!(sim.run(5_000, joined));
    let cluster = sim.directory(0).and_then(Directory::cluster).unwrap();
    sim.recorded = Some(cluster);
    (sim, cluster)
}

fn mark(cluster: ClusterId, since: &str) -> Mark {
    Mark { cluster, since: since.to_owned() }
}

#[test]
fn s20_an_empty_directory_joins_nothing_while_the_mark_stands() {
    let mut sim = Sim::of(3, 1, None);
    (0..3).for_each(|i| sim.start(i));
    assert!(sim.run(5_000, |sim| sim.formed_by(3)));
    let living = sim.formed_in(0).unwrap();
    sim.recorded = Some(living);
    sim.abandoning = Some(mark(living, "t1"));
    sim.lose_disk(2);
    sim.nodes[2].confirm = true;
    sim.start(2);
    sim.pass(5_000);
    assert_eq!(sim.directory(2).unwrap().joined, None);
    assert!(sim.gives_up(2, &mark(living, "t1")) && !sim.gives_up(2, &mark(living, "t2")));
    let words = format!("waiting for the operator to abandon cluster {living} or to keep it");
    assert!(sim.waiting(2).starts_with(&words), "{}", sim.waiting(2));
    // Those who hold it go on, and say so.
    sim.nodes[1].confirm = true;
    sim.read_record(1);
    assert!(!sim.gives_up(1, &mark(living, "t1")) && sim.formed_in(1) == Some(living));
    sim.abandoning = None;
    sim.read_record(2);
    assert!(sim.run(5_000, |sim| sim.formed_by(3)), "{}", sim.waiting(2));
}

#[test]
fn s20_a_join_that_is_on_its_way_to_the_disk_is_no_promise_to_refuse() {
    let mut sim = Sim::of(3, 1, None);
    (0..2).for_each(|i| sim.start(i));
    sim.weather.write_ms = 1;
    sim.start(2);
    // The last one is about to join: asked in every millisecond from here on.
    sim.nodes[2].confirm = true;
    let (mut joins, mut promised) = (false, false);
    for _ in 0..5_000 {
        sim.pass(1);
        let founded = sim.founded.first().copied();
        let Some(cluster) = founded else { continue };
        sim.recorded = Some(cluster);
        sim.abandoning = Some(mark(cluster, "t"));
        if sim.joins(2) {
            joins = true;
            sim.read_record(2);
            promised |= sim.gives_up(2, &mark(cluster, "t"));
        }
        if sim.directory(2).and_then(Directory::cluster).is_some() {
            promised |= sim.gives_up(2, &mark(cluster, "t"));
            break;
        }
    }
    assert!(joins && !promised);
}

#[test]
fn s20_one_that_was_never_admitted_gives_the_lost_cluster_up_under_the_mark() {
    let mut sim = Sim::of(3, 1, None);
    (0..3).for_each(|i| sim.start(i));
    assert!(sim.run(5_000, |sim| sim.formed_by(3)));
    let lost = sim.formed_in(0).unwrap();
    sim.nodes.iter_mut().for_each(|node| node.confirm = true);
    sim.recorded = Some(lost);
    // One of three is left, and the others ask it in vain to be admitted: the founder's name as
    // well, which nobody can tell that the founder is gone.
    [0, 1].into_iter().for_each(|i| sim.lose_disk(i));
    [0, 1].into_iter().for_each(|i| sim.start(i));
    let joining = |sim: &Sim, i| sim.directory(i).is_some_and(Directory::is_joining);
    assert!(sim.run(5_000, |sim| joining(sim, 0) && joining(sim, 1)));
    sim.abandoning = Some(mark(lost, "t"));
    sim.read_record(1);
    sim.lose_disk(2);
    sim.start(2);
    sim.pass(20_000);
    assert!(joining(&sim, 0) && !joining(&sim, 1));
    sim.read_record(0);
    assert!(sim.run(5_000, |sim| (0..3).all(|i| sim.gives_up(i, &mark(lost, "t")))));
    (sim.recorded, sim.abandoning) = (None, None);
    (0..3).for_each(|i| sim.read_record(i));
    let formed = (0..40).any(|_| {
        sim.operate();
        sim.run(500, |sim| sim.formed_by(3))
    });
    assert!(formed && sim.formed_in(0) != Some(lost), "{:?}", sim.trace);
}

#[test]
fn s20_a_founding_lost_after_its_id_was_recorded_is_abandoned_and_another_forms() {
    let (mut sim, lost) = recorded(1);
    (0..3).for_each(|i| sim.lose_disk(i));
    (0..3).for_each(|i| sim.start(i));
    sim.pass(5_000);
    assert_eq!(sim.founded.len(), 1, "the record forbids a second one");
    sim.abandoning = Some(mark(lost, "t"));
    (0..3).for_each(|i| sim.read_record(i));
    assert!((0..3).all(|i| sim.gives_up(i, &mark(lost, "t"))));
    (sim.recorded, sim.abandoning) = (None, None);
    // One reads the file late: it keeps to the mark, and the others form nothing without it.
    (0..2).for_each(|i| sim.read_record(i));
    sim.pass(5_000);
    assert_eq!(sim.directory(2).unwrap().joined, None);
    sim.read_record(2);
    let formed = (0..40).any(|_| {
        sim.operate();
        sim.run(500, |sim| sim.formed_by(3))
    });
    assert!(formed && sim.formed_in(0) != Some(lost), "{:?}", sim.trace);
}

#[test]
fn s20_a_cluster_that_was_given_up_is_held_by_nobody_whatever_fails_meanwhile() {
    let (mut given_up, mut kept) = (0, 0);
    for seed in 0..SEEDS {
        let (mut sim, lost) = recorded(seed);
        sim.weather = STORM;
        // Each disk that is lost is another pod, whose answer is not there yet.
        let mut answered = [false; 3];
        let holds =
            |sim: &Sim| (0..3).any(|i| sim.directory(i).and_then(Directory::cluster) == Some(lost));
        for round in 0..200 {
            let span = 1 + sim.random.below(1_000);
            sim.pass(span);
            let i = sim.random.below(3) as usize;
            match sim.random.below(8) {
                0 | 1 => sim.start(i),
                2 => sim.crash(i),
                3 => {
                    sim.lose_disk(i);
                    answered[i] = false;
                }
                4 => sim.isolate(i),
                5 => sim.cut.clear(),
                _ => sim.read_record(i),
            }
            let Some(mark) = sim.abandoning.clone() else {
                sim.abandoning = Some(mark(lost, &round.to_string()));
                answered = [false; 3];
                continue;
            };
            let runs = |sim: &Sim, i: usize| sim.nodes[i].machine.is_some();
            let j = sim.random.below(3) as usize;
            if runs(&sim, j) && sim.directory(j).and_then(Directory::cluster) == Some(lost) {
                sim.abandoning = None;
                kept += 1;
            } else if runs(&sim, j) {
                answered[j] |= sim.gives_up(j, &mark);
            }
            if answered == [true; 3] {
                break;
            }
        }
        if answered != [true; 3] {
            continue;
        }
        given_up += 1;
        (sim.recorded, sim.abandoning) = (None, None);
        assert!(!holds(&sim), "seed {seed}\n{}", sim.trace.join("\n"));
        sim.weather = CALM;
        sim.cut.clear();
        for _ in 0..20 {
            (0..3).for_each(|i| {
                sim.start(i);
                sim.read_record(i);
            });
            sim.operate();
            sim.pass(1_000);
            assert!(!holds(&sim), "seed {seed}\n{}", sim.trace.join("\n"));
        }
        assert!(sim.formed_by(3), "seed {seed}: {}", sim.waiting(0));
    }
    assert!(given_up > 20 && kept > 20, "{given_up} {kept}");
}
