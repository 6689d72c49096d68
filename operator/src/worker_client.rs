//! A worker's admin API, as the operator uses it: what a quorum says, and changes under an epoch.
//!
//! The only module that knows the protocol. It decides nothing: an answer that nobody gave
//! stays unknown.

mod connect;
mod read;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use shoal_proto::shoal::admin::v1::{self as pb, admin_client::AdminClient};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Status, transport::Channel};

pub use connect::{Credentials, Error as ConnectError};
pub use read::Scope;

use crate::rollout::{Settings, Step};

/// A worker in the same cluster accepts within it, or is not there.
const CONNECT: Duration = Duration::from_secs(1);
/// One answer of a worker; a change is one entry in the log.
const ANSWER: Duration = Duration::from_secs(3);
/// Between two pushes of a worker.
const PUSHED_EVERY_MS: u32 = 1_000;

/// Where the admin API of one pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub pod: String,
    /// `host:port` of its admin port.
    pub address: String,
}

/// Why a worker did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no worker could be asked: {0}")]
    Unreachable(String),
    #[error("the registry refused: {0}")]
    Refused(String),
    /// Another operator has taken over: this process must end.
    #[error("operator epoch {ours} was replaced by {theirs}")]
    Superseded { ours: u64, theirs: u64 },
}

/// Epochs that this process holds, by cluster id. The registries keep them; this is a copy.
#[derive(Clone, Default)]
pub struct Epochs(Arc<Mutex<BTreeMap<String, u64>>>);

/// The workers of one cluster. Cheap to clone.
#[derive(Clone)]
pub struct Workers {
    places: Vec<Place>,
    credentials: Option<Credentials>,
    epochs: Epochs,
}

impl Workers {
    /// Places in the order in which they are asked.
    pub fn new(places: Vec<Place>, credentials: Option<Credentials>, epochs: Epochs) -> Self {
        Self { places, credentials, epochs }
    }

    /// Whether there is any to be asked.
    pub fn run(&self) -> bool {
        !self.places.is_empty()
    }

    /// The first of them that pushes its status does so from now on, at once and with every change,
    /// until it goes.
    pub async fn changes(&self) -> Option<impl Stream<Item = ()> + use<>> {
        for place in &self.places {
            let Ok(mut client) = self.client(place).await else { continue };
            let request = pb::WatchStatusRequest { min_interval_ms: PUSHED_EVERY_MS };
            let asked = tokio::time::timeout(ANSWER, client.watch_status(request)).await;
            if let Ok(Ok(stream)) = asked {
                let statuses = stream.into_inner();
                return Some(statuses.take_while(Result::is_ok).map(drop));
            }
        }
        None
    }

    async fn client(&self, place: &Place) -> Result<AdminClient<Channel>, String> {
        let channel = connect::open(place, self.credentials.as_ref()).await?;
        Ok(AdminClient::new(channel))
    }

