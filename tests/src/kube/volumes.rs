//! Volumes of our own clusters: a pool of directories, each a `local` PersistentVolume of the
//! default class. The provisioner that Kubernetes brings along ignores `fsGroup`, so that a pod
//! without root could not write.
//!
//! A volume is bound when its first pod is scheduled. A released one is deleted with its data.

use std::{fs, path::Path, pin::pin, time::Duration};

use ::kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{WatchStreamExt as _, watcher},
};
use anyhow::Context as _;
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::json;

use super::component::Node;

/// Volumes kept free: more than the pods that a suite creates at once.
const FREE: usize = 24;
/// More than any suite asks of one volume; nothing holds a pod to it.
const SIZE: &str = "10Gi";
/// Where they lie, seen from inside.
const DIRECTORY: &str = "/run/shoal/volumes";
const KUBECONFIG: &str = "/run/shoal/pki/admin.kubeconfig";
/// Between two attempts while the API server does not answer.
const AGAIN: Duration = Duration::from_millis(300);

pub(crate) const CLASS: &str = r#"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: local
  annotations: {storageclass.kubernetes.io/is-default-class: "true"}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
"#;

/// Keeps the pool, inside of the cluster, until the process is ended.
pub async fn keep() {
    loop {
        // The API server is stopped and started below us.
        if let Err(error) = watch().await {
            eprintln!("{error:#}");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn watch() -> anyhow::Result<()> {
    let config = Kubeconfig::read_from(KUBECONFIG)?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    let volumes: Api<PersistentVolume> = Api::all(Client::try_from(config)?);
    let mut next = newest(&volumes).await? + 1;
    // An empty list changes nothing.
    fill(&volumes, &mut next).await?;
    let mut changes = pin!(watcher(volumes.clone(), watcher::Config::default()).touched_objects());
    // What is in the list counts, not what has changed: a volume that is gone has changed too.
    while changes.try_next().await?.is_some() {
        fill(&volumes, &mut next).await?;
    }
    Ok(())
}

async fn newest(volumes: &Api<PersistentVolume>) -> anyhow::Result<u32> {
    let all = volumes.list(&ListParams::default()).await?;
    let number = |volume: &PersistentVolume| {
        volume.metadata.name.as_deref()?.strip_prefix("local-")?.parse::<u32>().ok()
    };
    Ok(all.iter().filter_map(number).max().unwrap_or(0))
}

/// Deletes what is released and makes new ones in its place.
async fn fill(volumes: &Api<PersistentVolume>, next: &mut u32) -> anyhow::Result<()> {
    let all = volumes.list(&ListParams::default()).await?;
    let phase = |volume: &PersistentVolume| volume.status.clone()?.phase;
    let mut free = 0;
    for volume in &all {
        let name = volume.metadata.name.as_deref().context("a volume without name")?;
        match phase(volume).as_deref() {
            Some("Released" | "Failed") if volume.metadata.deletion_timestamp.is_none() => {
                let directory = Path::new(DIRECTORY).join(name);
                fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
                volumes.delete(name, &DeleteParams::default()).await?;
            }
            Some("Released" | "Failed" | "Bound") => {}
            // Available, or so new that nobody has looked at it.
            Some(_) | None => free += 1,
        }
    }
    for _ in free..FREE {
        let name = format!("local-{next}");
        *next += 1;
        fs::create_dir_all(Path::new(DIRECTORY).join(&name))?;
        volumes.create(&PostParams::default(), &volume(&name)?).await?;
    }
    Ok(())
}

/// Reached from both nodes: a pod that is moved to the other finds its data.
fn volume(name: &str) -> Result<PersistentVolume, serde_json::Error> {
    serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": SIZE},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "local",
            "local": {"path": format!("{DIRECTORY}/{name}")},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{
                "key": "kubernetes.io/hostname",
                "operator": "In",
                "values": Node::ALL.map(Node::name),
            }]}]}},
        },
    }))
}
