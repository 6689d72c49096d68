//! A machine with its disk and clocks, and the process that runs on it, if one does.

use std::collections::BTreeMap;

use shoal_core::{
    handoff::Process,
    id::{Incarnation, LogIndex, NodeId, Timestamp},
    registry::{Event as Applied, LockId, Registry},
    session::{
        fencing,
        holder::{self, Holder, Why},
        lease::Lease,
    },
};

use crate::{
    calls::{Ingress, Owner},
    clock::{Clock, MS, SECOND, True},
    handover::Life,
    leader::{Kind, Term},
    leave::Leaving,
    log::What,
    memory::Memory,
    mutant::Mutant,
    random::Random,
    watch::Watch,
    world::{Due, Event, Place, World},
};

/// Entries that a member is behind before it is sent a snapshot.
const SNAPSHOT_BEHIND: usize = 120;
/// A process whose session is over refuses what still reaches it for so long.
const LINGERS: True = 400 * MS;

/// What survives the process: everything here was synced.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The node goes by the name of the machine that it was made on.
    pub made_on: Place,
    /// None until the directory has joined.
    pub node: Option<NodeId>,
    pub directory: u128,
    pub counter: u64,
    pub inode: u64,
    /// A backup that was put back: Raft does not start on it where any member answers.
    pub restored: bool,
    /// Entries that the stored registry holds.
    pub applied: usize,
}

pub struct Node {
    pub place: Place,
    pub clock: Clock,
    pub boots: u64,
    pub disk: Disk,
    pub live: Option<Live>,
    pub paused_until: True,
    /// Runs of processes so far.
    pub runs: u64,
    /// Last instant at which a fault touched this machine.
    pub troubled: True,
    /// Somebody wants it gone: a process that ends is not started again.
    pub stays_down: bool,
    /// Its boottime is slewed down at times: then the machine does not sleep, too.
    pub never_sleeps: bool,
    /// An earlier state of the disk, as a backup holds it.
    pub copy: Option<Disk>,
}

/// One process.
pub struct Live {
    pub run: u64,
    pub table: Registry,
    /// Entries applied, and known to be committed.
    pub applied: usize,
    pub committed: usize,
    /// Who is believed to lead which term.
    pub belief: Option<(u64, Place)>,
    /// The term that this process leads, and the position after its first entry.
    pub leads: Option<(u64, usize)>,
    pub memory: Memory,
    /// What the next apply waits for: a slow disk of the log.
    pub lags_until: True,
    /// The next catching up is by snapshot.
    pub wants_snapshot: bool,
    pub term: Option<Term>,
    pub pending: BTreeMap<u64, Kind>,
    pub next_ticket: u64,
    pub holder: Option<Holder>,
    pub holder_wakes: Option<Timestamp>,
    pub right: Option<Timestamp>,
    /// Of the mutants that miscount the right: when each request was sent.
    pub sent: BTreeMap<u64, Timestamp>,
    pub usual: Place,
    pub life: Option<Life>,
    /// An incarnation that waits for the former one to close.
    pub beginning: Option<Incarnation>,
    pub closing: Option<Incarnation>,
    pub leaving: Option<Leaving>,
    pub watch: Watch,
    pub ingress: Ingress,
    pub owner: Owner,
    /// An executor is wedged, the probe of the disk pends, since then.
    pub wedged: Option<Timestamp>,
    pub probe: Option<Timestamp>,
    pub next_join: True,
    pub registered: bool,
    /// Told to stop, and its session is over.
    pub ending: bool,
    /// The clocks as last read for the leader's loop.
    pub last_clock: Timestamp,
    /// The entry that granted the right now held.
    pub granted_at: LogIndex,
}

impl Node {
    pub fn new(place: Place, random: &mut Random) -> Self {
        let crystal = crate::clock::CRYSTAL;
        let ppm = random.below(2 * crystal as u64 + 1) as i64 - crystal;
        Self {
            place,
            clock: Clock::new(ppm, random.between(10, 1_000) * SECOND),
            boots: 1,
            disk: Disk::empty(place, 0),
            live: None,
            paused_until: 0,
            runs: 0,
            troubled: 0,
            stays_down: false,
            never_sleeps: false,
            copy: None,
        }
    }

