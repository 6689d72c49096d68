//! The registry as Raft's state machine.
//!
//! Applies decoded commands in order, builds and installs snapshots. A command that this
//! build does not understand ends the process: guessing would let replicas drift apart [S10].

use std::{io, path::PathBuf};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};
use prometheus_client::metrics::histogram::Histogram;
use shoal_core::{
    id::{LogIndex, NodeId, Timestamp},
    registry::{Command, Event, Registry},
};
use tokio::sync::watch;

use super::{
    snapshot,
    types::{LogId, Response, Snapshot, SnapshotMeta, StoredMembership, Types},
};
use crate::{env, table::Table, wire};

/// Longest encoding of the command that forms a cluster: two numbers in an envelope. Longer
/// ones need not be decoded to be told apart.
const FORM_BYTES: usize = 64;

/// Tells the command that forms the cluster while it is appended, long before it is applied.
pub(super) fn is_form(bytes: &[u8]) -> bool {
    bytes.len() <= FORM_BYTES
        && matches!(wire::registry::decode_command(bytes), Ok(Command::Form { .. }))
}

/// The first entry of a leader's own term, applied here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blank {
    pub term: u64,
    pub leader: NodeId,
    pub index: LogIndex,
    pub at: Timestamp,
}

pub struct StateMachine {
    dir: PathBuf,
    table: Table,
    applied: Option<LogId>,
    membership: StoredMembership,
    blank: watch::Sender<Option<Blank>>,
    fatal: watch::Sender<Option<String>>,
    /// Seconds of each entry's apply.
    took: Option<Histogram>,
}

impl StateMachine {
    /// Takes the newest snapshot of `dir`. What follows it comes from the log.
    pub fn open(
        dir: PathBuf,
        table: Table,
        fatal: watch::Sender<Option<String>>,
    ) -> Result<Self, snapshot::Error> {
        let found = snapshot::load(&dir)?;
        let mut machine = Self {
            dir,
            table,
            applied: None,
            membership: StoredMembership::default(),
            blank: watch::Sender::new(None),
            fatal,
            took: None,
        };
        match found {
            Some(found) => {
                let registry = wire::registry::decode_snapshot(&found.snapshot);
                let registry = registry.map_err(|error| snapshot::Error::Io {
                    path: machine.dir.clone(),
                    source: io::Error::other(error),
                })?;
                machine.take(&found.meta, registry);
            }
            None => machine.table.adopt(Registry::new()),
        }
        Ok(machine)
    }

    /// Measures each entry's apply.
    pub fn measured(self, took: Histogram) -> Self {
        Self { took: Some(took), ..self }
    }

    pub(super) fn applied(&self) -> Option<LogId> {
        self.applied
    }

    pub(super) fn blank(&self) -> watch::Receiver<Option<Blank>> {
        self.blank.subscribe()
    }

    fn take(&mut self, meta: &SnapshotMeta, registry: Registry) {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.table.adopt(registry);
    }

    fn apply_entry(&mut self, entry: super::types::Entry) -> Result<Response, io::Error> {
        let id = entry.log_id;
        let index = LogIndex(id.index);
        let result = match entry.payload {
            EntryPayload::Blank => {
                self.table.advance(index);
                self.blank.send_replace(Some(Blank {
                    term: id.leader_id.term,
                    leader: NodeId(id.leader_id.node_id),
                    index,
                    at: env::clock::now(),
                }));
                Ok(Event::Done)
            }
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(id), membership);
                self.table.advance(index);
                Ok(Event::Done)
            }
            EntryPayload::Normal(payload) => {
                let command = wire::registry::decode_command(&payload.0).map_err(|error| {
                    self.give_up(&format!("entry {index} cannot be applied: {error}"))
                })?;
                self.table.apply(index, &command)
            }
        };
        self.applied = Some(id);
        Ok(Response { index, result })
    }

    fn give_up(&self, reason: &str) -> io::Error {
        self.fatal.send_replace(Some(reason.to_owned()));
        io::Error::other(reason.to_owned())
    }

    /// The registry and what it covers, unmoved by later entries.
    fn frozen(&self) -> Builder {
        let registry = self.table.of_log();
        let meta =
            SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        Builder { dir: self.dir.clone(), registry, meta }
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let began = env::clock::now();
            let response = self.apply_entry(entry)?;
            if let Some(took) = &self.took {
                took.observe(env::clock::now().at_most_since(began).as_secs_f64());
            }
            if let Some(responder) = responder {
                responder.send(response);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.frozen()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Bytes,
    ) -> Result<(), io::Error> {
        let registry = wire::registry::decode_snapshot(&snapshot).map_err(|error| {
            self.give_up(&format!("the leader's snapshot cannot be installed: {error}"))
        })?;
        save(self.dir.clone(), meta.clone(), snapshot).await?;
        self.take(meta, registry);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let dir = self.dir.clone();
        crate::env::thread::blocking(move || snapshot::load(&dir))
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)
    }
}

/// Encodes and saves one frozen registry while entries go on being applied.
pub struct Builder {
    dir: PathBuf,
    registry: Registry,
    meta: SnapshotMeta,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let data = wire::registry::encode_snapshot(&self.registry);
        save(self.dir.clone(), self.meta.clone(), data.clone()).await?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: data })
    }
}

async fn save(dir: PathBuf, meta: SnapshotMeta, data: Bytes) -> Result<(), io::Error> {
    crate::env::thread::blocking(move || snapshot::save(&dir, &meta, &data))
        .await
        .map_err(io::Error::other)?
        .map_err(io::Error::other)
}
