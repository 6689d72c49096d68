//! What an API server makes of a ShardCluster: defaults filled in, each rule with its message,
//! each leaf at its limits; and of what the operator renders: valid to the letter, allowed to its
//! account, pods without privileges. No operator runs here.
// Everything here is a test, outside of the product.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use kube::{
    Api, Client, ResourceExt as _,
    api::{DynamicObject, Patch, PatchParams, PostParams, ValidationDirective},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};
use shoal_operator::{
    build::{Cluster as Seen, pod},
    crd::{PodTemplate, ShardCluster, ShardClusterSpec, definition},
    validate::{Existing, validate},
};
use shoal_tests::kube::{Cluster, Namespace, Tier};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Long enough for an API server that has just learned of a resource.
const PATIENCE: &str = "--timeout=60s";

fn committed(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).expect(path)
}

/// A cluster that knows ShardClusters; the suites share it.
fn cluster() -> Cluster {
    let cluster = Cluster::shared(Tier::Api).unwrap();
    cluster.apply(&committed("deploy/crd.yaml")).unwrap();
    cluster
        .kubectl(&["wait", "--for=condition=Established", "crd/shardclusters.shoal.dev", PATIENCE])
        .unwrap();
    cluster
}

/// Whatever is asked, nothing is stored.
fn dry() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}

fn resource() -> ApiResource {
    ApiResource::erase::<ShardCluster>(&())
}

fn object(name: &str, spec: &Value) -> DynamicObject {
    let mut object = DynamicObject::new(name, &resource());
    let mut whole = json!({ "image": "x" });
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    object.data = json!({ "spec": whole });
    object
}

fn clusters(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &resource())
}

/// Empty = accepted.
fn words<T>(answer: kube::Result<T>) -> String {
    match answer {
        Ok(_) => String::new(),
        Err(kube::Error::Api(status)) if status.code == 422 => status.message,
        Err(other) => panic!("no verdict: {other}"),
    }
}

fn expect(case: &Value, words: &str, wanted: &str) {
    if wanted.is_empty() {
        assert!(words.is_empty(), "{case}: {words}");
    } else {
        assert!(words.contains(wanted), "{case} should be refused with {wanted:?}: {words:?}");
    }
}

#[test]
fn an_image_alone_is_stored_with_every_default() {
    let cluster = cluster();
    let namespace = cluster.namespace("defaults").unwrap();
    let stored = cluster.block_on(async {
        let api = clusters(&cluster.client().await.unwrap(), &namespace);
        api.create(&dry(), &object("a", &json!({}))).await.unwrap()
    });
    assert_eq!(stored.data["spec"], json!(ShardClusterSpec::of_image("x")));
}

#[test]
fn what_is_created_keeps_the_rules() {
    let (long, longest) = ("a".repeat(41), "a".repeat(40));
    let by_name = [
        ("1a", "name must be"),
        ("a.b", "name must be"),
        (&long, "name must be"),
        (&longest, ""),
        ("a-1", ""),
    ];
    let by_spec = [
        (json!({"replicas": 17, "shards": 16}), "replicas must not exceed shards"),
        (json!({"replicas": 16, "shards": 16}), ""),
        (json!({"storage": {"type": "Ephemeral"}, "replicas": 2}), "0 or at least 3 replicas"),
        (json!({"storage": {"type": "Ephemeral"}, "replicas": 0}), ""),
        (json!({"storage": {"type": "Ephemeral", "persistent": {}}}), "only the member"),
        (json!({"storage": {"ephemeral": {}}}), "only the member"),
        (json!({"storage": {"persistent": {"size": "63Mi"}}}), "at least 64Mi"),
        (json!({"storage": {"persistent": {"size": "much"}}}), "at least 64Mi"),
        (json!({"storage": {"persistent": {"storageClassName": "", "size": "64Mi"}}}), ""),
        (json!({"app": {"protocol": "Sidecar"}}), "exactly one of port and socket"),
        (json!({"app": {"protocol": "Sidecar", "port": 1, "socket": "/a"}}), "exactly one of"),
        (json!({"app": {"protocol": "Transparent", "socket": "/a"}}), ""),
        (json!({"tls": {"mode": "CertManager"}}), "certManager must be set exactly"),
        (json!({"tls": {"certManager": {"issuerRef": {"name": "a"}}}}), "certManager must be set"),
        (json!({"tls": {"mode": "Disabled", "clients": "Mutual"}}), "clients cannot be required"),
        (json!({"image": ""}), "spec.image"),
        (json!({"image": "a b"}), "spec.image"),
        (json!({"replicas": null}), ""),
    ];
    let cluster = cluster();
    let namespace = cluster.namespace("rules").unwrap();
    cluster.block_on(async {
        let api = clusters(&cluster.client().await.unwrap(), &namespace);
        for (name, wanted) in by_name {
            let answer = words(api.create(&dry(), &object(name, &json!({}))).await);
            expect(&json!(name), &answer, wanted);
        }
        for (spec, wanted) in by_spec {
            let answer = words(api.create(&dry(), &object("a", &spec)).await);
            expect(&spec, &answer, wanted);
        }
    });
}

