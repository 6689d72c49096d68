//! The answers of a pipe as a response body: batched, large ones in pieces, in turn.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Frame as HttpFrame;
use tokio::sync::mpsc;
use tonic::Status;

use crate::{
    call::{Outcome, Reply},
    forward::{
        frame::{Batch, CHUNK, Frame, Welcome},
        grpc,
    },
};

/// What is to be sent.
pub(super) enum Out {
    Frame(Frame),
    Answer {
        request: u64,
        /// What the call took of the credit.
        bytes: usize,
        outcome: Outcome,
    },
    /// Ends the pipe at once; answers behind it are lost.
    Close(Status),
}

/// What waits for an answer, as the receiver counts it.
#[derive(Default)]
pub(super) struct Load {
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

impl Load {
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Only the reader adds, so that a check apart from the sum is exact enough.
    pub(super) fn add(&self, bytes: usize, limits: &Welcome) -> Result<(), ()> {
        let requests = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let fits = requests <= limits.requests as usize && bytes <= limits.bytes as usize;
        if fits { Ok(()) } else { Err(()) }
    }

    fn release(&self, bytes: usize) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// An answer of which pieces are still to be sent.
struct Unsent {
    request: u64,
    rest: Bytes,
}

pub(in crate::forward) struct Answers {
    out: mpsc::Receiver<Out>,
    load: Arc<Load>,
    unsent: VecDeque<Unsent>,
    batch: Batch,
    parts: VecDeque<Bytes>,
    /// Nothing more comes after what is here.
    end: Option<Status>,
    ended: bool,
}

impl Answers {
    pub(super) fn new(out: mpsc::Receiver<Out>, load: Arc<Load>) -> Self {
        Self {
            out,
            load,
            unsent: VecDeque::new(),
            batch: Batch::default(),
            parts: VecDeque::new(),
            end: None,
            ended: false,
        }
    }

    pub(in crate::forward) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<HttpFrame<Bytes>>> {
        if self.parts.is_empty() && !self.ended {
            self.fill(cx);
            self.batch.take(&mut self.parts);
        }
        if let Some(part) = self.parts.pop_front() {
            return Poll::Ready(Some(HttpFrame::data(part)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        match &self.end {
            Some(status) if self.unsent.is_empty() => {
                self.ended = true;
                Poll::Ready(Some(HttpFrame::trailers(grpc::trailers(status))))
            }
            Some(_) | None => Poll::Pending,
        }
    }

    fn fill(&mut self, cx: &mut Context<'_>) {
        while self.end.is_none() && !self.batch.is_full() {
            match self.out.poll_recv(cx) {
                Poll::Ready(Some(out)) => self.take(out),
                Poll::Ready(None) => self.end = Some(Status::ok("")),
                Poll::Pending => break,
            }
        }
        while !self.batch.is_full() {
            let Some(mut unsent) = self.unsent.pop_front() else { break };
            let bytes = unsent.rest.split_to(unsent.rest.len().min(CHUNK));
            self.batch.push(&Frame::Data { request: unsent.request, bytes });
            if !unsent.rest.is_empty() {
                self.unsent.push_back(unsent);
            }
        }
    }

    fn take(&mut self, out: Out) {
        match out {
            Out::Frame(frame) => self.batch.push(&frame),
            Out::Answer { request, bytes, outcome } => {
                self.load.release(bytes);
                self.answer(request, outcome);
            }
            Out::Close(status) => {
                self.unsent.clear();
                self.end = Some(status);
            }
        }
    }

    fn answer(&mut self, request: u64, outcome: Outcome) {
        let frame = match outcome {
            Outcome::Reply(Reply { result: Ok(payload), epoch }) if payload.len() <= CHUNK => {
                Frame::Result { request, epoch, payload }
            }
            Outcome::Reply(Reply { result: Ok(mut payload), epoch }) => {
                let length = payload.len() as u32;
                let bytes = payload.split_to(CHUNK);
                self.unsent.push_back(Unsent { request, rest: payload });
                Frame::Begin { request, epoch, length, bytes }
            }
            Outcome::Reply(Reply { result: Err(error), epoch }) => {
                Frame::Failed { request, epoch, error }
            }
            Outcome::Nack(nack) => Frame::Nack { request, nack },
            Outcome::Unknown(reason) => Frame::Unknown { request, reason },
        };
        self.batch.push(&frame);
    }
}
