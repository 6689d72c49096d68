//! The commands that ask or change a running cluster, over its admin port.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use serde_json::json;
use shoal_proto::{
    hash,
    shoal::{
        admin::v1::{self as pb, admin_client::AdminClient},
        v1::{CallRequest, shoal_client::ShoalClient},
    },
};
use tokio::time;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::{Output, SUCCESS, Target, show};

const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
const DRAIN_POLL: Duration = Duration::from_millis(250);

pub type Client = AdminClient<Channel>;

/// A client of the admin port at `address`.
pub async fn connect(address: &str) -> anyhow::Result<Client> {
    channel(address).await.map(AdminClient::new)
}

async fn channel(address: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .with_context(|| format!("{address} is no address"))?;
    let connecting = endpoint.connect_timeout(CONNECT_PATIENCE).connect().await;
    connecting.with_context(|| format!("no node answers at {address}"))
}

/// What the node said, without the frame that gRPC puts around it.
pub fn told(status: Status) -> anyhow::Error {
    anyhow::anyhow!("{:?}: {}", status.code(), status.message())
}

async fn client(target: &Target) -> anyhow::Result<Client> {
    connect(&target.admin()?).await
}

fn print(target: &Target, text: impl FnOnce() -> String, json: impl FnOnce() -> serde_json::Value) {
    match target.output {
        Output::Table => println!("{}", text()),
        Output::Json => println!("{:#}", json()),
    }
}

async fn all_nodes(client: &mut Client, all: bool) -> anyhow::Result<Vec<pb::Node>> {
    Ok(client.nodes(pb::NodesRequest { all }).await.map_err(told)?.into_inner().nodes)
}

/// The node of a name, an address or an id.
pub fn find<'a>(nodes: &'a [pb::Node], wanted: &str) -> anyhow::Result<&'a pb::Node> {
    let named = nodes.iter().find(|node| node.name == wanted || node.node_address == wanted);
    let id = wanted.strip_prefix('n').unwrap_or(wanted).parse::<u64>().ok();
    let found = named.or_else(|| nodes.iter().find(|node| Some(node.id) == id));
    found.with_context(|| {
        let known: Vec<_> = nodes.iter().map(|node| node.name.as_str()).collect();
        format!("no node {wanted:?}; the cluster has {}", known.join(", "))
    })
}

pub async fn status(target: &Target, linearizable: bool) -> anyhow::Result<ExitCode> {
    let request = pb::StatusRequest { linearizable };
    let status = client(target).await?.status(request).await.map_err(told)?.into_inner();
    print(target, || show::status(&status), || show::status_json(&status));
    Ok(SUCCESS)
}

pub async fn nodes(target: &Target, all: bool) -> anyhow::Result<ExitCode> {
    let nodes = all_nodes(&mut client(target).await?, all).await?;
    let as_json = || nodes.iter().map(show::node_json).collect();
    print(target, || show::nodes(&nodes), as_json);
    Ok(SUCCESS)
}

pub async fn shards(
    target: &Target,
    owner: Option<&str>,
    unsettled: bool,
) -> anyhow::Result<ExitCode> {
    let mut client = client(target).await?;
    let nodes = all_nodes(&mut client, false).await?;
    let owner = owner.map(|owner| find(&nodes, owner)).transpose()?.map_or(0, |node| node.id);
    let request = pb::ShardsRequest { owner, unsettled };
    let shards = client.shards(request).await.map_err(told)?.into_inner().shards;
    let as_json = || shards.iter().map(show::shard_json).collect();
    print(target, || show::shards(&shards, &nodes), as_json);
    Ok(SUCCESS)
}

pub async fn lookup(target: &Target, key: &str) -> anyhow::Result<ExitCode> {
    let mut client = client(target).await?;
    let request = pb::ShardsRequest { owner: 0, unsettled: false };
    let shards = client.shards(request).await.map_err(told)?.into_inner().shards;
    let count = u32::try_from(shards.len()).context("too many shards")?;
    if !count.is_power_of_two() || count < 2 {
        bail!("the cluster is not formed yet");
    }
    let id = hash::key_shard(key.as_bytes(), count);
    let shard = shards.iter().find(|shard| shard.id == id).context("the shard is not listed")?;
    let nodes = all_nodes(&mut client, false).await?;
    let as_json = || {
        let mut found = show::shard_json(shard);
        found["key"] = json!(key);
        found["owner_name"] = json!(show::name(&nodes, shard.owner));
        found
    };
    print(target, || show::shards(std::slice::from_ref(shard), &nodes), as_json);
    Ok(SUCCESS)
}

pub async fn call(
    target: &Target,
    method: String,
    key: String,
    payload: String,
) -> anyhow::Result<ExitCode> {
    let mut client = ShoalClient::new(channel(&target.address.to_string()).await?);
    let request = CallRequest { key: Bytes::from(key), method, payload: Bytes::from(payload) };
    let answer = client.call(request).await.map_err(told)?.into_inner();
    let text = || String::from_utf8_lossy(&answer.payload).into_owned();
    let as_json = || {
        json!({
            "payload": text(), "shard": answer.shard, "epoch": answer.epoch,
            "owner": answer.owner, "forwarded": answer.forwarded,
        })
    };
    print(target, text, as_json);
    Ok(SUCCESS)
}

