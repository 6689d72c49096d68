//! The messages of a hand-over as the frames of its stream, and back.

use bytes::Bytes;
use shoal_core::{
    handoff::{Body, Process, Refusal, Whole},
    id::{ClusterId, Epoch, Incarnation, MoveId, NodeId, ShardId},
    registry::MoveRef,
};
use shoal_proto::shoal::peer::v1 as proto;

use proto::{refusal::Why, transfer_frame::Frame, transfer_reply::Reply};

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a frame lacks its {0}")]
    Missing(&'static str),
    #[error("the cluster id cannot be read")]
    Cluster,
    #[error("a refusal of unknown kind {0}")]
    Refusal(i32),
}

/// Who hands over what to whom: the first frame of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    pub cluster: ClusterId,
    pub key: MoveRef,
    pub source: Process,
    pub target: Process,
}

/// What a source says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Begin(Begin),
    Chunk(Bytes),
    Seal(Whole),
}

pub fn frame(said: Said) -> proto::TransferFrame {
    let frame = match said {
        Said::Begin(begin) => Frame::Begin(proto::Begin { key: Some(move_key(begin)) }),
        Said::Chunk(data) => Frame::Chunk(proto::Chunk { data }),
        Said::Seal(Whole { length, digest }) => Frame::Seal(proto::Seal { length, digest }),
    };
    proto::TransferFrame { frame: Some(frame) }
}

pub fn read_frame(frame: proto::TransferFrame) -> Result<Said, Error> {
    Ok(match frame.frame.ok_or(Error::Missing("content"))? {
        Frame::Begin(begin) => Said::Begin(read_key(begin.key.ok_or(Error::Missing("key"))?)?),
        Frame::Chunk(chunk) => Said::Chunk(chunk.data),
        Frame::Seal(proto::Seal { length, digest }) => Said::Seal(Whole { length, digest }),
    })
}

/// What a target answers; `None` for what only a source says.
pub fn reply(body: Body) -> Option<proto::TransferReply> {
    let reply = match body {
        Body::Prepared => Reply::Ready(proto::Ready {}),
        Body::Holds(whole) => Reply::Ack(ack(whole)),
        Body::Refused(refusal) => Reply::Refusal(refused(refusal)),
        Body::Prepare { .. } | Body::Whole(_) => return None,
    };
    Some(proto::TransferReply { reply: Some(reply) })
}

pub fn read_reply(reply: proto::TransferReply) -> Result<Body, Error> {
    Ok(match reply.reply.ok_or(Error::Missing("content"))? {
        Reply::Ready(proto::Ready {}) => Body::Prepared,
        Reply::Ack(ack) => Body::Holds(read_ack(ack)),
        Reply::Refusal(refusal) => Body::Refused(read_refusal(refusal)?),
    })
}

fn refused(refusal: Refusal) -> proto::Refusal {
    let (why, held) = match refusal {
        Refusal::OtherIncarnation => (Why::OtherIncarnation, None),
        Refusal::Over => (Why::Over, None),
        Refusal::CannotPrepare => (Why::CannotPrepare, None),
        Refusal::Differs(held) => (Why::Differs, Some(ack(held))),
    };
    proto::Refusal { why: why as i32, held }
}

fn read_refusal(refusal: proto::Refusal) -> Result<Refusal, Error> {
    let why = Why::try_from(refusal.why).map_err(|_| Error::Refusal(refusal.why))?;
    Ok(match why {
        Why::OtherIncarnation => Refusal::OtherIncarnation,
        Why::Over => Refusal::Over,
        Why::CannotPrepare => Refusal::CannotPrepare,
        Why::Differs => Refusal::Differs(read_ack(refusal.held.ok_or(Error::Missing("whole"))?)),
        Why::Unspecified => return Err(Error::Refusal(refusal.why)),
    })
}

fn ack(Whole { length, digest }: Whole) -> proto::Ack {
    proto::Ack { length, digest }
}

fn read_ack(proto::Ack { length, digest }: proto::Ack) -> Whole {
    Whole { length, digest }
}

fn move_key(begin: Begin) -> proto::MoveKey {
    let incarnation = |Incarnation { counter, nonce }| Some(proto::Incarnation { counter, nonce });
    proto::MoveKey {
        cluster_id: begin.cluster.to_string(),
        shard: begin.key.shard.0,
        epoch: begin.key.epoch.0,
        r#move: begin.key.id.0,
        source: begin.source.node.0,
        target: begin.target.node.0,
        source_incarnation: incarnation(begin.source.incarnation),
        target_incarnation: incarnation(begin.target.incarnation),
    }
}

fn read_key(key: proto::MoveKey) -> Result<Begin, Error> {
    let process = |node, incarnation: Option<proto::Incarnation>| {
        let proto::Incarnation { counter, nonce } =
            incarnation.ok_or(Error::Missing("incarnation"))?;
        Ok(Process::new(NodeId(node), Incarnation { counter, nonce }))
    };
    Ok(Begin {
        cluster: key.cluster_id.parse().map_err(|_| Error::Cluster)?,
        key: MoveRef { shard: ShardId(key.shard), epoch: Epoch(key.epoch), id: MoveId(key.r#move) },
        source: process(key.source, key.source_incarnation)?,
        target: process(key.target, key.target_incarnation)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_reads_back() {
        let process = |node| Process::new(NodeId(node), Incarnation { counter: node, nonce: 9 });
        let whole = Whole { length: 7, digest: 8 };
        let key = MoveRef { shard: ShardId(1), epoch: Epoch(2), id: MoveId(3) };
        let begin = Begin { cluster: ClusterId(5), key, source: process(1), target: process(2) };
        for said in [Said::Begin(begin), Said::Chunk(Bytes::from("x")), Said::Seal(whole)] {
            assert_eq!(read_frame(frame(said.clone())), Ok(said));
        }
        for refusal in [
            Refusal::OtherIncarnation,
            Refusal::Over,
            Refusal::CannotPrepare,
            Refusal::Differs(whole),
        ] {
            let body = Body::Refused(refusal);
            assert_eq!(reply(body).map(read_reply), Some(Ok(body)));
        }
        for body in [Body::Prepared, Body::Holds(whole)] {
            assert_eq!(reply(body).map(read_reply), Some(Ok(body)));
        }
        assert_eq!(reply(Body::Whole(whole)), None);
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        assert_eq!(
            read_frame(proto::TransferFrame { frame: None }),
            Err(Error::Missing("content"))
        );
        let refusal = proto::Refusal { why: 99, held: None };
        let reply = proto::TransferReply { reply: Some(Reply::Refusal(refusal)) };
        assert_eq!(read_reply(reply), Err(Error::Refusal(99)));
    }
}
