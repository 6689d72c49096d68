//! Who reaches whom, and what becomes of a message on its way.

use std::collections::BTreeMap;

use crate::{
    clock::{MS, True},
    random::Random,
    world::Place,
};

/// How the network and the hosts behave when nothing special is wrong.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Per thousand messages.
    pub loss: u64,
    pub duplicates: u64,
    /// Longest usual way, and the longest of a straggler.
    pub delay: True,
    pub stragglers: u64,
    /// Longest usual step of a host or a disk.
    pub work: True,
}

pub const CALM: Weather =
    Weather { loss: 0, duplicates: 0, delay: 3 * MS, stragglers: 0, work: 3 * MS };

pub struct Network {
    pub weather: Weather,
    /// One-way cuts, each with the number of faults that hold it.
    cuts: BTreeMap<(Place, Place), u32>,
    /// When the last message of a stream arrives.
    last: BTreeMap<(Place, Place), True>,
}

/// Instants at which the copies of one message arrive; none: it was lost.
pub type Arrivals = [Option<True>; 2];

impl Network {
    pub fn new(weather: Weather) -> Self {
        Self { weather, cuts: BTreeMap::new(), last: BTreeMap::new() }
    }

    pub fn passes(&self, from: Place, to: Place) -> bool {
        from == to || !self.cuts.contains_key(&(from, to))
    }

    pub fn both_ways(&self, one: Place, other: Place) -> bool {
        self.passes(one, other) && self.passes(other, one)
    }

    pub fn cut(&mut self, from: Place, to: Place) {
        *self.cuts.entry((from, to)).or_default() += 1;
    }

    pub fn mend(&mut self, from: Place, to: Place) {
        if let Some(holders) = self.cuts.get_mut(&(from, to)) {
            *holders -= 1;
            if *holders == 0 {
                self.cuts.remove(&(from, to));
            }
        }
    }

    pub fn heal(&mut self) {
        self.cuts.clear();
        self.weather = CALM;
    }

    /// A message that may be lost, repeated and overtaken.
    pub fn datagram(&self, random: &mut Random, from: Place, to: Place, now: True) -> Arrivals {
        if from == to {
            return [Some(now + random.below(MS)), None];
        }
        if !self.passes(from, to) || random.per_mille(self.weather.loss) {
            return [None, None];
        }
        let copy = random.per_mille(self.weather.duplicates);
        let first = now + self.way(random);
        [Some(first), copy.then(|| now + self.way(random))]
    }

    /// What travels in one stream does not overtake; only a repetition comes at any time.
    pub fn in_order(&mut self, from: Place, to: Place, arrivals: Arrivals) -> Arrivals {
        let [first, again] = arrivals;
        let last = self.last.entry((from, to)).or_default();
        let first = first.map(|at| at.max(*last + 1));
        *last = first.unwrap_or(*last);
        [first, again]
    }

    /// A frame of a stream: it arrives once, or the stream breaks.
    pub fn frame(&self, random: &mut Random, from: Place, to: Place, now: True) -> Option<True> {
        if from == to {
            return Some(now);
        }
        let lost = !self.passes(from, to) || random.per_mille(self.weather.loss / 4);
        (!lost).then(|| now + 100 + random.below(self.weather.delay))
    }

    fn way(&self, random: &mut Random) -> True {
        let longest =
            if random.per_mille(self.weather.stragglers) { 1_000 * MS } else { self.weather.delay };
        100 + random.below(longest)
    }
}
