//! The owner's end of a hand-over: one stream per move, its bytes and their pace.
//!
//! When to send, stop or seal is decided by the move's machine; a stream that breaks while it
//! only prepares is opened again by the machine's next asking.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use shoal_core::{
    handoff::{Message, Process, Step, Whole, shard::Event},
    registry::MoveRef,
};
use shoal_proto::shoal::peer::v1::{TransferFrame, handover_client::HandoverClient};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use super::{
    jobs::{Digest, Held},
    slot::Slot,
};
use crate::{
    host::api::{Error, Export, Piece},
    wire::handover::{self, Begin, Said},
};

/// Largest piece of state in one frame.
const CHUNK: usize = 256 << 10;
/// Frames between the host and the stream: a megabyte hides the pauses of either.
const FRAMES: usize = 4;
/// Most that one round of the first phase carries: at 1 MiB/s still far below its cap.
const ROUND: u64 = 8 << 20;

/// The stream of one move; dropped, it ends.
pub(super) struct Link {
    pub(super) key: MoveRef,
    frames: mpsc::Sender<TransferFrame>,
    stop: CancellationToken,
    _stops: DropGuard,
    /// State was sent on it: it cannot be replaced by another stream.
    streaming: bool,
}

/// What the first phases of all moves may send together.
pub(super) struct Pace {
    rate: Option<NonZeroU64>,
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(rate: Option<NonZeroU64>) -> Self {
        Self { rate, free_at: Mutex::default() }
    }

    /// Waits for the turn of so many bytes.
    async fn take(&self, bytes: usize) {
        let Some(rate) = self.rate else { return };
        let turn = {
            let mut free_at = self.free_at.lock();
            let now = Instant::now();
            let turn = free_at.map_or(now, |free| free.max(now));
            let span = Duration::from_secs_f64(bytes as f64 / rate.get() as f64);
            *free_at = Some(turn + span);
            turn
        };
        tokio::time::sleep_until(turn).await;
    }
}

impl Link {
    pub(super) fn open(slot: &Arc<Slot>, key: MoveRef, to: Process) -> Self {
        let (frames, queue) = mpsc::channel(FRAMES);
        let stop = CancellationToken::new();
        let link = Self {
            key,
            frames,
            _stops: stop.clone().drop_guard(),
            stop: stop.clone(),
            streaming: false,
        };
        link.prepare(slot, to);
        let slot = Arc::clone(slot);
        let executor = slot.ground.parts.executor.clone();
        executor.spawn(async move {
            let _ = stop.run_until_cancelled(exchange(&slot, key, to, queue)).await;
            slot.link_ended(key, &stop);
        });
        link
    }

    pub(super) fn prepare(&self, slot: &Slot, to: Process) {
        let cluster = slot.ground.parts.table.routes().cluster().id;
        let begin = Begin { cluster, key: self.key, source: slot.me, target: to };
        // Full: said again by the machine.
        let _ = self.frames.try_send(handover::frame(Said::Begin(begin)));
    }

    pub(super) fn seal(&self, whole: Whole) {
        let _ = self.frames.try_send(handover::frame(Said::Seal(whole)));
    }
}

/// Runs the stream until it ends; what the target says goes to the machine.
async fn exchange(
    slot: &Arc<Slot>,
    key: MoveRef,
    to: Process,
    frames: mpsc::Receiver<TransferFrame>,
) {
    let Some(channel) = (slot.ground.parts.channels)(to.node) else {
        debug!(node = %to.node, "no address for a hand-over yet");
        return;
    };
    let answered = HandoverClient::new(channel).transfer(ReceiverStream::new(frames)).await;
    let mut replies = match answered {
        Ok(response) => response.into_inner(),
        Err(status) => {
            debug!(shard = %slot.shard, node = %to.node, %status, "no stream for a hand-over");
            return;
        }
    };
    while let Ok(Some(reply)) = replies.message().await {
        match handover::read_reply(reply) {
            Ok(body) => {
                let message = Message { key, body };
                slot.on(Event::Message { from: to, message });
            }
            Err(error) => {
                warn!(shard = %slot.shard, node = %to.node, %error, "unreadable answer");
                return;
            }
        }
    }
}

/// The first phase or the rest was not sent; the machine knows or is told.
struct Stopped;

/// Where the pieces of a job go.
struct Out {
    frames: mpsc::Sender<TransferFrame>,
    stop: CancellationToken,
}

