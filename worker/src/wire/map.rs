//! Messages of a watch on the registry.

use std::collections::BTreeMap;

use shoal_core::id::{ClusterId, LogIndex, NodeId};
use shoal_proto::shoal::peer::v1::{self as pb, watch_map_event::Event as Told};

use crate::{
    raft::Heard,
    watch::{Event, News, Why},
};

/// A message that lacks a part it must have, or holds what no part may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the {0} of a watch's event is missing or malformed")]
pub struct Malformed(&'static str);

pub fn event(event: Event) -> pb::WatchMapEvent {
    pb::WatchMapEvent {
        cluster_id: event.cluster.to_string(),
        from: event.from.0,
        index: event.index.0,
        event: Some(match event.news {
            News::Snapshot(rows) => Told::Snapshot(rows),
            News::Delta(rows) => Told::Delta(rows),
            News::Nothing => Told::Progress(pb::Progress {}),
            News::Elsewhere(why) => Told::Elsewhere(pb::Elsewhere { why: write_why(why).into() }),
        }),
        members: event.members.map(|members| pb::Members {
            leader: members.leader.map_or(0, |leader| leader.0),
            voters: sources(members.voters),
            learners: sources(members.learners),
        }),
    }
}

pub fn read_event(event: pb::WatchMapEvent) -> Result<Event, Malformed> {
    Ok(Event {
        cluster: read_cluster(&event.cluster_id)?,
        from: NodeId(event.from),
        index: LogIndex(event.index),
        news: match event.event.ok_or(Malformed("news"))? {
            Told::Snapshot(rows) => News::Snapshot(rows),
            Told::Delta(rows) => News::Delta(rows),
            Told::Progress(pb::Progress {}) => News::Nothing,
            Told::Elsewhere(elsewhere) => News::Elsewhere(read_why(elsewhere.why())?),
        },
        members: event.members.map(|members| Heard {
            leader: Some(NodeId(members.leader)).filter(|leader| leader.0 != 0),
            voters: read_sources(members.voters),
            learners: read_sources(members.learners),
        }),
    })
}

pub fn read_cluster(text: &str) -> Result<ClusterId, Malformed> {
    text.parse().map_err(|_| Malformed("cluster id"))
}

fn sources(nodes: BTreeMap<NodeId, String>) -> Vec<pb::MapSource> {
    nodes.into_iter().map(|(id, raft_address)| pb::MapSource { node: id.0, raft_address }).collect()
}

fn read_sources(sources: Vec<pb::MapSource>) -> BTreeMap<NodeId, String> {
    sources.into_iter().map(|source| (NodeId(source.node), source.raft_address)).collect()
}

fn write_why(why: Why) -> pb::elsewhere::Why {
    match why {
        Why::Behind => pb::elsewhere::Why::Behind,
        Why::Busy => pb::elsewhere::Why::Busy,
        Why::Leads => pb::elsewhere::Why::Leads,
        Why::NoLog => pb::elsewhere::Why::NoLog,
        Why::NotFormed => pb::elsewhere::Why::NotFormed,
    }
}

fn read_why(why: pb::elsewhere::Why) -> Result<Why, Malformed> {
    match why {
        pb::elsewhere::Why::Behind => Ok(Why::Behind),
        pb::elsewhere::Why::Busy => Ok(Why::Busy),
        pb::elsewhere::Why::Leads => Ok(Why::Leads),
        pb::elsewhere::Why::NoLog => Ok(Why::NoLog),
        pb::elsewhere::Why::NotFormed => Ok(Why::NotFormed),
        pb::elsewhere::Why::Unspecified => Err(Malformed("reason")),
    }
}

/// What a watcher asks.
pub fn request(
    cluster: ClusterId,
    (node, to): (NodeId, Option<NodeId>),
    applied: LogIndex,
    last_resort: bool,
) -> pb::WatchMapRequest {
    pb::WatchMapRequest {
        cluster_id: cluster.to_string(),
        node: node.0,
        applied: applied.0,
        to: to.map_or(0, |to| to.0),
        last_resort,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn an_event_comes_back_as_it_went() {
        let members = Heard {
            leader: Some(NodeId(3)),
            voters: BTreeMap::from([(NodeId(3), "a:1".to_owned())]),
            learners: BTreeMap::from([(NodeId(4), "b:1".to_owned())]),
        };
        let news = [
            News::Snapshot(Bytes::from_static(b"rows")),
            News::Delta(Bytes::from_static(b"some")),
            News::Nothing,
        ];
        let refusals = [Why::Behind, Why::Busy, Why::Leads, Why::NoLog, Why::NotFormed];
        for news in news.into_iter().chain(refusals.map(News::Elsewhere)) {
            let told = Event {
                cluster: ClusterId(7),
                from: NodeId(2),
                index: LogIndex(9),
                news,
                members: Some(members.clone()),
            };
            assert_eq!(read_event(event(told.clone())), Ok(told));
        }
        assert_eq!(read_event(pb::WatchMapEvent::default()), Err(Malformed("cluster id")));
    }
}
