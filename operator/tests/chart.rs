//! The chart says of itself what is so: its README lists the values as they are explained in
//! values.yaml, and its schema knows each of them. Rendering needs helm: deploy/generate.sh.
// Everything here is a test, outside of the product.
#![allow(clippy::unwrap_used)]

use std::{fs, path::PathBuf};

use serde_json::Value;

const MARKER: &str = "<!-- from here on: UPDATE_DOCS=1 cargo test -p shoal-operator -->\n";

fn chart(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/shoal").join(file)
}

fn read(file: &str) -> String {
    fs::read_to_string(chart(file)).expect(file)
}

/// One value with its default and the comment above it.
struct Row {
    path: String,
    default: Value,
    about: String,
}

/// The values that have a comment, in the order of the file.
fn rows() -> Vec<Row> {
    let text = read("values.yaml");
    let values: Value = serde_saphyr::from_str(&text).expect("values.yaml");
    let (mut rows, mut about, mut parents) = (Vec::new(), String::new(), Vec::<&str>::new());
    for line in text.lines() {
        let content = line.trim_start();
        if let Some(comment) = content.strip_prefix("# ") {
            about = format!("{about} {comment}");
            continue;
        }
        let key = content.split_once(':').map(|(key, _)| key).filter(|_| !content.starts_with('-'));
        if let Some(key) = key {
            parents.truncate((line.len() - content.len()) / 2);
            parents.push(key);
            if !about.is_empty() {
                let pointer = format!("/{}", parents.join("/"));
                let default = values.pointer(&pointer).expect("a value").clone();
                rows.push(Row { path: parents.join("."), default, about: about.trim().to_owned() });
            }
        }
        about.clear();
    }
    rows
}

#[test]
fn the_readme_lists_the_values() {
    let mut table = "## Values\n\n| value | default | meaning |\n|---|---|---|\n".to_owned();
    for Row { path, default, about } in rows() {
        table += &format!("| `{path}` | `{default}` | {about} |\n");
    }
    let known = read("README.md");
    let (by_hand, _) = known.split_once(MARKER).expect("the marker");
    let wanted = format!("{by_hand}{MARKER}\n{table}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(chart("README.md"), &wanted).expect("written");
        return;
    }
    assert_eq!(known, wanted, "charts/shoal/README.md is behind: UPDATE_DOCS=1 writes it");
}

/// Every key of the values and whether the schema has it, with nothing beside.
fn check(values: &Value, schema: &Value, path: &str) {
    let (Some(values), Some(known)) = (values.as_object(), schema["properties"].as_object()) else {
        return;
    };
    assert_eq!(schema["additionalProperties"], false, "{path} takes misspelt values");
    for (key, value) in values {
        let path = format!("{path}.{key}");
        check(value, known.get(key).unwrap_or_else(|| panic!("the schema lacks {path}")), &path);
    }
    // What Helm itself passes to every chart.
    for key in known.keys().filter(|key| *key != "global") {
        assert!(values.contains_key(key), "values.yaml lacks {path}.{key}");
    }
}

#[test]
fn the_schema_knows_every_value() {
    let values: Value = serde_saphyr::from_str(&read("values.yaml")).expect("values.yaml");
    let schema: Value = serde_json::from_str(&read("values.schema.json")).expect("the schema");
    check(&values, &schema, "values");
}

#[test]
fn every_value_is_explained() {
    let values: Value = serde_saphyr::from_str(&read("values.yaml")).expect("values.yaml");
    let rows = rows();
    let explained = |path: &str| rows.iter().any(|row| row.path == path);
    for (key, value) in values.as_object().expect("an object") {
        let inner = value.as_object().into_iter().flatten().map(|(inner, _)| inner);
        let whole = explained(key);
        let parts: Vec<_> = inner.map(|inner| format!("{key}.{inner}")).collect();
        let nested = |part: &String| rows.iter().any(|row| row.path.starts_with(part));
        assert!(whole || (!parts.is_empty() && parts.iter().all(nested)), "{key} has no comment");
    }
}

#[test]
fn the_chart_has_the_version_of_the_crate() {
    let chart: Value = serde_saphyr::from_str(&read("Chart.yaml")).expect("Chart.yaml");
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
}
