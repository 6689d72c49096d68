//! The models by name, and which mutant is wanted in which.

use std::time::Duration;

use shoal_core::id::NodeId;

use crate::{
    judge::Seen,
    mutant::Mutant,
    setup::{Asked, Budget, Hunt, Kind, Seat, Setup},
};

const A: NodeId = NodeId(2);
const B: NodeId = NodeId(3);

const fn seat(node: NodeId) -> Seat {
    Seat { node, machine: 0, steady: false, prompt: false, up: true }
}

const fn steady(node: NodeId) -> Seat {
    Seat { steady: true, ..seat(node) }
}

const fn prompt(node: NodeId) -> Seat {
    Seat { prompt: true, ..steady(node) }
}

const NOTHING: Budget = Budget {
    renewals: 0,
    calls: 0,
    effects: 0,
    moves: 0,
    aborts: 0,
    breaks: 0,
    crashes: 0,
    starts: 0,
    reboots: 0,
    stops: 0,
    people: 0,
    configures: 0,
    restarts: 0,
    late: 0,
    deaths: 0,
};

/// A move that may be aborted, broken or overtaken by a fence of the owner, and a second one.
pub const MOVE: Setup = Setup {
    name: "move",
    kind: Kind::Protocol,
    about: "two nodes, one shard, two moves with an abort, a break and a fence of the owner [S12, S19]",
    lease_ms: 2_000,
    other_lease_ms: None,
    tick: Duration::from_millis(2_000),
    members: 1,
    seats: &[seat(A), steady(B)],
    budget: Budget { calls: 2, moves: 2, aborts: 1, breaks: 1, late: 1, ..NOTHING },
    requests: 1,
    pending: 2,
    asked: &[],
    reached: &[
        Seen::Fence,
        Seen::Commit,
        Seen::CommitRefused,
        Seen::Abort,
        Seen::AbortRefused,
        Seen::Reopened,
        Seen::OpenedReceived,
        Seen::Discarded,
        Seen::FirstOwnerAcks,
        Seen::SecondOwnerAcks,
        Seen::LateRowShown,
    ],
};

/// An abort that is said twice, and meets the next move.
pub const ABORT: Setup = Setup {
    name: "abort",
    kind: Kind::Protocol,
    about: "two nodes, one shard, an abort said twice that meets the second move",
    lease_ms: 2_000,
    other_lease_ms: None,
    tick: Duration::from_millis(2_000),
    members: 1,
    seats: &[seat(A), steady(B)],
    budget: Budget { calls: 1, moves: 2, aborts: 2, ..NOTHING },
    requests: 1,
    pending: 2,
    asked: &[],
    reached: &[
        Seen::Fence,
        Seen::Commit,
        Seen::CommitRefused,
        Seen::Abort,
        Seen::AbortRefused,
        Seen::BeginRefused,
        Seen::Reopened,
        Seen::OpenedReceived,
        Seen::Discarded,
    ],
};

/// A move whose target dies, comes back as another process, or is fenced; S11 in both orders.
pub const CRASH: Setup = Setup {
    name: "crash",
    kind: Kind::Protocol,
    about: "two nodes, one shard, a target that crashes, comes back or is fenced [S11]",
    lease_ms: 2_000,
    other_lease_ms: None,
    tick: Duration::from_millis(2_000),
    members: 1,
    seats: &[steady(A), seat(B)],
    budget: Budget { calls: 2, moves: 1, aborts: 1, crashes: 1, starts: 1, deaths: 1, ..NOTHING },
    requests: 1,
    pending: 2,
    asked: &[],
    reached: &[
        Seen::Fence,
        Seen::Commit,
        Seen::CommitRefused,
        Seen::Abort,
        Seen::AbortRefused,
        Seen::Reopened,
        Seen::OpenedReceived,
        Seen::Discarded,
        Seen::FirstOwnerAcks,
        Seen::SecondOwnerAcks,
        Seen::CrashAfterRelease,
        Seen::DeathReported,
        Seen::DeathRefused,
        Seen::Registered,
        Seen::Reowned,
    ],
};

