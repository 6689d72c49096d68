//! The commands of the log.

use shoal_core::{
    id::{ClusterId, Epoch, Incarnation, LogIndex, MoveId, NodeId, ShardId},
    registry::{Assign, BeginMove, Command, Configure, MoveRef, Register},
};
use shoal_proto::shoal::registry::v1::{self as proto, command::Body};

use super::{
    Error, known_level, need,
    rows::{
        read_incarnation, read_info, read_lock, read_rebalance, read_session, read_u128,
        write_incarnation, write_info, write_lock, write_rebalance, write_session, write_u128,
    },
};

pub fn write(command: &Command) -> proto::Command {
    proto::Command { level: Some(command.level()), body: Some(write_body(command)) }
}

fn write_body(command: &Command) -> Body {
    match command {
        Command::Found { cluster, founder, directory, shard_count, lease_ms } => {
            Body::Found(proto::Found {
                cluster: Some(write_u128(cluster.0)),
                founder: Some(write_info(founder)),
                directory: Some(write_u128(*directory)),
                shard_count: Some(*shard_count),
                lease_ms: Some(*lease_ms),
            })
        }
        Command::Join { info, directory, replaces } => Body::Join(proto::Join {
            info: Some(write_info(info)),
            directory: Some(write_u128(*directory)),
            replaces: replaces.iter().map(write_replaced).collect(),
        }),
        Command::Form { unix_seconds, highest_epoch_found } => Body::Form(proto::Form {
            unix_seconds: Some(*unix_seconds),
            highest_epoch_found: Some(highest_epoch_found.0),
        }),
        Command::Register(register) => Body::Register(write_register(register)),
        Command::Renew { sessions } => Body::Renew(proto::Renew {
            sessions: sessions.iter().map(|(id, of)| write_session(*id, *of)).collect(),
        }),
        Command::Fence { node, incarnation, renewed } => Body::Fence(proto::Fence {
            session: Some(write_session(*node, *incarnation)),
            renewed: Some(renewed.0),
        }),
        Command::ReportDeath { node, incarnation } => {
            Body::ReportDeath(write_session(*node, *incarnation))
        }
        Command::CloseInPlace { node, incarnation } => {
            Body::CloseInPlace(write_session(*node, *incarnation))
        }
        Command::Close { node, incarnation } => Body::Close(write_session(*node, *incarnation)),
        Command::DrainRestart { node, incarnation } => {
            Body::DrainRestart(write_session(*node, *incarnation))
        }
        Command::DrainRemoval { node } => Body::DrainRemoval(write_node_ref(*node)),
        Command::CancelDrain { node } => Body::CancelDrain(write_node_ref(*node)),
        Command::Leave { node, incarnation } => Body::Leave(write_session(*node, *incarnation)),
        Command::Stay { node, incarnation } => Body::Stay(write_session(*node, *incarnation)),
        Command::StopAll => Body::StopAll(proto::Nothing {}),
        Command::Mark { node } => Body::Mark(write_node_ref(*node)),
        Command::Remove { node, incarnation } => Body::Remove(write_session(*node, *incarnation)),
        Command::Assign { items } => {
            Body::Assign(proto::Targets { items: items.iter().map(write_assign).collect() })
        }
        Command::BeginMove { items } => {
            Body::BeginMove(proto::Targets { items: items.iter().map(write_begin).collect() })
        }
        Command::CommitMove { items } => Body::CommitMove(write_moves(items)),
        Command::AbortMove { items } => Body::AbortMove(write_moves(items)),
        Command::Configure(configure) => Body::Configure(write_configure(configure)),
        Command::SettleLease { previous_since } => {
            Body::SettleLease(proto::SettleLease { previous_since: Some(previous_since.0) })
        }
        Command::RaiseLevel { level } => {
            Body::RaiseLevel(proto::RaiseLevel { level: Some(*level) })
        }
        Command::AcquireOperatorEpoch => Body::AcquireOperatorEpoch(proto::Nothing {}),
        Command::Guarded { operator_epoch, command } => Body::Guarded(Box::new(proto::Guarded {
            operator_epoch: Some(*operator_epoch),
            command: Some(Box::new(write(command))),
        })),
        Command::Blank => Body::Blank(proto::Nothing {}),
    }
}

