//! What the sender of a call does next, decided by the proof that it was not executed.
//!
//! Parks and resends are carried out by the shell; it adds jitter to every pause.

use std::time::Duration;

use super::{Class, MAX_ATTEMPTS, Nack, PARK_BEYOND_LEASE, PARK_PER_NODE, PARK_PER_SHARD};
use crate::{id::LogIndex, registry::ShardRow};

/// Pause before a call is sent again that nothing tells when to: the first, and the longest.
pub const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(640));

/// How one sending, or one stay in the park, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It never left our queue, or could not be handed to a transport.
    NotSent,
    /// The transport proves that the peer never saw it: GOAWAY above its id, REFUSED_STREAM.
    Refused,
    Nack(Nack),
    /// Handed to a transport that then broke.
    Unknown,
    /// The owner withheld its answer: it ran, whether it counts is not known.
    Withheld,
    /// The row did not change while the call was parked.
    ParkEnded,
    Done,
}

/// A call as its ingress knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub class: Class,
    pub bytes: u64,
    /// Sendings answered by a busy or late receiver so far.
    pub attempts: u8,
    /// What was left of the deadline when a stale receiver first refused it.
    pub stale_since: Option<Duration>,
    /// Sendings by the row `paced` so far, but the first; they pace the next.
    pub sent: u8,
    pub paced: LogIndex,
    /// An earlier sending may have been executed.
    pub tainted: bool,
    /// What is left of the deadline.
    pub left: Duration,
    /// Index of the row by which it was sent.
    pub row_sent: LogIndex,
    /// Index of that shard's row now.
    pub row_now: LogIndex,
}

/// What is parked already, and the lease in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parked {
    pub shard_bytes: u64,
    pub node_bytes: u64,
    pub lease: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Route again by the present row, and send after this pause.
    Resend {
        after: Duration,
    },
    /// Hold it until [`leaves`], at most for this long (then [`Outcome::ParkEnded`]).
    Park {
        past: LogIndex,
        at_most: Duration,
    },
    /// Hold it like a parked one, and then route and send it again whether it left or not.
    Pause {
        past: LogIndex,
        at_most: Duration,
    },
    Answer(Status),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The host's own answer.
    Result,
    /// Certainly not executed: UNAVAILABLE with RetryInfo.
    Unavailable { retry_after: Duration },
    /// Certainly not executed, the park is full: RESOURCE_EXHAUSTED with RetryInfo.
    ResourceExhausted { retry_after: Duration },
    /// May have been executed: UNKNOWN with ErrorInfo OUTCOME_UNKNOWN, which meshes do not retry.
    OutcomeUnknown,
}

/// The next step of a call, and the call as it stands then.
pub fn retry(outcome: Outcome, mut call: Call, parked: &Parked) -> (Call, Decision) {
    // Whoever a newer row names is asked anew: it may be a moment behind this node, and what a
    // former one let wait says nothing of it.
    if call.row_sent != call.paced {
        (call.paced, call.sent) = (call.row_sent, 0);
    }
    let decision = match outcome {
        Outcome::Done => Decision::Answer(Status::Result),
        Outcome::Withheld => Decision::Answer(Status::OutcomeUnknown),
        Outcome::NotSent | Outcome::Refused => resend(&mut call, Duration::ZERO),
        Outcome::Unknown => {
            let again = call.class.may_run_twice() && !call.tainted;
            call.tainted = true;
            if again {
                resend(&mut call, Duration::ZERO)
            } else {
                Decision::Answer(Status::OutcomeUnknown)
            }
        }
        Outcome::ParkEnded => Decision::Answer(unanswered(&call)),
        Outcome::Nack(nack) => after_nack(nack, &mut call, parked),
    };
    (call, decision)
}

