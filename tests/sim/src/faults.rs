//! What goes wrong: each kind once begun, mended by itself after its time.

use std::{collections::BTreeMap, time::Duration};

use shoal_worker::env::{
    random::{below, fraction},
    sim::{self, Crash, Place},
};

use crate::{people::Order, world::World};

/// Every kind of fault, planned changes included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Kill,
    PowerLoss,
    PowerLossOfAll,
    LostDisk,
    FailingDisk,
    SlowDisk,
    Pause,
    Suspension,
    CutOneWay,
    CutOff,
    CutInTwo,
    SlowLinks,
    BrokenConnections,
    ClockRates,
    WallClock,
    Restart,
    RestartOfAll,
    Join,
    Drain,
    Removal,
    ForcedRemoval,
    Move,
    Leadership,
    Lease,
}

impl Fault {
    pub const ALL: [Self; 24] = [
        Self::Kill,
        Self::PowerLoss,
        Self::PowerLossOfAll,
        Self::LostDisk,
        Self::FailingDisk,
        Self::SlowDisk,
        Self::Pause,
        Self::Suspension,
        Self::CutOneWay,
        Self::CutOff,
        Self::CutInTwo,
        Self::SlowLinks,
        Self::BrokenConnections,
        Self::ClockRates,
        Self::WallClock,
        Self::Restart,
        Self::RestartOfAll,
        Self::Join,
        Self::Drain,
        Self::Removal,
        Self::ForcedRemoval,
        Self::Move,
        Self::Leadership,
        Self::Lease,
    ];
    /// Those that fail no call.
    pub const PLANNED: [Self; 9] = [
        Self::ClockRates,
        Self::WallClock,
        Self::Restart,
        Self::Join,
        Self::Drain,
        Self::Removal,
        Self::Move,
        Self::Leadership,
        Self::Lease,
    ];
}

/// What to mend, and when.
#[derive(Debug)]
enum Mend {
    Link(Place, Place),
    Links,
    Disk(Place),
}

#[derive(Debug, Default)]
pub struct Faults {
    mends: Vec<(Duration, Mend)>,
    pub fired: BTreeMap<Fault, u64>,
    pub felt: BTreeMap<&'static str, u64>,
    lost_disks: usize,
    /// Only what is planned happens: one thing at a time, while all is well.
    planned: bool,
}

impl Faults {
    pub fn new(planned: bool) -> Self {
        Self { planned, ..Self::default() }
    }

    /// Draws one of `kinds` and begins it; what cannot happen now is not counted.
    pub fn strike(&mut self, world: &mut World, kinds: &[Fault]) {
        let fault = kinds[below(kinds.len() as u64) as usize];
        let place = self.aim(world);
        let struck = self.begin(world, fault, place);
        tracing::info!(?fault, place, struck, "strikes");
        if struck {
            *self.fired.entry(fault).or_default() += 1;
            self.note(world, place);
        }
    }

    /// At times the leader, at times whoever.
    fn aim(&self, world: &World) -> Place {
        let leader = world.sight.lock().leader();
        match leader {
            Some(leader) if below(3) == 0 => leader,
            _ => {
                let begun = world.begun();
                begun[below(begun.len() as u64) as usize]
            }
        }
    }

    fn note(&mut self, world: &World, place: Place) {
        let sight = world.sight.lock();
        let mut felt = |what, holds| *self.felt.entry(what).or_default() += u64::from(holds);
        felt("hit the leader", sight.leader() == Some(place));
        felt("hit an owner", sight.owned(place) > 0);
        felt("hit during a move", sight.latest().is_some_and(|seen| !seen.moving.is_empty()));
        felt("hit without a leader", !sight.is_led());
    }

    fn begin(&mut self, world: &mut World, fault: Fault, place: Place) -> bool {
        let count = world.nodes.len();
        let other = (place + 1 + below(count as u64 - 1) as usize) % count;
        let span = Duration::from_millis(300 + below(6_000));
        match fault {
            Fault::Kill => self.crash(world, place, Crash::Process, 3_000),
            Fault::PowerLoss => self.crash(world, place, Crash::Power, 6_000),
            Fault::PowerLossOfAll => {
                let hit = (0..count).filter(|at| self.crash(world, *at, Crash::Power, 4_000));
                hit.count() > 0
            }
            Fault::LostDisk => self.lose_disk(world, place),
            Fault::FailingDisk => {
                sim::storage(place, |disk| disk.fail(true));
                self.later(world, span / 4, Mend::Disk(place));
                world.nodes[place].is_running()
            }
            Fault::SlowDisk => {
                let slowness = Duration::from_millis(20 + below(1_600));
                sim::storage(place, |disk| disk.slowness = slowness);
                self.later(world, span, Mend::Disk(place));
                world.nodes[place].is_running()
            }
            Fault::Pause => Self::pause(world, place, Duration::from_millis(50 + below(900))),
            Fault::Suspension => {
                Self::pause(world, place, Duration::from_millis(1_000 + below(9_000)))
            }
            Fault::CutOneWay => {
                self.cut(world, place, other, span);
                true
            }
            Fault::CutOff => self.cut_off(world, place, span),
            Fault::CutInTwo => self.cut_in_two(world, span),
            Fault::SlowLinks => {
                let by = Duration::from_millis(below(150));
                sim::wires(|wires, _| {
                    (0..count).for_each(|at| wires.slow(place, at, by));
                });
                self.later(world, span, Mend::Links);
                true
            }
            Fault::BrokenConnections => {
                let woken = sim::wires(|wires, _| wires.reset(place, other));
                let any = !woken.is_empty();
                woken.into_iter().for_each(std::task::Waker::wake);
                any
            }
            Fault::ClockRates => {
                // As NTP slews the one and a crystal errs on the other.
                let boottime = 1.0 + (fraction() - 0.5) * 2.0 * 0.083;
                let raw = 1.0 + (fraction() - 0.5) * 2.0 * 0.004;
                sim::clocks(place, |clocks, now| clocks.set_rates(now, boottime, raw));
                true
            }
            Fault::WallClock => {
                let ahead = below(7_200_000) as i64 - 3_600_000;
                sim::clocks(place, |clocks, _| clocks.set_wall(ahead));
                true
            }
            Fault::Restart
            | Fault::RestartOfAll
            | Fault::Join
            | Fault::Drain
            | Fault::Removal
            | Fault::ForcedRemoval
            | Fault::Move
            | Fault::Leadership
            | Fault::Lease => self.change(world, fault, place, span),
        }
    }

