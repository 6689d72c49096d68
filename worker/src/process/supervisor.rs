//! The first process of a container: starts the node's, passes on that it is to stop, and starts it
//! again when it was killed. What to do when is `shoal_core::supervise`'s.

use std::{io, process::ExitCode};

use shoal_core::supervise::{Action, End, Event, Supervisor};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};
use tracing::warn;

use crate::{
    config::RESTARTS,
    env::{
        child::{self, Child},
        clock,
    },
};

/// Until the container is to end.
pub fn run() -> io::Result<ExitCode> {
    Builder::new_current_thread().enable_all().build()?.block_on(supervise())
}

async fn supervise() -> io::Result<ExitCode> {
    // Before there is a child: whatever is told from now on is heard.
    let mut ended = signal(SignalKind::child())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut supervisor = Supervisor::default();
    let mut restarts: u32 = 0;
    let mut node = child::start(RESTARTS, "0")?;
    loop {
        let event = tokio::select! {
            _ = ended.recv() => match end_of(node) {
                Some(end) => Event::Ended(end),
                None => continue,
            },
            _ = terminate.recv() => Event::Stop,
            _ = interrupt.recv() => Event::Stop,
        };
        match supervisor.on(event, clock::now()) {
            Action::PassOn => child::stop(node),
            Action::Restart => {
                restarts += 1;
                warn!(?event, restarts, "the node's process was killed: starting it again");
                node = child::start(RESTARTS, &restarts.to_string())?;
            }
            Action::Exit(code) => return Ok(ExitCode::from(code)),
        }
    }
}

/// Reaps all that have ended; how the node's process did, if it is among them.
fn end_of(node: Child) -> Option<End> {
    let mut end = None;
    while let Some((child, how)) = child::reap() {
        if child == node {
            end = Some(how);
        }
    }
    end
}
