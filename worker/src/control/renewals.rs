//! All renewals of one tick in one entry, one such entry in flight.

use std::collections::BTreeMap;

use shoal_core::{
    id::{Incarnation, LogIndex, NodeId},
    registry::{Command, Event, Refused},
};

use super::{Control, Denied, Granted, Outcome, leader::Kind, request::Reply};

/// Renewals that came since the last entry was proposed.
#[derive(Default)]
pub(super) struct Renewals {
    waiting: BTreeMap<(NodeId, Incarnation), Vec<Reply>>,
    in_flight: bool,
}

/// Whom an answer about a session goes to.
pub(super) struct Waiter {
    node: NodeId,
    incarnation: Incarnation,
    reply: Reply,
}

impl Renewals {
    pub fn add(&mut self, node: NodeId, incarnation: Incarnation, reply: Reply) {
        self.waiting.entry((node, incarnation)).or_default().push(reply);
    }
}

impl Control {
    pub(super) fn flush_renewals(&mut self) {
        let Some(term) = &mut self.term else { return };
        if term.renewals.in_flight || term.renewals.waiting.is_empty() {
            return;
        }
        term.renewals.in_flight = true;
        let waiting = std::mem::take(&mut term.renewals.waiting);
        let sessions = waiting.keys().copied().collect();
        let waiters = waiting.into_iter().flat_map(|((node, incarnation), replies)| {
            replies.into_iter().map(move |reply| Waiter { node, incarnation, reply })
        });
        let kind = Kind::Renewals(waiters.collect());
        self.propose(kind, Command::Renew { sessions });
    }

    pub(super) fn renewed(
        &mut self,
        waiters: Vec<Waiter>,
        answer: Result<(LogIndex, Event), Denied>,
    ) {
        if let Some(term) = &mut self.term {
            term.renewals.in_flight = false;
        }
        for Waiter { node, incarnation, reply } in waiters {
            let granted = match &answer {
                Ok((index, Event::Renewed { refused, lease_ms })) if !refused.contains(&node) => {
                    Ok(Granted { index: *index, lease_ms: *lease_ms, outcome: Outcome::Noted })
                }
                Ok(_) => Err(self.why_not_renewed(node, incarnation)),
                Err(denied) => Err(denied.clone()),
            };
            // A requester that went away asks again.
            let _ = reply.send(granted);
        }
    }

    /// The registry refuses one by one without reasons; its rows tell them.
    fn why_not_renewed(&self, node: NodeId, incarnation: Incarnation) -> Denied {
        let registry = self.table.registry();
        Denied::Refused(match registry.node(node) {
            None => registry.no_row(node),
            Some(row) if row.life.is_left() => Refused::NodeLeft(node),
            Some(row) if row.marked => Refused::Marked(node),
            Some(row) if row.incarnation != incarnation => {
                Refused::StaleIncarnation { node, seen: incarnation, current: row.incarnation }
            }
            Some(row) if row.life.is_closed() => Refused::Closed(node),
            Some(_) => Refused::NotUp(node),
        })
    }
}