#[test]
fn what_is_changed_keeps_the_rules() {
    let large = json!({"storage": {"persistent": {"size": "2Gi"}}});
    let cases = [
        (json!({}), json!({"shards": 512}), "shards is immutable"),
        (json!({}), json!({"storage": {"type": "Ephemeral"}}), "storage.type is immutable"),
        (large.clone(), json!({"storage": {"persistent": {"size": "1Gi"}}}), "must not shrink"),
        (large.clone(), json!({"storage": {"type": "Persistent"}}), "must not shrink"),
        (
            json!({}),
            json!({"storage": {"persistent": {"storageClassName": "f"}}}),
            "storageClassName is immutable",
        ),
        (
            json!({}),
            json!({"storage": {"persistent": {"storageClassName": ""}}}),
            "storageClassName is immutable",
        ),
        (json!({}), json!({"app": {"protocol": "Sidecar", "port": 1}}), "app can be neither"),
        (json!({"app": {"protocol": "Sidecar", "port": 1}}), json!({}), "app can be neither"),
        (json!({}), json!({"tls": {"mode": "Disabled"}}), "neither switched off nor on"),
        (json!({"tls": {"mode": "Disabled"}}), json!({}), "neither switched off nor on"),
        (json!({}), large, ""),
        (json!({}), json!({"replicas": 0, "state": "Stopped", "image": "y", "maxVoters": 7}), ""),
    ];
    let cluster = cluster();
    let namespace = cluster.namespace("changes").unwrap();
    cluster.block_on(async {
        let api = clusters(&cluster.client().await.unwrap(), &namespace);
        for (number, (before, after, wanted)) in cases.into_iter().enumerate() {
            let name = format!("c{number}");
            let stored = api.create(&PostParams::default(), &object(&name, &before)).await.unwrap();
            let mut changed = object(&name, &after);
            changed.metadata.resource_version = stored.resource_version();
            let answer = words(api.replace(&name, &dry(), &changed).await);
            expect(&json!([before, after]), &answer, wanted);
        }
    });
}

#[test]
fn scaling_keeps_the_rules() {
    let cluster = cluster();
    let namespace = cluster.namespace("scale").unwrap();
    let spec = json!({"shards": 16, "storage": {"type": "Ephemeral"}});
    cluster.block_on(async {
        let api = clusters(&cluster.client().await.unwrap(), &namespace);
        api.create(&PostParams::default(), &object("a", &spec)).await.unwrap();
        for (replicas, wanted) in [
            (17, "replicas must not exceed shards"),
            (2, "0 or at least 3 replicas"),
            (1001, "less than or equal to 1000"),
            (-1, "greater than or equal to 0"),
            (16, ""),
            (0, ""),
        ] {
            let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
            let answer = words(api.patch_scale("a", &PatchParams::default(), &patch).await);
            expect(&json!(replicas), &answer, wanted);
        }
    });
    let shown = namespace.kubectl(&["get", "shc", "a", "-o", "wide"]).unwrap();
    let head: Vec<_> = shown.lines().next().unwrap().split_whitespace().collect();
    let wanted = "NAME READY REASON DESIRED READYREPLICAS SHARDS MOVING LEADER VERSION AGE";
    assert_eq!(head.join(" "), wanted);
}

/// A leaf of the spec, with what must be set around it.
fn at(path: &[String], value: Value) -> Value {
    let mut spec = match path[0].as_str() {
        "app" if path[1] == "port" => json!({"app": {"protocol": "Sidecar"}}),
        "app" if path[1] == "socket" => json!({"app": {"protocol": "Sidecar"}}),
        "app" => json!({"app": {"port": 1}}),
        "tls" if path[1] == "certManager" => {
            json!({"tls": {"mode": "CertManager", "certManager": {"issuerRef": {"name": "a"}}}})
        }
        "tls" if value == "CertManager" => {
            json!({"tls": {"certManager": {"issuerRef": {"name": "a"}}}})
        }
        "storage" if path[1] == "ephemeral" => json!({"storage": {"type": "Ephemeral"}}),
        _ => json!({}),
    };
    let mut place = &mut spec;
    for field in path {
        place = &mut place[field];
    }
    *place = value;
    spec
}

