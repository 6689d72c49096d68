//! The shell around the shard of a process: the host, its state, and the messages of a move.
//!
//! The machine is the real one. It is always shown the same instant, so none of its caps
//! runs out by itself; that a transfer takes too long is one of the steps that may happen.

use std::time::Duration;

use shoal_core::{
    handoff::{self, Body, Local, News, Report, State, Step, Whole, shard::Event},
    id::{MoveId, Timestamp},
    registry::{Holding, MoveRef, ShardRow},
};

use crate::{
    decision::move_ref,
    judge::{Seen, Violation},
    mutant::Mutant,
    process::Phase,
    protocol::Protocol,
    world::{Parcel, Release, Seat, World},
};

/// What the machine of a shard is told to be the time.
pub const ALWAYS: Timestamp =
    Timestamp { boottime: Duration::from_secs(1_000), raw: Duration::from_secs(1_000) };

impl Protocol {
    /// The row that the process goes by.
    pub fn row_of(&self, world: &World, seat: Seat) -> ShardRow {
        let process = &world.processes[seat];
        process.relearned.unwrap_or_else(|| world.log[process.at].row())
    }

    /// Shows the shard the row of the process's table. A process that closes opens nothing more.
    pub fn read_row(&self, world: &mut World, seat: Seat) {
        let process = world.process_mut(seat);
        process.relearned = None;
        match process.phase {
            Phase::Starting | Phase::Registered => {}
            Phase::Down | Phase::Closing(_) | Phase::Reporting | Phase::Resting => return,
        }
        let row = self.bent(world, seat);
        self.tell(world, seat, Event::Row(row));
    }

    /// One mutant takes whatever was received for what the row brought.
    fn bent(&self, world: &World, seat: Seat) -> ShardRow {
        let process = &world.processes[seat];
        let mut row = world.log[process.at].row();
        if self.mutant == Some(Mutant::OpenedWithoutVia)
            && let Some((id, _)) = process.received.last()
            && let Holding::Owned { via, .. } = &mut row.holding
        {
            *via = Some(*id);
        }
        row
    }

    pub fn tell(&self, world: &mut World, seat: Seat, event: Event) {
        let output = world.process_mut(seat).shard.on(event, ALWAYS);
        for action in output.actions {
            self.perform(world, seat, action);
        }
    }

    fn step(&self, world: &mut World, seat: Seat, key: MoveRef, step: Step) {
        self.tell(world, seat, Event::Host { key, step });
    }

    fn perform(&self, world: &mut World, seat: Seat, action: handoff::Action) {
        match action {
            handoff::Action::Send { to, message } => {
                let from = world.processes[seat].process();
                let value = world.processes[seat].frozen.unwrap_or_default();
                if world.processes.iter().any(|process| process.process() == to) {
                    world.parcels.push(Parcel { from, to, message, value });
                }
            }
            handoff::Action::Report(report) => self.reported(world, seat, report),
            handoff::Action::Prepare(key) => self.step(world, seat, key, Step::Prepared),
            handoff::Action::Export { key, .. } => {
                self.step(world, seat, key, Step::Round { sent: 1, remainder: 0 });
            }
            handoff::Action::Drain(_) => self.drained(world, seat),
            handoff::Action::Freeze { key, .. } => {
                let process = world.process_mut(seat);
                process.frozen = process.host.take();
                let length = process.frozen.unwrap_or_default().into();
                let whole = Whole { length, digest: key.id.0 };
                self.step(world, seat, key, Step::RestSent(whole));
            }
            handoff::Action::Open { epoch, with } => {
                let value = self.state_for(world, seat, with);
                world.process_mut(seat).host = Some(value);
                self.tell(world, seat, Event::Opened(epoch));
            }
            handoff::Action::Close => {
                let process = world.process_mut(seat);
                (process.host, process.frozen) = (None, None);
            }
            handoff::Action::Discard(key) => {
                world.process_mut(seat).received.retain(|(id, _)| *id != key.id);
                world.saw(Seen::Discarded);
            }
            handoff::Action::CancelCalls(_)
            | handoff::Action::StopTransfer(_)
            | handoff::Action::Resume(_) => {}
        }
    }

    fn reported(&self, world: &mut World, seat: Seat, report: Report) {
        let Report { key, source, target, news } = report;
        if news != News::Released {
            return;
        }
        let release = Release { key, source, target };
        if let Err(place) = world.released.binary_search(&release) {
            world.released.insert(place, release);
        }
        if self.mutant == Some(Mutant::StateDroppedAtReleased) {
            world.process_mut(seat).frozen = None;
        }
    }

