//! What is exported, and that docs/metrics.md says so.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use super::{
    page::{Family, parse},
    *,
};
use crate::env::disk;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
const BEGIN: &str = "<!-- the table: UPDATE_DOCS=1 cargo test -p shoal-worker telemetry -->\n";
const END: &str = "<!-- end of the table -->\n";

/// Where the figures under a prefix come from.
const SOURCES: [(&str, &str); 12] = [
    ("process_", "kernel"),
    ("shoal_process_", "first process"),
    ("shoal_build", "binary"),
    ("shoal_tls_", "certificates"),
    ("shoal_table_", "own table"),
    ("shoal_forward_", "data path"),
    ("shoal_host_", "shards of this node"),
    ("shoal_session_", "session"),
    ("shoal_control_", "leader"),
    ("shoal_map_", "watches"),
    ("shoal_raft_follower_", "leader"),
    ("shoal_raft_", "Raft"),
];

fn page() -> String {
    let mut telemetry = Telemetry::default();
    telemetry.raft.pretend_to_lead();
    telemetry.register_certificate();
    telemetry.page(&Table::default(), &Right::new().unwrap()).unwrap()
}

/// The name under which a metric is asked for.
fn asked_as(name: &str, kind: &str) -> String {
    match kind {
        "counter" => format!("{name}_total"),
        "info" => format!("{name}_info"),
        _ => name.to_owned(),
    }
}

#[test]
fn docs_metrics_lists_what_is_exported() {
    let mut table = "| name | type | unit | meaning | source |\n".to_owned();
    table.push_str("| --- | --- | --- | --- | --- |\n");
    for (name, family) in parse(&page()) {
        let (_, source) = SOURCES
            .into_iter()
            .find(|(prefix, _)| name.starts_with(prefix))
            .unwrap_or_else(|| panic!("where does {name} come from?"));
        let unit = if family.unit.is_empty() { "1" } else { &family.unit };
        let help = family.help.trim_end_matches('.');
        let asked = asked_as(&name, &family.kind);
        writeln!(table, "| `{asked}` | {} | {unit} | {help} | {source} |", family.kind).unwrap();
    }
    let text = disk::read(Path::new(DOCUMENT)).unwrap().expect("docs/metrics.md");
    let text = String::from_utf8(text).unwrap();
    let (head, rest) = text.split_once(BEGIN).expect("the table's beginning");
    let (written, tail) = rest.split_once(END).expect("the table's end");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let text = format!("{head}{BEGIN}\n{table}\n{END}{tail}");
        disk::write_atomic(Path::new(DOCUMENT), text.as_bytes()).unwrap();
        return;
    }
    assert_eq!(written.trim(), table.trim(), "docs/metrics.md is behind: UPDATE_DOCS=1 writes it");
}

#[test]
fn names_follow_the_conventions() {
    for (name, family) in parse(&page()) {
        let Family { kind, unit, help, .. } = &family;
        assert!(!kind.is_empty() && help.len() > 8, "{name}: {family:?}");
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
        assert!(unit.is_empty() || name.ends_with(&format!("_{unit}")), "{name} in {unit}");
        assert!(
            ["", "seconds", "bytes"].contains(&unit.as_str()),
            "{name}: {unit} is no base unit"
        );
        assert!(!name.ends_with("_total") && !name.ends_with("_count"), "{name}");
        if kind == "histogram" {
            assert_eq!(unit, "seconds", "{name}");
        }
    }
}

/// Labels are closed enums: a scrape of a thousand nodes stays small.
#[test]
fn every_label_is_bounded() {
    let mut labels = BTreeMap::<String, usize>::new();
    for (_, family) in parse(&page()) {
        for (sample, _) in &family.samples {
            for label in sample.split_once('{').map_or("", |(_, rest)| rest).split(',') {
                let label = label.split('=').next().unwrap_or_default();
                *labels.entry(label.to_owned()).or_default() += 1;
            }
        }
    }
    let names: Vec<_> = labels.keys().map(String::as_str).collect();
    assert_eq!(names, ["", "kind", "le", "life", "node", "result", "state", "version"]);
    assert!(page().lines().count() < 400, "{} lines", page().lines().count());
}

#[test]
fn two_pages_of_one_process_agree_on_their_names() {
    let telemetry = Telemetry::default();
    let right = Right::new().unwrap();
    let page = || parse(&telemetry.page(&Table::default(), &right).unwrap());
    assert!(page().keys().eq(page().keys()));
}
