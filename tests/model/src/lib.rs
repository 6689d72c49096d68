//! The protocol as small models that are searched to the last state.
//!
//! [`world`] is one state: a log, its members, processes of workers, and what is on its way
//! between them. [`protocol`] says what may happen next; whatever a node or the registry
//! decides is asked of `shoal_core`. [`configurations`] names the models, [`mutant`] the rules
//! that may be left out of one, [`judge`] what must never be seen. [`election`] is a model apart,
//! whose machines are all real. Time passes in ticks, see
//! [`clock`].

pub mod calls;
pub mod clock;
pub mod commit;
pub mod configurations;
pub mod decision;
pub mod document;
pub mod election;
pub mod judge;
pub mod leader;
pub mod mutant;
pub mod process;
pub mod protocol;
pub mod report;
pub mod setup;
pub mod shard;
pub mod table;
pub mod world;
