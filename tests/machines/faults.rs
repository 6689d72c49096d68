//! What goes wrong, when, and for how long; and whom it hit.

use shoal_core::{
    handoff::Process,
    id::ShardId,
    registry::{Command, Configure, Holding},
};

use crate::{
    clock::{MS, SECOND, SLEW, True},
    log::What,
    network::Weather,
    node::Disk,
    requests::{AskBody, For},
    world::{Event, Place, SHARDS, Setup, World},
};

/// The phase of faults, after a while for the cluster to come up.
pub const FIRST: True = 3 * SECOND;
pub const LAST: True = 24 * SECOND;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Crash,
    Reboot,
    PowerCycle,
    Pause,
    Suspend,
    Slew,
    Isolate,
    OneWayIn,
    OneWayOut,
    CutPair,
    DeafLeader,
    Storm,
    SlowLog,
    HalfOpenWatch,
    LaggingTable,
    Snapshot,
    LostDisk,
    RestoredCopy,
    SlowDisk,
    Wedge,
    StubbornCalls,
    Election,
    Transfer,
    Lease,
    Restart,
    StopAll,
    Removal,
    CancelDrain,
    Mark,
    Move,
    AbortMove,
    Trap,
}

pub const KINDS: [Kind; 32] = [
    Kind::Crash,
    Kind::Reboot,
    Kind::PowerCycle,
    Kind::Pause,
    Kind::Suspend,
    Kind::Slew,
    Kind::Isolate,
    Kind::OneWayIn,
    Kind::OneWayOut,
    Kind::CutPair,
    Kind::DeafLeader,
    Kind::Storm,
    Kind::SlowLog,
    Kind::HalfOpenWatch,
    Kind::LaggingTable,
    Kind::Snapshot,
    Kind::LostDisk,
    Kind::RestoredCopy,
    Kind::SlowDisk,
    Kind::Wedge,
    Kind::StubbornCalls,
    Kind::Election,
    Kind::Transfer,
    Kind::Lease,
    Kind::Restart,
    Kind::StopAll,
    Kind::Removal,
    Kind::CancelDrain,
    Kind::Mark,
    Kind::Move,
    Kind::AbortMove,
    Kind::Trap,
];

#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub kind: Kind,
    /// None: whoever chance picks then.
    pub place: Option<Place>,
    pub span: True,
}

/// What must end no healthy session, whatever else it does.
fn harmless(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Election
            | Kind::Transfer
            | Kind::Lease
            | Kind::Removal
            | Kind::CancelDrain
            | Kind::Move
            | Kind::AbortMove
            | Kind::Snapshot
    )
}

/// What ends by itself.
#[derive(Clone, Copy, Debug)]
pub enum Undo {
    Mend(Place, Place),
    Wake(Place),
    Unslew(Place),
    Weather,
    Well(Place),
}

/// Faults that wait for the most delicate point of a move: the owner has released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    RestartTarget,
    CrashOwner,
    NewLeader,
    IsolateOwner,
    /// The owner dies before anybody hears of the release, and the target's table stands
    /// still until the shard may have been given to it by a failover.
    LoseOwnerUnheard,
}

const TRAPS: [Trap; 5] = [
    Trap::RestartTarget,
    Trap::CrashOwner,
    Trap::NewLeader,
    Trap::IsolateOwner,
    Trap::LoseOwnerUnheard,
];

impl Setup {
    /// A run with faults, drawn from its seed.
    pub fn drawn(seed: u64) -> Self {
        let mut random = crate::random::Random::new(seed ^ 0x5e7u64);
        let mut pick = |of: &[u64]| random.pick(of).unwrap_or_default();
        let weather = Weather {
            loss: pick(&[0, 0, 5, 20]),
            duplicates: pick(&[0, 10, 50]),
            delay: pick(&[2, 5, 20, 60]) * MS,
            stragglers: pick(&[0, 5, 20]),
            work: pick(&[2, 5, 20]) * MS,
        };
        Self {
            nodes: pick(&[3, 3, 4, 5]) as usize,
            lease_ms: pick(&[2_000, 3_000, 3_000, 5_000]) as u32,
            max_voters: pick(&[1, 3, 5, 5]) as u32,
            max_learners: pick(&[0, 16]) as u32,
            weather,
            ..Self::calm(seed, 3)
        }
    }
}

