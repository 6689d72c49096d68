//! The repository's own rules, as tests: what a reviewer would otherwise have to remember.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Longest production part of a source file, tests beside it not counted.
const MAX_PRODUCTION_LINES: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").into()
}

/// Tracked text files, relative to the root, with their content.
fn files(ending: &str) -> Vec<(String, String)> {
    let output = std::process::Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git runs");
    assert!(output.status.success(), "git ls-files failed");
    let names = String::from_utf8(output.stdout).expect("file names are UTF-8");
    let found: Vec<_> = names
        .lines()
        .filter(|name| name.ends_with(ending))
        .filter_map(|name| Some((name.to_owned(), fs::read_to_string(root().join(name)).ok()?)))
        .collect();
    assert!(!found.is_empty(), "no file ends with {ending:?}");
    found
}

fn report(rule: &str, offenders: &[String]) {
    assert!(offenders.is_empty(), "{rule}:\n{}", offenders.join("\n"));
}

/// The part of a source file before its unit tests.
fn production(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

fn is_test_file(name: &str) -> bool {
    name.starts_with("tests/") || name.ends_with("/tests.rs") || name.contains("/tests/")
}

#[test]
fn core_depends_on_thiserror_alone() {
    let manifest = fs::read_to_string(root().join("worker/core/Cargo.toml")).expect("core exists");
    let section = manifest.split("[dependencies]").nth(1).expect("a dependency section");
    let section = section.split("\n[").next().expect("its body");
    let names: Vec<_> = section.lines().filter(|line| line.contains('=')).collect();
    let names: Vec<_> =
        names.iter().filter_map(|line| line.split(['.', ' ', '=']).next()).collect();
    assert_eq!(names, ["thiserror"]);
}

#[test]
fn core_does_no_io() {
    const FORBIDDEN: [&str; 9] = [
        "std::fs",
        "std::net",
        "std::thread",
        "std::env",
        "std::process",
        "Instant",
        "SystemTime",
        "HashMap",
        "HashSet",
    ];
    let mut offenders = Vec::new();
    for (name, text) in files(".rs") {
        if !name.starts_with("worker/core/src") || is_test_file(&name) {
            continue;
        }
        for (number, line) in production(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or(line);
            if FORBIDDEN.iter().any(|word| code.contains(word)) {
                offenders.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    report("core reads no clock, file, socket or unordered map", &offenders);
}

/// Lines of the worker's production code for which `offends` says so, outside of `places`.
fn worker_lines(places: &[&str], offends: impl Fn(&str) -> bool) -> Vec<String> {
    let mut offenders = Vec::new();
    for (name, text) in files(".rs") {
        let exempt = places.iter().any(|place| name.starts_with(place)) || is_test_file(&name);
        if !name.starts_with("worker/src/") || exempt {
            continue;
        }
        for (number, line) in production(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or(line);
            if offends(code) {
                offenders.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    offenders
}

#[test]
fn only_env_touches_the_machine() {
    const FORBIDDEN: [&str; 5] =
        ["tokio::net", "std::fs", "std::thread", "tokio::fs", "SystemTime"];
    let offenders = worker_lines(&["worker/src/env"], |code| {
        // The runtime's Instant paces, and is virtual where time is simulated; std's is not.
        let std_clock = code.contains("std::time") && code.contains("Instant");
        std_clock || FORBIDDEN.iter().any(|word| code.contains(word))
    });
    report("only worker/src/env names sockets, files, threads and clocks", &offenders);
}

#[test]
fn only_control_proposes() {
    let places = ["worker/src/control", "worker/src/raft"];
    let offenders = worker_lines(&places, |code| {
        ["raft.propose(", "client_write"].iter().any(|w| code.contains(w))
    });
    report("only worker/src/control proposes to Raft", &offenders);
}

#[test]
fn only_raft_names_openraft() {
    // The log's filter names the crate as a target, not as code.
    let places = ["worker/src/raft", "worker/src/wire/raft.rs", "worker/src/process.rs"];
    let offenders = worker_lines(&places, |code| code.contains("openraft"));
    report("openraft stays behind our own types", &offenders);
}

#[test]
fn only_host_runs_user_work() {
    let places = ["worker/src/host"];
    let offenders = worker_lines(&places, |code| {
        ["ShardHost", "HostCall", ".host.call("].iter().any(|word| code.contains(word))
    });
    report("only worker/src/host knows the contract with user code", &offenders);
}

#[test]
fn a_receiver_cannot_send_a_call_on() {
    let (_, receiver) = files("worker/src/forward/pipe/receiver.rs").remove(0);
    for way_out in ["Pipes", "Ingress", "super::Pipe", "park::"] {
        assert!(!receiver.contains(way_out), "the receiving end of a pipe names {way_out}");
    }
}

#[test]
fn every_source_file_says_what_it_is() {
    let silent: Vec<_> = files(".rs")
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(name, _)| name)
        .collect();
    report("every file opens with //!", &silent);
}

#[test]
fn files_stay_small() {
    let mut long = Vec::new();
    for (name, text) in files(".rs") {
        let lines = production(&text).lines().count();
        if lines > MAX_PRODUCTION_LINES && !is_test_file(&name) {
            long.push(format!("{name}: {lines} lines"));
        }
    }
    report("at most 500 lines of production code in a file", &long);
}

#[test]
fn nothing_is_left_open() {
    let words = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[", "ignore"),
        concat!("FIX", "ME"),
    ];
    let mut offenders = Vec::new();
    for (name, text) in files(".rs") {
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word)) {
                offenders.push(format!("{name}:{}", number + 1));
            }
        }
    }
    report("no stub, no ignored test", &offenders);
}

#[test]
fn no_path_of_one_machine() {
    let prefixes = [
        concat!("/ro", "ot/"),
        concat!("/wo", "rk/"),
        concat!("/ho", "me/"),
        concat!("/Us", "ers/"),
    ];
    let mut offenders = Vec::new();
    for ending in [".rs", ".md", ".toml", ".sh", ".proto", "Makefile", ".py", ".go", ".csv", "run"]
    {
        if !["", ".rs", ".md", ".toml"].contains(&ending) && !has(ending) {
            continue;
        }
        for (name, text) in files(ending) {
            for (number, line) in text.lines().enumerate() {
                if prefixes.iter().any(|prefix| line.contains(prefix)) {
                    offenders.push(format!("{name}:{}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    report("no absolute path of one machine", &offenders);
}

fn has(ending: &str) -> bool {
    let output = std::process::Command::new("git").args(["ls-files"]).current_dir(root()).output();
    output.is_ok_and(|output| {
        String::from_utf8_lossy(&output.stdout).lines().any(|name| name.ends_with(ending))
    })
}

/// Names of all test functions of the repository.
fn test_names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (_, text) in files(".rs") {
        let mut is_test = false;
        for line in text.lines().map(str::trim_start) {
            if let Some(rest) = line.trim_start_matches("async ").strip_prefix("fn ") {
                if std::mem::take(&mut is_test) {
                    names.insert(rest.split(['(', '<']).next().unwrap_or(rest).to_owned());
                }
            } else if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            }
        }
    }
    names
}

/// Words in backticks in the last column of the table rows below `heading`.
fn named_tests(document: &str, heading: &str) -> Vec<(String, Vec<String>)> {
    let section = document.split(heading).nth(1).expect("the section exists");
    let section = section.split("\n## ").next().unwrap_or(section);
    let rows = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    rows.skip(1)
        .map(|row| {
            let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
            let last = cells.last().copied().unwrap_or_default();
            let tests = last.split('`').skip(1).step_by(2);
            let tests = tests.map(|test| test.rsplit("::").next().unwrap_or(test).to_owned());
            (cells[0].to_owned(), tests.collect())
        })
        .collect()
}

fn check_named_tests(path: &str, heading: &str) {
    let document = fs::read_to_string(root().join(path)).expect("the document exists");
    let names = test_names();
    let rows = named_tests(&document, heading);
    assert!(!rows.is_empty(), "{path} has no table below {heading:?}");
    let mut offenders = Vec::new();
    for (what, tests) in rows {
        if tests.is_empty() {
            offenders.push(format!("{what}: names no test"));
        }
        let gone = tests.iter().filter(|test| !names.contains(*test));
        offenders.extend(gone.map(|test| format!("{what}: no test {test}")));
    }
    report(&format!("every row of {path} names tests that exist"), &offenders);
}

#[test]
fn every_invariant_names_an_existing_test() {
    check_named_tests("ARCHITECTURE.md", "## Invariants");
}

#[test]
fn every_execution_names_an_existing_test() {
    check_named_tests("docs/protocol.md", "## Executions");
}

#[test]
fn what_only_fuzzing_needs_is_absent_from_release_binaries() {
    let manifest = |path: &str| fs::read_to_string(root().join(path)).expect(path);
    let worker = manifest("worker/Cargo.toml");
    assert!(worker.contains("\nfuzzing = []"), "the feature exists and enables nothing else");
    // A build of binaries enables no features of dev-dependencies.
    let fuzz = manifest("tests/fuzz/Cargo.toml");
    assert!(fuzz.contains("decoders = [\"shoal-worker/fuzzing\"]") && !fuzz.contains("default ="));
    let before = fuzz.split("[dev-dependencies]").next().unwrap_or(&fuzz);
    assert!(before.matches("features =").count() == 0, "no dependency turns a feature on");
    for (name, text) in files("Cargo.toml") {
        let outside = name != "tests/fuzz/Cargo.toml" && name != "tests/fuzz/cargo-fuzz/Cargo.toml";
        assert!(!(outside && text.contains("shoal-worker/fuzzing")), "{name} turns it on");
        assert!(!(outside && text.contains("\"decoders\"")), "{name} turns it on");
    }
    let (_, lib) = files("worker/src/lib.rs").remove(0);
    let module = "#[cfg(feature = \"fuzzing\")]\npub mod fuzzing;";
    assert!(lib.contains(module), "the module comes with the feature alone");
}

#[test]
fn faulty_variants_are_absent_from_release_binaries() {
    let manifest = fs::read_to_string(root().join("worker/Cargo.toml")).expect("worker exists");
    assert!(manifest.contains("mutants = []"), "the feature exists and enables nothing else");
    assert!(!manifest.contains("default = ["), "no feature is on by default");
    for (name, text) in files(".rs") {
        if !name.starts_with("worker/src/") || name == "worker/src/mutant.rs" {
            continue;
        }
        assert!(!text.contains("SHOAL_MUTANT"), "{name}: only mutant.rs reads the switch");
    }
}
