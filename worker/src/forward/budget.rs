//! The memory that calls under way may take, in this process as a whole.
//!
//! Every other bound of the data path is one of a stream, a pipe or a shard, and their number is
//! not known. A call claims what it takes before that is taken, mostly by one atomic addition,
//! and gives it back when it ends. What finds no room is refused; nothing ever waits for room.
//! So no two nodes wait for each other's, and refusals are as fast as answers.
//!
//! [`Stage`] says how full it may be for whom. What must still be done for calls that were let
//! in has room that new ones cannot take: without it two nodes full of calls for each other would
//! refuse each other's for ever. Raft, sessions and hand-over claim nothing and are never refused.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use crate::call::{Outcome, Reply};

/// What a call takes that is small in both directions: its task, its stream, its buffers.
pub(super) const CALL: usize = 8 * 1_024;
/// Payloads and answers up to this size are part of [`CALL`].
pub(super) const SMALL: usize = 4 * 1_024;
/// Methods whose answers are expected apart; more of them share their places.
const METHODS: usize = 64;

/// Who claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A client's call that has just arrived: half of all.
    Entry,
    /// One that a peer has let in and sends here, where it runs: a quarter more. It waits for no
    /// other node, so that room of this stage always comes back.
    Pipe,
    /// The answer of one that has run: all that is left.
    Answer,
}

impl Stage {
    fn ceiling(self, limit: usize) -> usize {
        match self {
            Self::Entry => limit / 2,
            Self::Pipe => limit / 4 * 3,
            Self::Answer => limit,
        }
    }
}

/// A limit below which a largest payload would never be let in.
pub const fn least(max_payload: usize) -> usize {
    4 * (max_payload + CALL)
}

/// A method, as far as sizes of answers are remembered.
#[derive(Clone, Copy)]
pub(super) struct Method(usize);

impl Method {
    pub(super) fn of(name: &str) -> Self {
        let mix = |sum: usize, byte: u8| sum.wrapping_mul(31).wrapping_add(usize::from(byte));
        Self(name.bytes().fold(0, mix) % METHODS)
    }
}

/// There is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("calls under way take all memory that CALL_MEMORY gives them")]
pub struct Full;

pub struct Budget {
    limit: usize,
    /// Its own metric, so that a claim is one addition.
    used: Gauge,
    refused: [Counter; 3],
    /// Mean size of the last answers of each method.
    expected: [AtomicUsize; METHODS],
}

impl Budget {
    pub(super) fn new(limit: usize, used: Gauge, refused: [Counter; 3]) -> Arc<Self> {
        let expected = std::array::from_fn(|_| AtomicUsize::new(0));
        Arc::new(Self { limit, used, refused, expected })
    }

    /// Takes room for so many bytes. Claims at the same time may refuse each other although one
    /// of them alone would just fit.
    pub(super) fn claim(self: &Arc<Self>, stage: Stage, bytes: usize) -> Result<Charge, Full> {
        let mut charge = Charge { budget: self.clone(), bytes: 0 };
        charge.resize(stage, bytes)?;
        Ok(charge)
    }

    /// Room for the answer that the last ones of this method lead to expect, if it is not small.
    pub(super) fn expect(
        self: &Arc<Self>,
        stage: Stage,
        method: Method,
    ) -> Result<Option<Charge>, Full> {
        match self.expected[method.0].load(Ordering::Relaxed) {
            0..=SMALL => Ok(None),
            bytes => self.claim(stage, bytes).map(Some),
        }
    }

    /// Remembers how large an answer was.
    pub(super) fn learn(&self, method: Method, outcome: &Outcome) {
        if let Outcome::Reply(Reply { result: Ok(payload), .. }) = outcome {
            self.took(method, payload.len());
        }
    }

    /// The mean of the last ones: what many calls expect together is then what they take.
    fn took(&self, method: Method, bytes: usize) {
        let expected = &self.expected[method.0];
        let before = expected.load(Ordering::Relaxed);
        // Small answers of methods that have no others write nothing.
        if bytes.max(before) > SMALL {
            expected.store(before - before / 8 + bytes / 8, Ordering::Relaxed);
        }
    }

    /// Makes what was set apart for an answer as large as it is.
    pub(super) fn answer(
        self: &Arc<Self>,
        expected: Option<Charge>,
        bytes: usize,
    ) -> Result<Option<Charge>, Full> {
        match expected {
            _ if bytes <= SMALL => Ok(None),
            None => self.claim(Stage::Answer, bytes).map(Some),
            Some(mut charge) => {
                charge.resize(Stage::Answer, bytes)?;
                Ok(Some(charge))
            }
        }
    }

