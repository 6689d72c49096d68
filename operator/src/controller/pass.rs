//! One pass over one cluster, from its live state to its status.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::{ResourceExt as _, api::Api, runtime::controller::Action};
use serde_json::{Value, json};
use tracing::{debug, info};

use super::{AFTER_STEP, Context, Error, IDLE, UNFOLLOWED, WAITING, certificates, perform};
use crate::{
    apply::{self, Applier, Outcome},
    build::{self, Cluster},
    crd::{ShardCluster, State, annotation, condition::Stalled},
    desired::desired,
    names::Names,
    observe::{FORMER, Live},
    rollout::{self, Decision, Desired, Drain, Life, Observed, Registry, Step},
    status::{self, Refusal},
    telemetry::ClusterFigures,
    validate::{self, Existing, Problem},
    worker_client::{Error as WorkerError, Scope, Workers},
};

/// A status that only counts further is written this often at most.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Everything that one pass has at hand.
pub(super) struct Pass<'a> {
    pub cluster: &'a ShardCluster,
    pub context: &'a Context,
    pub live: Live,
    pub applier: Applier,
    pub workers: Workers,
    pub observed: Observed,
    pub version: Option<String>,
}

pub(super) async fn pass(seen: &ShardCluster, context: &Context) -> Result<Action, Error> {
    let (namespace, name) = (seen.namespace().unwrap_or_default(), seen.name_any());
    let clusters = Api::<ShardCluster>::namespaced(context.client.clone(), &namespace);
    let cluster = clusters.get_opt(&name).await.map_err(Error::Observe)?;
    let Some(cluster) = cluster.filter(|cluster| cluster.metadata.deletion_timestamp.is_none())
    else {
        // Owner references take care of the rest.
        context.metrics.forget(&namespace, &name);
        context.followers.forget(&namespace, &name);
        return Ok(Action::await_change());
    };
    let mut pass = Pass::look(&cluster, context).await?;
    let paused = cluster.spec.state == State::Paused;
    let (mut stepped, held, mut refusal) = match pass.judged() {
        Ok(withheld) => match pass.children(paused).await {
            Ok(changed) => (changed, false, withheld),
            Err(error) => (false, true, Some(as_refusal(error)?)),
        },
        Err(refused) => (false, true, Some(refused)),
    };
    let desired = desired(&cluster);
    refusal = refusal.or_else(|| pass.refused_recovery(&desired));
    let mut decision = rollout::next(&desired, &pass.observed);
    if paused || held || stepped {
        decision.step = None;
    }
    if let Some(step) = decision.step.clone() {
        match pass.take(&step, &mut decision).await {
            Ok(taken) => stepped = taken,
            // What was rendered for the first time may be refused as well.
            Err(error) => refusal = Some(as_refusal(error)?),
        }
    }
    let shown = pass.report(&decision, refusal.as_ref()).await?;
    let followed = context.followers.follow(&cluster, &pass.workers, &context.metrics);
    let waits = !decision.waits.is_empty() || decision.activity != rollout::Activity::Idle;
    Ok(Action::requeue(match (stepped, waits || pass.moves() || !shown) {
        (true, _) => AFTER_STEP,
        (false, true) => WAITING,
        (false, false) if !followed && pass.workers.run() => UNFOLLOWED,
        (false, false) => IDLE,
    }))
}

fn unnamed() -> Refusal {
    Refusal { reason: Stalled::InvalidSpec, message: "the spec is refused".to_owned() }
}

/// What a person must mend stops this cluster; everything else is tried again.
fn as_refusal(error: Error) -> Result<Refusal, Error> {
    let Error::Apply(error) = error else { return Err(error) };
    let reason = match &error {
        apply::Error::Rejected { .. } => Stalled::InvalidPodTemplate,
        apply::Error::Foreign { .. } => Stalled::ForeignObject,
        apply::Error::Api { .. } | apply::Error::Rendered { .. } => return Err(error.into()),
    };
    Ok(Refusal { reason, message: error.to_string() })
}

