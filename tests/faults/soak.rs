//! The soak's verdict: good where nothing is wrong, bad on each fault that was put into a node on
//! purpose.

use std::process::{Command, Output};

use crate::alone;

/// `shoal-soak`, on nodes that misbehave as this setting says.
fn soak(mutant: Option<&str>, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal-soak"));
    command.args(arguments).args(["--seed", "1", "--shoal"]);
    command.arg(shoal_tests::faults::scene::program()).env_remove("SHOAL_MUTANT");
    if let Some(mutant) = mutant {
        command.env("SHOAL_MUTANT", mutant);
    }
    let Output { status, stdout, stderr } = command.output().unwrap();
    let told = [stdout, stderr].concat();
    (status.code(), String::from_utf8_lossy(&told).into_owned())
}

#[test]
fn a_good_cluster_gets_a_good_verdict() {
    let _alone = alone();
    let arguments = ["--minutes", "0.1", "--every", "1s", "--only", "kill -9"];
    let (code, told) = soak(None, &arguments);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("| kill -9") && told.contains("verdict: no violation"), "{told}");
}

#[test]
fn a_soak_without_a_fault_is_no_proof() {
    let _alone = alone();
    let (code, told) = soak(None, &["--minutes", "0"]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("no fault happened"), "{told}");
}

#[test]
fn a_lost_increment_gets_a_bad_verdict() {
    let _alone = alone();
    let (code, told) = soak(Some("lose-increment"), &["--minutes", "0.3", "--only", "restart"]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("linearizable: "), "{told}");
}

#[test]
fn an_owner_that_answers_too_late_gets_a_bad_verdict() {
    let _alone = alone();
    let (code, told) = soak(Some("stale-owner"), &["--minutes", "1", "--only", "planned: restart"]);
    assert_eq!(code, Some(1), "{told}");
    let rules = ["linearizable: ", "epochs grow: ", "one owner: "];
    assert!(rules.iter().any(|rule| told.contains(rule)), "{told}");
}
