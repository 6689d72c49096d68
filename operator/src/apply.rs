//! The only writes to the API server, and none where an object is as wanted already.
//!
//! Every write carries the version or the uid of what it was decided on, so that a process that
//! was paused overwrites nothing. What belongs to a cluster is replaced as a whole: a field that
//! somebody added by hand goes as well, which server-side apply would leave.

mod subset;

use hyper::{Method, Request, header::CONTENT_TYPE};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret};
use kube::{
    Client, Resource as _,
    api::{
        Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams,
        PostParams, Preconditions,
    },
};
use serde_json::{Value, json};

use crate::{
    crd::{ShardCluster, ShardClusterStatus, annotation::OWNER_UID},
    observe::FORMER,
};

/// Owns the fields of everything a cluster consists of.
const MANAGER: &str = "shoal-operator";
/// Hash of the rendering that was last written; on everything written.
const APPLIED: &str = "shoal.dev/applied";
/// Owns the status.
const STATUS_MANAGER: &str = "shoal-operator-status";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {source}")]
    Api { what: String, source: kube::Error },
    /// An object of the wanted name belongs to somebody else; it stays as it is.
    #[error("{kind} {name} belongs to somebody else: rename or delete it, or rename the cluster")]
    Foreign { kind: String, name: String },
    /// The API server's own words about what it will not take.
    #[error("{words}")]
    Rejected { words: String },
    #[error("{kind} without {missing}")]
    Rendered { kind: String, missing: &'static str },
}

fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
    let what = what.into();
    move |source| Error::Api { what, source }
}

/// Writes what belongs to one cluster.
#[derive(Clone)]
pub struct Applier {
    client: Client,
    namespace: String,
    owner: String,
}

/// What became of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    AsWanted,
    Written,
}

impl Applier {
    pub fn new(client: Client, cluster: &ShardCluster) -> Self {
        let namespace = cluster.metadata.namespace.clone().unwrap_or_default();
        let owner = cluster.metadata.uid.clone().unwrap_or_default();
        Self { client, namespace, owner }
    }

    /// Brings one rendered object about, unless it is there as wanted.
    pub async fn ensure(&self, object: &Value) -> Result<Outcome, Error> {
        let place = self.place(object)?;
        let live = self.read(&place).await?;
        if self.is_as_wanted(&place, object, live.as_ref()).await? {
            return Ok(Outcome::AsWanted);
        }
        self.write(&place, object, live).await
    }

    /// The StatefulSet. The API server judges it strictly first: a field it does not know would
    /// be dropped silently otherwise.
    pub async fn ensure_set(&self, object: &Value) -> Result<Outcome, Error> {
        let place = self.place(object)?;
        let live = self.read(&place).await?;
        if self.is_as_wanted(&place, object, live.as_ref()).await? {
            return Ok(Outcome::AsWanted);
        }
        self.judge(&place, &to_write(object, live.as_ref())).await?;
        self.write(&place, object, live).await
    }

    /// The API server stores some things in words of its own: `1000` of a processor as `1k`. Where
    /// an object differs though nobody has touched it, it is asked what it would store.
    async fn is_as_wanted(
        &self,
        place: &Place,
        object: &Value,
        live: Option<&DynamicObject>,
    ) -> Result<bool, Error> {
        let Some(live) = live.filter(|live| is_untouched(object, live)) else { return Ok(false) };
        let shown = serde_json::to_value(live).unwrap_or_default();
        if subset::holds(object, &shown) {
            return Ok(true);
        }
        let stored = self.judge(place, &to_write(object, Some(live))).await?;
        Ok(content(&stored) == content(&shown))
    }

    /// Takes away what is ours and no longer wanted.
    pub async fn absent(&self, object: &Value) -> Result<Outcome, Error> {
        let place = self.place(object)?;
        let live = match self.read(&place).await {
            Ok(Some(live)) => live,
            Ok(None) | Err(Error::Foreign { .. }) => return Ok(Outcome::AsWanted),
            Err(error) => return Err(error),
        };
        let params = of_uid(live.metadata.uid.as_deref());
        let deleted = place.objects.delete(&place.name, &params).await;
        gone(deleted.map(drop), format!("delete {place}"))?;
        Ok(Outcome::Written)
    }

