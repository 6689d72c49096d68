//! What must hold of every decoder, whatever the bytes.

use std::fmt;

use crate::{
    memory::peak_of,
    targets::{Read, Target},
};

/// Memory that no decoder has to justify: buffers, tables of parsers, the text of an error.
const FREE_MEMORY: usize = 64 << 10;
/// Characters of an error beyond twice the bytes that it may quote.
const ERROR_WORDS: usize = 1_024;

/// What a decoder made of bytes.
#[derive(Clone, Debug)]
pub struct Seen {
    /// None: it took them. Else its refusal.
    pub refusal: Option<String>,
    /// The most of the heap that it held at once.
    pub peak: usize,
}

/// A promise that was broken, though nothing panicked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    Memory {
        peak: usize,
        allowed: usize,
    },
    Lines(String),
    Wordy(usize),
    /// What it wrote it does not read.
    Rejects(String),
    /// Read again and written again, the bytes differ.
    Unstable {
        first: Vec<u8>,
        second: Vec<u8>,
    },
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { peak, allowed } => {
                write!(f, "it held {peak} bytes of memory at once, allowed are {allowed}")
            }
            Self::Lines(text) => write!(f, "its error is more than one line: {text:?}"),
            Self::Wordy(length) => write!(f, "its error has {length} bytes"),
            Self::Rejects(why) => write!(f, "what it wrote it does not read: {why}"),
            Self::Unstable { first, second } => {
                write!(f, "what it read and wrote changes: {} then {}", hex(first), hex(second))
            }
        }
    }
}

/// Runs the decoder once. It may panic: that is for the caller to catch.
pub fn check(target: &Target, bytes: &[u8]) -> Result<Seen, Broken> {
    let (read, peak) = peak_of(|| match target.read {
        Read::Again(read) => read(bytes).map(Some),
        Read::Judged(read) => read(bytes).map(|()| None),
    });
    let allowed = FREE_MEMORY + target.free + target.factor * bytes.len();
    if peak > allowed {
        return Err(Broken::Memory { peak, allowed });
    }
    let refusal = match read {
        Ok(Some(first)) => {
            stable(target, first)?;
            None
        }
        Ok(None) => None,
        Err(refusal) => {
            one_line(&refusal, bytes.len())?;
            Some(refusal)
        }
    };
    Ok(Seen { refusal, peak })
}

fn stable(target: &Target, first: Vec<u8>) -> Result<(), Broken> {
    let Read::Again(read) = target.read else { return Ok(()) };
    let second = read(&first).map_err(Broken::Rejects)?;
    if first == second { Ok(()) } else { Err(Broken::Unstable { first, second }) }
}

fn one_line(refusal: &str, input: usize) -> Result<(), Broken> {
    if refusal.is_empty() || refusal.contains(['\n', '\r']) {
        return Err(Broken::Lines(refusal.to_owned()));
    }
    // Quoted, one byte may become six characters.
    let most = ERROR_WORDS + 8 * input;
    if refusal.len() > most { Err(Broken::Wordy(refusal.len())) } else { Ok(()) }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