/// What a leaf must take, and what it must refuse.
fn limits(leaf: &Value) -> (Vec<Value>, Vec<Value>) {
    let mut refused = vec![json!({ "a": 1 })];
    let accepted = match (leaf["type"].as_str().unwrap_or_default(), &leaf["enum"]) {
        (kind, Value::Array(words)) => {
            refused.push(if kind == "integer" { json!(33) } else { json!("Perhaps") });
            words.clone()
        }
        ("integer", _) => {
            // The typed definition keeps bounds as floating point.
            let bound = |name: &str| leaf[name].as_f64().unwrap() as i64;
            let (least, most) = (bound("minimum"), bound("maximum"));
            refused.extend([
                json!(least - 1),
                json!(most + 1),
                json!(least.to_string()),
                json!(1.5),
            ]);
            vec![json!(least), json!(most)]
        }
        ("string", _) => {
            refused.extend([json!("/".repeat(2000)), json!(7)]);
            Vec::new()
        }
        ("array", _) => {
            let most = usize::try_from(leaf["maxItems"].as_u64().unwrap()).unwrap();
            refused.push(json!(vec![json!({}); most + 1]));
            vec![json!([]), json!(vec![json!({}); most])]
        }
        ("object", _) => {
            refused.extend([json!("text"), json!([])]);
            refused.remove(0);
            vec![json!({ "a": { "b": [1] } })]
        }
        other => panic!("a leaf of {other:?}"),
    };
    (accepted, refused)
}

fn leaves(schema: &Value, path: &[String], found: &mut Vec<(Vec<String>, Value)>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = [path, std::slice::from_ref(name)].concat();
        if field["properties"].is_object() {
            leaves(field, &path, found);
        } else {
            found.push((path, field.clone()));
        }
    }
}

#[test]
fn each_leaf_is_taken_to_its_limits_and_no_further() {
    let schema = serde_json::to_value(definition::definition().unwrap()).unwrap();
    let schema = &schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut found = Vec::new();
    leaves(schema, &[], &mut found);
    assert!(found.len() > 30, "{} leaves", found.len());
    let cluster = cluster();
    let namespace = cluster.namespace("leaves").unwrap();
    cluster.block_on(async {
        let api = clusters(&cluster.client().await.unwrap(), &namespace);
        for (path, leaf) in found {
            let (accepted, refused) = limits(&leaf);
            let accepted = accepted.into_iter().map(|value| (value, true));
            for (value, good) in accepted.chain(refused.into_iter().map(|value| (value, false))) {
                let spec = at(&path, value.clone());
                let answer = words(api.create(&dry(), &object("a", &spec)).await);
                let shown = path.join(".");
                assert_eq!(answer.is_empty(), good, "{shown} = {value}: {answer}");
                assert!(good || answer.contains("spec."), "{shown} = {value}: {answer}");
            }
        }
    });
}

/// The operator's account may do exactly what it is granted: its manifests are applied first.
fn grant(cluster: &Cluster, namespace: &Namespace<'_>) -> String {
    let chart = format!("{ROOT}/charts/shoal");
    let watch = format!("watchNamespaces={{{}}}", &**namespace);
    let what = ["template", "shoal", &chart, "--show-only", "templates/rbac.yaml"];
    let place = ["--namespace", namespace, "--set", &watch, "--set", "rbac.nodes=false"];
    let rendered = cluster.helm(&[&what[..], &place].concat()).unwrap();
    cluster.apply(&rendered).unwrap();
    format!("system:serviceaccount:{}:shoal-operator", &**namespace)
}