    /// Written once: whoever comes second reads what the first wrote.
    pub async fn create_identity(&self, map: &ConfigMap) -> Result<(), Error> {
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace);
        let params =
            PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        match maps.create(&params, map).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            Err(error) => Err(api("create the identity")(error)),
        }
    }

    /// Over the very version that it carries.
    pub async fn replace_identity(&self, map: &ConfigMap) -> Result<(), Error> {
        let name = map.metadata.name.clone().unwrap_or_default();
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace);
        let params =
            PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        maps.replace(&name, &params, map).await.map(drop).map_err(api("write the identity"))
    }

    /// The claim is this cluster's from now on.
    pub async fn adopt_claim(&self, name: &str) -> Result<(), Error> {
        let claims = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &self.namespace);
        let patch = json!({ "metadata": { "annotations": { OWNER_UID: self.owner } } });
        let params =
            PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let patched = claims.patch(name, &params, &Patch::Merge(patch)).await;
        gone(patched.map(drop), format!("adopt volume claim {name}"))
    }

    /// A Secret with keys: never overwritten by one that was made from an older view.
    pub async fn create_secret(&self, secret: &Secret) -> Result<(), Error> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let params =
            PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        secrets.create(&params, secret).await.map(drop).map_err(api("create a secret"))
    }

    pub async fn replace_secret(&self, secret: &Secret) -> Result<(), Error> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let name = secret.metadata.name.clone().unwrap_or_default();
        let params =
            PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        secrets.replace(&name, &params, secret).await.map(drop).map_err(api("replace a secret"))
    }

    pub async fn delete_pod(&self, name: &str, uid: &str, at_once: bool) -> Result<(), Error> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        let mut params = of_uid(Some(uid));
        params.grace_period_seconds = at_once.then_some(0);
        gone(pods.delete(name, &params).await.map(drop), format!("delete pod {name}"))
    }

    pub async fn delete_claim(&self, name: &str, uid: &str) -> Result<(), Error> {
        let claims = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &self.namespace);
        let deleted = claims.delete(name, &of_uid(Some(uid))).await.map(drop);
        gone(deleted, format!("delete volume claim {name}"))
    }

    pub async fn write_status(&self, name: &str, status: &ShardClusterStatus) -> Result<(), Error> {
        let clusters = Api::<ShardCluster>::namespaced(self.client.clone(), &self.namespace);
        let patch = json!({
            "apiVersion": ShardCluster::api_version(&()),
            "kind": ShardCluster::kind(&()),
            "metadata": { "name": name, "uid": self.owner },
            "status": status,
        });
        let params = PatchParams::apply(STATUS_MANAGER).force();
        let patched = clusters.patch_status(name, &params, &Patch::Apply(&patch)).await;
        gone(patched.map(drop), "write the status".to_owned())
    }

    /// What is to be written, as it would be stored; nothing is. As an apply on the server's side
    /// a field that the API server does not know would be its own failure, and its words poorer.
    async fn judge(&self, place: &Place, object: &Value) -> Result<Value, Error> {
        let url = place.objects.resource_url();
        let (method, url) = match object["metadata"].get("resourceVersion") {
            Some(_) => (Method::PUT, format!("{url}/{}", place.name)),
            None => (Method::POST, url.to_owned()),
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("{url}?dryRun=All&fieldValidation=Strict&fieldManager={MANAGER}"))
            .header(CONTENT_TYPE, "application/json")
            .body(object.to_string().into_bytes())
            .map_err(|error| api(format!("try {place}"))(kube::Error::HttpError(error)))?;
        let judged = self.client.request::<Value>(request).await;
        judged.map_err(|error| match error {
            kube::Error::Api(status) if status.code == 400 || status.code == 422 => {
                Error::Rejected { words: status.message.clone() }
            }
            other => api(format!("try {place}"))(other),
        })
    }

    async fn write(
        &self,
        place: &Place,
        object: &Value,
        live: Option<DynamicObject>,
    ) -> Result<Outcome, Error> {
        let params =
            PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let written = self.typed(&place.kind, &to_write(object, live.as_ref()))?;
        if live.is_none() {
            let created = place.objects.create(&params, &written).await;
            created.map_err(api(format!("create {place}")))?;
        } else {
            let replaced = place.objects.replace(&place.name, &params, &written).await;
            replaced.map_err(api(format!("write {place}")))?;
        }
        Ok(Outcome::Written)
    }

    fn typed(&self, kind: &str, object: &Value) -> Result<DynamicObject, Error> {
        let missing = "a shape that objects have";
        serde_json::from_value(object.clone())
            .map_err(|_| Error::Rendered { kind: kind.to_owned(), missing })
    }

    /// A cluster deleted and created anew has another uid: what the former left is foreign, too.
    async fn read(&self, place: &Place) -> Result<Option<DynamicObject>, Error> {
        let live = place.objects.get_opt(&place.name).await;
        let Some(live) = live.map_err(api(format!("read {place}")))? else { return Ok(None) };
        let owners = live.metadata.owner_references.iter().flatten();
        if owners.into_iter().any(|owner| owner.uid == self.owner) {
            return Ok(Some(live));
        }
        Err(Error::Foreign { kind: place.kind.clone(), name: place.name.clone() })
    }

    fn place(&self, object: &Value) -> Result<Place, Error> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = text(&object["kind"]);
        let name = text(&object["metadata"]["name"]);
        let version = text(&object["apiVersion"]);
        for (missing, present) in [("apiVersion", &version), ("metadata.name", &name)] {
            if present.is_empty() {
                return Err(Error::Rendered { kind, missing });
            }
        }
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
        let objects = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        Ok(Place { objects, kind, name })
    }
}