pub async fn plan(target: &Target) -> anyhow::Result<ExitCode> {
    let mut client = client(target).await?;
    let plan = client.plan(pb::PlanRequest {}).await.map_err(told)?.into_inner();
    let nodes = all_nodes(&mut client, false).await?;
    print(target, || show::plan(&plan, &nodes), || show::plan_json(&plan));
    Ok(SUCCESS)
}

pub async fn cancel_drain(target: &Target, wanted: &str) -> anyhow::Result<ExitCode> {
    let mut client = client(target).await?;
    let nodes = all_nodes(&mut client, false).await?;
    let node = find(&nodes, wanted)?;
    let request = pb::CancelDrainRequest { node: node.id, operator: None };
    client.cancel_drain(request).await.map_err(told)?;
    print(
        target,
        || format!("{} may receive shards again", node.name),
        || json!({ "node": node.name }),
    );
    Ok(SUCCESS)
}

/// Waits until the node owns nothing; with `remove` then ends it for ever.
pub async fn drain(target: &Target, wanted: &str, remove: bool) -> anyhow::Result<ExitCode> {
    let mut client = client(target).await?;
    let nodes = all_nodes(&mut client, false).await?;
    let node = find(&nodes, wanted)?.clone();
    let kind = if remove { pb::DrainKind::Removal } else { pb::DrainKind::Restart };
    start_drain(&mut client, &node, kind).await.map_err(told)?;
    let mut last = None;
    loop {
        let nodes = all_nodes(&mut client, true).await?;
        let now = find(&nodes, &node.id.to_string())?;
        let left = now.shards_owned + now.shards_receiving;
        if last != Some(left) && target.output == Output::Table {
            println!("{}: {left} shards left", node.name);
        }
        last = Some(left);
        if left == 0 {
            break;
        }
        time::sleep(DRAIN_POLL).await;
    }
    if remove {
        end(&mut client, &node).await.map_err(told)?;
    }
    let state = if remove { "removed" } else { "drained" };
    print(
        target,
        || format!("{} is {state}", node.name),
        || json!({ "node": node.name, "state": state }),
    );
    Ok(SUCCESS)
}

pub async fn start_drain(
    client: &mut Client,
    node: &pb::Node,
    kind: pb::DrainKind,
) -> Result<(), Status> {
    let request = pb::DrainRequest {
        node: node.id,
        kind: kind.into(),
        incarnation: node.incarnation.clone(),
        operator: None,
    };
    client.drain(request).await.map(|_| ())
}

/// Ends the session of a node that owns nothing, then the node.
pub async fn end(client: &mut Client, node: &pb::Node) -> Result<(), Status> {
    let incarnation = node.incarnation.clone();
    client.close(pb::CloseRequest { node: node.id, incarnation, operator: None }).await?;
    client.remove(pb::RemoveRequest { node: node.id, force: false, operator: None }).await?;
    Ok(())
}

pub async fn move_shard(target: &Target, shard: u32, to: &str) -> anyhow::Result<ExitCode> {
    let mut client = client(target).await?;
    let nodes = all_nodes(&mut client, false).await?;
    let node = find(&nodes, to)?;
    let request = pb::MoveRequest { shard, to: node.id, operator: None };
    let epoch = client.r#move(request).await.map_err(told)?.into_inner().epoch;
    print(
        target,
        || format!("{} owns shard {shard} under epoch e{}", node.name, epoch as u32),
        || json!({ "shard": shard, "owner": node.name, "epoch": epoch }),
    );
    Ok(SUCCESS)
}

pub async fn configure(target: &Target, settings: &[String]) -> anyhow::Result<ExitCode> {
    let request = read_settings(settings)?;
    let answer = client(target).await?.configure(request).await.map_err(told)?.into_inner();
    let settings = answer.settings.unwrap_or_default();
    print(target, || show::settings(&settings), || show::settings_json(&settings));
    Ok(SUCCESS)
}

/// `key=value` pairs as a change; what is not named stays.
pub fn read_settings(pairs: &[String]) -> anyhow::Result<pb::ConfigureRequest> {
    let mut request = pb::ConfigureRequest::default();
    for pair in pairs {
        let (key, value) =
            pair.split_once('=').with_context(|| format!("{pair:?} is not key=value"))?;
        if key == "rebalance" {
            request.rebalance = Some(value.to_owned());
            continue;
        }
        let number = value.parse().with_context(|| format!("{pair:?}: not a whole number"));
        let place = match key {
            "lease_ms" => &mut request.lease_ms,
            "max_moves" => &mut request.max_moves,
            "max_moves_per_node" => &mut request.max_moves_per_node,
            "cooldown_ms" => &mut request.cooldown_ms,
            "max_voters" => &mut request.max_voters,
            "max_learners" => &mut request.max_learners,
            "shard_count" => &mut request.shard_count,
            unknown => bail!(
                "no setting {unknown:?}; there are lease_ms, rebalance, max_moves, max_moves_per_node, cooldown_ms, max_voters, max_learners, shard_count"
            ),
        };
        *place = Some(number?);
    }
    Ok(request)
}
