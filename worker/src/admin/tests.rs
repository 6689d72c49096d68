//! Every call of the admin service, asked of a node that does not lead.

mod nodes;

use shoal_proto::shoal::admin::v1::DrainKind;
use tokio_stream::StreamExt as _;
use tonic::Code;

use self::nodes::{Node, PATIENCE, row, settled, three};
use super::*;
use crate::{telemetry::page::parse, wire::registry};

const EXPECTED_PAGE: [&str; 14] = [
    "process_resident_memory_bytes",
    "shoal_control_moves_committed",
    "shoal_control_without_owner_seconds",
    "shoal_control_sessions_fenced",
    "shoal_forward_calls",
    "shoal_forward_nacks",
    "shoal_forward_parked_calls",
    "shoal_host_handover_pause_seconds",
    "shoal_host_shards",
    "shoal_raft_apply_seconds",
    "shoal_raft_fsync_seconds",
    "shoal_session_renewals_ended",
    "shoal_session_right_left_seconds",
    "shoal_table_shards",
];

fn refusal<T: std::fmt::Debug>(answer: Result<Response<T>, Status>, code: Code, part: &str) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(part), "{part:?} in {:?}", status.message());
}

fn sample(page: &str, name: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("{name} in {page}")).trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_tells_the_same() {
    let mut nodes = three().await;
    let mut told = Vec::new();
    for node in &mut nodes {
        let request = pb::StatusRequest { linearizable: true };
        let status = node.admin.status(request).await.unwrap().into_inner();
        assert!(settled(&status), "{status:?}");
        let listed = node.admin.nodes(pb::NodesRequest { all: true }).await.unwrap().into_inner();
        assert_eq!(listed.nodes, status.nodes);
        let all = pb::ShardsRequest { owner: 0, unsettled: false };
        let shards = node.admin.shards(all).await.unwrap().into_inner().shards;
        assert_eq!(shards.len() as u32, status.shards.unwrap().total);
        let one = pb::ShardsRequest { owner: status.nodes[0].id, unsettled: false };
        let owned = node.admin.shards(one).await.unwrap().into_inner().shards;
        assert_eq!(owned.len() as u32, status.nodes[0].shards_owned);
        let plan = node.admin.plan(pb::PlanRequest {}).await.unwrap().into_inner();
        assert_eq!(plan.moves, []);
        told.push((status.cluster_id, status.voters, status.settings, shards));
    }
    assert!(told.iter().all(|one| *one == told[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_there_and_tells_how_the_node_stands() {
    let mut nodes = three().await;
    let status = nodes[0].status().await.unwrap();
    let mut lag = 0;
    for node in &nodes {
        assert_eq!(node.page("/livez").await, (200, "ok\n".to_owned()));
        let owned = row(&status, &node.name).shards_owned;
        assert_eq!(node.page("/readyz").await, (200, "ready\n".to_owned()));
        let (code, text) = node.page("/nothing").await;
        assert!(code == 404 && text.contains("/livez, /readyz, /drained, /metrics"), "{text}");
        let (_, page) = node.page("/metrics").await;
        let families = parse(&page);
        for name in EXPECTED_PAGE {
            assert!(families.contains_key(name), "{name} in {page}");
        }
        lag += families.get("shoal_raft_follower_lag_entries").map_or(0, |lag| lag.samples.len());
        assert_eq!(sample(&page, "shoal_host_shards{state=\"open\"}"), f64::from(owned));
        assert_eq!(sample(&page, "shoal_table_shards{state=\"owned\"}"), 16.0);
        let left = sample(&page, "shoal_session_right_left_seconds");
        assert!(left > 0.0 && left < 3.0, "{left}");
        assert_eq!(sample(&page, "shoal_session_registrations_total"), 1.0);
        assert!(sample(&page, "shoal_raft_fsync_seconds_count") > 0.0);
        assert!(sample(&page, "shoal_raft_applied_index") > 0.0);
    }
    assert_eq!(lag, 2, "the leader alone knows its two followers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_any_member_reads_back() {
    for mut node in three().await {
        let mut chunks = node.admin.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
        let (mut bytes, mut crc32) = (Vec::new(), None);
        while let Some(chunk) = chunks.message().await.unwrap() {
            assert_eq!(crc32, None, "the sum comes last");
            bytes.extend_from_slice(&chunk.data);
            crc32 = chunk.crc32;
        }
        assert_eq!(crc32, Some(crc32fast::hash(&bytes)));
        let registry = registry::decode_snapshot(&bytes).unwrap();
        assert_eq!(registry.cluster().id.to_string(), node.status().await.unwrap().cluster_id);
        assert_eq!(registry.shards().count(), 16);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_change_from_any_node_and_wake_watchers() {
    let mut nodes = three().await;
    let request = pb::WatchStatusRequest { min_interval_ms: 10 };
    let mut states = nodes[2].admin.watch_status(request).await.unwrap().into_inner();
    let change = pb::ConfigureRequest { max_moves: Some(7), ..Default::default() };
    let answer = nodes[1].admin.configure(change).await.unwrap().into_inner();
    assert_eq!(answer.settings.unwrap().max_moves, 7);
    let seen = async {
        while let Some(state) = states.next().await {
            if state.unwrap().settings.unwrap().max_moves == 7 {
                return;
            }
        }
        panic!("the watch ended");
    };
    tokio::time::timeout(PATIENCE, seen).await.unwrap();
    for (change, part) in [
        (pb::ConfigureRequest::default(), "nothing to change: set lease_ms"),
        (
            pb::ConfigureRequest { lease_ms: Some(5), ..Default::default() },
            "lease_ms is 5, allowed",
        ),
        (pb::ConfigureRequest { max_voters: Some(4), ..Default::default() }, "max_voters is 4"),
        (
            pb::ConfigureRequest { rebalance: Some("on".into()), ..Default::default() },
            "set automatic or paused",
        ),
        (pb::ConfigureRequest { shard_count: Some(32), ..Default::default() }, "SHARDS is 16"),
    ] {
        refusal(nodes[1].admin.configure(change).await, Code::InvalidArgument, part);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_moves_from_any_node_and_what_cannot_move_says_why() {
    let mut nodes = three().await;
    let change = pb::ConfigureRequest { rebalance: Some("paused".into()), ..Default::default() };
    nodes[1].admin.configure(change).await.unwrap();
    let status = nodes[0].status().await.unwrap();
    let (from, to) = (&status.nodes[0], &status.nodes[1]);
    let one = pb::ShardsRequest { owner: from.id, unsettled: false };
    let shard = nodes[1].admin.shards(one).await.unwrap().into_inner().shards[0].clone();
    let to_node = |shard, to| pb::MoveRequest { shard, to, operator: None };
    let moved = nodes[1].admin.r#move(to_node(shard.id, to.id)).await.unwrap().into_inner();
    assert_eq!(moved.epoch, shard.epoch + 1);
    let again = nodes[2].admin.r#move(to_node(shard.id, to.id)).await;
    refusal(again, Code::FailedPrecondition, "is already on");
    refusal(nodes[1].admin.r#move(to_node(9_999, to.id)).await, Code::NotFound, "shoal shards");
    refusal(nodes[1].admin.r#move(to_node(1, 0)).await, Code::InvalidArgument, "to is unset");
    refusal(nodes[1].admin.r#move(to_node(1, 999)).await, Code::FailedPrecondition, "not up");
    let (_, page) = nodes[0].page("/metrics").await;
    assert!(sample(&page, "shoal_control_moves_committed_total") >= 1.0, "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_passes_on_wish() {
    let mut nodes = three().await;
    let status = nodes[0].status().await.unwrap();
    let heir = row(&status, &nodes[2].name).id;
    let to = |to| pb::TransferLeaderRequest { to, operator: None };
    let admin = &mut nodes[1].admin;
    let answer = settled_answer(admin, to(heir)).await.unwrap();
    assert_eq!(answer.into_inner().leader, heir);
    // It leads already: nothing is handed over, and nobody waits for it.
    let answer = settled_answer(admin, to(heir)).await.unwrap();
    assert_eq!(answer.into_inner().leader, heir);
    let answer = settled_answer(admin, to(999)).await;
    refusal(answer, Code::FailedPrecondition, "name one of the voters");
}

/// A transfer waits for a quiet moment and is given up where none comes; while leadership
/// passes nobody judges another.
async fn settled_answer(
    admin: &mut AdminClient<Channel>,
    request: pb::TransferLeaderRequest,
) -> Result<Response<pb::TransferLeaderResponse>, Status> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match admin.transfer_leader(request).await {
            Err(status)
                if matches!(status.code(), Code::Aborted | Code::Unavailable)
                    && tokio::time::Instant::now() < deadline => {}
            answer => return answer,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_operator_changes_nothing() {
    let mut nodes = three().await;
    let epoch = |node: &Node| {
        let mut admin = node.admin.clone();
        async move {
            let request = pb::AcquireOperatorEpochRequest {};
            admin.acquire_operator_epoch(request).await.unwrap().into_inner().epoch
        }
    };
    let first = epoch(&nodes[1]).await;
    assert_eq!(epoch(&nodes[2]).await, first + 1);
    let old = Some(pb::Operator { epoch: first });
    let (node, incarnation) = {
        let status = nodes[0].status().await.unwrap();
        (status.nodes[0].id, status.nodes[0].incarnation.clone())
    };
    let (admin, code) = (&mut nodes[1].admin, Code::FailedPrecondition);
    let part = "another operator has taken over";
    let kind = DrainKind::Removal.into();
    let drain = pb::DrainRequest { node, kind, incarnation: incarnation.clone(), operator: old };
    refusal(admin.drain(drain).await, code, part);
    let cancel = pb::CancelDrainRequest { node, operator: old };
    refusal(admin.cancel_drain(cancel).await, code, part);
    let close = pb::CloseRequest { node, incarnation: incarnation.clone(), operator: old };
    refusal(admin.close(close).await, code, part);
    for force in [false, true] {
        let remove = pb::RemoveRequest { node, force, operator: old };
        refusal(admin.remove(remove).await, code, part);
    }
    let change = pb::ConfigureRequest { max_moves: Some(9), operator: old, ..Default::default() };
    refusal(admin.configure(change).await, code, part);
    let death = pb::ReportDeathRequest { node, incarnation, operator: old };
    refusal(admin.report_death(death).await, code, part);
    refusal(admin.stop_all(pb::StopAllRequest { operator: old }).await, code, part);
    let transfer = pb::TransferLeaderRequest { to: 0, operator: old };
    refusal(admin.transfer_leader(transfer).await, code, part);
    let all = pb::ShardsRequest { owner: node, unsettled: false };
    let shard = admin.shards(all).await.unwrap().into_inner().shards[0].id;
    let to = admin.nodes(pb::NodesRequest { all: false }).await.unwrap().into_inner().nodes[1].id;
    let change = pb::MoveRequest { shard, to, operator: old };
    refusal(admin.r#move(change).await, code, part);
    let now = Some(pb::Operator { epoch: first + 1 });
    let change = pb::ConfigureRequest { max_moves: Some(9), operator: now, ..Default::default() };
    admin.configure(change).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_drained_closed_and_removed_from_another() {
    let mut nodes = three().await;
    let status = nodes[0].status().await.unwrap();
    let pb::Node { id: node, incarnation, .. } = row(&status, &nodes[2].name);
    let admin = &mut nodes[1].admin;
    let remove = pb::RemoveRequest { node, force: false, operator: None };
    refusal(admin.remove(remove).await, Code::FailedPrecondition, "drain it for its removal");
    let close = || pb::CloseRequest { node, incarnation: incarnation.clone(), operator: None };
    refusal(admin.close(close()).await, Code::FailedPrecondition, "drain it first");
    let drain = |kind: DrainKind| pb::DrainRequest {
        node,
        kind: kind.into(),
        incarnation: String::new(),
        operator: None,
    };
    refusal(admin.drain(drain(DrainKind::Unspecified)).await, Code::InvalidArgument, "kind");
    let unnamed = admin.drain(drain(DrainKind::Restart)).await;
    refusal(unnamed, Code::InvalidArgument, "incarnation is unset");
    let cancel = || pb::CancelDrainRequest { node, operator: None };
    refusal(admin.cancel_drain(cancel()).await, Code::FailedPrecondition, "drain it first");
    admin.drain(drain(DrainKind::Removal)).await.unwrap();
    admin.cancel_drain(cancel()).await.unwrap();
    admin.drain(drain(DrainKind::Removal)).await.unwrap();
    let (code, text) = nodes[2].page("/drained").await;
    assert_eq!((code, text.as_str()), (200, "drained\n"));
    nodes[0].until("it owns nothing", |status| held(status, node) == 0).await;
    nodes[1].admin.close(close()).await.unwrap();
    refusal(nodes[1].admin.cancel_drain(cancel()).await, Code::FailedPrecondition, "has closed");
    let answer = nodes[1].admin.remove(remove).await.unwrap().into_inner();
    assert!(answer.left);
    let gone = |status: &pb::StatusResponse| status.nodes.iter().all(|row| row.id != node);
    nodes[1].until("it is gone", gone).await;
    let all = nodes[1].admin.nodes(pb::NodesRequest { all: true }).await.unwrap().into_inner();
    assert!(all.nodes.iter().any(|row| row.id == node && row.life == "left"));
    let parked = async {
        loop {
            let (code, text) = nodes[2].page("/readyz").await;
            if code == 503 && text.starts_with("parked: this node was removed") {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, parked).await.unwrap();
}

fn held(status: &pb::StatusResponse, id: u64) -> u32 {
    let row = status.nodes.iter().find(|node| node.id == id).unwrap();
    row.shards_owned + row.shards_receiving
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_is_taken_for_the_named_incarnation_only() {
    let mut nodes = three().await;
    let status = nodes[0].status().await.unwrap();
    let pb::Node { id: node, incarnation, shards_owned, .. } = row(&status, &nodes[2].name);
    let death = |incarnation: &str| pb::ReportDeathRequest {
        node,
        incarnation: incarnation.to_owned(),
        operator: None,
    };
    let admin = &mut nodes[1].admin;
    refusal(admin.report_death(death("")).await, Code::InvalidArgument, "incarnation is unset");
    let part = "<counter>.<nonce in hex>";
    refusal(admin.report_death(death("17")).await, Code::InvalidArgument, part);
    let other = admin.report_death(death("9.0000000000000009")).await;
    refusal(other, Code::Aborted, "it has restarted");
    // As if its process had ended: it is fenced at once and has to register anew.
    let answer = admin.report_death(death(&incarnation)).await.unwrap().into_inner();
    assert_eq!(answer.shards_unassigned, shards_owned);
    nodes[0]
        .until("it is back under a new incarnation", |status| {
            settled(status) && row(status, "node-c").incarnation != incarnation
                || settled(status) && row(status, "node-b").incarnation != incarnation
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_stop_in_good_order() {
    let mut nodes = three().await;
    nodes[1].admin.stop_all(pb::StopAllRequest { operator: None }).await.unwrap();
    nodes[0]
        .until("every node drains", |status| {
            status.nodes.iter().all(|node| node.drain == "restart")
        })
        .await;
    futures::future::join_all(nodes.into_iter().map(Node::stopped)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_waits_for_its_cluster_says_for_whom() {
    let mut node = nodes::alone_of_three().await;
    let waiting = async {
        loop {
            match node.status().await {
                Ok(status) if status.waiting.contains("founding peers") => return status,
                Ok(_) | Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let status = tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    assert!(!status.formed && status.cluster_id.is_empty(), "{status:?}");
    let (code, text) = node.page("/readyz").await;
    assert!(code == 503 && text.starts_with("waiting for 2 of 3 founding peers"), "{text}");
    assert_eq!(node.page("/drained").await.0, 200);
    let (_, page) = node.page("/metrics").await;
    assert_eq!(sample(&page, "shoal_table_formed"), 0.0);
}
