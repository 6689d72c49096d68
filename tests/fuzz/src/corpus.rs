//! Inputs in files: `corpus/<target>/<name>`. Those of `seeds`, and what once broke a decoder.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::seeds::{self, Seed};

/// Their real encodings hold private keys, which do not belong into a repository: they are made
/// anew in each run.
const KEYS: [&str; 4] = ["tls-files", "certificates", "credentials", "secret-pairs"];
/// Made with fresh keys each time, so that a file that is there is left alone.
const FRESH: [&str; 1] = ["certificate"];
/// Begins the name of a file that was found and is not made by `seeds`.
const FOUND: &str = "found-";

pub fn directory(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// The files of a target, by name; none where there is no directory.
pub fn read(target: &str) -> io::Result<Vec<Seed>> {
    let entries = match fs::read_dir(directory(target)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.push((name, fs::read(entry.path())?));
    }
    files.sort();
    Ok(files)
}

/// Files and fresh encodings together: where damage begins.
pub fn pool(target: &str) -> io::Result<Vec<Vec<u8>>> {
    let fresh = seeds::of(target).into_iter();
    let mut all: Vec<Vec<u8>> = read(target)?.into_iter().chain(fresh).map(|seed| seed.1).collect();
    all.sort();
    all.dedup();
    Ok(all)
}

/// Whether the files of a target are those that `seeds` makes today, beside what was found.
/// None: they are not comparable.
pub fn is_current(target: &str) -> io::Result<Option<bool>> {
    if KEYS.contains(&target) || FRESH.contains(&target) {
        return Ok(None);
    }
    let mut files = read(target)?;
    files.retain(|(name, _)| !name.starts_with(FOUND));
    let mut wanted = seeds::of(target);
    wanted.sort();
    Ok(Some(files == wanted))
}

/// Writes what `seeds` makes today; what was found stays.
pub fn write(target: &str) -> io::Result<()> {
    if KEYS.contains(&target) {
        return Ok(());
    }
    let directory = directory(target);
    fs::create_dir_all(&directory)?;
    let files = read(target)?;
    if FRESH.contains(&target) && !files.is_empty() {
        return Ok(());
    }
    for (name, _) in files.iter().filter(|(name, _)| !name.starts_with(FOUND)) {
        fs::remove_file(directory.join(name))?;
    }
    for (name, bytes) in seeds::of(target) {
        fs::write(directory.join(name), bytes)?;
    }
    Ok(())
}
