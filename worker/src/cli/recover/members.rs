//! Whether members of the old cluster are gone: each is asked at the NODE_ADDRESS that the
//! registry has for it. Who answers as a member, or may be one, forbids the recovery.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt as _, stream};
use shoal_core::id::ClusterId;
use shoal_proto::shoal::v1::{WhereIsPeerRequest, shoal_client::ShoalClient};

use crate::cli::ask::{Dialer, Untrusted, told};

/// A process that runs answers within milliseconds, one that is stopped never.
const PATIENCE: Duration = Duration::from_secs(5);
/// Asked at once, of the 1,000 that a cluster may have.
const AT_ONCE: usize = 64;

/// Why nothing is recovered now.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{name} of cluster {cluster} answers at {address}: stop it, and recover only if the \
         cluster has no quorum with every node running that still can; nothing was changed"
    )]
    Answers { name: String, cluster: ClusterId, address: String },
    #[error(
        "a node answers at {address}, where {name} of cluster {cluster} was, and is in no cluster \
         yet: stop it until this is done; nothing was changed"
    )]
    Undecided { name: String, cluster: ClusterId, address: String },
    #[error(
        "something answers at {address}, where {name} of cluster {cluster} was, and cannot be \
         asked: {why}; nothing was changed"
    )]
    Untrusted { name: String, cluster: ClusterId, address: String, why: Untrusted },
}

enum Heard {
    Nothing,
    /// The id of its cluster, empty without one.
    Node(String),
    Untrusted(Untrusted),
}

/// Nobody of `cluster` answers at any of these addresses, which go with names.
pub async fn silent(
    dialer: &Dialer,
    cluster: ClusterId,
    members: BTreeMap<&str, &str>,
) -> Result<(), Error> {
    let mut dialer = dialer.clone();
    for (address, name) in &members {
        dialer.name(address, name);
    }
    let dialer = &dialer;
    let asked = members.into_iter().map(|(address, name)| async move {
        let heard = tokio::time::timeout(PATIENCE, ask(dialer, address)).await;
        judge(heard.unwrap_or(Heard::Nothing), cluster, address, name)
    });
    let mut asked = stream::iter(asked).buffer_unordered(AT_ONCE);
    while let Some(answer) = asked.next().await {
        answer?;
    }
    Ok(())
}

async fn ask(dialer: &Dialer, address: &str) -> Heard {
    let untrusted = |error: anyhow::Error| match error.downcast::<Untrusted>() {
        Ok(why) => Heard::Untrusted(why),
        // Nobody, or somebody who speaks another protocol.
        Err(_) => Heard::Nothing,
    };
    let channel = match dialer.channel(address).await {
        Ok(channel) => channel,
        Err(error) => return untrusted(error),
    };
    match ShoalClient::new(channel).where_is_peer(WhereIsPeerRequest {}).await {
        Ok(answer) => Heard::Node(answer.into_inner().cluster_id),
        Err(status) => untrusted(told(status)),
    }
}

fn judge(heard: Heard, cluster: ClusterId, address: &str, name: &str) -> Result<(), Error> {
    let (name, address) = (name.to_owned(), address.to_owned());
    match heard {
        Heard::Nothing => Ok(()),
        Heard::Node(theirs) if theirs == cluster.to_string() => {
            Err(Error::Answers { name, cluster, address })
        }
        // A member that has just started may not know it yet.
        Heard::Node(theirs) if theirs.is_empty() => {
            Err(Error::Undecided { name, cluster, address })
        }
        Heard::Node(_) => Ok(()),
        Heard::Untrusted(why) => Err(Error::Untrusted { name, cluster, address, why }),
    }
}
