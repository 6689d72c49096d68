//! What founding asks of the cluster: to be admitted, and to be formed.

use std::{sync::Arc, time::Duration};

use shoal_core::{
    found::Event,
    id::{ClusterId, Epoch},
};

use super::{Cause, Effects, Found};

/// To be admitted takes one entry in the log, more while a leader is found.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

impl<E: Effects> Found<E> {
    pub(super) fn request_join(&mut self, cluster: ClusterId, address: String) {
        let (effects, directory) = (Arc::clone(&self.effects), self.machine.directory().nonce);
        let refusal = Arc::clone(&self.refusal);
        self.request("to be admitted", async move {
            let admitted = effects.request_join(cluster, &address, directory).await;
            let refused = admitted.as_ref().err().and_then(|error| error.downcast_ref());
            *refusal.lock() = refused.cloned();
            Ok(Some(Event::Admitted { cluster, node: admitted? }))
        });
    }

    pub(super) fn propose_formed(&mut self, cluster: ClusterId, highest_epoch: Epoch) {
        let effects = Arc::clone(&self.effects);
        self.request("that the cluster is formed", async move {
            effects.propose_formed(cluster, highest_epoch).await?;
            Ok(None)
        });
    }

    /// What is missing, with the reason where the cluster gave one.
    pub(super) fn refused(&self, waiting: String) -> String {
        match &*self.refusal.lock() {
            Some(refusal) => format!("{waiting}: {refusal}"),
            None => waiting,
        }
    }

    /// The machine repeats what is not done; here one at a time is enough.
    fn request(
        &mut self,
        what: &'static str,
        call: impl Future<Output = Result<Option<Event>, Cause>> + Send + 'static,
    ) {
        if !self.requests.is_empty() {
            return;
        }
        self.requests.spawn(async move {
            match tokio::time::timeout(REQUEST_TIMEOUT, call).await {
                Ok(Ok(event)) => return event,
                Ok(Err(error)) => tracing::debug!(%error, what, "asked in vain"),
                Err(_) => tracing::debug!(what, "asked without an answer"),
            }
            None
        });
    }
}
