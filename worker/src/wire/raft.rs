//! Raft's messages: what `shoal.peer.v1` writes, read back into the types Raft runs on.
//!
//! The same messages go over the network and to the disk. A message with a part missing is
//! refused, never completed by a guess.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{
    EntryPayload,
    raft::{
        AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
    vote::RaftLeaderId as _,
};
use shoal_proto::shoal::peer::v1 as proto;

use crate::raft::types::{
    Entry, LogId, Member, Membership, Payload, SnapshotMeta, StoredMembership, Types, Vote,
};

/// A message that lacks a part, or whose parts contradict each other.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the message lacks its {0}")]
    Missing(&'static str),
    #[error("the membership is impossible: {0}")]
    Membership(String),
}

pub fn vote(vote: &Vote) -> proto::Vote {
    proto::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub fn read_vote(vote: Option<proto::Vote>) -> Result<Vote, Error> {
    let vote = vote.ok_or(Error::Missing("vote"))?;
    Ok(Vote { leader_id: leader_id(vote.term, vote.node), committed: vote.committed })
}

pub fn log_id(id: &LogId) -> proto::LogId {
    proto::LogId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

pub fn read_log_id(id: proto::LogId) -> LogId {
    LogId::new(leader_id(id.term, id.node).to_committed(), id.index)
}

fn leader_id(term: u64, node: u64) -> openraft::type_config::alias::LeaderIdOf<Types> {
    openraft::vote::RaftLeaderId::new(term, node)
}

pub fn membership(membership: &Membership) -> proto::Membership {
    proto::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| proto::membership::Config { voters: voters.iter().copied().collect() })
            .collect(),
        members: membership
            .nodes()
            .map(|(id, node)| proto::membership::Member {
                id: *id,
                name: node.name.clone(),
                raft_address: node.raft_address.clone(),
            })
            .collect(),
    }
}

pub fn read_membership(membership: proto::Membership) -> Result<Membership, Error> {
    let configs: Vec<BTreeSet<u64>> =
        membership.configs.into_iter().map(|config| config.voters.into_iter().collect()).collect();
    let members: BTreeMap<u64, Member> = membership
        .members
        .into_iter()
        .map(|m| (m.id, Member { name: m.name, raft_address: m.raft_address }))
        .collect();
    if configs.is_empty() && members.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, members).map_err(|error| Error::Membership(error.to_string()))
}

pub fn entry(entry: &Entry) -> proto::LogEntry {
    use proto::log_entry::{Blank, Payload as P};
    let payload = match &entry.payload {
        EntryPayload::Blank => P::Blank(Blank {}),
        EntryPayload::Normal(payload) => P::Command(payload.0.clone()),
        EntryPayload::Membership(m) => P::Membership(membership(m)),
    };
    proto::LogEntry { id: Some(log_id(&entry.log_id)), payload: Some(payload) }
}

pub fn read_entry(entry: proto::LogEntry) -> Result<Entry, Error> {
    use proto::log_entry::Payload as P;
    let log_id = read_log_id(entry.id.ok_or(Error::Missing("log id"))?);
    let payload = match entry.payload.ok_or(Error::Missing("payload"))? {
        P::Blank(_) => EntryPayload::Blank,
        P::Command(bytes) => EntryPayload::Normal(Payload(bytes)),
        P::Membership(m) => EntryPayload::Membership(read_membership(m)?),
    };
    Ok(Entry { log_id, payload })
}

pub fn append_request(
    header: proto::RaftHeader,
    request: &AppendEntriesRequest<Types>,
) -> proto::AppendRequest {
    proto::AppendRequest {
        header: Some(header),
        vote: Some(vote(&request.vote)),
        previous: request.prev_log_id.as_ref().map(log_id),
        entries: request.entries.iter().map(entry).collect(),
        committed: request.leader_commit.as_ref().map(log_id),
    }
}

pub fn read_append_request(
    request: proto::AppendRequest,
) -> Result<AppendEntriesRequest<Types>, Error> {
    Ok(AppendEntriesRequest {
        vote: read_vote(request.vote)?,
        prev_log_id: request.previous.map(read_log_id),
        entries: request.entries.into_iter().map(read_entry).collect::<Result<_, _>>()?,
        leader_commit: request.committed.map(read_log_id),
    })
}

pub fn append_response(result: &StreamAppendResult<Types>) -> proto::AppendResponse {
    use proto::append_response::{Matched, Result as R};
    let result = match result {
        Ok(last) => R::Matched(Matched { last: last.as_ref().map(log_id) }),
        Err(StreamAppendError::Conflict(at)) => R::Conflict(log_id(at)),
        Err(StreamAppendError::HigherVote(higher)) => R::HigherVote(vote(higher)),
    };
    proto::AppendResponse { result: Some(result) }
}

