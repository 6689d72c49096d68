//! Is everything that we would apply there already?
//!
//! The API server adds defaults and others add what is theirs; neither is a difference. What is
//! only spelled otherwise is one here: whoever asks has the API server spell it.

use serde_json::Value;

/// True where applying `wanted` over `live` would change nothing of what we set.
pub(super) fn holds(wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Null, _) => true,
        (Value::Object(wanted), Value::Object(live)) => wanted.iter().all(|(key, value)| {
            // What a Secret is given as text is stored otherwise.
            live.get(key).map_or(is_nothing(value), |live| holds(value, live))
        }),
        // Lists of objects are merged by a key of theirs; ours must be among them.
        (Value::Array(wanted), Value::Array(live)) if wanted.iter().all(Value::is_object) => {
            wanted.iter().all(|item| live.iter().any(|live| holds(item, live)))
                && (!wanted.is_empty() || live.is_empty())
        }
        (wanted, live) => wanted == live,
    }
}

/// Left out by the API server as well.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_nothing),
        Value::Array(list) => list.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_and_what_others_added_are_no_difference() {
        let wanted = json!({ "spec": { "ports": [{ "port": 1 }], "selector": { "a": "b" } } });
        let live = json!({
            "metadata": { "uid": "u" },
            "spec": {
                "ports": [{ "port": 9 }, { "port": 1, "protocol": "TCP" }],
                "selector": { "a": "b" },
                "type": "ClusterIP"
            }
        });
        assert!(holds(&wanted, &live));
        assert!(holds(&json!({ "a": null, "b": {} }), &json!({})));
    }

    #[test]
    fn every_other_difference_is_one() {
        assert!(!holds(&json!({ "a": 1 }), &json!({ "a": 2 })));
        assert!(!holds(&json!({ "a": 1 }), &json!({})));
        assert!(!holds(&json!({ "a": false }), &json!({})));
        assert!(!holds(&json!([1, 2]), &json!([2, 1])));
        assert!(!holds(&json!([{ "port": 1 }]), &json!([{ "port": 2 }])));
        assert!(!holds(&json!({ "clients": [] }), &json!({ "clients": [{ "a": 1 }] })));
    }
}
