//! The definition on the real API server: every leaf at its limits and beyond, generated from the
//! schema itself; every rule with its message, also through `/scale`; defaults and columns.

use futures::{StreamExt as _, future, stream};
use hyper::http;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
};
use serde_json::{Map, Value, json};
use shoal_operator::crd::definition;
use shoal_tests::kube::{Cluster, Namespace};

use super::scene::{NAME, run};

/// Fewer cases than this would mean that the schema was not walked.
const LEAST_CASES: usize = 250;
const AT_ONCE: usize = 8;

struct Server {
    api: Api<DynamicObject>,
    client: Client,
}

impl Server {
    async fn new(cluster: &Cluster, namespace: &str) -> Self {
        let kind = GroupVersionKind::gvk("shoal.dev", "v1alpha1", "ShardCluster");
        let client = cluster.client().await.expect("a client");
        let resource = ApiResource::from_gvk(&kind);
        Self { api: Api::namespaced_with(client.clone(), namespace, &resource), client }
    }

    /// What would be stored in place of what is there, or the server's words.
    async fn tries(&self, name: &str, spec: &Value) -> Result<Value, String> {
        let mut object = object(name, spec);
        let live = self.api.get_opt(name).await.map_err(|error| error.to_string())?;
        let (method, place) = match &live {
            Some(_) => (http::Method::PUT, format!("{}/{name}", self.api.resource_url())),
            None => (http::Method::POST, self.api.resource_url().to_owned()),
        };
        if let Some(live) = &live {
            object["metadata"]["resourceVersion"] = json!(live.metadata.resource_version);
        }
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{place}?dryRun=All&fieldValidation=Strict"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(object.to_string().into_bytes())
            .expect("a request");
        let tried = self.client.request::<Value>(request).await;
        tried.map(|stored| stored["spec"].clone()).map_err(|error| error.to_string())
    }

    async fn create(&self, name: &str, spec: &Value) {
        let object = serde_json::from_value(object(name, spec)).expect("an object");
        self.api.create(&PostParams::default(), &object).await.expect("created");
    }
}

fn object(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "shoal.dev/v1alpha1", "kind": "ShardCluster",
        "metadata": { "name": name }, "spec": spec,
    })
}

/// One leaf of the schema: its path, and its schema.
struct Leaf {
    path: Vec<String>,
    schema: Value,
}

fn leaves(schema: &Value, path: &[String], found: &mut Vec<Leaf>) {
    let preserved = schema["x-kubernetes-preserve-unknown-fields"] == json!(true);
    match schema["properties"].as_object().filter(|_| !preserved) {
        Some(properties) => {
            for (name, property) in properties {
                leaves(property, &[path, std::slice::from_ref(name)].concat(), found);
            }
        }
        None => found.push(Leaf { path: path.to_vec(), schema: schema.clone() }),
    }
}

fn spec_schema() -> Value {
    let definition = serde_json::to_value(definition::definition().expect("a definition"));
    let definition = definition.expect("JSON");
    let schema = definition.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec");
    schema.expect("a schema").clone()
}

/// The smallest spec in which this leaf, with this value, breaks no rule about its neighbours.
fn around(path: &str, value: &Value) -> Value {
    let mut spec = json!({ "image": "x" });
    match path {
        "app.socket" => spec["app"] = json!({ "protocol": "Sidecar" }),
        _ if path.starts_with("app.") => spec["app"] = json!({ "protocol": "Sidecar", "port": 9 }),
        _ if path.starts_with("tls.certManager") => {
            spec["tls"] =
                json!({ "mode": "CertManager", "certManager": { "issuerRef": { "name": "x" } } });
        }
        "tls.mode" if *value == json!("CertManager") => {
            spec["tls"] = json!({ "certManager": { "issuerRef": { "name": "x" } } });
        }
        _ if path.starts_with("storage.ephemeral") => {
            spec["storage"] = json!({ "type": "Ephemeral" })
        }
        _ if path.starts_with("storage.persistent") => {
            spec["storage"] = json!({ "type": "Persistent" });
        }
        _ => {}
    }
    spec
}

fn put(spec: &mut Value, path: &[String], value: Value) {
    let mut place = spec;
    for name in path {
        let object = place.as_object_mut().expect("an object");
        place = object.entry(name.clone()).or_insert(json!({}));
    }
    *place = value;
}

