//! What was written, in order, and the one fault that a test has asked for.

use std::{collections::BTreeMap, fmt, time::Duration};

use hyper::{Method, Uri};
use parking_lot::Mutex;
use tokio::time::Instant;

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What becomes of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Never done; the connection ends.
    Reset,
    /// Done; the connection ends.
    LostReply,
    Conflict,
    /// With a time to wait.
    TooMany,
    Internal,
    /// Done, and said to have timed out.
    Timeout,
    /// Never done and never answered.
    Stall,
    /// The writer is killed before it is done.
    KillBefore,
    /// The writer is killed once it is done.
    KillAfter,
    /// Done only once [`Script::release`] is called; meanwhile the writer is killed, or whatever
    /// else [`Script::on_kill`] has it.
    Hold,
}

impl Fault {
    pub const ALL: [Self; 9] = [
        Self::Reset,
        Self::LostReply,
        Self::Conflict,
        Self::TooMany,
        Self::Internal,
        Self::Timeout,
        Self::Stall,
        Self::KillBefore,
        Self::KillAfter,
    ];
    /// Those that a call to a worker knows.
    pub const OF_CALLS: [Self; 6] = [
        Self::Reset,
        Self::LostReply,
        Self::Conflict,
        Self::Stall,
        Self::KillBefore,
        Self::KillAfter,
    ];
}

/// The `nth` write of this name, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    pub name: String,
    pub nth: usize,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{}", self.name, self.nth)
    }
}

#[derive(Clone, Debug)]
pub struct Write {
    pub point: Point,
    pub at: Instant,
}

impl Write {
    /// Verb, kind and name of what a request writes; None where it stores nothing.
    pub(super) fn name_of(method: &Method, uri: &Uri) -> Option<String> {
        if uri.query().is_some_and(|query| query.contains("dryRun")) {
            return None;
        }
        let path = uri.path().trim_start_matches("/apis/").trim_start_matches("/api/");
        let parts: Vec<&str> = path.split('/').collect();
        let after = parts.iter().position(|part| *part == "namespaces").map_or(1, |at| at + 2);
        let object = parts.get(after..).unwrap_or_default();
        // Names of events are drawn anew each time.
        let object = if object.first() == Some(&"events") { &object[..1] } else { object };
        Some(format!("{method} {}", object.join("/")))
    }
}

/// Counts writes, and answers which of them is to fail.
#[derive(Default)]
pub struct Script {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    counts: BTreeMap<String, usize>,
    writes: Vec<Write>,
    armed: Option<(Point, Fault)>,
    fired: bool,
    released: bool,
    kill: Option<Box<dyn Fn() + Send>>,
}

impl Script {
    /// One fault, once; forgets what was asked before.
    pub fn arm(&self, point: Point, fault: Fault) {
        let mut state = self.state.lock();
        state.armed = Some((point, fault));
        (state.fired, state.released) = (false, false);
    }

    /// How the writer is killed.
    pub fn on_kill(&self, kill: impl Fn() + Send + 'static) {
        self.state.lock().kill = Some(Box::new(kill));
    }

    pub fn kill(&self) {
        if let Some(kill) = &self.state.lock().kill {
            kill();
        }
    }

    /// Lets a held write go on.
    pub fn release(&self) {
        self.state.lock().released = true;
    }

    pub(crate) async fn hold(&self) {
        self.kill();
        while !self.state.lock().released {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    pub fn has_fired(&self) -> bool {
        self.state.lock().fired
    }

    /// All writes so far.
    pub fn writes(&self) -> Vec<Write> {
        self.state.lock().writes.clone()
    }

    pub fn since(&self, begin: Instant) -> Vec<String> {
        let state = self.state.lock();
        let since = state.writes.iter().filter(|write| write.at >= begin);
        since.map(|write| write.point.to_string()).collect()
    }

    /// Notes one more write, and what is to become of it.
    pub(crate) fn on(&self, name: impl FnOnce(usize) -> String) -> Option<Fault> {
        let mut state = self.state.lock();
        let name = name(state.writes.len());
        let count = state.counts.entry(name.clone()).or_default();
        *count += 1;
        let point = Point { name, nth: *count };
        state.writes.push(Write { point: point.clone(), at: Instant::now() });
        let fault = state.armed.as_ref().filter(|(armed, _)| *armed == point).map(|(_, f)| *f)?;
        state.armed = None;
        state.fired = true;
        Some(fault)
    }
}