/// The level is judged first: above it even a body that looks familiar may mean more.
pub fn read(command: proto::Command) -> Result<Command, Error> {
    known_level(need(command.level, "level")?)?;
    let command = match need(command.body, "command")? {
        Body::Found(found) => read_found(found)?,
        Body::Join(join) => read_join(join)?,
        Body::Form(form) => read_form(&form)?,
        Body::Register(register) => Command::Register(read_register(register)?),
        Body::Renew(renew) => Command::Renew { sessions: read_each(renew.sessions, session)? },
        Body::Fence(fence) => read_fence(fence)?,
        Body::ReportDeath(of) => {
            of_session(of, |node, incarnation| Command::ReportDeath { node, incarnation })?
        }
        Body::CloseInPlace(of) => {
            of_session(of, |node, incarnation| Command::CloseInPlace { node, incarnation })?
        }
        Body::Close(of) => {
            of_session(of, |node, incarnation| Command::Close { node, incarnation })?
        }
        Body::DrainRestart(of) => {
            of_session(of, |node, incarnation| Command::DrainRestart { node, incarnation })?
        }
        Body::DrainRemoval(node) => Command::DrainRemoval { node: read_node_ref(node)? },
        Body::CancelDrain(node) => Command::CancelDrain { node: read_node_ref(node)? },
        Body::Leave(of) => {
            of_session(of, |node, incarnation| Command::Leave { node, incarnation })?
        }
        Body::Stay(of) => of_session(of, |node, incarnation| Command::Stay { node, incarnation })?,
        Body::StopAll(proto::Nothing {}) => Command::StopAll,
        Body::Mark(node) => Command::Mark { node: read_node_ref(node)? },
        Body::Remove(of) => {
            of_session(of, |node, incarnation| Command::Remove { node, incarnation })?
        }
        Body::Assign(targets) => Command::Assign { items: read_each(targets.items, read_assign)? },
        Body::BeginMove(targets) => {
            Command::BeginMove { items: read_each(targets.items, read_begin)? }
        }
        Body::CommitMove(moves) => {
            Command::CommitMove { items: read_each(moves.items, read_move)? }
        }
        Body::AbortMove(moves) => Command::AbortMove { items: read_each(moves.items, read_move)? },
        Body::Configure(configure) => Command::Configure(read_configure(configure)?),
        Body::SettleLease(settle) => Command::SettleLease {
            previous_since: LogIndex(need(settle.previous_since, "change of the lease")?),
        },
        // Once raised, this build would be below its cluster.
        Body::RaiseLevel(raise) => {
            Command::RaiseLevel { level: known_level(need(raise.level, "level to raise to")?)? }
        }
        Body::AcquireOperatorEpoch(proto::Nothing {}) => Command::AcquireOperatorEpoch,
        Body::Guarded(guarded) => read_guarded(*guarded)?,
        Body::Blank(proto::Nothing {}) => Command::Blank,
    };
    Ok(command)
}

fn read_each<T, R>(items: Vec<T>, read: fn(T) -> Result<R, Error>) -> Result<Vec<R>, Error> {
    items.into_iter().map(read).collect()
}

fn of_session(
    of: proto::Session,
    command: fn(NodeId, Incarnation) -> Command,
) -> Result<Command, Error> {
    let (node, incarnation) = session(of)?;
    Ok(command(node, incarnation))
}

fn session(session: proto::Session) -> Result<(NodeId, Incarnation), Error> {
    read_session(Some(session), "session")
}

fn read_found(found: proto::Found) -> Result<Command, Error> {
    Ok(Command::Found {
        cluster: ClusterId(read_u128(found.cluster, "cluster id")?),
        founder: read_info(found.founder)?,
        directory: read_u128(found.directory, "directory")?,
        shard_count: need(found.shard_count, "shard count")?,
        lease_ms: need(found.lease_ms, "lease")?,
    })
}

fn write_replaced((node, renewed): &(NodeId, LogIndex)) -> proto::join::Replaced {
    proto::join::Replaced { node: Some(node.0), renewed: Some(renewed.0) }
}

fn read_join(join: proto::Join) -> Result<Command, Error> {
    let replaced = |replaced: proto::join::Replaced| {
        let node = NodeId(need(replaced.node, "node id")?);
        Ok((node, LogIndex(need(replaced.renewed, "last renewal")?)))
    };
    Ok(Command::Join {
        info: read_info(join.info)?,
        directory: read_u128(join.directory, "directory")?,
        replaces: read_each(join.replaces, replaced)?,
    })
}

fn read_form(form: &proto::Form) -> Result<Command, Error> {
    Ok(Command::Form {
        unix_seconds: need(form.unix_seconds, "time of forming")?,
        highest_epoch_found: Epoch(need(form.highest_epoch_found, "highest epoch found")?),
    })
}

fn write_register(register: &Register) -> proto::Register {
    proto::Register {
        node: Some(register.node.0),
        replaces: Some(write_incarnation(register.replaces)),
        incarnation: Some(write_incarnation(register.incarnation)),
        info: Some(write_info(&register.info)),
        lock: register.lock.as_ref().map(write_lock),
        renewed: Some(register.renewed.0),
        proof: Some(register.proof),
        reown: Some(register.reown),
    }
}

