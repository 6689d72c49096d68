//! Between the messages of the wire and the types of this program.

pub mod found;
pub mod status;
