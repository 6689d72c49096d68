//! The executions of the protocol, scripted: each test leads the machines to the odd point,
//! checks that it was reached, and lets the oracles judge what becomes of it.

mod leaders;
mod moves;
mod planned;
mod sessions;

use shoal_core::{
    handoff::Process,
    id::{NodeId, ShardId},
    registry::{BeginMove, Command, Event as Applied, Refused},
};

use crate::{
    clock::{MS, SECOND, True},
    leader::Kind,
    world::{Place, SHARDS, Setup, World},
};

type Outcome = Result<Applied, Refused>;

/// A calm cluster in which every shard is open and nothing is left to do.
fn settled(nodes: usize) -> World {
    settled_as(Setup::calm(1, nodes))
}

fn settled_as(setup: Setup) -> World {
    let mut world = World::new(Setup { verbose: true, ..setup });
    world.clients = false;
    world.until("a whole cluster", 10 * SECOND, |world| world.unfinished().is_none());
    // A script knows by itself whom it hurts.
    (0..world.nodes.len()).for_each(|place| world.troubles(place, True::MAX / 2));
    world
}

impl World {
    /// Runs until `done` holds; a scenario that waits in vain has failed.
    fn until(&mut self, what: &str, within: True, done: impl Fn(&Self) -> bool) {
        let end = self.now + within;
        let came = self.run_while(end, |world| !done(world));
        assert!(came, "{what} did not come true\n{}\n{}", self.trace.text(), self.report());
    }

    fn pass(&mut self, span: True) {
        self.run_to(self.now + span);
        self.is_sound();
    }

    fn is_sound(&self) {
        let wrong = &self.oracle.violation;
        assert!(wrong.is_none(), "{}\n{}", self.trace.text(), self.report());
    }

    /// All faults end, and all comes right.
    fn ends_well(mut self) {
        self.is_sound();
        self.heal();
        self.is_sound();
    }

    fn leader(&self) -> Place {
        self.log.leader.expect("somebody leads")
    }

    fn id(&self, place: Place) -> NodeId {
        self.nodes[place].disk.node.expect("it has joined")
    }

    fn process(&self, place: Place) -> Process {
        self.live(place).node().expect("it has an incarnation")
    }

    fn another(&self, than: &[Place]) -> Place {
        (0..self.nodes.len()).find(|place| !than.contains(place)).expect("enough places")
    }

    fn owner(&self, shard: ShardId) -> Option<Place> {
        let (id, _) = self.truth().shard(shard)?.owner()?;
        self.place_of(id)
    }

    fn shard_of(&self, place: Place) -> ShardId {
        let shards = (0..SHARDS).map(ShardId);
        shards.into_iter().find(|shard| self.owner(*shard) == Some(place)).expect("it owns one")
    }

    /// Commits a command as the leader would, and says what came of it.
    fn order(&mut self, command: Command) -> Outcome {
        let (leader, position) = (self.leader(), self.log.entries.len());
        self.propose(leader, Kind::Upkeep, command);
        self.until("the entry", 5 * SECOND, |world| world.log.committed > position);
        self.log.outcomes[position].clone().expect("an entry with a command")
    }

    /// Begins the move of a shard of `from`.
    fn begin_move(&mut self, from: Place, to: Place) -> ShardId {
        let shard = self.shard_of(from);
        let epoch = self.truth().shard(shard).expect("a row").epoch;
        let Process { node: target, incarnation } = self.process(to);
        let item = BeginMove { shard, epoch, target, incarnation };
        let begun = self.order(Command::BeginMove { items: vec![item] });
        assert_eq!(begun, Ok(Applied::Items { refused: vec![None] }));
        shard
    }

    /// Nobody reaches this place, nor it anybody.
    fn isolate(&mut self, place: Place, span: True) {
        for other in (0..self.nodes.len()).filter(|other| *other != place) {
            self.cut_until(other, place, self.now + span);
            self.cut_until(place, other, self.now + span);
        }
    }

    fn is_up(&self, id: NodeId) -> bool {
        self.truth().node(id).is_some_and(|row| row.life.is_up())
    }

    fn has_right(&mut self, place: Place) -> bool {
        let now = self.clock(place);
        let live = self.nodes[place].live.as_ref();
        live.and_then(|live| live.right).is_some_and(|right| !now.maybe_past(right))
    }

    /// Some increments on every shard, so that there is something to lose.
    fn fill(&mut self) {
        self.clients = true;
        self.schedule(self.now, crate::world::Event::Client);
        self.pass(2 * SECOND);
        self.clients = false;
        self.until("all answers", 10 * SECOND, |world| world.oracle.open_calls() == 0);
    }
}

/// The lease of a calm cluster.
const L: True = 3 * SECOND;
const SHORT: True = 200 * MS;
