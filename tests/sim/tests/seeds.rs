//! A few seeds of the simulation; that a seed is one run; that its judge notices what is wrong.

use std::process::Command;

fn simulate(arguments: &[&str], mutant: Option<&str>) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal-sim"));
    if let Some(mutant) = mutant {
        command.env("SHOAL_MUTANT", mutant);
    }
    let output = command.args(arguments).output().expect("the simulation starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), text + &String::from_utf8_lossy(&output.stderr))
}

fn given(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

#[test]
fn whole_clusters_break_no_promise_whatever_fails() {
    let (seeds, base) = (given("SEEDS", "32"), given("SEED_BASE", "0"));
    let seconds = given("SEED_SECONDS", "20");
    let arguments = ["many", "--seconds", &seconds, "--seeds", &seeds, "--base", &base];
    let (well, text) = simulate(&arguments, None);
    println!("{text}");
    assert!(well, "{text}");
}

#[test]
fn a_seed_of_a_whole_cluster_is_the_same_run_to_the_bit() {
    // In the last calls are given up, and what is left of them is remembered for a while.
    for (seed, seconds) in [("1", "10"), ("4", "10"), ("41222", "20")] {
        let run = |more: &[&str]| {
            let mut arguments = vec!["one", "--seconds", seconds, "--seed", seed];
            arguments.extend(more);
            let (_, text) = simulate(&arguments, None);
            text.lines().find(|line| line.starts_with("seed=")).map(str::to_owned)
        };
        let first = run(&[]);
        assert!(first.as_ref().is_some_and(|line| line.contains("digest=")), "{first:?}");
        assert_eq!(first, run(&[]));
        assert_eq!(first, run(&["--log", "shoal_worker=debug"]), "its log changes a run");
    }
}

fn plays(scenario: &str) {
    let (well, text) = simulate(&["scenario", scenario], None);
    assert!(well, "{text}");
}

#[test]
fn s17_a_process_that_is_told_to_stop_while_it_starts_takes_no_state_along() {
    plays("stopped-while-starting");
}

#[test]
fn a_rebooted_node_asks_all_others_at_once() {
    plays("rebooted");
}

#[test]
fn l11_a_power_cycle_with_a_lost_disk_does_not_wait_for_what_is_gone() {
    plays("power-cycle-and-a-lost-disk");
}

#[test]
fn s8_founding_on_slewed_clocks_does_not_spin() {
    plays("slewed-clocks-at-founding");
}

/// Where much is chance.
fn plays_often(scenario: &str, times: u64) {
    for seed in 1..=times {
        let seed = seed.to_string();
        let (well, text) = simulate(&["scenario", scenario, "--seed", &seed], None);
        assert!(well, "seed {seed}: {text}");
    }
}

#[test]
fn s4_s7_a_founder_loses_its_disk_at_any_moment_and_one_cluster_forms() {
    plays_often("founder-loses-its-disk", 8);
}

#[test]
fn l3_an_election_of_three_seconds_fences_nobody_in_a_whole_cluster() {
    plays_often("election-gap", 4);
}

#[test]
fn s9_a_lease_lowered_while_answers_are_lost_gives_no_shard_two_owners() {
    plays_often("lease-lowered-unheard", 2);
}

#[test]
fn s19_a_node_removed_by_force_while_its_table_lags_serves_until_it_reads_so() {
    plays_often("marked-while-it-lags", 2);
}

#[test]
fn s11_s12_the_target_of_a_move_dies_at_any_moment_of_it() {
    plays("target-dies");
}

#[test]
fn l1_the_leader_is_killed_and_no_other_owner_goes_dark() {
    plays("leader-killed");
}

#[test]
fn a_leader_that_is_killed_is_followed_by_another_before_its_time_is_over() {
    plays("leaders-killed");
}

#[test]
fn l2_of_two_nodes_one_dies_and_the_other_takes_every_shard() {
    plays("two-nodes-one-dies");
}

#[test]
fn l6_the_disk_of_any_node_stalls_for_1600_ms_and_no_call_fails() {
    plays("slow-disk");
}

#[test]
fn five_nodes_in_a_ring_have_one_owner_for_each_shard_and_are_whole_afterwards() {
    plays("ring");
}

#[test]
fn l7_everybody_is_told_to_stop_and_nobody_takes_a_shard() {
    plays("everybody-told-to-stop");
}

#[test]
fn l8_one_of_three_voters_crashes_for_long_and_three_vote() {
    plays("one-of-three-crashes");
}

/// Seeds with planned changes alone: nothing else can be to blame.
#[test]
fn the_judge_of_whole_clusters_notices_a_lost_increment_and_a_stale_owner() {
    for mutant in ["lose-increment", "stale-owner"] {
        let noticed = ["4", "9", "14"].iter().any(|seed| {
            let (well, text) = simulate(&["one", "--seconds", "15", "--seed", seed], Some(mutant));
            !well && text.contains("was given twice")
        });
        assert!(noticed, "{mutant} went unnoticed");
    }
}
