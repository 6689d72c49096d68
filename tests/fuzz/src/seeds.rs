//! Real encodings, made by the code that writes them: where damage begins.
//!
//! They are made anew in each run, so that the loop also starts from what today's code writes;
//! `corpus` keeps them in files for those who only read bytes.

pub mod disk;
pub mod messages;
pub mod registry;
pub mod text;

/// A name, unique in its target, and the bytes.
pub type Seed = (String, Vec<u8>);

/// Real encodings for a target.
///
/// # Panics
/// For a target without any: there is nothing to begin from.
pub fn of(target: &str) -> Vec<Seed> {
    let all = registry::of(target)
        .or_else(|| messages::of(target))
        .or_else(|| disk::of(target))
        .or_else(|| text::of(target));
    all.unwrap_or_else(|| panic!("{target} has no seeds: add them to tests/fuzz/src/seeds"))
}

fn numbered(name: &str, all: impl IntoIterator<Item = Vec<u8>>) -> Vec<Seed> {
    let all = all.into_iter().enumerate();
    all.map(|(number, bytes)| (format!("{name}-{number:02}"), bytes)).collect()
}
