//! How long the keys of a killed node are without an answer: from the signal until the first
//! acknowledged call of each.

use std::{collections::BTreeSet, time::Duration};

use anyhow::ensure;
use shoal_proto::shoal::v1::{CallRequest, CallResponse, shoal_client::ShoalClient};
use tokio::{
    runtime::Runtime,
    task::JoinSet,
    time::{self, Instant},
};
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};

use super::site::Site;
use crate::kube::Victim;

/// Each reaches some node; so many that one of them reaches every node.
const CONNECTIONS: usize = 16;
const DEADLINE: Duration = Duration::from_secs(5);
/// Between two attempts of one key, as a client with retries would pause.
const AGAIN: Duration = Duration::from_millis(10);
/// An outage that lasts longer is none.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
pub struct Outage {
    /// Keys of the killed node, and the shards they lie in.
    pub keys: usize,
    pub shards: usize,
    /// Until the first of them was answered, and until the last.
    pub first: Duration,
    pub last: Duration,
}

impl Outage {
    /// Kills the node in this pod and calls those of `keys` counters that it owned.
    pub fn of(site: &Site<'_>, pod: &str, victim: Victim, keys: usize) -> anyhow::Result<Self> {
        site.reachable(PATIENCE)?;
        let runtime = Runtime::new()?;
        let address = format!("http://{}", site.address()?);
        let clients = runtime.block_on(async {
            let connect = |_| Ok(Endpoint::from_shared(address.clone())?.connect_lazy());
            (0..CONNECTIONS).map(connect).collect::<anyhow::Result<Vec<_>>>()
        })?;
        let client = |at: usize| ShoalClient::new(clients[at % CONNECTIONS].clone());
        let (mut owned, mut shards) = (Vec::new(), BTreeSet::new());
        for at in 0..keys {
            let key = format!("outage-{at}");
            let answer = runtime.block_on(increment(&mut client(at), &key))?;
            if answer.owner == pod {
                owned.push(key);
                shards.insert(answer.shard);
            }
        }
        ensure!(!owned.is_empty(), "{pod} owns none of {keys} keys");
        let killed = Instant::from_std(site.kill(pod, victim)?);
        let keys = owned.len();
        let mut calls = JoinSet::new();
        for (at, key) in owned.into_iter().enumerate() {
            let mut client = client(at);
            calls.spawn_on(
                async move {
                    while increment(&mut client, &key).await.is_err() {
                        time::sleep(AGAIN).await;
                    }
                    killed.elapsed()
                },
                runtime.handle(),
            );
        }
        let answered = async { time::timeout(PATIENCE, calls.join_all()).await };
        let answered = runtime.block_on(answered)?;
        let (first, last) = (answered.iter().min(), answered.iter().max());
        let shards = shards.len();
        Ok(Self {
            keys,
            shards,
            first: *first.unwrap_or(&Duration::ZERO),
            last: *last.unwrap_or(&Duration::ZERO),
        })
    }
}

async fn increment(client: &mut ShoalClient<Channel>, key: &str) -> Result<CallResponse, Status> {
    let mut request = Request::new(CallRequest {
        key: key.to_owned().into(),
        method: "incr".to_owned(),
        payload: Vec::new().into(),
    });
    request.set_timeout(DEADLINE);
    client.call(request).await.map(tonic::Response::into_inner)
}
