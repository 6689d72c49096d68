//! What clients saw, judged: one cell for each key and failover epoch, tokens that grow, one
//! owner, nothing lost on a move; and for how long a key did not answer.
//!
//! Takes a history piece by piece and keeps only what later calls can still touch.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    time::Duration,
};

use super::{
    callers::{DEADLINE, Key},
    epochs::Epochs,
    gaps::{Gap, Gaps},
    history::{Act, Answer, Op, Outcome, Time, Use, seconds},
    linear::{self, Done, Perhaps},
    opens::{Opens, Start, count},
    porcupine,
};

/// A call of unknown outcome is executed no later than this after its client gave it up: what
/// waits in the sockets of a stopped process runs when that goes on.
const LINGERS: Time = DEADLINE.as_nanos() as Time + 60 * SECOND;
const SECOND: Time = 1_000_000_000;
/// Shorter gaps are the pace of the clients and of a busy machine.
const LEAST_GAP: Time = SECOND / 4;
/// Violations that are told one by one.
const TOLD: usize = 20;

/// A rule that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Calls of one key under one token have no order that explains them.
    Linearizable,
    /// A token went back, as clients saw it.
    EpochsGrow,
    /// Two nodes answered under one token.
    OneOwner,
    /// Acknowledged calls were lost though nothing had failed.
    NothingLostOnMoves,
    /// A node wrote what it never may.
    Logs,
    /// A search ended without a verdict, which counts as a violation.
    Decided,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linearizable => "linearizable",
            Self::EpochsGrow => "epochs grow",
            Self::OneOwner => "one owner",
            Self::NothingLostOnMoves => "nothing lost on moves",
            Self::Logs => "logs",
            Self::Decided => "decided",
        })
    }
}

/// How many calls ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub calls: u64,
    pub acknowledged: u64,
    pub not_executed: u64,
    pub unknown: u64,
    /// Increments that went with the state of a killed or fenced owner.
    pub lost_with_owners: u64,
    /// Epochs of keys that began with nothing where there had been something.
    pub emptied: u64,
    /// Epochs whose beginning no log tells: they may have begun with or without state.
    pub untold: u64,
}

/// One key, up to the last call that was judged.
#[derive(Debug, Default)]
struct Ledger {
    waiting: Vec<Op>,
    unknown: Vec<Perhaps>,
    /// The newest epoch that was judged, its shard, and what the key may hold.
    at: Option<(u32, u64)>,
    values: BTreeSet<i64>,
    gaps: Gaps,
}

pub struct Judge {
    keys: Vec<Key>,
    ledgers: Vec<Ledger>,
    shards: BTreeMap<u32, Epochs>,
    opens: Opens,
    /// Nothing fails on purpose: whatever is lost is a violation.
    planned: bool,
    /// The host's state lies in a store: a failover takes nothing.
    stored: bool,
    pub tally: Tally,
    pub gaps: Vec<Gap>,
    violations: Vec<(Rule, String)>,
    broken: BTreeMap<Rule, u64>,
}

impl Judge {
    /// `logs`: where the nodes write theirs.
    pub fn new(keys: &[Key], logs: &Path, planned: bool) -> Self {
        let ledger = |_| Ledger { values: BTreeSet::from([0]), ..Ledger::default() };
        Self {
            keys: keys.to_vec(),
            ledgers: (0..keys.len()).map(ledger).collect(),
            shards: BTreeMap::new(),
            opens: Opens::new(logs),
            planned,
            stored: false,
            tally: Tally::default(),
            gaps: Vec::new(),
            violations: Vec::new(),
            broken: BTreeMap::new(),
        }
    }

    /// A failover is to lose nothing: every key is one cell for all of its epochs.
    pub fn stored(self) -> Self {
        Self { stored: true, ..self }
    }

    /// Takes calls that have ended, and judges all that no later call can touch: none that began
    /// before `horizon` is still to come.
    pub fn take(&mut self, ops: Vec<Op>, horizon: Time) -> anyhow::Result<()> {
        for op in ops {
            self.note(op);
        }
        // Later than the calls: whoever answered had written its line before.
        self.opens.look()?;
        for told in std::mem::take(&mut self.opens.alarms) {
            self.broke(Rule::Logs, told);
        }
        let wrong: Vec<_> =
            self.shards.iter_mut().flat_map(|(_, epochs)| epochs.judge(horizon)).collect();
        wrong.into_iter().for_each(|told| self.broke(Rule::EpochsGrow, told));
        for at in 0..self.ledgers.len() {
            let piece = cut(&mut self.ledgers[at].waiting, horizon);
            self.piece(at, &piece, horizon);
            self.gaps.extend(self.ledgers[at].gaps.take(at, LEAST_GAP));
        }
        Ok(())
    }

