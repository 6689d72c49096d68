//! Admin messages: the registry as people and the operator read it.

use shoal_core::{
    found::Formed,
    id::{NodeId, ShardId},
    planner::{Plan, PlannedMove},
    registry::{
        Configure, Drain, Holding, Life, Node, Rebalance, Refused, Registry, Settings, ShardRow,
    },
};
use shoal_proto::shoal::admin::v1 as pb;
use tonic::{Code, Status};

use crate::{control::Denied, found, raft};

pub fn life(life: Life) -> &'static str {
    match life {
        Life::Joining => "joining",
        Life::Up => "up",
        Life::Closed => "closed",
        Life::Fenced => "fenced",
        Life::Left => "left",
    }
}

fn drain(drain: Drain) -> &'static str {
    match drain {
        Drain::None => "none",
        Drain::Restart(_) => "restart",
        Drain::Own(_) => "own",
        Drain::Removal => "removal",
    }
}

/// What an operator asks of every pod before it gives a cluster up.
pub fn standing(state: &found::State, pod_uid: Option<&str>) -> pb::Standing {
    let (abandoning, abandoning_since) = match &state.refuses {
        Some(mark) => (mark.cluster.to_string(), mark.since.clone()),
        None => (String::new(), String::new()),
    };
    pb::Standing {
        pod_uid: pod_uid.unwrap_or_default().to_owned(),
        cluster_id: state.directory.cluster().map_or_else(String::new, |id| id.to_string()),
        formed: state.formed >= Formed::InLog,
        joining: state.directory.is_joining() && state.formed == Formed::No,
        abandoning,
        abandoning_since,
    }
}

fn role(id: NodeId, leader: Option<NodeId>, membership: &raft::Members) -> &'static str {
    if Some(id) == leader {
        "leader"
    } else if membership.voters.contains(&id) {
        "voter"
    } else if membership.learners.contains(&id) {
        "learner"
    } else {
        "watcher"
    }
}

pub fn node(
    id: NodeId,
    node: &Node,
    registry: &Registry,
    leader: Option<NodeId>,
    membership: &raft::Members,
) -> pb::Node {
    let held = registry.held(id);
    pb::Node {
        id: id.0,
        name: node.info.name.clone(),
        node_address: node.info.addresses.data.clone(),
        raft_address: node.info.addresses.raft.clone(),
        admin_address: node.info.addresses.admin.clone(),
        http_address: node.info.addresses.http.clone(),
        zone: node.info.zone.clone(),
        weight: node.info.weight,
        revision: node.info.revision.clone(),
        feature_level: node.info.feature_level,
        life: life(node.life).to_owned(),
        drain: drain(node.drain).to_owned(),
        marked: node.marked,
        role: role(id, leader, membership).to_owned(),
        shards_owned: held.owned,
        shards_receiving: held.receiving,
        incarnation: node.incarnation.to_text(),
        pod_uid: node.info.pod_uid.clone().unwrap_or_default(),
        target: registry.is_target(id),
    }
}

pub fn shard(id: ShardId, row: &ShardRow) -> pb::Shard {
    let (state, target, id_of_move) = match row.holding {
        Holding::Owned { .. } => ("owned", 0, 0),
        Holding::Moving { target, id, .. } => ("moving", target.0, id.0),
        Holding::Unassigned => ("unassigned", 0, 0),
    };
    pb::Shard {
        id: id.0,
        state: state.to_owned(),
        owner: row.owner().map_or(0, |(node, _)| node.0),
        epoch: row.epoch.0,
        target,
        r#move: id_of_move,
        changed: row.changed.0,
    }
}

pub fn settings(settings: &Settings) -> pb::Settings {
    pb::Settings {
        shard_count: settings.shard_count,
        lease_ms: settings.lease_ms,
        previous_lease_ms: settings.previous_lease.map_or(0, |(millis, _)| millis),
        feature_level: settings.feature_level,
        operator_epoch: settings.operator_epoch,
        rebalance: match settings.rebalance {
            Rebalance::Automatic => "automatic".to_owned(),
            Rebalance::Paused => "paused".to_owned(),
        },
        max_moves: settings.max_moves,
        max_moves_per_node: settings.max_moves_per_node,
        cooldown_ms: settings.cooldown_ms,
        max_voters: settings.max_voters,
        max_learners: settings.max_learners,
    }
}

pub fn read_configure(message: &pb::ConfigureRequest) -> Result<Configure, Status> {
    let rebalance = match message.rebalance.as_deref() {
        None => None,
        Some("automatic") => Some(Rebalance::Automatic),
        Some("paused") => Some(Rebalance::Paused),
        Some(other) => {
            let text = format!("rebalance is {other:?}: set automatic or paused");
            return Err(Status::invalid_argument(text));
        }
    };
    Ok(Configure {
        lease_ms: message.lease_ms,
        rebalance,
        max_moves: message.max_moves,
        max_moves_per_node: message.max_moves_per_node,
        cooldown_ms: message.cooldown_ms,
        max_voters: message.max_voters,
        max_learners: message.max_learners,
        shard_count: message.shard_count,
    })
}

pub fn counts(registry: &Registry) -> pb::ShardCounts {
    let mut counts =
        pb::ShardCounts { total: registry.settings().shard_count, ..Default::default() };
    for (_, row) in registry.shards() {
        match row.holding {
            Holding::Owned { .. } => counts.assigned += 1,
            Holding::Moving { .. } => {
                counts.assigned += 1;
                counts.moving += 1;
            }
            Holding::Unassigned => counts.unassigned += 1,
        }
    }
    if !registry.formed() {
        counts.unassigned = counts.total;
    }
    counts
}