impl<'a> Pass<'a> {
    async fn look(cluster: &'a ShardCluster, context: &'a Context) -> Result<Self, Error> {
        let live = Live::read(&context.client, cluster).await.map_err(Error::Observe)?;
        let now = Timestamp::now();
        let mut observed = live.observed(cluster, now);
        let built = Cluster::of(cluster);
        let credentials = match &built {
            Some(built) => certificates::credentials(built, &live)?,
            None => None,
        };
        let workers = Workers::new(live.places(), credentials, context.epochs.clone());
        let recorded = observed.identity.as_ref().is_some_and(|i| i.cluster.is_some());
        let heard = workers.look(if recorded { Scope::All } else { Scope::Some }).await?;
        observed.registry = heard.registry;
        for pod in observed.pods.values_mut() {
            let standing = heard.standings.get(&pod.name);
            // Another pod may have the address by now.
            pod.standing = standing.filter(|standing| standing.uid == pod.uid).cloned();
        }
        observed.formed |= matches!(observed.registry, Registry::Known(_));
        age_drains(cluster, &mut observed, now);
        let applier = Applier::new(context.client.clone(), cluster);
        let version = heard.version;
        Ok(Self { cluster, context, live, applier, workers, observed, version })
    }

    /// What the spec alone, or the volumes that are there, forbid; `Ok` with what is merely not
    /// done yet.
    fn judged(&self) -> Result<Option<Refusal>, Refusal> {
        let refusal =
            |problem: &Problem| Refusal { reason: problem.reason, message: problem.to_string() };
        let existing = Existing { volume_size: self.volume_size() };
        let withheld = match validate::validate(self.cluster, &existing) {
            Ok(valid) => valid.withheld.first().map(refusal),
            Err(problems) => return Err(problems.first().map(refusal).unwrap_or_else(unnamed)),
        };
        self.volumes()?;
        Ok(withheld)
    }

    /// The annotation asks for what would cost a cluster that is still there.
    fn refused_recovery(&self, desired: &Desired) -> Option<Refusal> {
        let why = rollout::refused_recovery(desired, &self.observed)?;
        let message = format!("metadata.annotations[{}]: {why}", annotation::RECOVER);
        Some(Refusal { reason: Stalled::RecoveryRefused, message })
    }

    /// Volumes of one former cluster bring it back; of two, nobody knows which was meant.
    fn volumes(&self) -> Result<(), Refusal> {
        let founded = self.observed.identity.as_ref().is_some_and(|i| i.cluster.is_some());
        let owners = self.live.foreign_owners(self.cluster);
        if !founded && owners.len() > 1 {
            let message = format!(
                "volume claims of {} former clusters named {} are there: delete those of all but one",
                owners.len(),
                self.cluster.name_any()
            );
            return Err(Refusal { reason: Stalled::ForeignVolume, message });
        }
        Ok(())
    }

    /// The size that the StatefulSet was made with: it cannot change.
    fn volume_size(&self) -> Option<String> {
        let spec = self.live.set.as_ref()?.spec.as_ref()?;
        let claim = spec.volume_claim_templates.as_ref()?.first()?.spec.as_ref()?;
        let size = claim.resources.as_ref()?.requests.as_ref()?.get("storage")?;
        Some(size.0.clone())
    }

