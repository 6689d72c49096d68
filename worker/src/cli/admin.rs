//! The commands that ask or change a running cluster, over its admin port.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use serde_json::json;
use shoal_proto::{
    hash,
    shoal::{
        admin::v1 as pb,
        v1::{CallRequest, shoal_client::ShoalClient},
    },
};

use super::{
    Output, SUCCESS, Target,
    ask::{Client, told},
    json, say, show,
    table::{Cell, Colour, Tone, table},
};

pub async fn client(target: &Target) -> anyhow::Result<Client> {
    target.dialer()?.connect(&target.admin()?).await
}

pub fn print(
    target: &Target,
    text: impl FnOnce(Colour) -> String,
    json: impl FnOnce() -> serde_json::Value,
) -> anyhow::Result<()> {
    match target.output {
        Output::Table => say(&text(Colour::of_stdout())),
        Output::Json => say(&format!("{:#}", json())),
    }
}

pub async fn all_nodes(client: &mut Client, all: bool) -> anyhow::Result<Vec<pb::Node>> {
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
    print(target, |colour| show::status(&status, colour), || json::status(&status))?;
    Ok(SUCCESS)
}

pub async fn nodes(target: &Target, all: bool) -> anyhow::Result<ExitCode> {
    let nodes = all_nodes(&mut client(target).await?, all).await?;
    let as_json = || nodes.iter().map(json::node).collect();
    print(target, |colour| show::nodes(&nodes, colour), as_json)?;
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
    let as_json = || shards.iter().map(json::shard).collect();
    let as_text = |colour| {
        if shards.is_empty() && unsettled {
            return "every shard rests on its owner".to_owned();
        }
        show::shards(&shards, &nodes, colour)
    };
    print(target, as_text, as_json)?;
    Ok(SUCCESS)
}

pub async fn lookup(target: &Target, key: &str) -> anyhow::Result<ExitCode> {
    let mut client = client(target).await?;
    let request = pb::ShardsRequest { owner: 0, unsettled: false };
    let shards = client.shards(request).await.map_err(told)?.into_inner().shards;
    let count = u32::try_from(shards.len()).context("too many shards")?;
    if !count.is_power_of_two() || count < 2 {
        bail!("the cluster is not formed yet: `shoal status` tells what it waits for");
    }
    let id = hash::key_shard(key.as_bytes(), count);
    let shard = shards.iter().find(|shard| shard.id == id).context("the shard is not listed")?;
    let nodes = all_nodes(&mut client, false).await?;
    let address = nodes.iter().find(|node| node.id == shard.owner);
    let address = address.map_or("-", |node| node.node_address.as_str());
    let as_json = || {
        let mut found = json::shard(shard);
        found["key"] = json!(key);
        found["owner_name"] = json!(show::name(&nodes, shard.owner));
        found["owner_address"] = json!(address);
        found
    };
    let as_text = |colour| {
        let row: Vec<Cell> = vec![
            key.into(),
            shard.id.into(),
            show::name(&nodes, shard.owner).into(),
            address.into(),
            show::epoch(shard.epoch).into(),
            Cell::toned(
                shard.state.as_str(),
                if shard.state == "owned" { Tone::Plain } else { Tone::Warn },
            ),
        ];
        table(&["KEY", "SHARD", "OWNER", "ADDRESS", "EPOCH", "STATE"], &[row], colour)
    };
    print(target, as_text, as_json)?;
    Ok(SUCCESS)
}

pub async fn call(
    target: &Target,
    method: String,
    key: String,
    payload: String,
) -> anyhow::Result<ExitCode> {
    let mut client = ShoalClient::new(target.dialer()?.channel(&target.address.to_string()).await?);
    let request = CallRequest { key: Bytes::from(key), method, payload: Bytes::from(payload) };
    let answer = client.call(request).await.map_err(told)?.into_inner();
    let as_json = || {
        json!({
            "payload": String::from_utf8_lossy(&answer.payload),
            "payload_hex": hex(&answer.payload),
            "shard": answer.shard, "epoch": answer.epoch, "epoch_count": answer.epoch as u32,
            "owner": answer.owner, "forwarded": answer.forwarded,
        })
    };
    match target.output {
        // The answer as it is: it may be anything.
        Output::Table => super::say_bytes(&answer.payload)?,
        Output::Json => say(&format!("{:#}", as_json()))?,
    }
    Ok(SUCCESS)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub async fn plan(target: &Target) -> anyhow::Result<ExitCode> {
    let mut client = client(target).await?;
    let plan = client.plan(pb::PlanRequest {}).await.map_err(told)?.into_inner();
    let nodes = all_nodes(&mut client, false).await?;
    print(target, |colour| show::plan(&plan, &nodes, colour), || json::plan(&plan))?;
    Ok(SUCCESS)
}

pub async fn move_shard(target: &Target, shard: u32, to: &str) -> anyhow::Result<ExitCode> {
    let mut client = client(target).await?;
    let nodes = all_nodes(&mut client, false).await?;
    let node = find(&nodes, to)?;
    let request = pb::MoveRequest { shard, to: node.id, operator: None };
    let epoch = client.r#move(request).await.map_err(told)?.into_inner().epoch;
    print(
        target,
        |_| format!("{} owns shard {shard} under epoch {}", node.name, show::epoch(epoch)),
        || {
            json!({
                "shard": shard, "owner": node.name, "epoch": epoch, "epoch_count": epoch as u32,
            })
        },
    )?;
    Ok(SUCCESS)
}

pub async fn configure(target: &Target, settings: &[String]) -> anyhow::Result<ExitCode> {
    let request = read_settings(settings)?;
    let answer = client(target).await?.configure(request).await.map_err(told)?.into_inner();
    let settings = answer.settings.unwrap_or_default();
    let as_text = |_| show::settings_lines(&settings).join("\n");
    print(target, as_text, || json::settings(&settings))?;
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
