//! Which of several operator processes acts: one Lease, renewed while its holder can prove it.
//!
//! A foreign holder is judged by local time since its record last changed, never by its clock.
//! What this process may do ends at `renew_deadline` after the start of its last successful
//! renewal, with or without an answer. It fences nothing: a registry does that by its own
//! operator epoch.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tracing::{info, warn};

/// Times of the election, as client-go has them by default.
#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    /// Unique for each start of a process: one that restarts must not take itself for the holder.
    pub identity: String,
    /// Silence after which a holder is taken for dead.
    pub lease: Duration,
    /// A holder that has not renewed for so long stops; less than `lease` less `call`.
    pub renew_deadline: Duration,
    pub retry: Duration,
    pub call: Duration,
}

impl Config {
    pub fn new(name: &str, identity: String) -> Self {
        Self {
            name: name.to_owned(),
            identity,
            lease: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
            call: Duration::from_secs(3),
        }
    }
}

/// Holds or seeks the Lease until it is dropped.
pub struct Elector {
    api: Api<Lease>,
    config: Config,
    /// The record last seen, and when it was first seen so.
    seen: Option<(String, Instant)>,
    leads: watch::Sender<bool>,
}

impl Elector {
    pub fn new(api: Api<Lease>, config: Config) -> Self {
        Self { api, config, seen: None, leads: watch::Sender::new(false) }
    }

    /// True while this process may act.
    pub fn leads(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    /// Takes part until `stop`, then gives the Lease up; returns early once it was held and lost.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut valid_until: Option<Instant> = None;
        loop {
            let started = Instant::now();
            let step = timeout(self.config.call, self.step());
            let outcome = tokio::select! {
                () = stop.as_mut() => break,
                outcome = step => outcome,
            };
            match outcome {
                Ok(Ok(true)) => {
                    if valid_until.is_none() {
                        info!(lease = %self.config.name, identity = %self.config.identity, "leads");
                    }
                    valid_until = Some(started + self.config.renew_deadline);
                }
                Ok(Ok(false)) if valid_until.is_some() => {
                    return self.lost("another process holds the lease");
                }
                Ok(Ok(false)) => {}
                Ok(Err(error)) => warn!(%error, "the lease could not be read or written"),
                Err(_) => warn!(call = ?self.config.call, "the API server did not answer in time"),
            }
            if valid_until.is_some_and(|until| Instant::now() >= until) {
                return self.lost("the lease could not be renewed in time");
            }
            self.leads.send_if_modified(|leads| {
                let changed = *leads != valid_until.is_some();
                *leads = valid_until.is_some();
                changed
            });
            let next = Instant::now() + self.config.retry;
            let wake = valid_until.map_or(next, |until| next.min(until));
            tokio::select! {
                () = stop.as_mut() => break,
                () = sleep_until(wake) => {}
            }
        }
        self.leads.send_replace(false);
        if valid_until.is_some() {
            self.release().await;
        }
    }

    fn lost(&self, why: &str) {
        warn!(lease = %self.config.name, why, "leads no more");
        self.leads.send_replace(false);
    }

    /// True if the Lease is held after this step.
    async fn step(&mut self) -> kube::Result<bool> {
        let now = MicroTime(Timestamp::now());
        let Some(mut lease) = self.api.get_opt(&self.config.name).await? else {
            return match self.api.create(&PostParams::default(), &self.fresh(now)).await {
                Ok(_) => Ok(true),
                Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(false),
                Err(error) => Err(error),
            };
        };
        let record = lease.metadata.resource_version.clone().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == record => *since,
            Some(_) | None => {
                let now = Instant::now();
                self.seen = Some((record, now));
                now
            }
        };
        let spec = lease.spec.get_or_insert_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let mine = holder == self.config.identity;
        if !mine && !holder.is_empty() && since.elapsed() < self.config.lease {
            return Ok(false);
        }
        if !mine {
            spec.holder_identity = Some(self.config.identity.clone());
            spec.acquire_time = Some(now.clone());
            *spec.lease_transitions.get_or_insert(0) += 1;
        }
        spec.renew_time = Some(now);
        spec.lease_duration_seconds = Some(self.config.lease.as_secs() as i32);
        // Carries the version that was read: whoever was faster makes it a conflict.
        match self.api.replace(&self.config.name, &PostParams::default(), &lease).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn fresh(&self, now: MicroTime) -> Lease {
        Lease {
            metadata: ObjectMeta { name: Some(self.config.name.clone()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.config.identity.clone()),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_duration_seconds: Some(self.config.lease.as_secs() as i32),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }),
        }
    }

    /// The next process need not wait for the lease to run out.
    async fn release(&self) {
        let released = timeout(self.config.call, async {
            let Some(mut lease) = self.api.get_opt(&self.config.name).await? else { return Ok(()) };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(&self.config.identity) {
                return Ok(());
            }
            spec.holder_identity = Some(String::new());
            let name = &self.config.name;
            self.api.replace(name, &PostParams::default(), &lease).await.map(drop)
        });
        if let Err(error) = released.await.unwrap_or(Ok(())) {
            warn!(%error, "the lease could not be given up");
        }
    }
}
