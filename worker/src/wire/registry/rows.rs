//! Nodes, shards and settings, and the parts that commands share with them.

use bytes::{Buf as _, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use shoal_core::{
    id::{ClusterId, Epoch, Incarnation, LogIndex, MapVersion, MoveId, NodeId, ShardId},
    registry::{
        Addresses, ClusterState, Delta, Drain, Holding, Life, LockId, Node, NodeInfo, Rebalance,
        Settings, ShardRow,
    },
};
use shoal_proto::shoal::registry::v1 as proto;

use super::{Error, ROWS_LEVEL, known_level, need};

/// Fields of a delta that hold its rows, with the fewest bytes that one has: all that must be
/// there, at its shortest.
const ROWS: [(u32, &str, u64); 2] = [(7, "node", 65), (8, "shard", 15)];

/// Looks at the lengths of the rows before memory is taken for any. A node without its parts
/// is two bytes on the wire and hundreds in memory: a message full of them would take gigabytes
/// before the first is refused.
pub fn long_enough(mut bytes: &[u8]) -> Result<(), Error> {
    while bytes.has_remaining() {
        let (number, wire) = decode_key(&mut bytes)?;
        let row = ROWS.iter().find(|(field, ..)| *field == number);
        match (row, wire) {
            (Some((_, what, least)), WireType::LengthDelimited) => {
                let found = decode_varint(&mut bytes)?;
                if found < *least {
                    return Err(Error::Short { what, found, least: *least });
                }
                // What reaches beyond the end is refused where it is read.
                bytes.advance(bytes.len().min(usize::try_from(found).unwrap_or(usize::MAX)));
            }
            _ => skip_field(wire, number, &mut bytes, DecodeContext::default())?,
        }
    }
    Ok(())
}

pub fn write_delta(delta: &Delta) -> proto::Delta {
    proto::Delta {
        level: Some(ROWS_LEVEL),
        cluster: Some(proto::Cluster {
            id: Some(write_u128(delta.cluster.id.0)),
            formed: delta.cluster.formed.map(|index| index.0),
            first_epoch: Some(delta.cluster.first_epoch.0),
            recovered_from: delta.cluster.recovered_from.map(|id| write_u128(id.0)),
        }),
        since: Some(delta.since.0),
        applied: Some(delta.applied.0),
        map_version: Some(delta.map_version.0),
        settings: delta.settings.as_ref().map(|(settings, at)| write_settings(settings, *at)),
        nodes: delta.nodes.iter().map(|(id, node)| write_node(*id, node)).collect(),
        shards: delta.shards.iter().map(|(id, row)| write_shard(*id, row)).collect(),
    }
}

pub fn read_delta(delta: proto::Delta) -> Result<Delta, Error> {
    known_level(need(delta.level, "level")?)?;
    let cluster = need(delta.cluster, "cluster")?;
    Ok(Delta {
        cluster: ClusterState {
            id: ClusterId(read_u128(cluster.id, "cluster id")?),
            formed: cluster.formed.map(LogIndex),
            first_epoch: Epoch(need(cluster.first_epoch, "first epoch")?),
            recovered_from: cluster
                .recovered_from
                .map(|id| read_u128(Some(id), "former cluster id").map(ClusterId))
                .transpose()?,
        },
        since: LogIndex(need(delta.since, "since")?),
        applied: LogIndex(need(delta.applied, "applied index")?),
        map_version: MapVersion(need(delta.map_version, "map version")?),
        settings: delta.settings.map(read_settings).transpose()?,
        nodes: delta.nodes.into_iter().map(read_node).collect::<Result<_, _>>()?,
        shards: delta.shards.into_iter().map(read_shard).collect::<Result<_, _>>()?,
    })
}

fn write_settings(settings: &Settings, changed: LogIndex) -> proto::Settings {
    let previous = settings.previous_lease;
    proto::Settings {
        changed: Some(changed.0),
        shard_count: Some(settings.shard_count),
        lease_ms: Some(settings.lease_ms),
        previous_lease: previous.map(|(lease_ms, since)| proto::PreviousLease {
            lease_ms: Some(lease_ms),
            since: Some(since.0),
        }),
        feature_level: Some(settings.feature_level),
        operator_epoch: Some(settings.operator_epoch),
        rebalance: Some(write_rebalance(settings.rebalance)),
        max_moves: Some(settings.max_moves),
        max_moves_per_node: Some(settings.max_moves_per_node),
        cooldown_ms: Some(settings.cooldown_ms),
        max_voters: Some(settings.max_voters),
        max_learners: Some(settings.max_learners),
    }
}

fn read_settings(settings: proto::Settings) -> Result<(Settings, LogIndex), Error> {
    let read_previous = |previous: proto::PreviousLease| {
        let lease_ms = need(previous.lease_ms, "previous lease")?;
        Ok::<_, Error>((lease_ms, LogIndex(need(previous.since, "end of the previous lease")?)))
    };
    let read = Settings {
        shard_count: need(settings.shard_count, "shard count")?,
        lease_ms: need(settings.lease_ms, "lease")?,
        previous_lease: settings.previous_lease.map(read_previous).transpose()?,
        feature_level: known_level(need(settings.feature_level, "feature level")?)?,
        operator_epoch: need(settings.operator_epoch, "operator epoch")?,
        rebalance: read_rebalance(need(settings.rebalance, "rebalance")?)?,
        max_moves: need(settings.max_moves, "max_moves")?,
        max_moves_per_node: need(settings.max_moves_per_node, "max_moves_per_node")?,
        cooldown_ms: need(settings.cooldown_ms, "cooldown")?,
        max_voters: need(settings.max_voters, "max_voters")?,
        max_learners: need(settings.max_learners, "max_learners")?,
    };
    Ok((read, LogIndex(need(settings.changed, "index of the settings")?)))
}

pub fn write_rebalance(rebalance: Rebalance) -> i32 {
    let written = match rebalance {
        Rebalance::Automatic => proto::Rebalance::Automatic,
        Rebalance::Paused => proto::Rebalance::Paused,
    };
    written.into()
}

pub fn read_rebalance(value: i32) -> Result<Rebalance, Error> {
    match proto::Rebalance::try_from(value) {
        Ok(proto::Rebalance::Automatic) => Ok(Rebalance::Automatic),
        Ok(proto::Rebalance::Paused) => Ok(Rebalance::Paused),
        Ok(proto::Rebalance::Unspecified) | Err(_) => {
            Err(Error::Unknown { what: "rebalance mode", value })
        }
    }
}

fn write_node(id: NodeId, node: &Node) -> proto::Node {
    use proto::node::Drain as Written;
    proto::Node {
        id: Some(id.0),
        info: Some(write_info(&node.info)),
        directory: Some(write_u128(node.directory)),
        incarnation: Some(write_incarnation(node.incarnation)),
        lock: node.lock.as_ref().map(write_lock),
        life: Some(write_life(node.life)),
        drain: Some(match node.drain {
            Drain::None => Written::NoDrain(proto::Nothing {}),
            Drain::Restart(incarnation) => Written::Restart(write_incarnation(incarnation)),
            Drain::Own(incarnation) => Written::Own(write_incarnation(incarnation)),
            Drain::Removal => Written::Removal(proto::Nothing {}),
        }),
        marked: Some(node.marked),
        renewed: Some(node.renewed.0),
        changed: Some(node.changed.0),
    }
}

fn read_node(node: proto::Node) -> Result<(NodeId, Node), Error> {
    use proto::node::Drain as Written;
    let read = Node {
        info: read_info(node.info)?,
        directory: read_u128(node.directory, "directory")?,
        incarnation: read_incarnation(node.incarnation)?,
        lock: node.lock.map(read_lock).transpose()?,
        life: read_life(need(node.life, "life")?)?,
        drain: match need(node.drain, "drain")? {
            Written::NoDrain(proto::Nothing {}) => Drain::None,
            Written::Restart(incarnation) => Drain::Restart(read_incarnation(Some(incarnation))?),
            Written::Own(incarnation) => Drain::Own(read_incarnation(Some(incarnation))?),
            Written::Removal(proto::Nothing {}) => Drain::Removal,
        },
        marked: need(node.marked, "mark")?,
        renewed: LogIndex(need(node.renewed, "last renewal")?),
        changed: LogIndex(need(node.changed, "index of the node")?),
    };
    Ok((NodeId(need(node.id, "node id")?), read))
}

fn write_life(life: Life) -> i32 {
    let written = match life {
        Life::Joining => proto::Life::Joining,
        Life::Up => proto::Life::Up,
        Life::Closed => proto::Life::Closed,
        Life::Fenced => proto::Life::Fenced,
        Life::Left => proto::Life::Left,
    };
    written.into()
}

fn read_life(value: i32) -> Result<Life, Error> {
    match proto::Life::try_from(value) {
        Ok(proto::Life::Joining) => Ok(Life::Joining),
        Ok(proto::Life::Up) => Ok(Life::Up),
        Ok(proto::Life::Closed) => Ok(Life::Closed),
        Ok(proto::Life::Fenced) => Ok(Life::Fenced),
        Ok(proto::Life::Left) => Ok(Life::Left),
        Ok(proto::Life::Unspecified) | Err(_) => {
            Err(Error::Unknown { what: "life of a node", value })
        }
    }
}

fn write_shard(id: ShardId, row: &ShardRow) -> proto::Shard {
    use proto::shard::Holding as Written;
    let holding = match row.holding {
        Holding::Unassigned => Written::Unassigned(proto::Nothing {}),
        Holding::Owned { node, incarnation, via } => Written::Owned(proto::Owned {
            owner: Some(write_session(node, incarnation)),
            via: via.map(|id| id.0),
        }),
        Holding::Moving { node, incarnation, via, target, target_incarnation, id } => {
            Written::Moving(proto::Moving {
                owner: Some(write_session(node, incarnation)),
                via: via.map(|id| id.0),
                target: Some(write_session(target, target_incarnation)),
                id: Some(id.0),
            })
        }
    };
    proto::Shard {
        id: Some(id.0),
        epoch: Some(row.epoch.0),
        changed: Some(row.changed.0),
        holding: Some(holding),
    }
}

fn read_shard(shard: proto::Shard) -> Result<(ShardId, ShardRow), Error> {
    use proto::shard::Holding as Written;
    let holding = match need(shard.holding, "holding")? {
        Written::Unassigned(proto::Nothing {}) => Holding::Unassigned,
        Written::Owned(owned) => {
            let (node, incarnation) = read_session(owned.owner, "owner")?;
            Holding::Owned { node, incarnation, via: owned.via.map(MoveId) }
        }
        Written::Moving(moving) => {
            let (node, incarnation) = read_session(moving.owner, "owner")?;
            let (target, target_incarnation) = read_session(moving.target, "target")?;
            let id = MoveId(need(moving.id, "move id")?);
            let via = moving.via.map(MoveId);
            Holding::Moving { node, incarnation, via, target, target_incarnation, id }
        }
    };
    let row = ShardRow {
        epoch: Epoch(need(shard.epoch, "epoch")?),
        holding,
        changed: LogIndex(need(shard.changed, "index of the shard")?),
    };
    Ok((ShardId(need(shard.id, "shard id")?), row))
}

pub fn write_info(info: &NodeInfo) -> proto::NodeInfo {
    let addresses = info.addresses.clone();
    proto::NodeInfo {
        name: Some(info.name.clone()),
        pod_uid: info.pod_uid.clone(),
        addresses: Some(proto::Addresses {
            data: Some(addresses.data),
            raft: Some(addresses.raft),
            admin: Some(addresses.admin),
            http: Some(addresses.http),
        }),
        zone: Some(info.zone.clone()),
        weight: Some(info.weight),
        feature_level: Some(info.feature_level),
        revision: Some(info.revision.clone()),
    }
}

pub fn read_info(info: Option<proto::NodeInfo>) -> Result<NodeInfo, Error> {
    let info = need(info, "node info")?;
    let addresses = need(info.addresses, "addresses")?;
    Ok(NodeInfo {
        name: need(info.name, "name")?,
        pod_uid: info.pod_uid,
        addresses: Addresses {
            data: need(addresses.data, "data address")?,
            raft: need(addresses.raft, "raft address")?,
            admin: need(addresses.admin, "admin address")?,
            http: need(addresses.http, "http address")?,
        },
        zone: need(info.zone, "zone")?,
        weight: need(info.weight, "weight")?,
        feature_level: need(info.feature_level, "feature level of a node")?,
        revision: need(info.revision, "revision")?,
    })
}

pub fn write_lock(lock: &LockId) -> proto::LockId {
    proto::LockId {
        boot_id: Some(lock.boot_id.clone()),
        device: Some(lock.device),
        inode: Some(lock.inode),
    }
}

pub fn read_lock(lock: proto::LockId) -> Result<LockId, Error> {
    Ok(LockId {
        boot_id: need(lock.boot_id, "boot id")?,
        device: need(lock.device, "device")?,
        inode: need(lock.inode, "inode")?,
    })
}

pub fn write_session(node: NodeId, incarnation: Incarnation) -> proto::Session {
    proto::Session { node: Some(node.0), incarnation: Some(write_incarnation(incarnation)) }
}

pub fn read_session(
    session: Option<proto::Session>,
    name: &'static str,
) -> Result<(NodeId, Incarnation), Error> {
    let session = need(session, name)?;
    Ok((NodeId(need(session.node, "node id")?), read_incarnation(session.incarnation)?))
}

pub fn write_incarnation(incarnation: Incarnation) -> proto::Incarnation {
    proto::Incarnation { counter: Some(incarnation.counter), nonce: Some(incarnation.nonce) }
}

pub fn read_incarnation(incarnation: Option<proto::Incarnation>) -> Result<Incarnation, Error> {
    let incarnation = need(incarnation, "incarnation")?;
    Ok(Incarnation {
        counter: need(incarnation.counter, "counter of an incarnation")?,
        nonce: need(incarnation.nonce, "nonce of an incarnation")?,
    })
}

pub fn write_u128(number: u128) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

pub fn read_u128(bytes: Option<Bytes>, what: &'static str) -> Result<u128, Error> {
    let bytes = need(bytes, what)?;
    let exact = <[u8; 16]>::try_from(&*bytes);
    exact.map(u128::from_be_bytes).map_err(|_| Error::Length { what, found: bytes.len() })
}
