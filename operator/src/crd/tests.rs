//! Committed copies of what the types say: the definition for people who install it, and the two
//! references for people who read. `UPDATE_DOCS=1` writes them.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use super::{
    ShardCluster,
    condition::{Condition, ConditionType},
    definition,
};

/// A cluster as the API server would hand it out, with this spec beside its image.
pub(crate) fn stored(spec: &Value) -> ShardCluster {
    let mut whole = json!({
        "apiVersion": "shoal.dev/v1alpha1",
        "kind": "ShardCluster",
        "metadata": { "name": "demo", "namespace": "shop", "uid": "u-1" },
        "spec": { "image": "registry.example/shoal:0.1.0" },
    });
    for (field, value) in spec.as_object().expect("an object") {
        whole["spec"][field] = value.clone();
    }
    serde_json::from_value(whole).expect("a ShardCluster")
}

/// Compares a committed file with what it should be.
fn committed(path: &str, wanted: &str) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&file, wanted).expect("written");
    }
    let known = fs::read_to_string(&file).expect(path);
    assert_eq!(
        known, wanted,
        "{path} is behind: UPDATE_DOCS=1 cargo test -p shoal-operator writes it"
    );
}

/// The part of a document below its marker is generated, the rest is written by hand.
fn below_marker(path: &str, generated: &str) {
    const MARKER: &str = "<!-- from here on: UPDATE_DOCS=1 cargo test -p shoal-operator -->\n";
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    let text = fs::read_to_string(&file).expect(path);
    let (by_hand, _) = text.split_once(MARKER).expect("the marker");
    committed(path, &format!("{by_hand}{MARKER}\n{generated}"));
}

#[test]
fn the_installed_definition_is_that_of_the_types() {
    let yaml = definition::yaml().expect("yaml");
    committed("charts/shoal/files/shardclusters.yaml", &yaml);
    committed("deploy/crd.yaml", &yaml);
}

#[test]
fn the_reference_lists_every_condition() {
    let mut text = String::new();
    for kind in ConditionType::ALL {
        text += &format!(
            "## {}\n\n{}\n\n| status | reason | meaning |\n|---|---|---|\n",
            kind.as_str(),
            kind.about()
        );
        for row in Condition::ALL.iter().filter(|row| row.kind() == *kind) {
            text +=
                &format!("| {} | {} | {} |\n", row.status().as_str(), row.reason(), row.meaning());
        }
        text += "\n";
    }
    below_marker("docs/conditions.md", text.trim_end_matches('\n').to_owned().as_str());
}

#[test]
fn the_reference_lists_every_field() {
    let schema = definition::schema().expect("a schema");
    let mut text = String::new();
    for part in ["spec", "status"] {
        text += &format!("## {part}\n\n| field | type | default | meaning |\n|---|---|---|---|\n");
        rows(&schema["properties"][part], part, &mut text);
        text += "\n";
    }
    text += "## Rules\n\nChecked by the API server, also when only `replicas` is changed through the scale subresource.\n\n";
    rules(&schema, "", &mut text);
    below_marker("docs/shardcluster.md", &text);
}

/// One row for each field below, in the order of the alphabet.
fn rows(schema: &Value, path: &str, text: &mut String) {
    let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let leaf = field["properties"].is_null();
        let default = match field.get("default") {
            Some(Value::String(word)) => format!("`{word}`"),
            Some(value) if leaf => format!("`{value}`"),
            None if required.iter().any(|known| known == name) => "required".to_owned(),
            Some(_) | None => String::new(),
        };
        let meaning = field["description"].as_str().unwrap_or_default().replace('\n', " ");
        *text += &format!("| `{path}` | {} | {default} | {meaning} |\n", kind(field));
        // What is embedded of Kubernetes is described there.
        if !path.starts_with("spec.networkPolicy.clients") && !path.starts_with("status.conditions")
        {
            rows(field, &path, text);
            rows(&field["items"], &format!("{path}[]"), text);
        }
    }
}

fn kind(field: &Value) -> String {
    if let Some(words) = field["enum"].as_array() {
        let words: Vec<_> = words.iter().map(|word| word.to_string().replace('"', "")).collect();
        return words.join(", ");
    }
    let name = field["type"].as_str().unwrap_or("any");
    match (name, field["minimum"].as_i64(), field["maximum"].as_i64()) {
        ("integer", Some(least), Some(most)) => format!("{least} to {most}"),
        ("array", ..) => format!("list, at most {}", field["maxItems"]),
        (name, ..) => name.to_owned(),
    }
}

fn rules(schema: &Value, path: &str, text: &mut String) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let path = if path.is_empty() { "the object" } else { path.trim_start_matches('.') };
        *text += &format!("- `{path}`: {}\n", rule["message"].as_str().unwrap_or_default());
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        rules(field, &format!("{path}.{name}"), text);
    }
}