    /// Whoever answers first in order; a refusal is an answer.
    async fn ask<T, F>(&self, ask: impl Fn(AdminClient<Channel>) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let mut why = "no worker runs".to_owned();
        for place in &self.places {
            let client = match self.client(place).await {
                Ok(client) => client,
                Err(error) => {
                    why = format!("{}: {error}", place.pod);
                    continue;
                }
            };
            match tokio::time::timeout(ANSWER, ask(client)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) if is_elsewhere(&status) => {
                    why = format!("{}: {}", place.pod, status.message());
                }
                Ok(Err(status)) => return Err(Error::Refused(status.message().to_owned())),
                Err(_) => why = format!("{} did not answer in time", place.pod),
            }
        }
        Err(Error::Unreachable(why))
    }

    /// The epoch under which this process changes that cluster.
    async fn epoch(&self, cluster: &str) -> Result<pb::Operator, Error> {
        if let Some(epoch) = self.epochs.0.lock().get(cluster).copied() {
            return Ok(pb::Operator { epoch });
        }
        let acquired = self
            .ask(|mut client| async move {
                client.acquire_operator_epoch(pb::AcquireOperatorEpochRequest {}).await
            })
            .await?;
        self.epochs.0.lock().insert(cluster.to_owned(), acquired.epoch);
        Ok(pb::Operator { epoch: acquired.epoch })
    }

    /// A registry that has given a higher epoch away takes nothing from this process any more.
    pub fn check_epoch(&self, cluster: &str, theirs: u64) -> Result<(), Error> {
        match self.epochs.0.lock().get(cluster).copied() {
            Some(ours) if ours < theirs => Err(Error::Superseded { ours, theirs }),
            Some(_) | None => Ok(()),
        }
    }

    /// Carries out a step that concerns the registry; others are not its business.
    pub async fn perform(&self, cluster: &str, step: &Step) -> Result<(), Error> {
        if let Step::ConfirmFounding { cluster, pods } = step {
            return self.confirm(cluster, pods).await;
        }
        let operator = Some(self.epoch(cluster).await?);
        match step {
            Step::Configure(settings) => self.configure(settings, operator).await,
            Step::ReportDeath { node, incarnation, .. } => {
                let incarnation = incarnation.clone();
                let request = pb::ReportDeathRequest { node: *node, incarnation, operator };
                self.send(request, |mut c, r| async move { c.report_death(r).await }).await
            }
            Step::CancelDrain { node, .. } => {
                let request = pb::CancelDrainRequest { node: *node, operator };
                self.send(request, |mut c, r| async move { c.cancel_drain(r).await }).await
            }
            Step::StopAll => {
                let request = pb::StopAllRequest { operator };
                self.send(request, |mut c, r| async move { c.stop_all(r).await }).await
            }
            Step::DrainForRemoval { node, .. } => {
                let kind = pb::DrainKind::Removal;
                self.drain(*node, kind, String::new(), operator).await
            }
            Step::DrainForRestart { node, incarnation, .. } => {
                let kind = pb::DrainKind::Restart;
                self.drain(*node, kind, incarnation.clone(), operator).await
            }
            Step::Close { node, incarnation, .. } => {
                let incarnation = incarnation.clone();
                let request = pb::CloseRequest { node: *node, incarnation, operator };
                self.send(request, |mut c, r| async move { c.close(r).await }).await
            }
            Step::Remove { node, force, .. } => {
                let request = pb::RemoveRequest { node: *node, force: *force, operator };
                self.send(request, |mut c, r| async move { c.remove(r).await }).await
            }
            Step::CreateIdentity { .. }
            | Step::Resize { .. }
            | Step::RecordCluster { .. }
            | Step::ConfirmFounding { .. }
            | Step::Abandon { .. }
            | Step::Keep { .. }
            | Step::Forget { .. }
            | Step::DeletePod { .. }
            | Step::DeleteClaim { .. }
            | Step::AdoptClaim { .. } => Ok(()),
        }
    }

    async fn send<M, T, F>(
        &self,
        request: M,
        call: impl Fn(AdminClient<Channel>, M) -> F,
    ) -> Result<(), Error>
    where
        M: Clone,
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.ask(|client| call(client, request.clone())).await.map(drop)
    }

    async fn drain(
        &self,
        node: u64,
        kind: pb::DrainKind,
        incarnation: String,
        operator: Option<pb::Operator>,
    ) -> Result<(), Error> {
        let request = pb::DrainRequest { node, kind: kind.into(), incarnation, operator };
        self.send(request, |mut c, r| async move { c.drain(r).await }).await
    }

    async fn configure(
        &self,
        settings: &Settings,
        operator: Option<pb::Operator>,
    ) -> Result<(), Error> {
        let rebalance = if settings.rebalance_paused { "paused" } else { "automatic" };
        let request = pb::ConfigureRequest {
            lease_ms: Some(settings.lease_ms),
            rebalance: Some(rebalance.to_owned()),
            max_moves: Some(settings.max_moves),
            max_moves_per_node: Some(settings.max_moves_per_node),
            cooldown_ms: Some(settings.cooldown_ms),
            max_voters: Some(settings.max_voters),
            max_learners: None,
            shard_count: None,
            operator,
        };
        self.send(request, |mut c, r| async move { c.configure(r).await }).await
    }

    /// Each founding pod is told; one that has not joined yet is told again with the next pass.
    async fn confirm(&self, cluster: &str, pods: &[String]) -> Result<(), Error> {
        for place in self.places.iter().filter(|place| pods.contains(&place.pod)) {
            let unreachable = |why: String| Error::Unreachable(format!("{}: {why}", place.pod));
            let mut client = self.client(place).await.map_err(unreachable)?;
            let request = pb::ConfirmFoundingRequest { cluster_id: cluster.to_owned() };
            let asked = tokio::time::timeout(ANSWER, client.confirm_founding(request)).await;
            let asked = asked.map_err(|_| unreachable("no answer in time".to_owned()))?;
            asked.map_err(|status| Error::Refused(status.message().to_owned()))?;
        }
        Ok(())
    }
}

/// Another worker may know better.
fn is_elsewhere(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown
    )
}