    /// What the process shows of the lock that it holds.
    pub fn lock(&self) -> LockId {
        LockId {
            boot_id: format!("boot-{}-{}", self.place, self.boots),
            device: self.place as u64 + 1,
            inode: self.disk.inode,
        }
    }
}

impl Disk {
    pub fn empty(place: Place, made: u64) -> Self {
        let directory = (place as u128 + 1) << 64 | u128::from(made);
        let inode = made + 1;
        Self {
            made_on: place,
            node: None,
            directory,
            counter: 0,
            inode,
            restored: false,
            applied: 0,
        }
    }
}

impl Live {
    pub fn node(&self) -> Option<Process> {
        self.life.as_ref().map(|life| life.me)
    }
}

impl World {
    pub fn start(&mut self, place: Place) {
        if self.nodes[place].live.is_some() || self.nodes[place].stays_down {
            return;
        }
        let now = self.clock(place);
        let node = &mut self.nodes[place];
        node.runs += 1;
        let applied = node.disk.applied;
        let table = self.log.history[applied].clone();
        let memory = Memory::restored(&table, now);
        node.live = Some(Live {
            run: node.runs,
            applied,
            committed: applied,
            belief: None,
            leads: None,
            memory,
            lags_until: 0,
            wants_snapshot: false,
            term: None,
            pending: BTreeMap::new(),
            next_ticket: 1,
            holder: None,
            holder_wakes: None,
            right: None,
            sent: BTreeMap::new(),
            usual: place,
            life: None,
            beginning: None,
            closing: None,
            leaving: None,
            watch: Watch::default(),
            ingress: Ingress::default(),
            owner: Owner::default(),
            wedged: None,
            probe: None,
            next_join: 0,
            registered: false,
            ending: false,
            last_clock: now,
            granted_at: LogIndex(0),
            table,
        });
        self.note(format_args!("{place} starts, applied {applied}"));
        let phase = self.random.below(10 * MS);
        self.own(place, phase, Due::Poll);
    }

    /// The process is gone, and with it all that was not synced.
    pub fn crash(&mut self, place: Place) {
        let Some(live) = self.nodes[place].live.take() else { return };
        self.note(format_args!("{place} is dead"));
        // Its log is synced, the registry made of it only now and then.
        let stored = self.nodes[place].disk.applied;
        let gained = live.applied.saturating_sub(stored) as u64;
        self.nodes[place].disk.applied = stored + self.random.below(gained + 1) as usize;
        self.oracle.calls_died(place, live.run);
        for peer in 0..self.nodes.len() {
            self.reset_pipes_to(peer, place);
        }
        if self.log.leader == Some(place) {
            self.election(0);
        }
    }

    pub fn exit(&mut self, place: Place, why: Why) {
        self.note(format_args!("{place} exits: {why:?}"));
        let pause = match why {
            // What was on its way to it is still answered.
            Why::Stopped => {
                let pause = self.random.between(200, 1_500) * MS;
                self.live_mut(place).ending = true;
                return self.own(place, LINGERS, Due::Gone(pause));
            }
            Why::StillRunning => {
                self.saw("exit because of a handler that does not end");
                500 * MS
            }
            // Only its session is over: it votes and forwards until it has left.
            Why::Marked => return self.saw("marked node gave its session up"),
            Why::Left | Why::Identity => SECOND,
        };
        self.crash(place);
        if matches!(why, Why::Left | Why::Identity) {
            // No human is needed: the directory is put aside and the name joins anew.
            self.saw("directory given up");
            self.wipe(place);
        }
        self.schedule(self.now + pause, Event::Start(place));
    }

    /// A node that finds that it has left begins anew.
    fn leave_for_ever(&mut self, place: Place) {
        let live = self.live(place);
        let row = self.nodes[place].disk.node.and_then(|id| live.table.node(id));
        if row.is_some_and(|row| row.life.is_left()) {
            self.exit(place, Why::Left);
        }
    }

    pub fn wipe(&mut self, place: Place) {
        let made = self.random.next() >> 1;
        self.nodes[place].disk = Disk::empty(place, made);
        self.log.held[place] = 0;
    }