    /// What is done to a cluster on purpose.
    fn change(&self, world: &mut World, fault: Fault, place: Place, span: Duration) -> bool {
        let (complete, quiet) = (world.is_complete(), world.desk.lock().is_idle());
        let order = match fault {
            Fault::Join => return world.join(),
            Fault::Restart if complete && (quiet || !self.planned) => {
                world.stop(place);
                return true;
            }
            Fault::RestartOfAll if complete => {
                world.begun().into_iter().for_each(|place| world.stop(place));
                return true;
            }
            Fault::Drain => Order::Drain(place, span),
            Fault::ForcedRemoval => Order::Force(place),
            Fault::Removal => Order::Remove(place),
            Fault::Move => Order::Move(place),
            Fault::Leadership => Order::Lead(place),
            Fault::Lease => Order::Lease,
            _ => return false,
        };
        let asked = quiet && (complete || !self.planned);
        if asked {
            world.desk.lock().ask(order);
        }
        asked
    }

    fn crash(&self, world: &mut World, place: Place, how: Crash, back_ms: u64) -> bool {
        let runs = world.nodes[place].is_running();
        if runs {
            world.crash(place, how, Duration::from_millis(100 + below(back_ms)));
        }
        runs
    }

    /// One machine in a run, when all others are well and three vote: more would lose the quorum
    /// for good.
    fn lose_disk(&mut self, world: &mut World, place: Place) -> bool {
        // Neither while another node is on its way out.
        let quiet = world.desk.lock().is_idle();
        let well = quiet && self.lost_disks == 0 && {
            let sight = world.sight.lock();
            sight.settled() && sight.latest().is_some_and(|seen| seen.voters.len() >= 3)
        };
        if well {
            self.lost_disks += 1;
            world.crash(place, Crash::Power, Duration::from_millis(500 + below(2_000)));
            sim::storage(place, sim::Storage::wipe);
        }
        well
    }

    fn pause(world: &mut World, place: Place, span: Duration) -> bool {
        let until = world.now() + span;
        let runs = world.nodes[place].is_running() && world.nodes[place].paused_until.is_none();
        if runs {
            world.nodes[place].paused_until = Some(until);
        }
        runs
    }

    fn cut(&mut self, world: &World, from: Place, to: Place, span: Duration) {
        sim::wires(|wires, _| wires.cut(from, to));
        self.later(world, span, Mend::Link(from, to));
    }

    fn cut_off(&mut self, world: &World, place: Place, span: Duration) -> bool {
        for at in (0..world.nodes.len()).filter(|at| *at != place) {
            self.cut(world, place, at, span);
            self.cut(world, at, place, span);
        }
        true
    }

    fn cut_in_two(&mut self, world: &World, span: Duration) -> bool {
        let count = world.nodes.len();
        let side: Vec<_> = (0..count).map(|_| below(2) == 0).collect();
        let mut any = false;
        for from in 0..count {
            for to in 0..count {
                if side[from] != side[to] {
                    self.cut(world, from, to, span);
                    any = true;
                }
            }
        }
        any
    }

    fn later(&mut self, world: &World, span: Duration, mend: Mend) {
        self.mends.push((world.now() + span, mend));
    }

    /// Mends what has lasted its time.
    pub fn mend(&mut self, world: &World) {
        let now = world.now();
        self.mends.retain(|(at, mend)| {
            let due = *at <= now;
            if due {
                match mend {
                    Mend::Link(from, to) => sim::wires(|wires, now| wires.mend(*from, *to, now)),
                    Mend::Links => sim::wires(|wires, _| wires.quicken()),
                    Mend::Disk(place) => heal_disk(*place),
                }
            }
            !due
        });
    }

    /// Mends everything, so that nothing stands in the way any more.
    pub fn heal(&mut self, world: &mut World) {
        self.mends.clear();
        world.desk.lock().hurry = true;
        while world.join() {}
        sim::wires(|wires, now| wires.mend_all(now));
        for place in 0..world.nodes.len() {
            heal_disk(place);
            world.nodes[place].paused_until = None;
        }
    }
}

fn heal_disk(place: Place) {
    sim::storage(place, |disk| {
        disk.fail(false);
        disk.slowness = Duration::ZERO;
    });
}
