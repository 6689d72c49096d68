//! The receiving end of a hand-over: the gRPC service `Handover`.
//!
//! One piece is with the host at a time, so that a slow host slows its source down. What was
//! received stays when the stream ends: only the row decides over it.

use std::sync::Arc;

use shoal_core::{
    handoff::{Body, Message, Refusal, Step, shard::Event},
    registry::MoveRef,
};
use shoal_proto::shoal::peer::v1::{TransferFrame, TransferReply, handover_server::Handover};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, warn};

use super::{Shards, jobs::Job, slot::Slot};
use crate::{
    tls::Caller,
    wire::handover::{self, Begin, Said},
};

/// Answers waiting for the source: it asks again for any that found no room.
const REPLIES: usize = 8;

pub(super) struct Receiver {
    shards: Shards,
}

pub(super) type Replies = mpsc::Sender<Result<TransferReply, Status>>;

impl Receiver {
    pub(super) fn new(shards: Shards) -> Self {
        Self { shards }
    }
}

#[tonic::async_trait]
impl Handover for Receiver {
    type TransferStream = ReceiverStream<Result<TransferReply, Status>>;

    async fn transfer(
        &self,
        request: Request<Streaming<TransferFrame>>,
    ) -> Result<Response<Self::TransferStream>, Status> {
        let (replies, answers) = mpsc::channel(REPLIES);
        let shards = self.shards.clone();
        let (caller, frames) = (Caller::of(&request), request.into_inner());
        let executor = shards.ground().parts.executor.clone();
        executor.spawn(async move {
            let gone = replies.clone();
            tokio::select! {
                () = receive(&shards, &caller, frames, &replies) => {}
                () = gone.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

/// A stream that carries one move.
struct Incoming {
    slot: Arc<Slot>,
    begin: Begin,
}

async fn receive(
    shards: &Shards,
    caller: &Caller,
    mut frames: Streaming<TransferFrame>,
    replies: &Replies,
) {
    let mut incoming = None;
    loop {
        let said = match frames.message().await {
            Ok(Some(frame)) => handover::read_frame(frame),
            Ok(None) => return,
            Err(status) => return debug!(%status, "a hand-over ended"),
        };
        let outcome = match (said, &incoming) {
            (Err(error), _) => return warn!(%error, "unreadable frame of a hand-over"),
            (Ok(Said::Begin(begin)), _) => {
                let name = shards.ground().parts.table.name_of(begin.source.node);
                if let Err(error) = caller.must_be(name.as_deref()) {
                    // The source is gone, or reads why.
                    let _ = replies.send(Err(error.into())).await;
                    return;
                }
                accept(shards, begin, replies).map(|accepted| incoming = Some(accepted))
            }
            (Ok(Said::Chunk(bytes)), Some(incoming)) => {
                incoming.job(|key, done| Job::Import { key, bytes, done }).await
            }
            (Ok(Said::Seal(whole)), Some(incoming)) => {
                let finished = incoming.job(|key, done| Job::Finish { key, done }).await;
                if finished.is_ok() {
                    incoming.tell(Body::Whole(whole));
                }
                finished
            }
            (Ok(Said::Chunk(_) | Said::Seal(_)), None) => Err(Refusal::Over),
        };
        match outcome {
            Ok(()) => {}
            Err(Refusal::CannotPrepare) if incoming.is_some() => {
                if let Some(incoming) = &incoming {
                    let step = Step::CannotPrepare;
                    incoming.slot.on(Event::Host { key: incoming.begin.key, step });
                }
            }
            Err(refusal) => {
                let reply = handover::reply(Body::Refused(refusal));
                if let Some(reply) = reply {
                    // The source is gone: nobody to tell.
                    let _ = replies.send(Ok(reply)).await;
                }
            }
        }
    }
}

/// Finds who shall receive; the machine judges the rest.
fn accept(shards: &Shards, begin: Begin, replies: &Replies) -> Result<Incoming, Refusal> {
    let cluster = shards.ground().parts.table.routes().cluster().id;
    let life = shards.life().ok_or(Refusal::OtherIncarnation)?;
    if begin.target.node != life.me.node || begin.cluster != cluster {
        return Err(Refusal::Over);
    }
    let slot = life.slot(begin.key.shard).ok_or(Refusal::Over)?;
    slot.state().reply_to(begin.key, replies.clone());
    let incoming = Incoming { slot, begin };
    incoming.tell(Body::Prepare { target: begin.target.incarnation });
    Ok(incoming)
}

impl Incoming {
    fn tell(&self, body: Body) {
        let message = Message { key: self.begin.key, body };
        self.slot.on(Event::Message { from: self.begin.source, message });
    }

    async fn job(
        &self,
        job: impl FnOnce(MoveRef, oneshot::Sender<Result<(), Refusal>>) -> Job,
    ) -> Result<(), Refusal> {
        let (done, ended) = oneshot::channel();
        self.slot.ask(job(self.begin.key, done));
        ended.await.unwrap_or(Err(Refusal::Over))
    }
}
