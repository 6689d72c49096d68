//! A user's pod template over the rendered one.
//!
//! Objects are merged, `null` takes a field away, lists that have a key are merged by it, other
//! lists are replaced. What is not understood is passed on: the API server finds better words
//! for it.

use serde_json::{Map, Value};

/// The field by which the items of a list are told apart.
pub fn key_of(list: &str) -> Option<&'static str> {
    match list {
        "containers" | "initContainers" | "volumes" | "env" => Some("name"),
        "volumeMounts" => Some("mountPath"),
        _ => None,
    }
}

/// Puts `over` over `base`.
pub fn merge(base: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (field, value) in over {
        match (base.get_mut(field), value) {
            (_, Value::Null) => {
                base.remove(field);
            }
            (Some(Value::Object(below)), Value::Object(above)) => merge(below, above),
            (Some(Value::Array(below)), Value::Array(above)) => match key_of(field) {
                Some(key) => merge_list(below, above, key),
                None => *below = above.clone(),
            },
            (_, value) => {
                base.insert(field.clone(), value.clone());
            }
        }
    }
}

fn merge_list(base: &mut Vec<Value>, over: &[Value], key: &str) {
    for item in over {
        let same = base
            .iter_mut()
            .find(|known| item.get(key).is_some() && known.get(key) == item.get(key));
        match (same, item) {
            (Some(Value::Object(below)), Value::Object(above)) => merge(below, above),
            (Some(_) | None, item) => base.push(item.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(base: Value, over: Value) -> Value {
        let (Value::Object(mut base), Value::Object(over)) = (base, over) else {
            panic!("two objects")
        };
        merge(&mut base, &over);
        Value::Object(base)
    }

    #[test]
    fn lists_with_a_key_are_merged_and_others_replaced() {
        let cases = [
            (
                json!({"containers": [{"name": "worker", "image": "a", "args": ["x", "y"]}]}),
                json!({"containers": [{"name": "app"}, {"name": "worker", "args": ["z"]}]}),
                json!({"containers": [{"name": "worker", "image": "a", "args": ["z"]}, {"name": "app"}]}),
            ),
            (
                json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}),
                json!({"env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}]}),
                json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "3"}, {"name": "C", "value": "4"}]}),
            ),
            (
                json!({"volumeMounts": [{"name": "v", "mountPath": "/a"}]}),
                json!({"volumeMounts": [{"name": "w", "mountPath": "/a"}, {"name": "v", "mountPath": "/b"}]}),
                json!({"volumeMounts": [{"name": "w", "mountPath": "/a"}, {"name": "v", "mountPath": "/b"}]}),
            ),
            (
                json!({"tolerations": [{"key": "a"}]}),
                json!({"tolerations": [{"key": "b"}]}),
                json!({"tolerations": [{"key": "b"}]}),
            ),
            (
                json!({"resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "1"}}}),
                json!({"resources": {"limits": {"memory": null}}}),
                json!({"resources": {"limits": {}, "requests": {"cpu": "1"}}}),
            ),
        ];
        for (base, over, wanted) in cases {
            assert_eq!(merged(base.clone(), over.clone()), wanted, "{base} + {over}");
        }
    }

    #[test]
    fn what_is_misspelt_is_passed_on() {
        let base = json!({"spec": {"containers": [{"name": "worker"}]}});
        for over in [
            json!({"containers": [{"name": "worker"}]}),
            json!({"spec": {"tolerationz": []}}),
            json!({"spec": {"containers": {"worker": {}}}}),
            json!({"spec": {"containers": [{"nane": "worker"}, "worker", 7]}}),
            json!({"spec": {"terminationGracePeriodSeconds": "30"}}),
        ] {
            let result = merged(base.clone(), over.clone());
            let Value::Object(fields) = &over else { panic!("an object") };
            for (field, value) in fields {
                let kept = result[field].to_string();
                let inner = value.as_object().and_then(|o| o.values().next()).unwrap_or(value);
                let items = inner.as_array().cloned().unwrap_or_else(|| vec![inner.clone()]);
                assert!(items.iter().all(|item| kept.contains(&item.to_string())), "{result}");
            }
        }
    }
}