    fn state_for(&self, world: &mut World, seat: Seat, with: State) -> u8 {
        match with {
            State::Empty => 0,
            State::Frozen => {
                world.saw(Seen::Reopened);
                world.process_mut(seat).frozen.take().unwrap_or_default()
            }
            State::Received(id) => {
                let process = world.process_mut(seat);
                let place = process.received.iter().position(|(of, _)| *of == id);
                let state = place.map(|place| process.received.remove(place));
                if self.brought_by(world, seat) != Some(id) {
                    self.fail(world, Violation::OpenedWithoutVia);
                }
                world.saw(Seen::OpenedReceived);
                state.map(|(_, value)| value).unwrap_or_default()
            }
        }
    }

    /// The move that brought the shard to its owner, by the process's own table.
    fn brought_by(&self, world: &World, seat: Seat) -> Option<MoveId> {
        match world.log[world.processes[seat].at].row().holding {
            Holding::Owned { via, .. } | Holding::Moving { via, .. } => via,
            Holding::Unassigned => None,
        }
    }

    /// The drain ends as soon as no admitted call runs.
    pub fn drained(&self, world: &mut World, seat: Seat) {
        let process = &world.processes[seat];
        if let (Local::Draining { epoch, id }, None) = (process.shard.local(), process.call) {
            self.step(world, seat, move_ref(epoch, id), Step::Idle);
        }
    }

    pub fn deliver(&self, world: &mut World, number: usize) {
        let parcel = world.parcels.remove(number);
        let to = world.processes.iter().position(|process| process.process() == parcel.to);
        let Some(seat) = to else { return };
        match world.processes[seat].phase {
            Phase::Starting | Phase::Registered => {}
            Phase::Down | Phase::Closing(_) | Phase::Reporting | Phase::Resting => return,
        }
        if let Body::Whole(whole) = parcel.message.body {
            self.store(world, seat, &parcel, whole);
        }
        let (from, message) = (parcel.from, parcel.message);
        let waiting = world.parcels.len();
        self.tell(world, seat, Event::Message { from, message });
        // That a target is ready is heard at once: nothing rests on when.
        let ready = world.parcels[waiting..]
            .iter()
            .position(|parcel| parcel.message.body == Body::Prepared);
        if let Some(place) = ready {
            self.deliver(world, waiting + place);
        }
    }

    /// The bytes came before the message that speaks of them.
    fn store(&self, world: &mut World, seat: Seat, parcel: &Parcel, whole: Whole) {
        let (key, value) = (parcel.message.key, parcel.value);
        let process = world.process_mut(seat);
        if process.shard.receiving().any(|of| of == key) {
            process.received.retain(|(id, _)| *id != key.id);
            process.received.push((key.id, value));
            self.step(world, seat, key, Step::Stored(whole));
        }
    }

    /// The move that the process owns its side of.
    pub fn moves_away(&self, world: &World, seat: Seat) -> Option<MoveRef> {
        let process = &world.processes[seat];
        let row = self.row_of(world, seat);
        match row.holding {
            Holding::Moving { node, incarnation, id, .. }
                if (node, incarnation) == (process.node, process.me) =>
            {
                Some(move_ref(row.epoch, id))
            }
            Holding::Moving { .. } | Holding::Owned { .. } | Holding::Unassigned => None,
        }
    }

    /// The transfer of a move breaks, or takes too long.
    pub fn break_transfer(&self, world: &mut World, seat: Seat) {
        if let Some(key) = self.moves_away(world, seat) {
            world.left.breaks -= 1;
            self.step(world, seat, key, Step::Broken);
        }
    }

    /// A row from before, shown by an answer that was long on its way.
    pub fn late_row(&self, world: &mut World, seat: Seat) {
        world.left.late -= 1;
        let Some(row) = world.process_mut(seat).late.take() else { return };
        world.saw(Seen::LateRowShown);
        let process = &world.processes[seat];
        let mine = world.log[process.at].row().owner() == Some((process.node, process.me));
        if self.mutant == Some(Mutant::LateAnswerLearned) && !mine {
            let process = world.process_mut(seat);
            process.shard = handoff::Shard::new(crate::table::SHARD, process.process());
            process.relearned = Some(row);
        }
        self.tell(world, seat, Event::Row(row));
    }

    /// Of the mutant whose targets keep nothing for long.
    pub fn forget_received(&self, world: &mut World, seat: Seat) {
        world.process_mut(seat).received.clear();
    }
}