/// All that may happen to the session of one node [S17].
pub const NODE: Setup = Setup {
    name: "node",
    kind: Kind::Protocol,
    about: "one node that crashes, reboots, is told to stop, drained, fenced, and comes back [S2, S17]",
    lease_ms: 2_000,
    other_lease_ms: None,
    tick: Duration::from_millis(2_000),
    members: 1,
    seats: &[seat(A), prompt(B)],
    budget: Budget {
        renewals: 1,
        calls: 1,
        crashes: 1,
        reboots: 1,
        starts: 1,
        stops: 1,
        people: 1,
        deaths: 1,
        ..NOTHING
    },
    requests: 1,
    pending: 1,
    asked: &[Asked::Restart],
    reached: &[
        Seen::Fence,
        Seen::FenceRefused,
        Seen::RenewalRefused,
        Seen::Granted,
        Seen::RightEnded,
        Seen::FirstOwnerAcks,
        Seen::SecondOwnerAcks,
        Seen::Withheld,
        Seen::Registered,
        Seen::RegisterWaits,
        Seen::Reowned,
        Seen::DeathReported,
        Seen::DeathRefused,
        Seen::ClosedInPlace,
        Seen::Closed,
        Seen::CloseRefused,
    ],
};

/// All ways to go, with a table that lags [S16, S19].
pub const LEAVE: Setup = Setup {
    name: "leave",
    kind: Kind::Protocol,
    about: "one node that is drained, moved away from, cancelled, marked and removed [S16, S19]",
    lease_ms: 2_000,
    other_lease_ms: None,
    tick: Duration::from_millis(2_000),
    members: 1,
    seats: &[seat(A), prompt(B)],
    budget: Budget { calls: 1, moves: 1, starts: 1, people: 2, ..NOTHING },
    requests: 1,
    pending: 1,
    asked: &[Asked::Restart, Asked::Removal, Asked::Cancel, Asked::Mark],
    reached: &[
        Seen::Fence,
        Seen::Commit,
        Seen::FirstOwnerAcks,
        Seen::SecondOwnerAcks,
        Seen::Registered,
        Seen::ClosedInPlace,
        Seen::Closed,
        Seen::CloseRefused,
        Seen::Cancelled,
        Seen::Marked,
        Seen::Left,
    ],
};

/// One volume attached to two machines, and both renew [S1].
pub const DIRECTORY: Setup = Setup {
    name: "directory",
    kind: Kind::Protocol,
    about: "one directory that runs on two machines [S1]",
    lease_ms: 2_000,
    other_lease_ms: None,
    tick: Duration::from_millis(2_000),
    members: 1,
    seats: &[seat(A), Seat { machine: 1, up: false, prompt: true, ..seat(A) }],
    budget: Budget { renewals: 1, calls: 2, crashes: 1, starts: 2, ..NOTHING },
    requests: 1,
    pending: 1,
    asked: &[],
    reached: &[
        Seen::Fence,
        Seen::FenceRefused,
        Seen::RenewalRefused,
        Seen::RightEnded,
        Seen::FirstOwnerAcks,
        Seen::SecondOwnerAcks,
        Seen::Withheld,
        Seen::Registered,
        Seen::RegisterRefused,
        Seen::RegisterWaits,
        Seen::Reowned,
        Seen::TwoRunOneDirectory,
    ],
};

/// The lease as a follower sees it, under leaders that come, go and do not know it.
pub const LEADERS: Setup = Setup {
    name: "leaders",
    kind: Kind::Protocol,
    about: "one session of a follower under two members that may both think they lead",
    lease_ms: 2_000,
    other_lease_ms: None,
    tick: Duration::from_millis(500),
    members: 2,
    seats: &[seat(A), prompt(B)],
    budget: Budget { renewals: 3, restarts: 1, ..NOTHING },
    requests: 2,
    pending: 2,
    asked: &[],
    reached: &[
        Seen::Fence,
        Seen::FenceRefused,
        Seen::RenewalRefused,
        Seen::Granted,
        Seen::RightEnded,
        Seen::StaleLeaderDecides,
        Seen::MemberRestarts,
    ],
};

