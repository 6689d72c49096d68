//! What workers push: no object of Kubernetes tells that shards moved or that somebody changed a
//! setting by hand. A push leads to a pass and to nothing else.

use std::{collections::HashMap, time::Duration};

use futures::Stream;
use kube::{ResourceExt as _, runtime::reflector::ObjectRef};
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio_stream::{StreamExt as _, wrappers::BroadcastStream};
use tokio_util::task::AbortOnDropHandle;

use crate::{crd::ShardCluster, telemetry::Metrics, worker_client::Workers};

/// Passes that may be asked for before a slow controller has taken them; beyond it some are missed,
/// and what they would have seen is seen when nothing happens.
const PUSHES: usize = 1_024;
/// Before a stream that ended is missed: a worker that leaves is not asked again at once.
const AFTER_END: Duration = Duration::from_secs(1);

/// Streams of statuses, one for each cluster; they end when this is dropped.
pub(super) struct Followers {
    streams: Mutex<HashMap<ObjectRef<ShardCluster>, AbortOnDropHandle<()>>>,
    pushes: broadcast::Sender<ObjectRef<ShardCluster>>,
}

impl Default for Followers {
    fn default() -> Self {
        Self { streams: Mutex::default(), pushes: broadcast::Sender::new(PUSHES) }
    }
}

impl Followers {
    /// Clusters that something was pushed for, of one namespace or of all.
    pub fn pushed(
        &self,
        namespace: Option<&str>,
    ) -> impl Stream<Item = ObjectRef<ShardCluster>> + Send + use<> {
        let wanted = namespace.map(str::to_owned);
        let pushes = BroadcastStream::new(self.pushes.subscribe()).filter_map(Result::ok);
        pushes.filter(move |cluster| wanted.is_none() || cluster.namespace == wanted)
    }

    /// Follows the workers of this cluster, if it does not yet; true if it did already.
    pub fn follow(&self, cluster: &ShardCluster, workers: &Workers, metrics: &Metrics) -> bool {
        let name = reference(&cluster.name_any(), &cluster.namespace().unwrap_or_default());
        let mut streams = self.streams.lock();
        if streams.get(&name).is_some_and(|stream| !stream.is_finished()) {
            return true;
        }
        let (workers, metrics) = (workers.clone(), metrics.clone());
        let (pushes, pushed) = (self.pushes.clone(), name.clone());
        let stream = tokio::spawn(async move {
            let push = || drop(pushes.send(pushed.clone()));
            let Some(mut changes) = workers.changes().await else { return };
            let _followed = metrics.follows();
            while changes.next().await.is_some() {
                push();
            }
            tokio::time::sleep(AFTER_END).await;
            push();
        });
        streams.insert(name, AbortOnDropHandle::new(stream));
        false
    }

    pub fn forget(&self, namespace: &str, name: &str) {
        self.streams.lock().remove(&reference(name, namespace));
    }
}

fn reference(name: &str, namespace: &str) -> ObjectRef<ShardCluster> {
    ObjectRef::new(name).within(namespace)
}