pub fn read_append_response(
    response: proto::AppendResponse,
) -> Result<StreamAppendResult<Types>, Error> {
    use proto::append_response::Result as R;
    Ok(match response.result.ok_or(Error::Missing("result"))? {
        R::Matched(matched) => Ok(matched.last.map(read_log_id)),
        R::Conflict(at) => Err(StreamAppendError::Conflict(read_log_id(at))),
        R::HigherVote(higher) => Err(StreamAppendError::HigherVote(read_vote(Some(higher))?)),
    })
}

pub fn vote_request(header: proto::RaftHeader, request: &VoteRequest<Types>) -> proto::VoteRequest {
    proto::VoteRequest {
        header: Some(header),
        vote: Some(vote(&request.vote)),
        last: request.last_log_id.as_ref().map(log_id),
        leadership_transfer: request.leadership_transfer,
    }
}

pub fn read_vote_request(request: proto::VoteRequest) -> Result<VoteRequest<Types>, Error> {
    Ok(VoteRequest {
        vote: read_vote(request.vote)?,
        last_log_id: request.last.map(read_log_id),
        leadership_transfer: request.leadership_transfer,
    })
}

pub fn vote_response(response: &VoteResponse<Types>) -> proto::VoteResponse {
    proto::VoteResponse {
        vote: Some(vote(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(log_id),
    }
}

pub fn read_vote_response(response: proto::VoteResponse) -> Result<VoteResponse<Types>, Error> {
    Ok(VoteResponse {
        vote: read_vote(response.vote)?,
        vote_granted: response.granted,
        last_log_id: response.last.map(read_log_id),
    })
}

pub fn transfer_request(
    header: proto::RaftHeader,
    request: &TransferLeaderRequest<Types>,
) -> proto::TransferRequest {
    proto::TransferRequest {
        header: Some(header),
        from_leader: Some(vote(request.from_leader())),
        last: request.last_log_id().map(log_id),
        heir: *request.to_node_id(),
    }
}

pub fn read_transfer_request(
    request: proto::TransferRequest,
) -> Result<TransferLeaderRequest<Types>, Error> {
    Ok(TransferLeaderRequest::new(
        read_vote(request.from_leader)?,
        request.heir,
        request.last.map(read_log_id),
    ))
}

pub fn transfer_response(response: &TransferLeaderResponse<Types>) -> proto::TransferResponse {
    use proto::transfer_response::{Done, LogBehind, Result as R, VoteChanged};
    let result = match response {
        Ok(()) => R::Done(Done {}),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => R::VoteChanged(VoteChanged {
            expected: Some(vote(expected)),
            actual: Some(vote(actual)),
        }),
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => R::LogBehind(LogBehind {
            expected: expected.as_ref().map(log_id),
            actual: actual.as_ref().map(log_id),
        }),
    };
    proto::TransferResponse { result: Some(result) }
}

pub fn read_transfer_response(
    response: proto::TransferResponse,
) -> Result<TransferLeaderResponse<Types>, Error> {
    use proto::transfer_response::Result as R;
    Ok(match response.result.ok_or(Error::Missing("result"))? {
        R::Done(_) => Ok(()),
        R::VoteChanged(changed) => Err(TransferLeaderError::VoteChanged {
            expected: read_vote(changed.expected)?,
            actual: read_vote(changed.actual)?,
        }),
        R::LogBehind(behind) => Err(TransferLeaderError::LogNotFlushed {
            expected: behind.expected.map(read_log_id),
            actual: behind.actual.map(read_log_id),
        }),
    })
}

pub fn snapshot_meta(meta: &SnapshotMeta) -> proto::SnapshotMeta {
    proto::SnapshotMeta {
        last: meta.last_log_id.as_ref().map(log_id),
        membership_id: meta.last_membership.log_id().as_ref().map(log_id),
        membership: Some(membership(meta.last_membership.membership())),
    }
}

pub fn read_snapshot_meta(meta: Option<proto::SnapshotMeta>) -> Result<SnapshotMeta, Error> {
    let meta = meta.ok_or(Error::Missing("snapshot meta"))?;
    Ok(SnapshotMeta {
        last_log_id: meta.last.map(read_log_id),
        last_membership: StoredMembership::new(
            meta.membership_id.map(read_log_id),
            read_membership(meta.membership.ok_or(Error::Missing("membership"))?)?,
        ),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn some_log_id() -> impl Strategy<Value = LogId> {
        (any::<u64>(), any::<u64>(), any::<u64>())
            .prop_map(|(term, node, index)| read_log_id(proto::LogId { term, node, index }))
    }

    fn some_vote() -> impl Strategy<Value = Vote> {
        (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(term, node, committed)| Vote {
            leader_id: leader_id(term, node),
            committed,
        })
    }

    fn some_membership() -> impl Strategy<Value = Membership> {
        let members =
            prop::collection::btree_map(1..9_u64, ("[a-z]{0,9}", "[a-z]{0,9}:[0-9]"), 1..9);
        (members, 1..3_usize).prop_map(|(members, configs)| {
            let voters: BTreeSet<u64> = members.keys().copied().take(3).collect();
            let members = members.into_iter();
            let member = |(name, raft_address)| Member { name, raft_address };
            let members: BTreeMap<_, _> = members.map(|(id, m)| (id, member(m))).collect();
            Membership::new(vec![voters; configs], members).unwrap()
        })
    }

    fn some_entry() -> impl Strategy<Value = Entry> {
        let payload = prop_oneof![
            Just(EntryPayload::Blank),
            prop::collection::vec(any::<u8>(), 0..300)
                .prop_map(|bytes| EntryPayload::Normal(Payload(bytes.into()))),
            some_membership().prop_map(EntryPayload::Membership),
        ];
        (some_log_id(), payload).prop_map(|(log_id, payload)| Entry { log_id, payload })
    }

    proptest! {
        #[test]
        fn an_append_arrives_as_it_was_sent(
            sent in some_vote(),
            previous in prop::option::of(some_log_id()),
            entries in prop::collection::vec(some_entry(), 0..5),
            commit in prop::option::of(some_log_id()),
        ) {
            let request = AppendEntriesRequest::<Types> {
                vote: sent,
                prev_log_id: previous,
                entries,
                leader_commit: commit,
            };
            let bytes = append_request(proto::RaftHeader::default(), &request).encode_to_vec();
            let read = proto::AppendRequest::decode(&*bytes).unwrap();
            let read = read_append_request(read).unwrap();
            prop_assert_eq!(read.vote, request.vote);
            prop_assert_eq!(read.prev_log_id, request.prev_log_id);
            prop_assert_eq!(read.entries, request.entries);
            prop_assert_eq!(read.leader_commit, request.leader_commit);
        }

        #[test]
        fn answers_arrive_as_they_were_sent(
            one in some_vote(), other in some_vote(), id in some_log_id(), granted: bool,
        ) {
            let answers: [StreamAppendResult<Types>; 4] = [
                Ok(None),
                Ok(Some(id)),
                Err(StreamAppendError::Conflict(id)),
                Err(StreamAppendError::HigherVote(one)),
            ];
            for answer in answers {
                prop_assert_eq!(read_append_response(append_response(&answer)).unwrap(), answer);
            }
            let answer = VoteResponse::<Types>::new(one, Some(id), granted);
            prop_assert_eq!(read_vote_response(vote_response(&answer)).unwrap(), answer);
            let refusals: [TransferLeaderResponse<Types>; 3] = [
                Ok(()),
                Err(TransferLeaderError::VoteChanged { expected: one, actual: other }),
                Err(TransferLeaderError::LogNotFlushed { expected: Some(id), actual: None }),
            ];
            for answer in refusals {
                prop_assert_eq!(read_transfer_response(transfer_response(&answer)).unwrap(), answer);
            }
        }

        #[test]
        fn a_snapshots_meta_arrives_as_it_was_sent(
            last in prop::option::of(some_log_id()),
            membership_id in prop::option::of(some_log_id()),
            membership in some_membership(),
        ) {
            let meta = SnapshotMeta {
                last_log_id: last,
                last_membership: StoredMembership::new(membership_id, membership),
            };
            prop_assert_eq!(read_snapshot_meta(Some(snapshot_meta(&meta))).unwrap(), meta);
        }

        #[test]
        fn arbitrary_bytes_are_refused_without_harm(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Ok(message) = proto::AppendRequest::decode(&*bytes) {
                let _ = read_append_request(message);
            }
            if let Ok(message) = proto::LogEntry::decode(&*bytes) {
                let _ = read_entry(message);
            }
            if let Ok(message) = proto::SnapshotMeta::decode(&*bytes) {
                let _ = read_snapshot_meta(Some(message));
            }
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let text = |error: Error| error.to_string();
        let error = read_append_request(proto::AppendRequest::default()).unwrap_err();
        assert_eq!(text(error), "the message lacks its vote");
        let error = read_entry(proto::LogEntry::default()).unwrap_err();
        assert_eq!(text(error), "the message lacks its log id");
        let error = read_append_response(proto::AppendResponse::default()).unwrap_err();
        assert_eq!(text(error), "the message lacks its result");
        let stranger = proto::Membership {
            configs: vec![proto::membership::Config { voters: vec![4] }],
            members: Vec::new(),
        };
        assert!(text(read_membership(stranger).unwrap_err()).starts_with("the membership is"));
    }
}
