//! A few seeds of the simulation, and that a seed is one run.

use std::process::Command;

fn simulate(arguments: &[&str]) -> (bool, String) {
    let program = env!("CARGO_BIN_EXE_shoal-sim");
    let output = Command::new(program).args(arguments).output().expect("the simulation starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), text + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn whole_clusters_break_no_promise_whatever_fails() {
    let seeds = std::env::var("SEEDS").unwrap_or_else(|_| "64".to_owned());
    let base = std::env::var("SEED_BASE").unwrap_or_else(|_| "0".to_owned());
    let (well, text) = simulate(&["many", "--seconds", "20", "--seeds", &seeds, "--base", &base]);
    println!("{text}");
    assert!(well, "{text}");
}

#[test]
fn a_seed_of_a_whole_cluster_is_the_same_run_to_the_bit() {
    for seed in ["1", "4"] {
        let run = || simulate(&["one", "--seconds", "15", "--seed", seed]).1;
        assert_eq!(run(), run());
    }
}