impl World {
    /// Draws the faults of this run.
    pub fn plan_faults(&mut self, of: &[Kind]) {
        for _ in 0..self.random.between(5, 14) {
            let at = self.random.between(FIRST / MS, LAST / MS) * MS;
            let kind = self.random.pick(of).expect("a kind of fault");
            let span = match self.random.below(4) {
                0 => self.random.between(50, 600) * MS,
                1 => self.random.between(600, 2_500) * MS,
                _ => self.random.between(2_000, 7_000) * MS,
            };
            self.schedule(at, Event::Fault(Fault { kind, place: None, span }));
        }
        if self.random.percent(50) {
            for place in 0..self.nodes.len() {
                let slew = self.random.pick(&[-SLEW, 0, SLEW]).unwrap_or(0);
                self.nodes[place].clock.slew_ppm = slew;
                // One clock of a machine may fail, not both: asleep, only boottime tells.
                self.nodes[place].never_sleeps = slew < 0;
            }
        }
    }

    fn victim(&mut self, fault: Fault) -> Place {
        if let Some(place) = fault.place {
            return place;
        }
        match self.log.leader {
            Some(leader) if self.random.percent(40) => leader,
            Some(_) | None => self.random.below(self.nodes.len() as u64) as Place,
        }
    }

    pub fn strike(&mut self, fault: Fault) {
        let place = self.victim(fault);
        let Fault { kind, span, .. } = fault;
        self.note(format_args!("fault {kind:?} at {place} for {}", span / MS));
        self.cover_fault(kind, place);
        let until = self.now + span;
        if !harmless(kind) {
            for place in 0..self.nodes.len() {
                self.troubles(place, until + SECOND);
            }
        }
        match kind {
            Kind::Crash => self.crash_for(place, span / 4),
            Kind::Reboot => self.reboot(place, span),
            Kind::PowerCycle => self.power_cycle(span),
            Kind::Pause => self.pause(place, span),
            Kind::Suspend => self.suspend(place, span),
            Kind::Slew => self.slew(place, until),
            Kind::Isolate | Kind::OneWayIn | Kind::OneWayOut | Kind::CutPair => {
                self.partition(kind, place, until);
            }
            Kind::DeafLeader => self.deafen(place, until),
            Kind::Storm => {
                self.network.weather =
                    Weather { loss: 150, duplicates: 150, stragglers: 100, ..self.setup.weather };
                self.schedule(until, Event::Undo(Undo::Weather));
            }
            Kind::SlowLog => {
                self.log.extra_delay = self.random.between(100, 900) * MS;
                self.schedule(until, Event::Undo(Undo::Weather));
            }
            Kind::HalfOpenWatch
            | Kind::LaggingTable
            | Kind::Snapshot
            | Kind::SlowDisk
            | Kind::Wedge
            | Kind::StubbornCalls => self.ail(kind, place, until),
            Kind::LostDisk => {
                self.crash_for(place, span / 4);
                if self.may_lose_disk(place) {
                    self.wipe(place);
                }
            }
            Kind::RestoredCopy => {
                let copy = self.nodes[place].copy.clone();
                self.crash_for(place, span / 4);
                if let Some(copy) = copy.filter(|_| self.may_lose_disk(place)) {
                    self.log.held[place] = copy.applied;
                    self.nodes[place].disk = Disk { restored: true, ..copy };
                }
            }
            Kind::Election => self.election(span.min(4 * SECOND)),
            Kind::Transfer => self.admin(place, AskBody::TransferLeader),
            Kind::Lease
            | Kind::Restart
            | Kind::StopAll
            | Kind::Removal
            | Kind::CancelDrain
            | Kind::Mark
            | Kind::Move
            | Kind::AbortMove => self.operate(kind, place),
            Kind::Trap => {
                let trap = self.random.pick(&TRAPS).expect("a trap");
                self.traps.push(trap);
                self.log.extra_delay = self.random.between(50, 400) * MS;
                self.schedule(until, Event::Undo(Undo::Weather));
                self.operate(Kind::Move, place);
            }
        }
    }

    fn cover_fault(&mut self, kind: Kind, place: Place) {
        let owns = self.nodes[place].disk.node.is_some_and(|id| self.truth().held(id).owned > 0);
        let moving =
            self.truth().shards().any(|(_, row)| matches!(row.holding, Holding::Moving { .. }));
        let leads = self.log.leader == Some(place);
        let election = self.log.leader.is_none();
        self.coverage.fault(kind, [leads, owns, moving, election]);
    }