    /// An answer that keeps its room until it is sent. Without room it is given up, though the
    /// call has run.
    pub(super) fn hold(self: &Arc<Self>, outcome: Outcome, expected: Option<Charge>) -> Outcome {
        let Outcome::Reply(Reply { result: Ok(payload), epoch }) = outcome else { return outcome };
        match self.answer(expected, payload.len()) {
            Ok(None) => Outcome::Reply(Reply { result: Ok(payload), epoch }),
            Ok(Some(charge)) => Outcome::Reply(Reply { result: Ok(charge.around(payload)), epoch }),
            Err(Full) => given_up(payload.len()),
        }
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used.get() as usize
    }
}

/// What becomes of a call whose answer finds no room.
pub(super) fn given_up(bytes: usize) -> Outcome {
    Outcome::Unknown(format!("{Full}: there is no room for its answer of {bytes} bytes"))
}

/// What a call whose payload has so many bytes takes.
pub(super) fn cost(payload: usize) -> usize {
    if payload <= SMALL { CALL } else { CALL + payload }
}

/// Room that was claimed; given back when it is dropped.
pub(super) struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Charge {
    pub(super) fn resize(&mut self, stage: Stage, bytes: usize) -> Result<(), Full> {
        let Budget { limit, used, refused, .. } = &*self.budget;
        if bytes <= self.bytes {
            used.dec_by((self.bytes - bytes) as i64);
        } else {
            let more = (bytes - self.bytes) as i64;
            if used.inc_by(more) + more > stage.ceiling(*limit) as i64 {
                used.dec_by(more);
                refused[stage as usize].inc();
                return Err(Full);
            }
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Bytes that keep it until the last of them are gone.
    pub(super) fn around(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Charged { bytes, _charge: self })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.dec_by(self.bytes as i64);
    }
}

struct Charged {
    bytes: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1 << 20;

    fn budget() -> Arc<Budget> {
        Budget::new(LIMIT, Gauge::default(), Default::default())
    }

    fn refused(budget: &Budget) -> [u64; 3] {
        budget.refused.each_ref().map(Counter::get)
    }

    #[test]
    fn every_stage_has_room_that_the_one_before_cannot_take() {
        let budget = budget();
        let entry = budget.claim(Stage::Entry, LIMIT / 2).unwrap();
        assert_eq!(budget.claim(Stage::Entry, 1).err(), Some(Full));
        let pipe = budget.claim(Stage::Pipe, LIMIT / 4).unwrap();
        assert_eq!(budget.claim(Stage::Pipe, 1).err(), Some(Full));
        let answer = budget.claim(Stage::Answer, LIMIT / 4).unwrap();
        assert_eq!(budget.claim(Stage::Answer, 1).err(), Some(Full));
        assert_eq!((budget.used(), refused(&budget)), (LIMIT, [1, 1, 1]));
        drop((entry, pipe, answer));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_claim_that_is_refused_or_made_smaller_leaves_nothing_behind() {
        let budget = budget();
        let mut charge = budget.claim(Stage::Entry, CALL).unwrap();
        assert_eq!(charge.resize(Stage::Entry, LIMIT), Err(Full));
        assert_eq!(budget.used(), CALL);
        charge.resize(Stage::Answer, LIMIT).unwrap();
        charge.resize(Stage::Entry, 10).unwrap();
        assert_eq!(budget.used(), 10);
        let bytes = charge.around(Bytes::from_static(b"an answer"));
        let part = bytes.slice(3..);
        drop(bytes);
        assert_eq!((budget.used(), &part[..]), (10, &b"answer"[..]));
        drop(part);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn room_for_an_answer_is_the_mean_of_the_last_ones() {
        let (budget, get) = (budget(), Method::of("get"));
        let expected = || {
            let charge = budget.expect(Stage::Entry, get).unwrap();
            charge.map_or(0, |charge| charge.bytes)
        };
        assert_eq!(expected(), 0);
        (0..100).for_each(|_| budget.took(get, SMALL));
        assert_eq!(expected(), 0);
        budget.took(get, 80_000);
        assert_eq!(expected(), 10_000);
        (0..100).for_each(|_| budget.took(get, 80_000));
        assert!((79_000..=80_000).contains(&expected()), "{}", expected());
        (0..100).for_each(|_| budget.took(get, 10));
        assert_eq!(expected(), 0);
    }

    #[test]
    fn an_answer_takes_what_was_set_apart_and_no_more_than_there_is() {
        let (budget, get) = (budget(), Method::of("get"));
        budget.took(get, LIMIT);
        let room = || budget.expect(Stage::Entry, get).unwrap();
        assert!(budget.answer(room(), SMALL).unwrap().is_none());
        assert_eq!(budget.used(), 0, "a small answer needs none of it");
        let held = budget.answer(room(), LIMIT).unwrap();
        assert_eq!(budget.used(), LIMIT);
        assert!(budget.answer(None, SMALL + 1).is_err());
        drop(held);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_largest_payload_is_let_in_by_the_least_limit() {
        for payload in [1_024, 4 << 20, 64 << 20] {
            let limit = least(payload);
            let budget = Budget::new(limit, Gauge::default(), Default::default());
            assert!(budget.claim(Stage::Entry, cost(payload)).is_ok(), "{payload}");
        }
    }
}