pub fn plan(plan: &Plan) -> pb::PlanResponse {
    let assigns = plan.assigns.iter().map(|planned| pb::PlannedMove {
        shard: planned.assign.shard.0,
        from: 0,
        to: planned.assign.target.0,
        reason: planned.to_string(),
    });
    let moves = plan.moves.iter().map(|planned: &PlannedMove| pb::PlannedMove {
        shard: planned.begin.shard.0,
        from: planned.from.0,
        to: planned.begin.target.0,
        reason: planned.to_string(),
    });
    let refusals = plan.report.refusals.iter().map(|refusal| pb::PlanRefusal {
        shards: refusal.shards,
        node: refusal.node.map(|node| node.0),
        reason: refusal.why.to_string(),
    });
    pb::PlanResponse {
        moves: assigns.chain(moves).collect(),
        refusals: refusals.collect(),
        report: plan.to_string().lines().map(str::to_owned).collect(),
    }
}

/// What the leader would not do, as a gRPC status with the reason as its message.
pub fn status(denied: &Denied) -> Status {
    let text = denied.to_string();
    match denied {
        Denied::NotLeader { leader: None } => {
            Status::unavailable("no leader is known at the moment: try again")
        }
        Denied::NotLeader { leader: Some(leader) } => {
            Status::unavailable(format!("leadership has just passed to {leader}: try again"))
        }
        Denied::Later(_) | Denied::TableBehind | Denied::AlreadyRegistered => {
            Status::unavailable(text)
        }
        Denied::Identity(_) | Denied::Impossible(_) => Status::failed_precondition(text),
        Denied::Refused(why) => refused(why),
    }
}

/// What the registry refused, with its reason and what to do about it.
pub fn refused(why: &Refused) -> Status {
    let text = match remedy(why) {
        Some(remedy) => format!("{why}: {remedy}"),
        None => why.to_string(),
    };
    Status::new(code(why), text)
}

fn code(why: &Refused) -> Code {
    match why {
        Refused::OutOfRange { .. }
        | Refused::ShardCountFixed { .. }
        | Refused::BatchTooLarge(_) => Code::InvalidArgument,
        Refused::UnknownNode(_) | Refused::UnknownShard(_) => Code::NotFound,
        Refused::NameInUse { .. } => Code::AlreadyExists,
        // Somebody else was faster: read again, then repeat.
        Refused::StaleIncarnation { .. }
        | Refused::StaleEpoch { .. }
        | Refused::Renewed { .. }
        | Refused::NotMoving { .. }
        | Refused::NotOwned(_)
        | Refused::NotUnassigned(_) => Code::Aborted,
        Refused::AlreadyFounded(_)
        | Refused::NotFounded
        | Refused::AlreadyFormed
        | Refused::NotFormed
        | Refused::NodeLeft(_)
        | Refused::RestoredCopy { .. }
        | Refused::Marked(_)
        | Refused::NotUp(_)
        | Refused::NotDraining(_)
        | Refused::OwnDrain(_)
        | Refused::DrainingForRemoval(_)
        | Refused::Closed(_)
        | Refused::NotATarget(_)
        | Refused::StillOwns { .. }
        | Refused::NotRemovable(_)
        | Refused::SameNode(_)
        | Refused::NothingToSettle
        | Refused::Level { .. }
        | Refused::LevelTooLow { .. }
        | Refused::OperatorEpoch { .. } => Code::FailedPrecondition,
    }
}

fn remedy(why: &Refused) -> Option<&'static str> {
    Some(match why {
        Refused::NotFounded | Refused::NotFormed => "wait until /readyz says 200",
        Refused::UnknownNode(_) => "`shoal nodes` lists them",
        Refused::UnknownShard(_) => "`shoal shards` lists them",
        Refused::StaleIncarnation { .. } => "it has restarted, read its row again",
        Refused::StaleEpoch { .. } | Refused::NotOwned(_) | Refused::NotMoving { .. } => {
            "it changed meanwhile, look again"
        }
        Refused::NotDraining(_) => "drain it first",
        Refused::StillOwns { .. } => "wait until its drain has ended",
        Refused::NotRemovable(_) => {
            "drain it for its removal, wait until it owns nothing, close it, then remove it"
        }
        Refused::NodeLeft(_) => "start it with an empty directory to have it back as a new node",
        Refused::DrainingForRemoval(_) => "cancel that drain first",
        Refused::OperatorEpoch { .. } => "another operator has taken over, acquire a new epoch",
        Refused::SameNode(_) => "nothing has to move",
        Refused::AlreadyFounded(_)
        | Refused::AlreadyFormed
        | Refused::NameInUse { .. }
        | Refused::RestoredCopy { .. }
        | Refused::Renewed { .. }
        | Refused::Marked(_)
        | Refused::NotUp(_)
        | Refused::OwnDrain(_)
        | Refused::Closed(_)
        | Refused::NotATarget(_)
        | Refused::NotUnassigned(_)
        | Refused::OutOfRange { .. }
        | Refused::ShardCountFixed { .. }
        | Refused::NothingToSettle
        | Refused::Level { .. }
        | Refused::LevelTooLow { .. }
        | Refused::BatchTooLarge(_) => return None,
    })
}
