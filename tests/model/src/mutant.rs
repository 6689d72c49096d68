//! Rules of the protocol that can be left out of a model, one at a time.
//!
//! The first fifteen are those of the protocol's own list. A mutant bends what a machine sees or
//! what becomes of what it says; the machines themselves stay as they are.

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mutant {
    /// A new leader fences by the expiries alone.
    NoWaitAfterElection,
    /// A right counts from when the answer came.
    LeaseFromReceipt,
    /// A right counts from the latest request instead of the one answered.
    SentOfAnotherRequest,
    /// A renewal that the registry refused is answered as granted.
    RenewalAfterFence,
    /// A call is acknowledged without looking once more.
    NoRecheck,
    /// A row shown late is taken for the present one.
    LateAnswerLearned,
    /// A renewal is answered when it is proposed.
    AnswerBeforeApply,
    /// A move is committed although its target is another process by now.
    CommitIgnoresIncarnation,
    /// The owner forgets its frozen state when it reports the release.
    StateDroppedAtReleased,
    /// The worker goes on with the lease that it started with.
    LeaseOfTheAnswerIgnored,
    /// An abort ends whatever move the shard is in.
    AbortNotKeyed,
    /// Everybody reads boottime alone.
    OneClockOnly,
    /// Whatever was received is opened, whichever move brought the shard.
    OpenedWithoutVia,
    /// A renewal under a smaller lease shortens the expiry.
    ExpiryMovedBack,
    /// A target forgets what it received after a while.
    TargetDropsByTimer,
    /// A fence does not compare the last renewal.
    FenceWithoutCompare,
    /// A lock taken on another machine counts as proof of death.
    ProofOfAnotherMachine,
    /// A node closes in place while a call still runs, and answers it afterwards.
    ClosedWithCallsRunning,
    /// A forced removal takes the shards at once.
    MarkTakesShards,
    /// The store takes any token.
    StoreTakesAnyToken,
}

impl Mutant {
    pub const ALL: [Self; 20] = [
        Self::NoWaitAfterElection,
        Self::LeaseFromReceipt,
        Self::SentOfAnotherRequest,
        Self::RenewalAfterFence,
        Self::NoRecheck,
        Self::LateAnswerLearned,
        Self::AnswerBeforeApply,
        Self::CommitIgnoresIncarnation,
        Self::StateDroppedAtReleased,
        Self::LeaseOfTheAnswerIgnored,
        Self::AbortNotKeyed,
        Self::OneClockOnly,
        Self::OpenedWithoutVia,
        Self::ExpiryMovedBack,
        Self::TargetDropsByTimer,
        Self::FenceWithoutCompare,
        Self::ProofOfAnotherMachine,
        Self::ClosedWithCallsRunning,
        Self::MarkTakesShards,
        Self::StoreTakesAnyToken,
    ];

    /// As the protocol's list names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoWaitAfterElection => "no wait after election",
            Self::LeaseFromReceipt => "lease counted from receipt",
            Self::SentOfAnotherRequest => "t_s of another request",
            Self::RenewalAfterFence => "renewal accepted after fence",
            Self::NoRecheck => "no re-check before the acknowledgement",
            Self::LateAnswerLearned => "released shard learned again from a late answer",
            Self::AnswerBeforeApply => "answer before apply",
            Self::CommitIgnoresIncarnation => "CommitMove ignores the target's incarnation",
            Self::StateDroppedAtReleased => "state dropped at Released",
            Self::LeaseOfTheAnswerIgnored => "L of the answer ignored",
            Self::AbortNotKeyed => "AbortMove not keyed by move",
            Self::OneClockOnly => "one clock only",
            Self::OpenedWithoutVia => "received state opened without via",
            Self::ExpiryMovedBack => "expiry moved back by a renewal under a smaller L",
            Self::TargetDropsByTimer => "target drops by timer",
            Self::FenceWithoutCompare => "Fence without compare",
            Self::ProofOfAnotherMachine => "a lock of another machine is proof",
            Self::ClosedWithCallsRunning => "CloseInPlace while a call runs",
            Self::MarkTakesShards => "a mark takes the shards",
            Self::StoreTakesAnyToken => "the store takes any token",
        }
    }
}