/// Numbers of a schema are read as fractions.
fn bound(schema: &Value, name: &str) -> i64 {
    schema[name].as_f64().expect("every number is bounded") as i64
}

/// Values that must be stored as they are.
fn good(path: &str, schema: &Value) -> Vec<Value> {
    if let Some(all) = schema["enum"].as_array() {
        return all.clone();
    }
    match schema["type"].as_str().unwrap_or_default() {
        "integer" => ["minimum", "maximum"].map(|name| json!(bound(schema, name))).into(),
        "array" => vec![json!([]), json!([{}])],
        "object" => vec![json!({}), json!({ "metadata": { "labels": { "a": "b" } } })],
        "boolean" => vec![json!(true), json!(false)],
        _ if path.ends_with("size") || path.ends_with("sizeLimit") => {
            ["64Mi", "1Gi", "1.5Gi", "100000k", "1e9", "67108864"].map(Value::from).into()
        }
        _ => {
            let first = if path.ends_with("socket") { "/" } else { "" };
            let text = |length: u64| {
                json!(format!("{first}{}", "a".repeat(length as usize - first.len())))
            };
            let least = schema["minLength"].as_u64().unwrap_or(1).max(1 + first.len() as u64);
            vec![text(least), text(schema["maxLength"].as_u64().unwrap_or(8))]
        }
    }
}

/// Values that must be refused.
fn bad(path: &str, schema: &Value) -> Vec<Value> {
    let mut all = vec![json!({ "no": "such" }), json!([["list"]])];
    if schema["enum"].is_array() {
        all.extend([json!("NoSuchWord"), json!(""), json!(-1), json!(1.5)]);
        let word = schema["enum"][0].as_str().map(str::to_lowercase);
        all.extend(word.map(Value::from));
        return all;
    }
    match schema["type"].as_str().unwrap_or_default() {
        "integer" => {
            all.extend([json!(bound(schema, "minimum") - 1), json!(bound(schema, "maximum") + 1)]);
            all.extend([json!(i64::MAX), json!(1.5), json!("1"), json!(true), json!("")]);
        }
        "array" => {
            all = vec![json!({}), json!("x"), json!([{ "no": "such" }]), json!(["x"])];
            let most =
                schema["maxItems"].as_u64().unwrap_or_else(|| panic!("{path}: {schema}")) as usize;
            all.push(json!(vec![json!({}); most + 1]));
        }
        "object" => all = vec![json!("x"), json!(1), json!([])],
        "boolean" => all.extend([json!("true"), json!(1)]),
        _ => {
            all.extend([json!(1), json!(true)]);
            all.extend(schema["maxLength"].as_u64().map(|n| json!("a".repeat(n as usize + 1))));
            if schema["minLength"].is_u64() {
                all.push(json!(""));
            }
            if path.ends_with("size") || path.ends_with("sizeLimit") {
                all.extend(["", "63Mi", "0", "-1Gi", "lots", "1GiB", "Gi"].map(Value::from));
            } else if schema["pattern"].is_string() {
                all.extend(["a b", "\n", " "].map(Value::from));
            }
        }
    }
    all
}

/// What is wrong with the server's answer to one value of one leaf.
async fn judge(server: &Server, leaf: &Leaf, value: Value, is_good: bool) -> Option<String> {
    let path = leaf.path.join(".");
    let mut spec = around(&path, &value);
    put(&mut spec, &leaf.path, value.clone());
    match (server.tries(NAME, &spec).await, is_good) {
        (Ok(stored), true) => {
            let kept = stored.pointer(&format!("/{}", leaf.path.join("/"))) == Some(&value);
            (!kept).then(|| format!("{path} = {value} was stored as {stored}"))
        }
        (Err(words), true) => Some(format!("{path} = {value} was refused: {words}")),
        (Ok(_), false) => Some(format!("{path} = {value} was accepted")),
        (Err(words), false) => {
            let named = leaf.path.last().is_some_and(|name| words.contains(name));
            (!named).then(|| format!("{path} = {value}: no path in: {words}"))
        }
    }
}

