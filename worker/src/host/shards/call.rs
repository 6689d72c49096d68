//! One call on a shard of this node: admitted, run, acknowledged, or refused.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use shoal_core::admit::Nack;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    Ground, Shards,
    slot::{Admitted, Running, Slot},
};
use crate::{
    call::{AppError, Call, Outcome, Reply},
    forward::Owner,
    host::api::HostCall,
};

type Answer = Result<Bytes, AppError>;

/// How a handler ended.
enum Ended {
    Answered(Answer),
    OutOfTime,
    Cancelled,
}

impl Shards {
    /// Runs the call if this node may, in the first poll if the method never waits. Dropped,
    /// it cancels the handler.
    pub async fn call(&self, call: Call) -> Outcome {
        let slot = self.life().and_then(|life| life.slot(call.shard));
        let Some(slot) = slot else { return self.refuse(Nack::StaleReceiver) };
        let admitted = match slot.admit(&call, false) {
            Admitted::Wait(left) => wait(&slot, &call, left).await,
            decided @ (Admitted::Run(_) | Admitted::Nack(_)) => decided,
        };
        match admitted {
            Admitted::Run(running) => self.execute(call, running).await,
            Admitted::Nack(nack) => {
                #[cfg(feature = "mutants")]
                if let Some(stale) = self.stale(&slot, &call).await {
                    return stale;
                }
                self.refuse(nack)
            }
            Admitted::Wait(_) => self.refuse(Nack::Expired),
        }
    }

    fn refuse(&self, nack: Nack) -> Outcome {
        self.metrics().refuse(&nack);
        Outcome::Nack(nack)
    }

    async fn execute(&self, call: Call, running: Running) -> Outcome {
        let ground = self.ground();
        let metrics = &ground.parts.metrics;
        metrics.admitted.inc();
        let epoch = running.epoch;
        let method = ground.methods.get(&call.method);
        let limit = method.and_then(|method| method.max_call).unwrap_or(Duration::MAX);
        let limit = call.remaining().min(limit);
        let inline = method.is_some_and(|method| method.inline);
        let mut handler = handler(ground, call, &running);
        let answered = if inline { handler.as_mut().now_or_never() } else { None };
        let (ended, running) = match answered {
            Some(answer) => (Ended::Answered(answer), running),
            None => match spawn(ground, handler, limit, running).await {
                Some(ended) => ended,
                None => return Outcome::Unknown("the handler failed".to_owned()),
            },
        };
        match ended {
            Ended::Answered(result) => match running.acknowledge() {
                Ok(()) => Outcome::Reply(Reply { result, epoch }),
                Err(withheld) => {
                    metrics.withheld.inc();
                    Outcome::Unknown(withheld.to_string())
                }
            },
            Ended::OutOfTime => {
                metrics.cancelled.inc();
                Outcome::Unknown("the call ran out of time".to_owned())
            }
            Ended::Cancelled => {
                metrics.cancelled.inc();
                Outcome::Unknown("the shard stopped serving during the call".to_owned())
            }
        }
    }

    /// The stale-owner fault: one increment answered from a copy that was handed over.
    #[cfg(feature = "mutants")]
    async fn stale(&self, slot: &Arc<Slot>, call: &Call) -> Option<Outcome> {
        use crate::{
            host::api::{Ownership, Token},
            mutant::{Mutant, fire},
        };
        if call.method != "incr" || !slot.is_frozen() || !fire(Mutant::StaleOwner) {
            return None;
        }
        let token = Token { shard: call.shard, epoch: call.epoch };
        let result = self.ground().parts.host.call(HostCall {
            key: call.key.clone(),
            method: call.method.clone(),
            payload: call.payload.clone(),
            remaining: call.remaining(),
            ownership: Ownership::new(token, Arc::new(|_| true)),
        });
        Some(Outcome::Reply(Reply { result: result.await, epoch: call.epoch }))
    }
}

impl Owner for Shards {
    fn call(&self, call: Call) -> BoxFuture<'static, Outcome> {
        let shards = self.clone();
        Box::pin(async move { Self::call(&shards, call).await })
    }

    fn idempotent(&self, method: &str) -> bool {
        self.ground().methods.get(method).is_some_and(|method| method.idempotent)
    }
}

/// Counts as waiting as long as it lives.
struct Waiting<'a>(&'a Slot);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.wait(false);
    }
}

/// Asks again whenever the slot or the table changed.
async fn wait(slot: &Arc<Slot>, call: &Call, mut left: Duration) -> Admitted {
    slot.wait(true);
    let _waiting = Waiting(slot);
    let mut applied = slot.ground.parts.table.watch_applied();
    loop {
        let changed = slot.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        applied.mark_unchanged();
        match slot.admit(call, true) {
            Admitted::Wait(more) => left = left.min(more),
            decided @ (Admitted::Run(_) | Admitted::Nack(_)) => return decided,
        }
        tokio::select! {
            () = changed => {}
            // Only an empty channel of a table that is gone fails, and then time decides.
            _ = applied.changed() => {}
            () = tokio::time::sleep(left) => {}
        }
    }
}

fn handler(ground: &Ground, call: Call, running: &Running) -> BoxFuture<'static, Answer> {
    let host = Arc::clone(&ground.parts.host);
    let call = HostCall {
        remaining: call.remaining(),
        key: call.key,
        method: call.method,
        payload: call.payload,
        ownership: running.ownership(),
    };
    Box::pin(async move { host.call(call).await })
}

/// Runs the handler apart from the threads that carry calls. The call counts as running
/// until the handler has really ended, also when nobody waits for it any more [S15].
async fn spawn(
    ground: &Ground,
    handler: BoxFuture<'static, Answer>,
    limit: Duration,
    running: Running,
) -> Option<(Ended, Running)> {
    let stop: CancellationToken = running.cancel.clone();
    let task = ground.parts.executor.spawn(async move {
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => Ended::Cancelled,
            answer = handler => Ended::Answered(answer),
            () = tokio::time::sleep(limit) => Ended::OutOfTime,
        };
        (ended, running)
    });
    AbortOnDropHandle::new(task).await.ok()
}
