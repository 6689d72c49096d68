//! What becomes of lists and watches: events that are never told, a watch that is too old, and a
//! list as it was some time ago.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use futures::stream;
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use parking_lot::Mutex;

#[derive(Default)]
pub struct Watches {
    /// Every how manieth event is dropped; 0: none.
    drops: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
    /// Watches that are still to be answered with "too old".
    gone: AtomicUsize,
    lists: Mutex<Lists>,
}

#[derive(Default)]
struct Lists {
    known: BTreeMap<String, Bytes>,
    /// Answered from `known` while it lasts.
    stale: bool,
}

impl Watches {
    /// One event of `every` is never told; 0 = all are told.
    pub fn drop_events(&self, every: usize) {
        self.drops.store(every, Ordering::Relaxed);
    }

    /// Events that were not told.
    pub fn dropped(&self) -> usize {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The next so many watches are too old.
    pub fn expire(&self, watches: usize) {
        self.gone.store(watches, Ordering::Relaxed);
    }

    pub fn still_to_expire(&self) -> usize {
        self.gone.load(Ordering::Relaxed)
    }

    /// Lists that begin a watch are from now on as they were when they were first asked for.
    pub fn stale_lists(&self, stale: bool) {
        self.lists.lock().stale = stale;
    }

    pub(super) fn takes_gone(&self) -> bool {
        self.gone
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok()
    }

    pub(super) fn stale(&self, key: &str) -> Option<Bytes> {
        let lists = self.lists.lock();
        lists.stale.then(|| lists.known.get(key).cloned())?
    }

    pub(super) fn remember(&self, key: &str, list: &Bytes) {
        self.lists.lock().known.entry(key.to_owned()).or_insert_with(|| list.clone());
    }

    /// A watch without the events that are to be dropped.
    pub(super) fn filter(
        &self,
        body: ::kube::client::Body,
    ) -> UnsyncBoxBody<Bytes, std::io::Error> {
        let (drops, dropped) = (self.drops.clone(), self.dropped.clone());
        let state = (body, BytesMut::new(), 0_usize);
        let told = stream::unfold(state, move |(mut body, mut buffer, mut count)| {
            let (drops, dropped) = (drops.clone(), dropped.clone());
            async move {
                loop {
                    while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                        let line = buffer.split_to(end + 1).freeze();
                        count += 1;
                        let every = drops.load(Ordering::Relaxed);
                        if every > 0 && count % every == 0 {
                            dropped.fetch_add(1, Ordering::Relaxed);
                            continue;
                        }
                        return Some((Ok(Frame::data(line)), (body, buffer, count)));
                    }
                    let frame = body.frame().await?.ok()?;
                    if let Ok(data) = frame.into_data() {
                        buffer.extend_from_slice(&data);
                    }
                }
            }
        });
        StreamBody::new(told).boxed_unsync()
    }
}
