//! The list of all decoders: what takes bytes, or text, that another process or a person wrote.
//!
//! A decoder that is missing here is not fuzzed. Beside each target stands where its decoder
//! lies; docs/fuzzing.md says what to do for a new one.

mod disk;
mod messages;
mod operator;
pub mod parts;
mod raft;
mod registry;
mod text;

pub use parts::Parts;

/// One decoder under one name.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// The module that it lies in.
    pub decoder: &'static str,
    pub read: Read,
    pub shape: Shape,
    /// What guards the bytes, a checksum or a length, so that damage can be done below it.
    pub parts: Option<Parts>,
    /// Bytes of memory for each byte of input, at most.
    pub factor: usize,
    /// Bytes of memory whatever the input, beside what every decoder may take.
    pub free: usize,
    /// It takes whatever comes: what it cannot use it leaves out.
    pub lenient: bool,
    /// Inputs that the loop must try at least.
    pub least: u64,
}

/// How a decoder is called. An error is its refusal.
#[derive(Clone, Copy)]
pub enum Read {
    /// What it read, written again: reading that must change nothing.
    Again(fn(&[u8]) -> Result<Vec<u8>, String>),
    /// There is no way back.
    Judged(fn(&[u8]) -> Result<(), String>),
}

/// What the bytes are, for those who damage them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Bytes,
    Json,
    /// A message of this name in `proto/`.
    Message(&'static str),
}

/// Memory for each byte of input, where nothing else is said: the bytes, what is made of them,
/// and the old and the new of a list that grows.
const FACTOR: usize = 8;
/// Inputs that must be tried before a run says anything.
const LEAST: u64 = 1_000;

impl Target {
    const fn new(name: &'static str, decoder: &'static str, shape: Shape, read: Read) -> Self {
        Self {
            name,
            decoder,
            read,
            shape,
            parts: None,
            factor: FACTOR,
            free: 0,
            lenient: false,
            least: LEAST,
        }
    }

    /// What is read can be written again.
    const fn again(
        name: &'static str,
        decoder: &'static str,
        shape: Shape,
        read: fn(&[u8]) -> Result<Vec<u8>, String>,
    ) -> Self {
        Self::new(name, decoder, shape, Read::Again(read))
    }

    /// What is read stays.
    const fn judged(
        name: &'static str,
        decoder: &'static str,
        shape: Shape,
        read: fn(&[u8]) -> Result<(), String>,
    ) -> Self {
        Self::new(name, decoder, shape, Read::Judged(read))
    }

    const fn parts(self, parts: Parts) -> Self {
        Self { parts: Some(parts), ..self }
    }

    const fn memory(self, factor: usize, free: usize) -> Self {
        Self { factor, free, ..self }
    }

    const fn lenient(self) -> Self {
        Self { lenient: true, ..self }
    }

    const fn at_least(self, least: u64) -> Self {
        Self { least, ..self }
    }
}

/// Every decoder.
pub fn all() -> Vec<Target> {
    let mut all = registry::targets();
    all.extend(raft::targets());
    all.extend(messages::targets());
    all.extend(disk::targets());
    all.extend(text::targets());
    all.extend(operator::targets());
    all
}

pub fn named(name: &str) -> Option<Target> {
    all().into_iter().find(|target| target.name == name)
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}