impl Out {
    async fn send(&self, digest: &mut Digest, mut bytes: Bytes) -> Result<(), Stopped> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(CHUNK));
            digest.add(&piece);
            let frame = handover::frame(Said::Chunk(piece));
            let sent = self.stop.run_until_cancelled(self.frames.send(frame)).await;
            sent.and_then(Result::ok).ok_or(Stopped)?;
        }
        Ok(())
    }

    /// The seal that follows must find room, or it costs a repetition.
    async fn make_room(&self) -> Result<(), Stopped> {
        let permit = self.stop.run_until_cancelled(self.frames.reserve()).await;
        permit.and_then(Result::ok).map(drop).ok_or(Stopped)
    }
}

impl Slot {
    /// A stream that carried state cannot be resumed; one that did not is opened again.
    fn link_ended(self: &Arc<Self>, key: MoveRef, stop: &CancellationToken) {
        let mut state = self.state();
        if stop.is_cancelled() {
            return;
        }
        let carried = state.link(key).is_some_and(|link| link.streaming);
        state.drop_link(key);
        drop(state);
        if carried {
            self.on(Event::Host { key, step: Step::Broken });
        }
    }

    /// None: the stream ended, or the move did, and then nobody minds that it broke.
    fn out(&self, key: MoveRef) -> Option<Out> {
        let mut state = self.state();
        let link = state.link_mut(key)?;
        link.streaming = true;
        Some(Out { frames: link.frames.clone(), stop: link.stop.clone() })
    }

    /// One round of the first phase.
    pub(super) async fn export(self: &Arc<Self>, held: &mut Held, key: MoveRef) {
        let Some(out) = self.out(key) else {
            return self.on(Event::Host { key, step: Step::Broken });
        };
        if held.sent.as_ref().is_none_or(|sent| sent.key != key) {
            held.sent = Some(Sent { key, since: 0, digest: Digest::default() });
        }
        let Some(sent) = &mut held.sent else { return };
        match self.round(sent, &out).await {
            Ok(step) => self.on(Event::Host { key, step }),
            Err(Some(error)) => {
                warn!(shard = %self.shard, %error, "the host cannot export");
                self.on(Event::Host { key, step: Step::Broken });
            }
            // The link ended, which the machine learns from itself, or the move did.
            Err(None) => {}
        }
    }

    async fn round(&self, sent: &mut Sent, out: &Out) -> Result<Step, Option<Error>> {
        let mut round = 0;
        let mut goal = None;
        loop {
            let Piece { bytes, next, remaining } =
                match self.ground.parts.host.export(self.shard, sent.since).await.map_err(Some)? {
                    Export::OnlyFrozen { total } => return Ok(Step::Measured { total }),
                    Export::Piece(piece) => piece,
                };
            sent.since = next;
            round += bytes.len() as u64;
            let goal = *goal.get_or_insert((round + remaining).min(ROUND));
            let turn = self.ground.pace.take(bytes.len());
            out.stop.run_until_cancelled(turn).await.ok_or(None)?;
            out.send(&mut sent.digest, bytes).await.map_err(|Stopped| None)?;
            if remaining == 0 || round >= goal {
                return Ok(Step::Round { sent: round, remainder: remaining });
            }
        }
    }

    /// Freezes the host and sends the rest.
    pub(super) async fn freeze(self: &Arc<Self>, held: &mut Held, key: MoveRef) {
        let Some(out) = self.out(key) else {
            return self.on(Event::Host { key, step: Step::Broken });
        };
        let rest = match self.ground.parts.host.freeze(self.shard).await {
            Ok(rest) => rest,
            Err(error) => {
                warn!(shard = %self.shard, %error, "the host cannot freeze");
                return self.on(Event::Host { key, step: Step::Broken });
            }
        };
        held.freeze();
        // A host without export was asked nothing before.
        let sent = held.sent.take().filter(|sent| sent.key == key);
        let mut digest = sent.map(|sent| sent.digest).unwrap_or_default();
        for bytes in rest {
            if out.send(&mut digest, bytes).await.is_err() {
                return;
            }
        }
        if out.make_room().await.is_ok() {
            self.on(Event::Host { key, step: Step::RestSent(digest.whole()) });
        }
    }
}

/// What went out for a move so far.
pub(super) struct Sent {
    key: MoveRef,
    since: u64,
    digest: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_wait_for_their_turn() {
        let pace = Pace::new(NonZeroU64::new(1_000_000));
        let begin = Instant::now();
        for _ in 0..3 {
            pace.take(100_000).await;
        }
        assert!(begin.elapsed() >= Duration::from_millis(200), "two spans between three");
        let begin = Instant::now();
        Pace::new(None).take(usize::MAX).await;
        assert!(begin.elapsed() < Duration::from_secs(1));
    }
}
