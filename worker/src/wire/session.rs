//! Session messages: what a node asks of the leader, and the leader's answer.

use std::time::Duration;

use shoal_core::{
    handoff::{self, GiveUp, News, Process, Refusal},
    id::{ClusterId, Epoch, Incarnation, MoveId, NodeId, ShardId},
    registry::{Addresses, Event, LockId, MoveRef, NodeInfo, Refused},
    session::{holder, lease::Lease},
};
use shoal_proto::shoal::peer::v1 as pb;

use crate::control::{Denied, Granted, Outcome, Register, Renew};

/// A message that lacks a field it must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is missing or malformed")]
pub struct Malformed(pub &'static str);

pub fn hop(cluster: ClusterId, from: NodeId) -> pb::Hop {
    pb::Hop { cluster_id: cluster.to_string(), from: from.0, forwarded: false }
}

pub fn incarnation(incarnation: Incarnation) -> pb::Incarnation {
    pb::Incarnation { counter: incarnation.counter, nonce: incarnation.nonce }
}

pub fn read_incarnation(message: Option<pb::Incarnation>) -> Result<Incarnation, Malformed> {
    let message = message.ok_or(Malformed("incarnation"))?;
    Ok(Incarnation { counter: message.counter, nonce: message.nonce })
}

pub fn node_info(info: &NodeInfo) -> pb::NodeInfo {
    pb::NodeInfo {
        name: info.name.clone(),
        pod_uid: info.pod_uid.clone(),
        addresses: Some(pb::NodeAddresses {
            data: info.addresses.data.clone(),
            raft: info.addresses.raft.clone(),
            admin: info.addresses.admin.clone(),
            http: info.addresses.http.clone(),
        }),
        zone: info.zone.clone(),
        weight: info.weight,
        feature_level: info.feature_level,
        revision: info.revision.clone(),
    }
}

pub fn read_node_info(message: Option<pb::NodeInfo>) -> Result<NodeInfo, Malformed> {
    let message = message.ok_or(Malformed("info"))?;
    let addresses = message.addresses.ok_or(Malformed("info.addresses"))?;
    Ok(NodeInfo {
        name: message.name,
        pod_uid: message.pod_uid,
        addresses: Addresses {
            data: addresses.data,
            raft: addresses.raft,
            admin: addresses.admin,
            http: addresses.http,
        },
        zone: message.zone,
        weight: message.weight,
        feature_level: message.feature_level,
        revision: message.revision,
    })
}

pub fn read_directory(bytes: &[u8]) -> Result<u128, Malformed> {
    bytes.try_into().map(u128::from_be_bytes).map_err(|_| Malformed("directory"))
}

pub fn lock(lock: &LockId) -> pb::LockId {
    pb::LockId { boot_id: lock.boot_id.clone(), device: lock.device, inode: lock.inode }
}

pub fn read_register(message: pb::RegisterRequest) -> Result<Register, Malformed> {
    Ok(Register {
        node: NodeId(message.node),
        incarnation: read_incarnation(message.incarnation)?,
        info: read_node_info(message.info)?,
        lock: message.lock.map(|lock| LockId {
            boot_id: lock.boot_id,
            device: lock.device,
            inode: lock.inode,
        }),
    })
}

pub fn read_renew(message: &pb::RenewRequest) -> Result<Renew, Malformed> {
    Ok(Renew {
        node: NodeId(message.node),
        incarnation: read_incarnation(message.incarnation)?,
        table: shoal_core::id::LogIndex(message.table_index),
        leaves_within: message.leaves_within_ms.map(|ms| Duration::from_millis(ms.into())),
    })
}

pub fn report(report: &handoff::Report) -> pb::MoveReport {
    pb::MoveReport {
        hop: None,
        shard: report.key.shard.0,
        epoch: report.key.epoch.0,
        r#move: report.key.id.0,
        source: report.source.node.0,
        source_incarnation: Some(incarnation(report.source.incarnation)),
        target: report.target.node.0,
        target_incarnation: Some(incarnation(report.target.incarnation)),
        news: Some(match report.news {
            News::Working => pb::move_report::News::Working(true),
            News::Released => pb::move_report::News::Released(true),
            News::GaveUp(why) => pb::move_report::News::GaveUp(gave_up(why)),
        }),
    }
}

pub fn read_report(message: pb::MoveReport) -> Result<handoff::Report, Malformed> {
    let source = read_incarnation(message.source_incarnation)?;
    let target = read_incarnation(message.target_incarnation)?;
    Ok(handoff::Report {
        key: MoveRef {
            shard: ShardId(message.shard),
            epoch: Epoch(message.epoch),
            id: MoveId(message.r#move),
        },
        source: Process::new(NodeId(message.source), source),
        target: Process::new(NodeId(message.target), target),
        news: match message.news.ok_or(Malformed("news"))? {
            pb::move_report::News::Working(_) => News::Working,
            pb::move_report::News::Released(_) => News::Released,
            pb::move_report::News::GaveUp(why) => News::GaveUp(read_gave_up(why)?),
        },
    })
}

fn gave_up(why: GiveUp) -> pb::GaveUp {
    use pb::gave_up::Why;
    let (why, bytes, digest) = match why {
        GiveUp::SlowPrepare => (Why::SlowPrepare, 0, 0),
        GiveUp::SlowTransfer => (Why::SlowTransfer, 0, 0),
        GiveUp::NotConverging => (Why::NotConverging, 0, 0),
        GiveUp::TooLarge(bytes) => (Why::TooLarge, bytes, 0),
        GiveUp::SlowCalls => (Why::SlowCalls, 0, 0),
        GiveUp::Broken => (Why::Broken, 0, 0),
        GiveUp::Refused(Refusal::OtherIncarnation) => (Why::OtherIncarnation, 0, 0),
        GiveUp::Refused(Refusal::Over) => (Why::Over, 0, 0),
        GiveUp::Refused(Refusal::CannotPrepare) => (Why::CannotPrepare, 0, 0),
        GiveUp::Refused(Refusal::Differs(whole)) => (Why::Differs, whole.length, whole.digest),
    };
    pb::GaveUp { why: why.into(), bytes, digest }
}

fn read_gave_up(message: pb::GaveUp) -> Result<GiveUp, Malformed> {
    use pb::gave_up::Why;
    let whole = handoff::Whole { length: message.bytes, digest: message.digest };
    Ok(match Why::try_from(message.why).map_err(|_| Malformed("gave_up.why"))? {
        Why::Unspecified => return Err(Malformed("gave_up.why")),
        Why::SlowPrepare => GiveUp::SlowPrepare,
        Why::SlowTransfer => GiveUp::SlowTransfer,
        Why::NotConverging => GiveUp::NotConverging,
        Why::TooLarge => GiveUp::TooLarge(message.bytes),
        Why::SlowCalls => GiveUp::SlowCalls,
        Why::Broken => GiveUp::Broken,
        Why::OtherIncarnation => GiveUp::Refused(Refusal::OtherIncarnation),
        Why::Over => GiveUp::Refused(Refusal::Over),
        Why::CannotPrepare => GiveUp::Refused(Refusal::CannotPrepare),
        Why::Differs => GiveUp::Refused(Refusal::Differs(whole)),
    })
}

/// The leader's answer, or that of a node that could not reach it.
pub fn response(
    cluster: ClusterId,
    answer: Result<Granted, Denied>,
    address_of: impl Fn(NodeId) -> String,
) -> pb::SessionResponse {
    use pb::session_response::Result as Answer;
    let result = match answer {
        Ok(granted) => Answer::Accepted(pb::Accepted {
            index: granted.index.0,
            lease_ms: granted.lease_ms,
            node: match granted.outcome {
                Outcome::Event(Event::Joined { node }) => node.0,
                Outcome::Event(_) | Outcome::Plan(_) | Outcome::Current(_) | Outcome::Noted => 0,
            },
            cluster_id: cluster.to_string(),
        }),
        Err(Denied::NotLeader { leader }) => Answer::NotLeader(pb::NotLeader {
            leader: leader.map_or(0, |leader| leader.0),
            leader_raft_address: leader.map(address_of).unwrap_or_default(),
        }),
        Err(denied) => {
            let message = denied.to_string();
            let renewed = if let Denied::Refused(Refused::NameInUse { renewed, .. }) = denied {
                renewed.0
            } else {
                0
            };
            Answer::Rejected(pb::Rejected { why: why(&denied).into(), message, renewed })
        }
    };
    pb::SessionResponse { result: Some(result) }
}

fn why(denied: &Denied) -> pb::rejected::Why {
    use pb::rejected::Why;
    match denied {
        Denied::Later(_) | Denied::NotLeader { .. } => Why::Retry,
        Denied::TableBehind => Why::TableBehind,
        Denied::AlreadyRegistered => Why::AlreadyRegistered,
        Denied::Identity(_) => Why::Identity,
        Denied::Impossible(_) => Why::Refused,
        Denied::Refused(refused) => match refused {
            // What is not known here is no more: ids are never used again.
            Refused::NodeLeft(_) | Refused::UnknownNode(_) => Why::Left,
            Refused::Marked(_) => Why::Marked,
            Refused::Closed(_) => Why::Closed,
            Refused::StaleIncarnation { .. } | Refused::NotUp(_) => Why::Stale,
            Refused::NameInUse { .. } => Why::NameInUse,
            Refused::RestoredCopy { .. } | Refused::LevelTooLow { .. } => Why::Identity,
            Refused::Renewed { .. } | Refused::NotFormed | Refused::NotFounded => Why::Retry,
            _ => Why::Refused,
        },
    }
}

/// What the session machine makes of an answer.
pub fn read_answer(response: pb::SessionResponse) -> holder::Answer {
    use pb::session_response::Result as Answer;
    match response.result {
        Some(Answer::Accepted(accepted)) => match Lease::from_millis(accepted.lease_ms) {
            Ok(lease) => {
                holder::Answer::Granted { index: shoal_core::id::LogIndex(accepted.index), lease }
            }
            Err(_) => holder::Answer::Failed,
        },
        Some(Answer::NotLeader(not)) => holder::Answer::NotLeader {
            hint: Some(NodeId(not.leader)).filter(|leader| leader.0 != 0),
        },
        Some(Answer::Rejected(rejected)) => holder::Answer::Refused(read_refusal(rejected.why())),
        None => holder::Answer::Failed,
    }
}

fn read_refusal(why: pb::rejected::Why) -> holder::Refusal {
    use pb::rejected::Why;
    match why {
        Why::Unspecified | Why::Retry | Why::Refused => holder::Refusal::Retry,
        Why::Stale => holder::Refusal::Stale,
        Why::Left => holder::Refusal::Left,
        Why::Marked => holder::Refusal::Marked,
        Why::Identity | Why::NameInUse => holder::Refusal::Identity,
        Why::TableBehind => holder::Refusal::TableBehind,
        Why::AlreadyRegistered => holder::Refusal::AlreadyRegistered,
        Why::Closed => holder::Refusal::Closed,
    }
}