    /// Gaps that no acknowledgement has ended at `now`.
    pub fn open_gaps(&self, now: Time) -> Vec<Gap> {
        let open = self.ledgers.iter().enumerate();
        open.filter_map(|(at, ledger)| ledger.gaps.open(at, now)).collect()
    }

    /// The longest gap between two times, counted only as far as it lies there.
    pub fn longest_gap(&self, from: Time, to: Time) -> Duration {
        let open = self.open_gaps(to);
        let longest = self.gaps.iter().chain(&open).map(|gap| gap.within(from, to)).max();
        Duration::from_nanos(longest.unwrap_or(0))
    }

    /// How often any rule was broken.
    pub fn violations(&self) -> u64 {
        self.broken.values().sum()
    }

    /// The first violations, one a line, and how many there are of each rule.
    pub fn told(&self) -> String {
        let mut lines: Vec<_> =
            self.violations.iter().map(|(rule, told)| format!("{rule}: {told}")).collect();
        lines.extend(self.broken.iter().map(|(rule, count)| format!("{rule}: {count} violations")));
        lines.join("\n")
    }

    fn broke(&mut self, rule: Rule, told: String) {
        *self.broken.entry(rule).or_default() += 1;
        if self.violations.len() < TOLD {
            self.violations.push((rule, told));
        }
    }

    fn note(&mut self, op: Op) {
        self.tally.calls += 1;
        let ledger = &mut self.ledgers[op.key];
        ledger.gaps.add(&op);
        match &op.outcome {
            Outcome::Done(answer) => {
                self.tally.acknowledged += 1;
                let epochs = self.shards.entry(answer.shard).or_default();
                if let Err(told) = epochs.add(answer, op.invoked, op.returned) {
                    self.broke(Rule::OneOwner, told);
                }
                self.ledgers[op.key].waiting.push(op);
            }
            Outcome::Absent => self.tally.acknowledged += 1,
            Outcome::NotExecuted(_) => self.tally.not_executed += 1,
            Outcome::Unknown(_) => {
                self.tally.unknown += 1;
                if op.act != Act::Read {
                    let perhaps = Perhaps::from(op.invoked, op.act);
                    ledger.unknown.push(perhaps);
                    // One that was sent again may have run twice.
                    ledger.unknown.extend(may_be_sent_again(&op).then_some(perhaps));
                }
            }
        }
    }

    /// One key from one quiet moment to the next.
    fn piece(&mut self, at: usize, piece: &[Op], horizon: Time) {
        let mut epochs: BTreeMap<(u32, u64), Vec<Done>> = BTreeMap::new();
        for (op, answer) in piece.iter().filter_map(|op| Some((op, op.answer()?))) {
            let Answer { value, shard, epoch, .. } = *answer;
            let done = Done { act: op.act, value, invoked: op.invoked, returned: op.returned };
            epochs.entry((shard, epoch)).or_default().push(done);
        }
        for ((shard, epoch), done) in epochs {
            // One that went back is told by the order of tokens.
            if self.ledgers[at].at.is_none_or(|(_, last)| epoch >= last) {
                self.turn(at, shard, epoch);
                let again: Vec<_> = piece.iter().filter_map(|op| ran_before(op, epoch)).collect();
                self.segment(at, epoch, &done, &again);
            }
        }
        let ledger = &mut self.ledgers[at];
        ledger.unknown.retain(|perhaps| perhaps.invoked.saturating_add(LINGERS) > horizon);
    }

    /// From the epoch that was judged last to this one.
    fn turn(&mut self, at: usize, shard: u32, epoch: u64) {
        let last = self.ledgers[at].at.replace((shard, epoch));
        let Some((_, last)) = last.filter(|(_, last)| *last != epoch) else { return };
        if self.stored {
            return;
        }
        let between =
            (count(last) + 1..=count(epoch)).map(|count| self.opens.start(shard, count.into()));
        let starts: Vec<_> = between.collect();
        let held = self.ledgers[at].values.last().copied().unwrap_or(0);
        if starts.contains(&Some(Start::Empty)) {
            self.emptied(at, shard, epoch, held);
        } else if starts.contains(&None) {
            self.tally.untold += 1;
            self.ledgers[at].values.insert(0);
        }
    }

