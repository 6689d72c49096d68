//! Waiting on conditions: level-triggered, with a deadline, and with the last state seen.

use std::{
    thread,
    time::{Duration, Instant},
};

/// For what takes one or two seconds on an idle machine; a bound, never a pace.
pub const PATIENCE: Duration = Duration::from_secs(40);
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Looks until there is a value; panics with the last reason past `PATIENCE`.
#[track_caller]
pub fn until<T>(what: &str, look: impl FnMut() -> Result<T, String>) -> T {
    until_within(what, PATIENCE, look)
}

#[track_caller]
pub fn until_within<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let began = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(last) if began.elapsed() > patience => {
                panic!("{what}: not within {patience:?}; the last state was: {last}")
            }
            Err(_) => thread::sleep(LOOK_AGAIN),
        }
    }
}
