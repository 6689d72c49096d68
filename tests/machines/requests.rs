//! Requests to the leader through any member, and the way back of their answers.

use shoal_core::{
    handoff,
    id::{Incarnation, LogIndex, NodeId, ShardId},
    registry::{Command, LockId, NodeInfo, Refused},
    session::holder::{Answer, Call, Refusal, RequestId},
};

use crate::world::{Message, Place, World};

#[derive(Clone, Debug)]
pub struct Ask {
    pub origin: Place,
    pub run: u64,
    /// The member that passed it on: it is passed on once.
    pub via: Option<Place>,
    pub what: For,
    pub body: AskBody,
}

#[derive(Clone, Debug)]
pub enum AskBody {
    Join {
        info: NodeInfo,
        directory: u128,
    },
    Session {
        call: Call,
        node: NodeId,
        incarnation: Incarnation,
        table: LogIndex,
        info: NodeInfo,
        lock: LockId,
    },
    Report(handoff::Report),
    Propose(Command),
    Move {
        shard: ShardId,
        to: NodeId,
    },
    TransferLeader,
}

/// Who waits for the answer at the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    Join,
    Session(RequestId),
    Leave,
    /// Nobody: it is said again if need be.
    Nobody,
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub origin: Place,
    pub run: u64,
    pub via: Option<Place>,
    pub what: For,
    pub body: ReplyBody,
}

#[derive(Clone, Copy, Debug)]
pub enum ReplyBody {
    Joined(NodeId),
    Answer(Answer),
}

/// Where an answer goes.
#[derive(Clone, Copy, Debug)]
pub struct ReplyTo {
    pub origin: Place,
    pub run: u64,
    pub via: Option<Place>,
    pub what: For,
}

impl Ask {
    pub fn reply_to(&self) -> ReplyTo {
        ReplyTo { origin: self.origin, run: self.run, via: self.via, what: self.what }
    }
}

/// What the session machine makes of a refused command.
pub fn refusal(refused: &Refused) -> Refusal {
    match refused {
        Refused::NodeLeft(_) => Refusal::Left,
        Refused::Marked(_) => Refusal::Marked,
        Refused::Closed(_) => Refusal::Closed,
        Refused::StaleIncarnation { .. } | Refused::NotUp(_) => Refusal::Stale,
        Refused::NameInUse { .. }
        | Refused::RestoredCopy { .. }
        | Refused::LevelTooLow { .. }
        | Refused::UnknownNode(_) => Refusal::Identity,
        _ => Refusal::Retry,
    }
}

impl World {
    /// A request reached a member: the leader's loop takes it, another passes it on, once.
    pub fn asked(&mut self, place: Place, ask: Ask) {
        if self.live(place).term.is_some() {
            return self.requested(place, ask);
        }
        let leader = self.live(place).belief.map(|(_, leader)| leader);
        match leader.filter(|leader| ask.via.is_none() && *leader != place) {
            Some(leader) => {
                let ask = Box::new(Ask { via: Some(place), ..ask });
                self.send(place, leader, Message::Ask(ask));
            }
            None => {
                let hint = leader.filter(|leader| *leader != place);
                let hint = hint.and_then(|leader| self.nodes[leader].disk.node);
                let answer = ReplyBody::Answer(Answer::NotLeader { hint });
                self.reply(place, ask.reply_to(), answer);
            }
        }
    }

    pub fn reply(&mut self, from: Place, to: ReplyTo, body: ReplyBody) {
        let ReplyTo { origin, run, via, what } = to;
        let reply = Reply { origin, run, via: None, what, body };
        match via {
            Some(via) if via != from => {
                let reply = Reply { via: Some(via), ..reply };
                self.send(from, via, Message::Reply(reply));
            }
            Some(_) | None => {
                self.send(from, origin, Message::Reply(reply));
            }
        }
    }

    pub fn replied(&mut self, place: Place, reply: Reply) {
        if reply.via.is_some() {
            let origin = reply.origin;
            self.send(place, origin, Message::Reply(Reply { via: None, ..reply }));
            return;
        }
        if self.live(place).run != reply.run {
            return;
        }
        match (reply.what, reply.body) {
            (For::Join, ReplyBody::Joined(id)) => self.joined(place, id),
            (For::Session(request), ReplyBody::Answer(answer)) => {
                self.session_answer(place, request, answer);
            }
            (For::Leave, ReplyBody::Answer(answer)) => self.leave_answer(place, answer),
            (For::Join | For::Session(_) | For::Leave | For::Nobody, _) => {}
        }
    }
}