    fn emptied(&mut self, at: usize, shard: u32, epoch: u64, held: i64) {
        self.ledgers[at].values = BTreeSet::from([0]);
        if held == 0 {
            return;
        }
        self.tally.emptied += 1;
        if self.keys[at].of == Use::Counter {
            self.tally.lost_with_owners += held as u64;
        }
        if self.planned {
            let key = &self.keys[at].name;
            let told =
                format!("{key}, shard {shard}: epoch {} began empty, it held {held}", count(epoch));
            self.broke(Rule::NothingLostOnMoves, told);
        }
    }

    /// `again`: what may have run here, and was answered where it ran once more.
    fn segment(&mut self, at: usize, epoch: u64, done: &[Done], again: &[Perhaps]) {
        let ledger = &mut self.ledgers[at];
        let perhaps = [&ledger.unknown, again].concat();
        let explained = linear::explain(&ledger.values, done, &perhaps);
        // What one search explains another one has to find possible too.
        let explained = explained.and_then(|ending| {
            match porcupine::agrees(&ledger.values, done, &ending.used) {
                true => Ok(ending),
                false => Err(linear::Error::Disputed),
            }
        });
        match explained {
            Ok(ending) => {
                ledger.values = ending.values;
                for used in ending.used {
                    let place = ledger.unknown.iter().position(|perhaps| *perhaps == used);
                    place.map(|place| ledger.unknown.remove(place));
                }
            }
            Err(error) => {
                let rule = match error {
                    linear::Error::Impossible { .. } => Rule::Linearizable,
                    linear::Error::Undecided | linear::Error::Disputed => Rule::Decided,
                };
                // What follows is judged from what was answered last.
                let last = done.iter().max_by_key(|call| call.returned);
                ledger.values = last.iter().map(|call| call.value).collect();
                let told = format!("{} under epoch {}: {error}", self.keys[at].name, count(epoch));
                self.broke(rule, told);
            }
        }
    }
}

/// A put says that it may run twice. It does where the connection broke over which its owner was to
/// answer, and it was sent again: to the same owner, or to the next one under a later epoch.
fn ran_before(op: &Op, epoch: u64) -> Option<Perhaps> {
    let later = op.answer().is_some_and(|answer| answer.epoch > epoch);
    let same = op.answer().is_some_and(|answer| answer.epoch == epoch) && may_be_sent_again(op);
    let twice = matches!(op.act, Act::Put(_)) && (later || same);
    // Without an end where the next owner answered: the former one may be paused meanwhile.
    let until = if later { Time::MAX } else { op.returned };
    twice.then_some(Perhaps { until, ..Perhaps::from(op.invoked, op.act) })
}

/// A connection to an owner that lives is not given up sooner.
fn may_be_sent_again(op: &Op) -> bool {
    matches!(op.act, Act::Put(_)) && op.returned - op.invoked >= LEAST_GAP
}

/// Takes the calls before the last moment at which none of this key ran.
fn cut(waiting: &mut Vec<Op>, horizon: Time) -> Vec<Op> {
    waiting.sort_by_key(|op| op.invoked);
    let (mut end, mut latest) = (0, 0);
    for (at, op) in waiting.iter().enumerate() {
        if at > 0 && op.invoked > latest && latest < horizon {
            end = at;
        }
        latest = latest.max(op.returned);
    }
    if latest < horizon {
        end = waiting.len();
    }
    let rest = waiting.split_off(end);
    std::mem::replace(waiting, rest)
}

/// The tally for people.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} calls, {} acknowledged, {} not executed, {} of unknown outcome; {} increments \
             lost with their owners in {} epochs of keys; {} epochs of keys with untold beginning",
            self.calls,
            self.acknowledged,
            self.not_executed,
            self.unknown,
            self.lost_with_owners,
            self.emptied,
            self.untold
        )
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gap { key, from, .. } = self;
        write!(f, "key {key} for {:.2} s after {:.1} s", seconds(self.length()), seconds(*from))
    }
}

#[cfg(test)]
mod tests;
