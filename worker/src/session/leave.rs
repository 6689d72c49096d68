//! Ends this process's session on purpose: hand over, close, or close in place. What is next says
//! `shoal_core::session::leave`.

use std::time::Duration;

use shoal_core::{
    id::{Incarnation, NodeId, Timestamp},
    session::leave::{LOOK_AGAIN, Leaver, Standing, Step},
};
use tracing::{info, warn};

use super::{Client, Handle};
use crate::{env::clock, table::Table};

/// Kept back of the budget for closing in place and for ending connections.
const RESERVE: Duration = Duration::from_secs(4);
/// Nobody answers: this process is as good as unregistered.
const UNANSWERED: Duration = Duration::from_secs(1);

/// What became of the shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Handed over, session closed.
    HandedOver,
    /// Closed in place: unassigned until another node takes them.
    InPlace,
    /// It held no session.
    Nothing,
}

/// Until when a process with this budget hands over; what is left then is closed in place.
pub fn hand_over_by(budget: Duration) -> Timestamp {
    clock::now().plus(budget.saturating_sub(RESERVE))
}

/// Drains this incarnation, waits until it owns and receives nothing, closes the session.
/// With nobody to take the shards, or after `by`, they are closed in place.
pub async fn leave(
    node: NodeId,
    table: &Table,
    client: &Client,
    session: &Handle,
    by: Timestamp,
) -> Left {
    let (incarnation, registered) = {
        let state = session.state();
        let state = state.borrow();
        (state.incarnation, state.registered)
    };
    client.leave_by(by);
    session.leaving().await;
    let drained = !registered && is_registered(client, incarnation).await;
    if registered || drained {
        seen(node, incarnation, table, by).await;
    }
    let leaver = Leaver::new(by);
    let mut leaver = if drained { leaver.asked(clock::now()) } else { leaver };
    let mut map = table.watch_map();
    loop {
        map.borrow_and_update();
        let standing = Standing::of(&table.registry(), node, incarnation);
        match leaver.on(standing, clock::now()) {
            // A closed channel only means that nothing changes any more.
            Step::Wait => drop(tokio::time::timeout(LOOK_AGAIN, map.changed()).await),
            Step::Drain => {
                if let Some(Err(error)) = until(by, client.leave(incarnation)).await {
                    warn!(%error, "the drain was not accepted");
                }
            }
            Step::Close => {
                session.told_to_stop().await;
                if let Some(Ok(_)) = until(by, client.close(incarnation)).await {
                    break;
                }
            }
            Step::Closed => break,
            Step::GiveUp => return give_up(node, session, standing).await,
        }
    }
    info!(%node, "handed over and closed");
    Left::HandedOver
}

/// Nothing where it is not done by then.
async fn until<T>(by: Timestamp, done: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(clock::now().until_maybe_past(by), done).await.ok()
}

async fn give_up(node: NodeId, session: &Handle, standing: Standing) -> Left {
    session.told_to_stop().await;
    session.give_up().await;
    if standing == Standing::Nothing {
        return Left::Nothing;
    }
    let mut state = session.state();
    let ended = state.wait_for(|state| state.exit.is_some());
    if tokio::time::timeout(RESERVE / 2, ended).await.is_err() {
        warn!(%node, "shards could not be closed in place in time");
    }
    Left::InPlace
}

/// Whether a registration whose answer is still under way has been made. Asked by a drain, which
/// is what follows; no shard comes to a process that is drained.
async fn is_registered(client: &Client, incarnation: Incarnation) -> bool {
    let asked = client.leave(incarnation);
    matches!(tokio::time::timeout(UNANSWERED, asked).await, Ok(Ok(_)))
}

/// Waits for the registration in the own table, which may lag behind the answer: until then it
/// does not show what this process has been given.
async fn seen(node: NodeId, incarnation: Incarnation, table: &Table, by: Timestamp) {
    let mut applied = table.watch_applied();
    let shows = |table: &Table| {
        let registry = table.registry();
        registry.node(node).is_some_and(|row| row.incarnation.counter >= incarnation.counter)
    };
    let waiting = async {
        // A closed channel only means that nothing changes any more.
        while !shows(table) && applied.changed().await.is_ok() {}
    };
    // In vain: what can be done without the table is done.
    let _ = until(by, waiting).await;
}