    pub fn crash_for(&mut self, place: Place, span: True) {
        if self.nodes[place].copy.is_none() || self.random.percent(30) {
            self.nodes[place].copy = Some(self.nodes[place].disk.clone());
        }
        self.crash(place);
        self.schedule(self.now + span, Event::Start(place));
    }

    /// A log survives the loss of a minority of its disks, by its voters and the next ones.
    fn may_lose_disk(&self, place: Place) -> bool {
        let coming =
            self.log.entries[self.log.committed..].iter().filter_map(|entry| match &entry.what {
                What::Members { voters, .. } => Some(voters),
                What::Command(_) => None,
            });
        std::iter::once(&self.log.voters).chain(coming).all(|voters| {
            let whole = |one: &Place| {
                let disk = &self.nodes[*one].disk;
                *one != place
                    && disk.node.is_some_and(|id| voters.contains(&id))
                    && !disk.restored
                    && self.log.held[*one] >= self.log.committed
            };
            let left = (0..self.nodes.len()).filter(whole).count();
            left > voters.len() / 2
        })
    }

    /// All machines lose their power and come back one after the other.
    pub fn power_cycle(&mut self, span: True) {
        for place in 0..self.nodes.len() {
            let down = self.random.below(span + SECOND);
            self.reboot(place, down);
        }
    }

    pub fn reboot(&mut self, place: Place, span: True) {
        self.crash_for(place, span);
        let now = self.now;
        let node = &mut self.nodes[place];
        node.boots += 1;
        node.clock.boot(now);
    }

    pub fn pause(&mut self, place: Place, span: True) {
        let node = &mut self.nodes[place];
        node.paused_until = node.paused_until.max(self.now + span);
    }

    /// The machine sleeps: nothing runs, and its raw clock stands still.
    fn suspend(&mut self, place: Place, span: True) {
        self.pause(place, span);
        if self.nodes[place].never_sleeps {
            return;
        }
        self.clock(place);
        let node = &mut self.nodes[place];
        node.clock.asleep = true;
        let until = node.paused_until;
        self.schedule(until, Event::Undo(Undo::Wake(place)));
    }

    fn slew(&mut self, place: Place, until: True) {
        self.clock(place);
        let slew = self.random.pick(&[-SLEW, SLEW]).unwrap_or(SLEW);
        let node = &mut self.nodes[place];
        if node.clock.asleep {
            return;
        }
        node.never_sleeps |= slew < 0;
        node.clock.slew_ppm = slew;
        self.schedule(until, Event::Undo(Undo::Unslew(place)));
    }

    pub fn cut_until(&mut self, from: Place, to: Place, until: True) {
        self.network.cut(from, to);
        self.schedule(until, Event::Undo(Undo::Mend(from, to)));
    }

    fn partition(&mut self, kind: Kind, place: Place, until: True) {
        let others: Vec<Place> = (0..self.nodes.len()).filter(|other| *other != place).collect();
        let one = self.random.pick(&others).unwrap_or(place);
        let peers = if kind == Kind::CutPair { vec![one] } else { others };
        for peer in peers {
            if kind != Kind::OneWayOut {
                self.cut_until(peer, place, until);
            }
            if kind != Kind::OneWayIn {
                self.cut_until(place, peer, until);
            }
        }
    }

    /// The leader hears its voters and nobody else, or not even them.
    fn deafen(&mut self, place: Place, until: True) {
        let leader = self.log.leader.unwrap_or(place);
        for peer in (0..self.nodes.len()).filter(|peer| *peer != leader) {
            let votes = self.nodes[peer].disk.node.is_some_and(|id| self.log.voters.contains(&id));
            if !votes || self.random.percent(50) {
                self.cut_until(peer, leader, until);
            }
        }
    }

    /// Parts of a process fail while the rest runs on.
    fn ail(&mut self, kind: Kind, place: Place, until: True) {
        if self.nodes[place].live.is_none() {
            return;
        }
        let now = self.clock(place);
        let live = self.live_mut(place);
        match kind {
            Kind::HalfOpenWatch => {
                live.watch.half_open = true;
                live.lags_until = until;
            }
            Kind::LaggingTable => live.lags_until = until,
            Kind::Snapshot => live.wants_snapshot = true,
            Kind::SlowDisk => live.probe = Some(now),
            Kind::Wedge => live.wedged = Some(now),
            _ => live.owner.stubborn_until = until + 4 * SECOND,
        }
        self.schedule(until, Event::Undo(Undo::Well(place)));
    }

