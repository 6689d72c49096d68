//! The admin port for what the command line does not offer: one request, blocking.

use std::time::Duration;

use shoal_proto::shoal::admin::v1::{
    StatusRequest, StatusResponse, TransferLeaderRequest, admin_client::AdminClient,
};
use tokio::{runtime, time};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// A change may wait for an election.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs one request on the admin port at `address`.
pub fn ask<T, F>(
    address: &str,
    request: impl FnOnce(AdminClient<Channel>) -> F,
) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be made").block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let asked = time::timeout(PATIENCE, request(AdminClient::new(endpoint.connect_lazy())));
        asked.await.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))
    })
}

/// What the node there says of its cluster, whoever leads.
pub fn status(address: &str) -> Result<StatusResponse, Status> {
    let request = StatusRequest { linearizable: false };
    ask(address, |mut client| async move { client.status(request).await })
        .map(tonic::Response::into_inner)
}

/// Has another node lead: refused, or in doubt, until it does.
pub fn lead(address: &str, to: u64) -> Result<(), String> {
    let request = TransferLeaderRequest { to, operator: None };
    match ask(address, |mut client| async move { client.transfer_leader(request).await }) {
        Ok(answer) if answer.get_ref().leader == to => Ok(()),
        other => Err(format!("{other:?}")),
    }
}