#[test]
fn every_leaf_takes_what_it_may_and_nothing_else() {
    run("schema", async |cluster, namespace| {
        let server = Server::new(cluster, namespace).await;
        let mut all = Vec::new();
        leaves(&spec_schema(), &[], &mut all);
        let mut cases = Vec::new();
        for leaf in &all {
            let path = leaf.path.join(".");
            let good = good(&path, &leaf.schema).into_iter().map(|value| (value, true));
            let bad = bad(&path, &leaf.schema).into_iter().map(|value| (value, false));
            cases.extend(good.chain(bad).map(|(value, is_good)| (leaf, value, is_good)));
        }
        let count = cases.len();
        let judged = stream::iter(cases)
            .map(|(leaf, value, is_good)| judge(&server, leaf, value, is_good))
            .buffer_unordered(AT_ONCE);
        let wrong: Vec<String> = judged.filter_map(future::ready).collect().await;
        println!("{} leaves, {count} cases", all.len());
        assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
        assert!(count >= LEAST_CASES, "only {count} cases");
    });
}

#[test]
fn an_image_is_a_whole_spec_and_every_default_is_seen() {
    run("defaults", async |cluster, namespace| {
        let server = Server::new(cluster, namespace).await;
        server.create(NAME, &json!({ "image": "x" })).await;
        let stored = server.api.get(NAME).await.unwrap().data["spec"].clone();
        let ours = shoal_operator::crd::ShardClusterSpec::of_image("x");
        assert_eq!(stored, serde_json::to_value(ours).unwrap());
        // An explicit null is an absent field: it escapes no default.
        let nulls = json!({ "image": "x", "replicas": null, "session": null, "storage": null });
        assert_eq!(server.tries("nulls", &nulls).await.unwrap(), stored);
        for spec in [json!({}), json!({ "image": null }), json!({ "image": "" })] {
            assert!(server.tries("without", &spec).await.is_err(), "{spec}");
        }
    });
}

fn ephemeral(replicas: u32) -> Value {
    json!({ "image": "x", "replicas": replicas, "storage": { "type": "Ephemeral" } })
}

fn persistent(of: Value) -> Value {
    json!({ "storage": { "type": "Persistent", "persistent": of } })
}

fn tls(of: Value) -> Value {
    json!({ "tls": of })
}

/// Names, changes of what there is under them, and words of the refusal.
fn refused() -> Vec<(String, Value, &'static str)> {
    let long = "a".repeat(41);
    let rows = [
        ("new", json!({ "replicas": 17, "shards": 16 }), "replicas must not exceed shards"),
        ("new", ephemeral(2), "ephemeral storage needs 0 or at least 3 replicas"),
        ("new", ephemeral(1), "ephemeral storage needs 0 or at least 3 replicas"),
        ("new", json!({ "app": { "protocol": "Sidecar" } }), "exactly one of port and socket"),
        (
            "new",
            json!({ "app": { "protocol": "Sidecar", "port": 1, "socket": "/x" } }),
            "exactly one of port and socket",
        ),
        (
            "new",
            json!({ "storage": { "type": "Ephemeral", "persistent": {} } }),
            "storage.type names",
        ),
        ("new", json!({ "storage": { "ephemeral": {} } }), "storage.type names"),
        ("new", tls(json!({ "mode": "CertManager" })), "certManager must be set exactly when"),
        (
            "new",
            tls(json!({ "certManager": { "issuerRef": { "name": "x" } } })),
            "certManager must be set exactly when",
        ),
        (
            "new",
            tls(json!({ "mode": "Disabled", "clients": "Mutual" })),
            "clients cannot be required",
        ),
        ("Upper", json!({}), "name"),
        ("1st", json!({}), "name must be 1 to 40 characters"),
        ("a.b", json!({}), "name must be 1 to 40 characters"),
        (&long, json!({}), "name must be 1 to 40 characters"),
        ("plain", json!({ "shards": 2048 }), "shards is immutable"),
        (
            "plain",
            json!({ "app": { "protocol": "Sidecar", "port": 9 } }),
            "app can be neither added",
        ),
        ("app", json!({ "app": null }), "app can be neither added nor taken away"),
        ("plain", tls(json!({ "mode": "Disabled" })), "tls can be neither switched off nor on"),
        ("open", tls(json!({ "mode": "BuiltIn" })), "tls can be neither switched off nor on"),
        ("plain", json!({ "storage": { "type": "Ephemeral" } }), "storage.type is immutable"),
        ("short", json!({ "storage": null }), "storage.type is immutable"),
        ("plain", persistent(json!({ "size": "512Mi" })), "size must not shrink"),
        ("plain", persistent(json!({ "storageClassName": "b" })), "storageClassName is immutable"),
        ("classy", persistent(json!({ "storageClassName": "b" })), "storageClassName is immutable"),
        ("classy", json!({ "storage": null }), "storageClassName is immutable"),
    ];
    rows.map(|(name, change, words): (&str, _, _)| (name.to_owned(), change, words)).into()
}