    /// Somebody asks the cluster for something, through any member.
    pub fn admin(&mut self, place: Place, body: AskBody) {
        let up: Vec<Place> = (0..self.nodes.len()).filter(|one| self.awake(*one)).collect();
        let Some(origin) = self.random.pick(&up) else { return };
        let member = if self.awake(place) { place } else { origin };
        self.ask(origin, member, For::Nobody, body);
    }

    pub fn operate(&mut self, kind: Kind, place: Place) {
        let Some(node) = self.nodes[place].disk.node else { return };
        let stay = self.truth().nodes().filter(|(id, row)| *id != node && row.is_target()).count();
        // Nobody removes the last ones.
        if matches!(kind, Kind::Removal | Kind::Mark) && stay < 2 {
            return;
        }
        let command = match kind {
            Kind::Lease => {
                let lease_ms = self.random.pick(&[2_000, 3_000, 5_000]);
                Command::Configure(Configure { lease_ms, ..Configure::default() })
            }
            Kind::Restart => return self.told_to_stop(place),
            Kind::StopAll => {
                self.admin(place, AskBody::Propose(Command::StopAll));
                for place in 0..self.nodes.len() {
                    self.told_to_stop(place);
                }
                return;
            }
            Kind::Removal => Command::DrainRemoval { node },
            Kind::CancelDrain => Command::CancelDrain { node },
            Kind::Mark => Command::Mark { node },
            Kind::AbortMove => {
                let mut keys = (0..SHARDS).filter_map(|shard| self.key_of(ShardId(shard)));
                let Some(key) = keys.next() else { return };
                Command::AbortMove { items: vec![key] }
            }
            _ => {
                let shard = ShardId(self.random.below(SHARDS.into()) as u32);
                return self.admin(place, AskBody::Move { shard, to: node });
            }
        };
        self.admin(place, AskBody::Propose(command));
    }

    /// An owner has released: what waited for that strikes. False when nobody hears of it.
    pub fn spring(&mut self, owner: Place, target: Process) -> bool {
        let Some(trap) = self.traps.pop() else { return true };
        self.note(format_args!("trap {trap:?}"));
        self.saw("trap sprung at the release");
        let target = self.place_of(target.node).filter(|place| self.nodes[*place].live.is_some());
        match (trap, target) {
            (Trap::RestartTarget, Some(target)) => {
                self.troubles(target, self.now + SECOND);
                self.crash(target);
                self.schedule(self.now + MS, Event::Start(target));
            }
            // The process that releases is in the middle of its work: it dies right after.
            (Trap::CrashOwner, _) => self.dies_next(owner, Kind::Crash, SECOND),
            (Trap::LoseOwnerUnheard, Some(target)) => {
                let lease = True::from(self.truth().settings().lease_ms) * MS;
                self.dies_next(owner, Kind::Reboot, 2 * lease);
                let until = self.now + lease + 300 * MS;
                self.troubles(target, until);
                self.live_mut(target).lags_until = until;
                return false;
            }
            (Trap::NewLeader, _) => self.election(200 * MS),
            (Trap::IsolateOwner, _) => {
                self.partition(Kind::Isolate, owner, self.now + 3 * SECOND);
            }
            (Trap::RestartTarget | Trap::LoseOwnerUnheard, None) => {}
        }
        true
    }

    fn dies_next(&mut self, place: Place, kind: Kind, span: True) {
        let fault = Fault { kind, place: Some(place), span };
        self.schedule(self.now, Event::Fault(fault));
    }

    /// A fault touches this machine until then.
    pub fn troubles(&mut self, place: Place, until: True) {
        let node = &mut self.nodes[place];
        node.troubled = node.troubled.max(until);
    }

    pub fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Mend(from, to) => self.network.mend(from, to),
            Undo::Wake(place) => {
                self.clock(place);
                self.nodes[place].clock.asleep = false;
            }
            Undo::Unslew(place) => {
                self.clock(place);
                self.nodes[place].clock.slew_ppm = 0;
            }
            Undo::Weather => {
                self.network.weather = self.setup.weather;
                self.log.extra_delay = 0;
            }
            Undo::Well(place) => {
                if let Some(live) = &mut self.nodes[place].live {
                    live.probe = None;
                    live.wedged = None;
                    live.lags_until = 0;
                    live.watch.half_open = false;
                }
            }
        }
    }
}