#[test]
fn what_is_rendered_is_valid_allowed_and_unprivileged() {
    let cluster = cluster();
    let namespace = cluster.namespace("rendered").unwrap();
    let account = grant(&cluster, &namespace);
    for spec in [json!({}), json!({"storage": {"type": "Ephemeral"}, "tls": {"mode": "Disabled"}})]
    {
        let name = if spec == json!({}) { "whole" } else { "plain" };
        let stored = cluster.block_on(async {
            let api = clusters(&cluster.client().await.unwrap(), &namespace);
            api.create(&PostParams::default(), &object(name, &spec)).await.unwrap()
        });
        let stored: ShardCluster = serde_json::from_value(json!(stored)).unwrap();
        let valid = validate(&stored, &Existing::default()).unwrap();
        let all = valid.children();
        let documents = [
            json!(all.service_account),
            json!(all.role),
            json!(all.role_binding),
            json!(all.peers),
            json!(all.clients),
            json!(all.budget),
            json!(all.network_policy),
            valid.stateful_set(3),
        ];
        cluster.block_on(async {
            let mut config = cluster.config().await.unwrap();
            config.auth_info.impersonate = Some(account.clone());
            let client = Client::try_from(config).unwrap();
            let strict = Some(ValidationDirective::Strict);
            let params = PatchParams { field_validation: strict, ..PatchParams::apply("test") };
            for document in documents.iter().filter(|document| !document.is_null()) {
                let (api, name) = place(&client, &namespace, document);
                let applied = api.patch(&name, &params, &Patch::Apply(document)).await;
                applied.unwrap_or_else(|error| panic!("{document}: {error}"));
            }
        });
        // The namespace enforces the level "restricted" on pods.
        cluster.block_on(async {
            let client = cluster.client().await.unwrap();
            let template = pod::template(&Seen::of(&stored).unwrap());
            let mut unbound =
                json!({ "apiVersion": "v1", "kind": "Pod", "spec": template["spec"] });
            unbound["metadata"] =
                json!({ "name": "trial", "labels": template["metadata"]["labels"] });
            if name == "whole" {
                // What the claim template provides.
                let claim = json!({ "name": "shoal-data", "emptyDir": {} });
                unbound["spec"]["volumes"].as_array_mut().unwrap().push(claim);
            }
            let (api, _) = place(&client, &namespace, &unbound);
            api.create(&dry(), &serde_json::from_value(unbound).unwrap()).await.unwrap();
        });
    }
}

fn place(client: &Client, namespace: &str, document: &Value) -> (Api<DynamicObject>, String) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let version = text(&document["apiVersion"]);
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let kind = GroupVersionKind::gvk(group, version, &text(&document["kind"]));
    let api = Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk(&kind));
    (api, text(&document["metadata"]["name"]))
}

#[test]
fn a_misspelt_template_is_refused_with_its_path() {
    let cluster = cluster();
    let namespace = cluster.namespace("misspelt").unwrap();
    for (template, wanted) in [
        (json!({"spec": {"tolerationz": []}}), "spec.template.spec.tolerationz"),
        (json!({"containers": []}), "spec.template.containers"),
        (json!({"spec": {"priority": "7"}}), "priority"),
        (json!({"spec": {"containers": [{"name": "worker", "envv": []}]}}), "envv"),
        (json!({"spec": {"containers": [{"name": "log"}]}}), "containers[1].image"),
        (json!({"spec": {"volumes": [{"name": "a", "emptyDir": {}}, {"name": "B"}]}}), "volumes["),
        (json!({"metadata": {"labels": {"a b": "c"}}}), "labels"),
    ] {
        let mut shard_cluster = ShardCluster::new("a", ShardClusterSpec::of_image("x"));
        shard_cluster.metadata.namespace = Some((*namespace).to_owned());
        shard_cluster.metadata.uid = Some("u".to_owned());
        shard_cluster.spec.pod_template = PodTemplate(template.as_object().unwrap().clone());
        let valid = validate(&shard_cluster, &Existing::default()).unwrap();
        let document = valid.stateful_set(3);
        let said = cluster.block_on(async {
            let client = cluster.client().await.unwrap();
            let (api, name) = place(&client, &namespace, &document);
            let strict = Some(ValidationDirective::Strict);
            let params = PatchParams {
                dry_run: true,
                field_validation: strict,
                ..PatchParams::apply("test")
            };
            match api.patch(&name, &params, &Patch::Apply(&document)).await {
                Err(kube::Error::Api(status)) => status.message,
                other => panic!("{template} passed: {other:?}"),
            }
        });
        assert!(said.contains(wanted), "{template}: {said}");
    }
}

#[test]
fn the_plain_manifests_and_the_examples_are_taken_as_they_stand() {
    let cluster = cluster();
    cluster.apply(&committed("deploy/namespace.yaml")).unwrap();
    let examples = ["demo", "ephemeral", "hpa"].map(|name| format!("deploy/examples/{name}.yaml"));
    let examples = examples.iter().map(|path| ("-f", path.as_str()));
    for (flag, path) in [("-k", "deploy")].into_iter().chain(examples) {
        let path = Path::new(ROOT).join(path).display().to_string();
        let words =
            ["apply", "--server-side", "--force-conflicts", "--dry-run=server", flag, &path];
        let said = cluster.kubectl(&words).unwrap();
        assert!(said.contains("serverside-applied"), "{path}: {said}");
    }
}

#[test]
fn the_chart_is_rendered_as_it_was_reviewed() {
    let cluster = Cluster::shared(Tier::Api).unwrap();
    let script = Path::new(ROOT).join("deploy/generate.sh");
    let done = cluster.command(script.to_str().unwrap()).unwrap().arg("--check").output().unwrap();
    let said =
        String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
}