/// L is lowered while renewals are on their way and a member forgets [S9].
pub const LEASE: Setup = Setup {
    name: "lease",
    kind: Kind::Protocol,
    about: "one session while L goes from 4 s to 2 s [S9]",
    lease_ms: 4_000,
    other_lease_ms: Some(2_000),
    tick: Duration::from_millis(1_000),
    members: 1,
    seats: &[seat(A), prompt(B)],
    budget: Budget { renewals: 3, configures: 1, restarts: 1, ..NOTHING },
    requests: 2,
    pending: 2,
    asked: &[],
    reached: &[
        Seen::Fence,
        Seen::FenceRefused,
        Seen::Granted,
        Seen::LeaseChanged,
        Seen::Settled,
        Seen::RightEnded,
        Seen::MemberRestarts,
    ],
};

/// A write that passed the check of its author and comes to the store much later.
pub const STORE: Setup = Setup {
    name: "store",
    kind: Kind::Protocol,
    about: "writes to a store that compares tokens, across a move, a crash and a fence",
    lease_ms: 2_000,
    other_lease_ms: None,
    tick: Duration::from_millis(2_000),
    members: 1,
    seats: &[seat(A), prompt(B)],
    budget: Budget { effects: 2, calls: 1, moves: 1, crashes: 1, starts: 1, ..NOTHING },
    requests: 1,
    pending: 1,
    asked: &[],
    reached: &[
        Seen::Fence,
        Seen::Commit,
        Seen::StaleWriteRefused,
        Seen::FirstOwnerAcks,
        Seen::SecondOwnerAcks,
        Seen::Withheld,
        Seen::Reowned,
    ],
};

/// Elections among the machines themselves, in a cluster where nothing else is wrong [L3].
pub const ELECTION: Setup = Setup {
    name: "election",
    kind: Kind::Election,
    about: "two sessions, an election after a gap of up to 1.5 L, and nobody is fenced [L3]",
    lease_ms: 2_000,
    other_lease_ms: None,
    tick: Duration::from_millis(250),
    members: 1,
    seats: &[seat(A), Seat { prompt: true, ..seat(B) }],
    budget: NOTHING,
    requests: 1,
    pending: 1,
    asked: &[],
    reached: &[],
};

pub const ALL: &[&Setup] =
    &[&NODE, &LEAVE, &MOVE, &ABORT, &CRASH, &DIRECTORY, &LEADERS, &LEASE, &STORE, &ELECTION];

const fn hunt(mutant: Mutant, setup: &'static Setup) -> Hunt {
    Hunt { mutant, setup }
}

pub const HUNTS: &[Hunt] = &[
    hunt(Mutant::NoWaitAfterElection, &ELECTION),
    hunt(Mutant::LeaseFromReceipt, &LEADERS),
    hunt(Mutant::SentOfAnotherRequest, &LEADERS),
    hunt(Mutant::RenewalAfterFence, &LEADERS),
    hunt(Mutant::NoRecheck, &MOVE),
    hunt(Mutant::LateAnswerLearned, &MOVE),
    hunt(Mutant::AnswerBeforeApply, &LEADERS),
    hunt(Mutant::CommitIgnoresIncarnation, &CRASH),
    hunt(Mutant::StateDroppedAtReleased, &MOVE),
    hunt(Mutant::LeaseOfTheAnswerIgnored, &LEASE),
    hunt(Mutant::AbortNotKeyed, &ABORT),
    hunt(Mutant::OneClockOnly, &LEADERS),
    hunt(Mutant::OpenedWithoutVia, &MOVE),
    hunt(Mutant::ExpiryMovedBack, &LEASE),
    hunt(Mutant::TargetDropsByTimer, &MOVE),
    hunt(Mutant::FenceWithoutCompare, &LEADERS),
    hunt(Mutant::ProofOfAnotherMachine, &DIRECTORY),
    hunt(Mutant::ClosedWithCallsRunning, &NODE),
    hunt(Mutant::MarkTakesShards, &LEAVE),
    hunt(Mutant::StoreTakesAnyToken, &STORE),
];
