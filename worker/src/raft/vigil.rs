//! Notices a leader whose process has ended, before its time is up.
//!
//! A process that is killed closes its connections with it. A follower that merely waits keeps its
//! promise not to vote for another for as long as an election may take, and only then begins to ask.
//! One that lost its stream of entries, and has heard nothing of the leader for two heartbeats
//! since, takes that promise back: it asks and votes as soon as an election is due. Votes are
//! counted as ever, so that a leader that lives after all loses its office at worst, and only where
//! a majority had lost it in its term: Raft renews the promise with the next leader alone.

use std::time::Duration;

use openraft::raft::TransferLeaderRequest;
use shoal_core::id::NodeId;
use tokio::runtime::Handle;
use tracing::info;

use super::types::{Instant, Raft, Vote};

/// No node has this id: the promise is taken back, and nobody is made the heir.
const NOBODY: u64 = 0;

/// Lives as long as a stream of entries from this node.
pub(super) struct Vigil {
    raft: Raft,
    from: NodeId,
    silence: Duration,
}

impl Vigil {
    pub fn over(raft: &Raft, from: NodeId, heartbeat: Duration) -> Self {
        Self { raft: raft.clone(), from, silence: 2 * heartbeat }
    }
}

impl Drop for Vigil {
    fn drop(&mut self) {
        // Without a runtime this process itself ends.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(look_after(self.raft.clone(), self.from, self.silence));
        }
    }
}

async fn look_after(raft: Raft, leader: NodeId, silence: Duration) {
    let Some(then) = heard(&raft, leader).await else { return };
    tokio::time::sleep(silence).await;
    if heard(&raft, leader).await.as_ref() != Some(&then) {
        return;
    }
    info!(%leader, "the leader's connection broke and it is silent: others may be voted for");
    // In vain only where Raft has stopped.
    let _ = raft.handle_transfer_leader(TransferLeaderRequest::new(then.0, NOBODY, None)).await;
}

/// The vote for this leader, and when it was last heard; none where it is not followed.
async fn heard(raft: &Raft, leader: NodeId) -> Option<(Vote, Option<Instant>)> {
    let state = raft.with_raft_state(move |state| {
        let vote = *state.vote_ref();
        let follows = vote.committed && vote.leader_id.node_id == leader.0;
        follows.then(|| (vote, state.vote_last_modified()))
    });
    state.await.ok().flatten()
}