/// Where one object is.
struct Place {
    objects: Api<DynamicObject>,
    kind: String,
    name: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// Nothing was left from an earlier rendering, and nobody else has written what is ours to say.
fn is_untouched(object: &Value, live: &DynamicObject) -> bool {
    let annotations = live.metadata.annotations.as_ref();
    let seen = annotations.and_then(|all| all.get(APPLIED));
    let strangers = live.metadata.managed_fields.iter().flatten().any(|entry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        let content = fields.is_some_and(|fields| {
            fields.as_object().is_some_and(|all| all.keys().any(|key| key != "f:metadata"))
        });
        let ours = entry.manager.as_deref() == Some(MANAGER);
        content && !ours && entry.subresource.as_deref().unwrap_or_default().is_empty()
    });
    seen == Some(&rendering(object)) && !strangers
}

/// Without what differs from one reading to the next.
fn content(object: &Value) -> Value {
    let mut content = object.clone();
    let metadata = &object["metadata"];
    content["metadata"] =
        json!([metadata["labels"], metadata["annotations"], metadata["ownerReferences"]]);
    content["status"] = Value::Null;
    content
}

/// The live object with the content of the rendered one; metadata of others stays.
fn over(object: &Value, mut live: Value) -> Value {
    let Some(content) = object.as_object() else { return live };
    for (field, value) in content {
        if field != "metadata" {
            live[field] = value.clone();
        }
    }
    for field in ["labels", "annotations"] {
        for (key, value) in object["metadata"][field].as_object().into_iter().flatten() {
            live["metadata"][field][key] = value.clone();
        }
    }
    if object["metadata"]["annotations"].get(FORMER).is_none()
        && let Some(annotations) = live["metadata"]["annotations"].as_object_mut()
    {
        annotations.remove(FORMER);
    }
    live
}

/// The rendered object in place of the live one, marked as this rendering.
fn to_write(object: &Value, live: Option<&DynamicObject>) -> Value {
    let live = live.map(|live| serde_json::to_value(live).unwrap_or_default());
    let mut written = live.map_or_else(|| object.clone(), |live| over(object, live));
    written["metadata"]["annotations"][APPLIED] = json!(rendering(object));
    written
}

/// Tells one rendering from another.
fn rendering(object: &Value) -> String {
    crate::build::stateful_set::hash(object)
}

fn of_uid(uid: Option<&str>) -> DeleteParams {
    let uid = uid.map(str::to_owned);
    let preconditions = Preconditions { uid, resource_version: None };
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }
}

/// What is gone, or is another one by now, need not be deleted.
fn gone(result: kube::Result<()>, what: String) -> Result<(), Error> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        other => other.map_err(api(what)),
    }
}
