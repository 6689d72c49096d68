//! Founding's questions and answers. What comes in is judged here: lengths, counts, ids.

use shoal_core::{
    found::{Answer, Content, Formed, JoinedState, Member, Peer, PeerState, Question, Renounced},
    id::{ClusterId, Epoch},
};
use shoal_proto::shoal::peer::v1::{self as proto, founding_answer};

/// Longest name or address: a host name and a port.
const MAX_NAME: usize = 262;
/// Longest list of names or peers: that of the largest founding set.
const MAX_PEERS: usize = 5;

/// What is wrong with a message of founding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{0} is not 16 bytes long")]
    Nonce(&'static str),
    #[error("{0} is empty or longer than {MAX_NAME} bytes")]
    Name(&'static str),
    #[error("{0} is no cluster id")]
    Cluster(&'static str),
    #[error("{0} has more than {MAX_PEERS} entries")]
    TooMany(&'static str),
    #[error("it has no content that this version knows")]
    Unknown,
}

pub fn question_out(question: &Question) -> proto::FoundingQuestion {
    proto::FoundingQuestion {
        number: question.number,
        nonce: bytes(question.nonce),
        from: Some(peer_out(&question.from)),
        founding_set: question.founding_set,
        to: question.to.clone(),
        formed_cluster_id: question.formed.map(|cluster| cluster.to_string()),
        renounced: question.renounced.map(|renounced| proto::Renounced {
            nonce: bytes(renounced.dead),
            replaced_by: bytes(renounced.by),
        }),
    }
}

pub fn question_in(question: proto::FoundingQuestion) -> Result<Question, Error> {
    let renounced = |renounced: proto::Renounced| {
        Ok(Renounced {
            dead: nonce("renounced.nonce", &renounced.nonce)?,
            by: nonce("renounced.replaced_by", &renounced.replaced_by)?,
        })
    };
    Ok(Question {
        number: question.number,
        nonce: nonce("nonce", &question.nonce)?,
        from: peer_in("from", question.from.ok_or(Error::Missing("from"))?)?,
        founding_set: question.founding_set,
        to: question.to.map(|to| name("to", to)).transpose()?,
        formed: question
            .formed_cluster_id
            .map(|id| cluster("formed_cluster_id", &id))
            .transpose()?,
        renounced: question.renounced.map(renounced).transpose()?,
    })
}

pub fn answer_out(answer: &Answer) -> proto::FoundingAnswer {
    let content = match &answer.content {
        Content::State(state) => founding_answer::Content::State(state_out(state)),
        Content::SetsDiffer { names } => {
            founding_answer::Content::SetsDiffer(proto::FoundingSetsDiffer { names: names.clone() })
        }
        Content::NameInUse { address } => {
            founding_answer::Content::NameInUse(proto::NameInUse { address: address.clone() })
        }
    };
    proto::FoundingAnswer {
        number: answer.number,
        nonce: bytes(answer.nonce),
        content: Some(content),
    }
}

pub fn answer_in(answer: proto::FoundingAnswer) -> Result<Answer, Error> {
    let content = match answer.content.ok_or(Error::Unknown)? {
        founding_answer::Content::State(state) => Content::State(state_in(state)?),
        founding_answer::Content::SetsDiffer(differ) => {
            bounded("names", differ.names.len())?;
            let names = differ.names.into_iter().map(|text| name("names", text));
            Content::SetsDiffer { names: names.collect::<Result<_, _>>()? }
        }
        founding_answer::Content::NameInUse(used) => {
            Content::NameInUse { address: name("address", used.address)? }
        }
    };
    Ok(Answer { nonce: nonce("nonce", &answer.nonce)?, number: answer.number, content })
}

fn state_out(state: &PeerState) -> proto::FoundingState {
    let formed = match state.formed {
        Formed::No => proto::Formed::No,
        Formed::InLog => proto::Formed::InLog,
        Formed::Committed => proto::Formed::Committed,
    };
    proto::FoundingState {
        member: Some(member_out(&state.member)),
        first_boot_ms: state.boot_ms,
        known: state.known.iter().map(peer_out).collect(),
        oldest: state.oldest.clone(),
        cluster: state.joined.as_ref().map(|joined| proto::FoundingCluster {
            cluster_id: joined.cluster.to_string(),
            founder: Some(member_out(&joined.founder)),
        }),
        formed: formed.into(),
        ever_left: state.ever_left,
        highest_epoch: state.highest_epoch.0,
    }
}

fn state_in(state: proto::FoundingState) -> Result<PeerState, Error> {
    let formed = match state.formed() {
        proto::Formed::Unspecified => return Err(Error::Missing("formed")),
        proto::Formed::No => Formed::No,
        proto::Formed::InLog => Formed::InLog,
        proto::Formed::Committed => Formed::Committed,
    };
    bounded("known", state.known.len())?;
    let joined = |joined: proto::FoundingCluster| {
        Ok(JoinedState {
            cluster: cluster("cluster.cluster_id", &joined.cluster_id)?,
            founder: member_in(joined.founder)?,
        })
    };
    Ok(PeerState {
        member: member_in(state.member)?,
        boot_ms: state.first_boot_ms,
        known: state
            .known
            .into_iter()
            .map(|peer| peer_in("known", peer))
            .collect::<Result<_, _>>()?,
        oldest: state.oldest.map(|oldest| name("oldest", oldest)).transpose()?,
        joined: state.cluster.map(joined).transpose()?,
        formed,
        ever_left: state.ever_left,
        highest_epoch: Epoch(state.highest_epoch),
    })
}

fn peer_out(peer: &Peer) -> proto::FoundingPeer {
    proto::FoundingPeer { name: peer.name.clone(), address: peer.address.clone() }
}

fn peer_in(field: &'static str, peer: proto::FoundingPeer) -> Result<Peer, Error> {
    Ok(Peer { name: name(field, peer.name)?, address: name(field, peer.address)? })
}

fn member_out(member: &Member) -> proto::FoundingMember {
    proto::FoundingMember { name: member.name.clone(), nonce: bytes(member.nonce) }
}

fn member_in(member: Option<proto::FoundingMember>) -> Result<Member, Error> {
    let member = member.ok_or(Error::Missing("member"))?;
    Ok(Member { name: name("member", member.name)?, nonce: nonce("member", &member.nonce)? })
}

fn bytes(nonce: u128) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&nonce.to_be_bytes())
}

fn nonce(field: &'static str, bytes: &[u8]) -> Result<u128, Error> {
    bytes.try_into().map(u128::from_be_bytes).map_err(|_| Error::Nonce(field))
}

fn name(field: &'static str, text: String) -> Result<String, Error> {
    if (1..=MAX_NAME).contains(&text.len()) { Ok(text) } else { Err(Error::Name(field)) }
}

fn cluster(field: &'static str, text: &str) -> Result<ClusterId, Error> {
    text.parse().map_err(|_| Error::Cluster(field))
}

fn bounded(field: &'static str, count: usize) -> Result<(), Error> {
    if count <= MAX_PEERS { Ok(()) } else { Err(Error::TooMany(field)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer { name: "localhost:11000".to_owned(), address: "localhost:12000".to_owned() }
    }

    fn question() -> Question {
        Question {
            number: u64::MAX,
            nonce: 1 << 127,
            from: peer(),
            founding_set: Some(3),
            to: Some("b".to_owned()),
            formed: Some(ClusterId(9)),
            renounced: Some(Renounced { dead: 1, by: 2 }),
        }
    }

    fn state() -> PeerState {
        let member = Member { name: "a".to_owned(), nonce: 5 };
        PeerState {
            member: member.clone(),
            boot_ms: 7,
            known: vec![peer()],
            oldest: Some("a".to_owned()),
            joined: Some(JoinedState { cluster: ClusterId(8), founder: member }),
            formed: Formed::InLog,
            ever_left: true,
            highest_epoch: Epoch::new(3, 4),
        }
    }

    #[test]
    fn questions_and_answers_come_back_equal() {
        assert_eq!(question_in(question_out(&question())), Ok(question()));
        let contents = [
            Content::State(state()),
            Content::SetsDiffer { names: vec!["a".to_owned()] },
            Content::NameInUse { address: "a:1".to_owned() },
        ];
        for content in contents {
            let answer = Answer { nonce: 3, number: 4, content };
            assert_eq!(answer_in(answer_out(&answer)), Ok(answer));
        }
    }

    #[test]
    fn malformed_messages_are_named() {
        let with = |change: fn(&mut proto::FoundingQuestion)| {
            let mut message = question_out(&question());
            change(&mut message);
            question_in(message)
        };
        assert_eq!(with(|q| q.nonce.clear()), Err(Error::Nonce("nonce")));
        assert_eq!(with(|q| q.from = None), Err(Error::Missing("from")));
        assert_eq!(with(|q| q.to = Some("x".repeat(263))), Err(Error::Name("to")));
        let cluster = with(|q| q.formed_cluster_id = Some("none".to_owned()));
        assert_eq!(cluster, Err(Error::Cluster("formed_cluster_id")));
        let mut many = state_out(&state());
        many.known = vec![peer_out(&peer()); 6];
        assert_eq!(state_in(many), Err(Error::TooMany("known")));
    }
}
