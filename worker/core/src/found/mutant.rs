//! Deliberate faults, switched on by tests alone, to show that the simulation catches them.

/// Outside of tests none is ever constructed by the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(test), allow(dead_code))]
pub(super) enum Mutant {
    /// A majority of the founding set stands for all of it.
    MajorityIsEnough,
    /// Any answer counts, whichever question and nonce it belongs to.
    OldAnswersCount,
    /// A change is shown to others before it is on disk.
    JoinBeforePersist,
}