    /// All that a process does without being asked, until one of it ends the process.
    pub fn poll(&mut self, place: Place) {
        let member: [fn(&mut Self, Place); 8] = [
            Self::apply_known,
            Self::leave_for_ever,
            Self::poll_session,
            Self::poll_shards,
            Self::poll_calls,
            Self::poll_leader,
            Self::poll_watch,
            Self::poll_leave,
        ];
        let steps = match self.nodes[place].disk.node {
            Some(_) => &member[..],
            None => &[Self::join as fn(&mut Self, Place)],
        };
        for step in steps {
            if self.nodes[place].live.is_some() {
                step(self, place);
            }
        }
    }

    /// Applies what is known to be committed, entry by entry or by a snapshot.
    pub fn apply_known(&mut self, place: Place) {
        let Some(id) = self.nodes[place].disk.node else { return };
        let (now, is_member) = (self.now, self.log.is_member(id));
        let live = self.live_mut(place);
        if live.lags_until > now || !is_member || live.applied >= live.committed {
            return;
        }
        let behind = live.committed - live.applied;
        // A leader holds every entry that is committed under it.
        let may = live.leads.is_none() || live.table.applied() == LogIndex(0);
        if may && (behind > SNAPSHOT_BEHIND || live.wants_snapshot) {
            return self.install(place);
        }
        while self.nodes[place].live.is_some() {
            let live = self.live(place);
            if live.applied >= live.committed {
                break;
            }
            self.apply_next(place);
        }
        self.table_changed(place);
    }

    fn install(&mut self, place: Place) {
        self.saw("snapshot installed");
        let to = self.live(place).committed;
        let table = Registry::from_parts(self.log.history[to].parts()).expect("a sound snapshot");
        let now = self.clock(place);
        let live = self.live_mut(place);
        live.wants_snapshot = false;
        live.applied = to;
        live.memory = Memory::restored(&table, now);
        live.table = table;
        self.rebuild_moves(place);
        self.leads_now(place);
        // What was proposed here and lies within the snapshot has no outcome here.
        self.table_changed(place);
    }

    fn apply_next(&mut self, place: Place) {
        let position = self.live(place).applied;
        let entry = self.log.entries[position].clone();
        let now = self.clock(place);
        let mut table = std::mem::take(&mut self.live_mut(place).table);
        let index = crate::log::index(position);
        let outcome = match &entry.what {
            What::Command(command) => {
                let (outcome, changes) = self.apply_all(&mut table, position, command);
                let reset = self.setup.mutant == Some(Mutant::ExpiryMovedBack);
                let live = self.live_mut(place);
                live.memory.on(&table, index, &changes, reset, now);
                live.table = table;
                if changes.cluster && live.table.formed() {
                    live.memory.formed_at = Some(now);
                }
                self.applied_as_leader(place, &changes, now);
                outcome
            }
            What::Members { .. } => {
                table.advance(index);
                self.live_mut(place).table = table;
                Ok(Applied::Done)
            }
        };
        self.live_mut(place).applied += 1;
        if self.live(place).table != self.log.history[position + 1] {
            self.oracle.fail(format!("{place} applied {index} to another registry"));
        }
        self.leads_now(place);
        let live = self.live_mut(place);
        if entry.author.place == place && entry.author.run == live.run {
            if let Some(kind) = live.pending.remove(&entry.author.ticket) {
                self.done(place, kind, index, outcome);
            }
            if let Some(term) = &mut self.live_mut(place).term {
                let _ = term.fencing.on(fencing::Event::Applied, now);
            }
        }
    }

    /// The table of this node changed, however it follows.
    pub fn table_changed(&mut self, place: Place) {
        let Some(id) = self.nodes[place].disk.node else { return };
        let live = self.live(place);
        let index = live.table.applied();
        let row = live.table.node(id).map(|node| holder::OwnRow {
            incarnation: node.incarnation,
            life: node.life,
            drain: node.drain,
            marked: node.marked,
        });
        self.tell_holder(place, holder::Event::Table { index, row });
        if self.nodes[place].live.is_none() {
            return;
        }
        self.follow_rows(place);
        self.release_parked(place);
        self.ask_waiting_again(place);
    }

    pub fn lease_at(&self, place: Place) -> Lease {
        Lease::from_millis(self.live(place).table.settings().lease_ms).expect("a lease in force")
    }

    pub fn applied_index(&self, place: Place) -> LogIndex {
        self.live(place).table.applied()
    }
}