fn after_nack(nack: Nack, call: &mut Call, parked: &Parked) -> Decision {
    match nack {
        Nack::Moving { row } if call.row_now <= row => park(row, call, parked),
        Nack::NotOwner { row, .. } if call.row_now < row => {
            // The row that names the owner is on its way: any row from it on will do.
            park(LogIndex(row.0 - 1), call, parked)
        }
        Nack::Moving { .. } | Nack::NotOwner { .. } if call.row_now > call.row_sent => now(call),
        // The receiver's row is older than the one that sent the call there.
        Nack::Moving { .. } | Nack::NotOwner { .. } => resend(call, Duration::ZERO),
        Nack::Busy { after } => limited(call, after),
        Nack::StaleReceiver => stale(call, parked),
        Nack::Expired => limited(call, Duration::ZERO),
    }
}

/// The next step of a call whose shard has no owner to send it to.
pub fn without_owner(row: &ShardRow, call: &Call, parked: &Parked) -> Decision {
    park(row.changed, call, parked)
}

/// A parked call leaves when its shard's row is newer; renewals change no row.
pub fn leaves(past: LogIndex, row: &ShardRow) -> bool {
    row.changed > past
}

/// Whoever the row names may not serve now: its table lags, its right has run out, it is on its
/// way out. Either the row changes or its right comes back, each within a lease and the time a
/// parked call is given: a count of attempts would end before a slow disk has answered.
fn stale(call: &mut Call, parked: &Parked) -> Decision {
    if call.row_now > call.row_sent {
        return now(call);
    }
    let since = *call.stale_since.get_or_insert(call.left);
    let patience = (parked.lease + PARK_BEYOND_LEASE).saturating_sub(since - call.left.min(since));
    let after = pause(call.sent);
    if after >= call.left || after >= patience {
        return Decision::Answer(unanswered(call));
    }
    if !fits(call, parked) {
        return Decision::Answer(overflow(call));
    }
    call.sent = call.sent.saturating_add(1);
    Decision::Pause { past: call.row_sent, at_most: after }
}

/// Sent by a newer row than before: no pause is due.
fn now(call: &mut Call) -> Decision {
    if call.left.is_zero() {
        return Decision::Answer(unanswered(call));
    }
    call.sent = call.sent.saturating_add(1);
    Decision::Resend { after: Duration::ZERO }
}

fn resend(call: &mut Call, at_least: Duration) -> Decision {
    let after = pause(call.sent).max(at_least);
    if after >= call.left {
        return Decision::Answer(unanswered(call));
    }
    call.sent = call.sent.saturating_add(1);
    Decision::Resend { after }
}

fn limited(call: &mut Call, at_least: Duration) -> Decision {
    call.attempts = call.attempts.saturating_add(1);
    if call.attempts >= MAX_ATTEMPTS {
        return Decision::Answer(unanswered(call));
    }
    resend(call, at_least)
}

fn park(past: LogIndex, call: &Call, parked: &Parked) -> Decision {
    if call.left.is_zero() {
        return Decision::Answer(unanswered(call));
    }
    if !fits(call, parked) {
        return Decision::Answer(overflow(call));
    }
    Decision::Park { past, at_most: call.left.min(parked.lease + PARK_BEYOND_LEASE) }
}

fn fits(call: &Call, parked: &Parked) -> bool {
    let fits = |bytes: u64, limit: u64| bytes.saturating_add(call.bytes) <= limit;
    fits(parked.shard_bytes, PARK_PER_SHARD) && fits(parked.node_bytes, PARK_PER_NODE)
}

/// There is no room to hold it.
fn overflow(call: &Call) -> Status {
    if call.tainted {
        Status::OutcomeUnknown
    } else {
        Status::ResourceExhausted { retry_after: PAUSES.1 }
    }
}

/// The last sending was not executed; an earlier one may have been.
fn unanswered(call: &Call) -> Status {
    if call.tainted {
        Status::OutcomeUnknown
    } else {
        Status::Unavailable { retry_after: PAUSES.1 }
    }
}

/// The first resend is at once, the next ones double.
fn pause(sent: u8) -> Duration {
    match sent {
        0 | 1 => Duration::ZERO,
        again => (PAUSES.0 * (1 << (again - 2).min(5))).min(PAUSES.1),
    }
}