fn read_register(register: proto::Register) -> Result<Register, Error> {
    Ok(Register {
        node: NodeId(need(register.node, "node id")?),
        replaces: read_incarnation(register.replaces)?,
        incarnation: read_incarnation(register.incarnation)?,
        info: read_info(register.info)?,
        lock: register.lock.map(read_lock).transpose()?,
        renewed: LogIndex(need(register.renewed, "last renewal")?),
        proof: need(register.proof, "proof")?,
        reown: need(register.reown, "reown")?,
    })
}

fn read_fence(fence: proto::Fence) -> Result<Command, Error> {
    let (node, incarnation) = read_session(fence.session, "session")?;
    let renewed = LogIndex(need(fence.renewed, "last renewal")?);
    Ok(Command::Fence { node, incarnation, renewed })
}

fn write_node_ref(node: NodeId) -> proto::NodeRef {
    proto::NodeRef { node: Some(node.0) }
}

fn read_node_ref(node: proto::NodeRef) -> Result<NodeId, Error> {
    Ok(NodeId(need(node.node, "node id")?))
}

/// A shard at an epoch, and the session that should have it: of an assignment or of a move.
fn write_target(
    (shard, epoch, target, incarnation): (ShardId, Epoch, NodeId, Incarnation),
) -> proto::Target {
    proto::Target {
        shard: Some(shard.0),
        epoch: Some(epoch.0),
        target: Some(write_session(target, incarnation)),
    }
}

fn read_target(item: proto::Target) -> Result<(ShardId, Epoch, NodeId, Incarnation), Error> {
    let (target, incarnation) = read_session(item.target, "target")?;
    let shard = ShardId(need(item.shard, "shard id")?);
    Ok((shard, Epoch(need(item.epoch, "epoch")?), target, incarnation))
}

fn write_assign(item: &Assign) -> proto::Target {
    write_target((item.shard, item.epoch, item.target, item.incarnation))
}

fn read_assign(item: proto::Target) -> Result<Assign, Error> {
    let (shard, epoch, target, incarnation) = read_target(item)?;
    Ok(Assign { shard, epoch, target, incarnation })
}

fn write_begin(item: &BeginMove) -> proto::Target {
    write_target((item.shard, item.epoch, item.target, item.incarnation))
}

fn read_begin(item: proto::Target) -> Result<BeginMove, Error> {
    let (shard, epoch, target, incarnation) = read_target(item)?;
    Ok(BeginMove { shard, epoch, target, incarnation })
}

fn write_moves(items: &[MoveRef]) -> proto::MoveRefs {
    let write = |item: &MoveRef| proto::MoveRef {
        shard: Some(item.shard.0),
        epoch: Some(item.epoch.0),
        id: Some(item.id.0),
    };
    proto::MoveRefs { items: items.iter().map(write).collect() }
}

fn read_move(item: proto::MoveRef) -> Result<MoveRef, Error> {
    Ok(MoveRef {
        shard: ShardId(need(item.shard, "shard id")?),
        epoch: Epoch(need(item.epoch, "epoch")?),
        id: MoveId(need(item.id, "move id")?),
    })
}

fn write_configure(configure: &Configure) -> proto::Configure {
    proto::Configure {
        lease_ms: configure.lease_ms,
        rebalance: configure.rebalance.map(write_rebalance),
        max_moves: configure.max_moves,
        max_moves_per_node: configure.max_moves_per_node,
        cooldown_ms: configure.cooldown_ms,
        max_voters: configure.max_voters,
        max_learners: configure.max_learners,
        shard_count: configure.shard_count,
    }
}

fn read_configure(configure: proto::Configure) -> Result<Configure, Error> {
    Ok(Configure {
        lease_ms: configure.lease_ms,
        rebalance: configure.rebalance.map(read_rebalance).transpose()?,
        max_moves: configure.max_moves,
        max_moves_per_node: configure.max_moves_per_node,
        cooldown_ms: configure.cooldown_ms,
        max_voters: configure.max_voters,
        max_learners: configure.max_learners,
        shard_count: configure.shard_count,
    })
}

/// One level deep: an operator has one epoch.
fn read_guarded(guarded: proto::Guarded) -> Result<Command, Error> {
    let operator_epoch = need(guarded.operator_epoch, "operator epoch")?;
    let command = *need(guarded.command, "guarded command")?;
    if let Some(Body::Guarded(_)) = command.body {
        return Err(Error::Nested);
    }
    Ok(Command::Guarded { operator_epoch, command: Box::new(read(command)?) })
}