#[test]
fn every_rule_is_told_in_its_own_words() {
    run("rules", async |cluster, namespace| {
        let server = Server::new(cluster, namespace).await;
        let before = [
            ("plain", json!({ "image": "x" })),
            (
                "classy",
                json!({ "image": "x", "storage": { "persistent": { "storageClassName": "a" } } }),
            ),
            ("app", json!({ "image": "x", "app": { "protocol": "Sidecar", "port": 9 } })),
            ("open", json!({ "image": "x", "tls": { "mode": "Disabled" } })),
            ("short", ephemeral(3)),
        ];
        for (name, spec) in &before {
            server.create(name, spec).await;
        }
        let of = |name: &str| {
            before.iter().find(|(other, _)| *other == name).map(|(_, spec)| spec.clone())
        };
        for (name, change, words) in refused() {
            let mut spec = of(&name).unwrap_or(json!({ "image": "x" }));
            merge(&mut spec, &change);
            let told = server.tries(&name, &spec).await.expect_err(&format!("{name} {change}"));
            assert!(told.contains(words), "{name} {change}: {told}");
        }
        for (name, change) in [
            ("plain", persistent(json!({ "size": "2Gi" }))),
            ("plain", persistent(json!({ "size": "1024Mi" }))),
            ("short", json!({ "replicas": 0 })),
            ("app", json!({ "app": { "protocol": "Sidecar", "port": null, "socket": "/x" } })),
            (&"a".repeat(40), json!({})),
            ("a", json!({ "replicas": 16, "shards": 16 })),
        ] {
            let mut spec = of(name).unwrap_or(json!({ "image": "x" }));
            merge(&mut spec, &change);
            server
                .tries(name, &spec)
                .await
                .unwrap_or_else(|told| panic!("{name} {change}: {told}"));
        }
    });
}

fn merge(into: &mut Value, from: &Value) {
    let empty = Map::new();
    for (key, value) in from.as_object().unwrap_or(&empty) {
        match (into.get_mut(key), value) {
            (_, Value::Null) => {
                into.as_object_mut().expect("an object").remove(key);
            }
            (Some(below @ Value::Object(_)), Value::Object(_)) => merge(below, value),
            _ => into[key] = value.clone(),
        }
    }
}

#[test]
fn scaling_from_outside_keeps_every_rule() {
    run("scale", async |cluster, namespace: &Namespace<'_>| {
        let server = Server::new(cluster, namespace).await;
        server.create("plain", &json!({ "image": "x", "shards": 16 })).await;
        let short = json!({ "image": "x", "storage": { "type": "Ephemeral" } });
        server.create("short", &short).await;
        for (name, replicas, words) in [
            ("plain", 17, "replicas must not exceed shards"),
            ("plain", 1001, "spec.replicas"),
            ("plain", -1, "spec.replicas"),
            ("short", 2, "ephemeral storage needs 0 or at least 3 replicas"),
        ] {
            let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
            let scaled = server.api.patch_scale(name, &PatchParams::default(), &patch).await;
            let told = scaled.expect_err("refused").to_string();
            assert!(told.contains(words), "{name} {replicas}: {told}");
        }
        let scaled = namespace.kubectl(&["scale", "shc/plain", "--replicas=16"]).unwrap();
        assert!(scaled.contains("scaled"), "{scaled}");
        let scale = server.api.get_scale("plain").await.unwrap();
        assert_eq!(scale.spec.unwrap().replicas, Some(16));
        let columns = |arguments: &[&str]| {
            let table = namespace.kubectl(arguments).unwrap();
            let head = table.lines().next().unwrap_or_default().to_owned();
            head.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let short =
            ["NAME", "READY", "REASON", "DESIRED", "READYREPLICAS", "SHARDS", "VERSION", "AGE"];
        assert_eq!(columns(&["get", "shc"]), short);
        let wide = columns(&["get", "shc", "-o", "wide"]);
        assert!(
            wide.contains(&"MOVING".to_owned()) && wide.contains(&"LEADER".to_owned()),
            "{wide:?}"
        );
        assert!(namespace.kubectl(&["get", "all"]).unwrap().contains("shardcluster"));
    });
}
