//! Ends this process's session on purpose: hand over, close, or close in place.

use std::time::Duration;

use shoal_core::{
    id::{Incarnation, NodeId, Timestamp},
    registry::{Drain, Life},
};
use tracing::{info, warn};

use super::{Client, Handle};
use crate::{env::clock, table::Table};

/// Kept back of the budget for closing in place and for ending connections.
const RESERVE: Duration = Duration::from_secs(4);
/// Nobody answers: this process is as good as unregistered.
const UNANSWERED: Duration = Duration::from_secs(1);
/// No target is left: looked at again so often, the map may not change meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

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
    let standing = standing(table, node, incarnation);
    if standing == Standing::Nothing {
        session.told_to_stop().await;
        session.give_up().await;
        return Left::Nothing;
    }
    if !drained {
        ask(client, incarnation).await;
    }
    let patience = clock::now().until_maybe_past(by);
    let emptied = emptied(node, incarnation, table, client);
    let empty = tokio::time::timeout(patience, emptied).await;
    session.told_to_stop().await;
    if empty == Ok(true) && client.close(incarnation).await.is_ok() {
        info!(%node, "handed over and closed");
        return Left::HandedOver;
    }
    session.give_up().await;
    let mut state = session.state();
    let ended = state.wait_for(|state| state.exit.is_some());
    if tokio::time::timeout(RESERVE / 2, ended).await.is_err() {
        warn!(%node, "shards could not be closed in place in time");
    }
    Left::InPlace
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Nothing,
    Holds,
    /// May be given shards: nobody knows yet that it goes.
    Undrained,
    Empty,
    /// It holds shards that nobody may take.
    NoTarget,
}

fn standing(table: &Table, node: NodeId, incarnation: Incarnation) -> Standing {
    let registry = table.registry();
    let mine =
        registry.node(node).filter(|row| row.life == Life::Up && row.incarnation == incarnation);
    let Some(row) = mine else { return Standing::Nothing };
    let held = registry.held(node);
    let empty = held.owned == 0 && held.receiving == 0;
    let others = || registry.nodes().any(|(id, _)| id != node && registry.is_target(id));
    if !empty && !others() {
        Standing::NoTarget
    } else if row.drain == Drain::None {
        // Empty only counts once nothing can be assigned any more.
        Standing::Undrained
    } else if empty {
        Standing::Empty
    } else {
        Standing::Holds
    }
}

async fn ask(client: &Client, incarnation: Incarnation) {
    if let Err(error) = client.leave(incarnation).await {
        warn!(%error, "the drain was not accepted");
    }
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
    let _ = tokio::time::timeout(clock::now().until_maybe_past(by), waiting).await;
}

/// True once it holds nothing; false when nobody is left to take what it holds.
///
/// The drain is asked for as often as the table shows none: an answer may be lost, an operator may
/// have taken a removal back.
async fn emptied(node: NodeId, incarnation: Incarnation, table: &Table, client: &Client) -> bool {
    let mut map = table.watch_map();
    let mut asked = clock::now();
    loop {
        map.borrow_and_update();
        match standing(table, node, incarnation) {
            Standing::Empty => return true,
            Standing::Nothing | Standing::NoTarget => return false,
            Standing::Holds => {}
            Standing::Undrained if clock::now().at_least_since(asked) >= LOOK_AGAIN => {
                ask(client, incarnation).await;
                asked = clock::now();
            }
            Standing::Undrained => {}
        }
        // A closed channel only means that nothing changes any more.
        let _ = tokio::time::timeout(LOOK_AGAIN, map.changed()).await;
    }
}