    pub(super) fn built(&self) -> Result<Cluster<'_>, Error> {
        let mut built = Cluster::of(self.cluster)
            .ok_or(apply::Error::Rendered { kind: "ShardCluster".into(), missing: "a name" })?;
        if let Some(size) = self.volume_size() {
            built.volume_size = Some(size);
        }
        Ok(built)
    }

    /// Everything that needs no decision; true where something was written.
    async fn children(&mut self, paused: bool) -> Result<bool, Error> {
        let built = self.built()?;
        let children = built.children();
        let mut written = match &children.budget {
            Some(budget) => self.ensure(&json!(budget)).await?,
            None => self.absent("policy/v1", "PodDisruptionBudget").await?,
        };
        if paused {
            return Ok(written);
        }
        for object in [
            json!(children.service_account),
            json!(children.role),
            json!(children.role_binding),
            json!(children.peers),
            json!(children.clients),
        ] {
            written |= self.ensure(&object).await?;
        }
        written |= match &children.network_policy {
            Some(policy) => self.ensure(&json!(policy)).await?,
            None => self.absent("networking.k8s.io/v1", "NetworkPolicy").await?,
        };
        written |= certificates::ensure(&built, &self.live, &self.applier, self.context).await?;
        if let Some(set) = &self.observed.set {
            let object = self.set(set.replicas, set.former)?;
            if self.noted(self.applier.ensure_set(&object).await?) {
                // What revision the new template becomes is not seen yet: no pod is known to have
                // it, and the status must not say so.
                self.observed.set.iter_mut().for_each(|set| set.revision = None);
                written = true;
            }
        }
        Ok(written)
    }

    /// The StatefulSet of this size.
    pub(super) fn set(&self, replicas: u32, former: Option<u32>) -> Result<Value, Error> {
        let built = self.built()?;
        let mut set = build::stateful_set::stateful_set(&built, replicas as i32);
        if let Some(former) = former {
            set["metadata"]["annotations"][FORMER] = json!(former.to_string());
        }
        Ok(set)
    }

    async fn ensure(&self, object: &Value) -> Result<bool, Error> {
        Ok(self.noted(self.applier.ensure(object).await?))
    }

    async fn absent(&self, version: &str, kind: &str) -> Result<bool, Error> {
        let name = self.cluster.name_any();
        let object = json!({ "apiVersion": version, "kind": kind, "metadata": { "name": name } });
        Ok(self.noted(self.applier.absent(&object).await?))
    }

    fn noted(&self, outcome: Outcome) -> bool {
        let written = outcome == Outcome::Written;
        if written {
            self.context.metrics.wrote();
        }
        written
    }

    /// A step that the registry refuses is looked at again, not forced.
    async fn take(&mut self, step: &Step, decision: &mut Decision) -> Result<bool, Error> {
        info!(cluster = %self.cluster.name_any(), %step, "takes a step");
        match perform::perform(self, step).await {
            Ok(()) => {
                self.context.metrics.stepped(perform::kind(step));
                perform::tell(self, step).await;
                Ok(true)
            }
            Err(Error::Worker(WorkerError::Refused(words))) => {
                debug!(%step, words, "refused");
                decision.waits.insert(0, format!("{step}: {words}"));
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn moves(&self) -> bool {
        matches!(&self.observed.registry, Registry::Known(known) if known.shards.moving > 0)
    }

    /// False where something that can wait is still to be shown.
    async fn report(&self, decision: &Decision, refusal: Option<&Refusal>) -> Result<bool, Error> {
        let now = Timestamp::now();
        let names = Names::of(self.cluster);
        let overdue = certificates::overdue(&names, &self.live, now.as_second());
        let scene = status::Scene {
            cluster: self.cluster,
            observed: &self.observed,
            decision,
            refusal,
            version: self.version.as_deref(),
            overdue: overdue.as_deref(),
            now,
        };
        let status = status::status(&scene);
        let stalled = status.conditions.iter().any(|c| c.type_ == "Stalled" && c.status == "True");
        let draining = status.members.iter().filter(|member| member.drain.is_some()).count();
        let (namespace, name) =
            (self.cluster.namespace().unwrap_or_default(), self.cluster.name_any());
        self.context.metrics.show(
            &namespace,
            &name,
            ClusterFigures {
                desired: self.cluster.spec.wanted().into(),
                ready: status.ready_replicas.into(),
                draining: draining as i64,
                unassigned: status.shards.as_ref().map_or(0, |shards| shards.unassigned.into()),
                stalled,
            },
        );
        let before = self.cluster.status.as_ref();
        if before == Some(&status) {
            return Ok(true);
        }
        if self.changed_within(STATUS_EVERY) && !status::is_urgent(before, &status) {
            return Ok(false);
        }
        self.applier.write_status(&name, &status).await?;
        self.context.metrics.wrote_status();
        let uid = self.cluster.uid().unwrap_or_default();
        self.context.written.lock().insert(uid, tokio::time::Instant::now());
        Ok(true)
    }

    /// Whether this process has written the status lately, as it does where anything changed.
    fn changed_within(&self, span: Duration) -> bool {
        let uid = self.cluster.uid().unwrap_or_default();
        self.context.written.lock().get(&uid).is_some_and(|at| at.elapsed() < span)
    }
}

/// How long each drain has lasted, as the status tells.
fn age_drains(cluster: &ShardCluster, observed: &mut Observed, now: Timestamp) {
    let Registry::Known(members) = &mut observed.registry else { return };
    let rows = cluster.status.as_ref().map_or(&[][..], |status| &status.members);
    for node in members.nodes.iter_mut().filter(|n| n.life != Life::Left && n.drain != Drain::None)
    {
        let id = format!("n{}", node.id);
        let row = rows.iter().find(|row| row.node_id.as_deref() == Some(&id));
        if let Some(drain) = row.and_then(|row| row.drain.as_ref()) {
            let lasted = now.duration_since(drain.since.0);
            node.draining = Duration::try_from(lasted).unwrap_or_default();
        }
    }
}
