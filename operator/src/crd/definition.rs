//! The CustomResourceDefinition as it is installed: the derived one, made plainer where the
//! derivation says more than the API server needs.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value};

use super::ShardCluster;

/// Most items of a list inside the types of Kubernetes that the spec embeds; theirs name none.
const MAX_EMBEDDED_ITEMS: u64 = 64;

/// Reasons why the definition could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The definition and JSON disagree.
    #[error("definition of the resource")]
    Json(#[from] serde_json::Error),
    /// The definition and YAML disagree.
    #[error("definition of the resource as yaml")]
    Yaml(#[from] serde_saphyr::ser::Error),
}

/// The definition to install.
pub fn definition() -> Result<CustomResourceDefinition, Error> {
    Ok(serde_json::from_value(document()?)?)
}

/// The definition as one YAML document.
pub fn yaml() -> Result<String, Error> {
    Ok(serde_saphyr::to_string(&document()?)?)
}

/// The schema of its only version.
#[cfg(test)]
pub(super) fn schema() -> Result<Value, Error> {
    let document = document()?;
    Ok(document.pointer("/spec/versions/0/schema/openAPIV3Schema").cloned().unwrap_or_default())
}

fn document() -> Result<Value, Error> {
    let mut definition = serde_json::to_value(ShardCluster::crd())?;
    if let Some(versions) = definition.pointer_mut("/spec/versions").and_then(Value::as_array_mut) {
        for version in versions {
            if let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema") {
                plain(schema);
            }
        }
    }
    Ok(definition)
}

/// Rewrites a schema and all below it.
fn plain(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.values_mut().for_each(plain);
            plain_object(object);
        }
        Value::Array(items) => items.iter_mut().for_each(plain),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn plain_object(schema: &mut Map<String, Value>) {
    if schema.get("nullable") == Some(&Value::Bool(true)) {
        // An explicit null would escape the defaults.
        schema.remove("nullable");
    }
    for bound in ["minimum", "maximum"] {
        if let Some(whole) = schema.get(bound).and_then(Value::as_f64).filter(|n| n.fract() == 0.0)
        {
            #[expect(clippy::cast_possible_truncation, reason = "bounds are small whole numbers")]
            schema.insert(bound.to_owned(), Value::from(whole as i64));
        }
    }
    if schema.get("type").and_then(Value::as_str) == Some("array") {
        schema.entry("maxItems").or_insert(Value::from(MAX_EMBEDDED_ITEMS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Value {
        super::schema().expect("serialises")
    }

    /// Calls `visit` for every schema of a property or item, with its path.
    fn walk(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
        visit(path, schema);
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            walk(property, &format!("{path}.{name}"), visit);
        }
        if schema["items"].is_object() {
            walk(&schema["items"], &format!("{path}[]"), visit);
        }
    }

    #[test]
    fn the_definition_is_one_the_api_accepts() {
        let definition = definition().expect("a definition");
        assert_eq!(definition.metadata.name.as_deref(), Some("shardclusters.shoal.dev"));
        assert!(yaml().expect("yaml").starts_with("apiVersion: apiextensions.k8s.io/v1\n"));
    }

    #[test]
    fn every_part_is_described_and_bounded() {
        walk(&schema(), "", &mut |path, part| {
            let kind = part["type"].as_str().unwrap_or_default();
            assert!(part.get("nullable").is_none(), "{path} may be null");
            if kind == "array" {
                assert!(part["maxItems"].is_u64(), "{path} has no maxItems");
            } else if kind == "integer" {
                let format = part["format"].as_str().unwrap_or_default();
                assert!(["int32", "int64"].contains(&format), "{path} is {format}");
            }
            if path.starts_with(".spec") && !path.contains("[]") {
                assert!(part["description"].is_string(), "{path} has no description");
                let bounded = match kind {
                    "integer" => part["maximum"].is_number() || part["enum"].is_array(),
                    "string" => part["maxLength"].is_number() || part["enum"].is_array(),
                    _ => true,
                };
                assert!(bounded || path.starts_with(".spec.networkPolicy.clients"), "{path}");
            }
        });
    }

    /// What the API server stores for `spec: {image: x}`: defaults filled in from the outside in.
    fn filled(schema: &Value, value: &mut Map<String, Value>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if let Some(default) = property.get("default") {
                value.entry(name.clone()).or_insert_with(|| default.clone());
            }
            if let Some(Value::Object(inner)) = value.get_mut(name) {
                filled(property, inner);
            }
        }
    }

    #[test]
    fn an_image_alone_is_a_whole_spec() {
        let mut stored = Map::from_iter([("image".to_owned(), Value::from("x"))]);
        filled(&schema()["properties"]["spec"], &mut stored);
        let ours = serde_json::to_value(super::super::ShardClusterSpec::of_image("x"));
        assert_eq!(Value::Object(stored), ours.expect("serialises"));
    }

    #[test]
    fn every_rule_has_a_message() {
        let mut rules = 0;
        walk(&schema(), "", &mut |path, part| {
            for rule in part["x-kubernetes-validations"].as_array().into_iter().flatten() {
                assert!(rule["rule"].is_string() && rule["message"].is_string(), "{path}: {rule}");
                rules += 1;
            }
        });
        assert_eq!(rules, 15);
    }
}
