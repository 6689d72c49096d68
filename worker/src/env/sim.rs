//! A simulated machine in place of the real one: several nodes in one thread, true time that a
//! driver moves, a network, disks and clocks that fail as they are told to.
//!
//! One process simulates one world. The driver says which machine's code runs (`on`), moves
//! true time (`advance`), and injects faults; the modules beside answer the code of the nodes.

pub mod clock;
pub mod disk;
pub mod lock;
pub mod net;
pub mod random;
pub mod thread;
mod wires;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

pub use self::{clock::Clocks, disk::Storage, wires::Wires};

/// A machine, by its place in the world.
pub type Place = usize;

/// How a machine's process ends without being told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The kernel lives: what was written stays, and peers are told that connections end.
    Process,
    /// Everything that was not synced may be lost, and nobody is told.
    Power,
}

/// An answer that an owner let out, in the order of true time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    pub at: Duration,
    pub place: Place,
    pub shard: u32,
    pub epoch: u64,
}

/// A shard was opened: with what it held, or empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    pub at: Duration,
    pub place: Place,
    pub shard: u32,
    pub epoch: u64,
    pub empty: bool,
}

#[derive(Default)]
struct World {
    now: Duration,
    here: Place,
    machines: BTreeMap<Place, Machine>,
    wires: Wires,
    acknowledged: Vec<Acknowledged>,
    opened: Vec<Opened>,
}

#[derive(Default)]
struct Machine {
    clocks: Clocks,
    storage: Storage,
    /// Changes with each loss of power.
    boot: u64,
}

static WORLD: Mutex<Option<World>> = Mutex::new(None);

fn world() -> impl std::ops::DerefMut<Target = World> {
    MutexGuard::map(WORLD.lock(), |world| world.get_or_insert_default())
}

impl World {
    fn here(&mut self) -> &mut Machine {
        let here = self.here;
        self.machines.entry(here).or_default()
    }
}

/// The address of a machine: all of them lie in one network.
pub fn address(place: Place) -> IpAddr {
    Ipv4Addr::from(0x0a00_0001 + place as u32).into()
}

fn place(address: IpAddr) -> Option<Place> {
    match address {
        IpAddr::V4(v4) => (u32::from(v4) as usize).checked_sub(0x0a00_0001),
        IpAddr::V6(_) => None,
    }
}

/// The code that `run` runs is that of this machine.
pub fn on<T>(place: Place, run: impl FnOnce() -> T) -> T {
    let before = std::mem::replace(&mut world().here, place);
    let result = run();
    world().here = before;
    result
}

/// The machine whose code runs now.
pub fn here() -> Place {
    world().here
}

/// True time since the world began.
pub fn now() -> Duration {
    world().now
}

/// Moves true time on and delivers what is due by then.
pub fn advance(to: Duration) {
    let mut world = world();
    world.now = to;
    let woken = world.wires.deliver(to);
    drop(world);
    woken.into_iter().for_each(std::task::Waker::wake);
}

/// From here on nothing that the machine's process does has an effect: it is about to be gone.
pub fn doom(place: Place) {
    let mut world = world();
    world.wires.doom(place);
    world.machines.entry(place).or_default().storage.doom(true);
}

/// The machine's process is gone; its kernel, or its power, follows.
pub fn crash(place: Place, how: Crash) {
    let mut world = world();
    let now = world.now;
    let woken = world.wires.crash(place, how, now);
    let machine = world.machines.entry(place).or_default();
    machine.storage.doom(false);
    machine.storage.unlock();
    if how == Crash::Power {
        machine.boot += 1;
        machine.storage.lose_power();
    }
    drop(world);
    woken.into_iter().for_each(std::task::Waker::wake);
}

/// Changes the network.
pub fn wires<T>(change: impl FnOnce(&mut Wires, Duration) -> T) -> T {
    let mut world = world();
    let now = world.now;
    change(&mut world.wires, now)
}

/// Changes the clocks of a machine.
pub fn clocks<T>(place: Place, change: impl FnOnce(&mut Clocks, Duration) -> T) -> T {
    let mut world = world();
    let now = world.now;
    change(&mut world.machines.entry(place).or_default().clocks, now)
}

/// Changes the disk of a machine.
pub fn storage<T>(place: Place, change: impl FnOnce(&mut Storage) -> T) -> T {
    change(&mut world().machines.entry(place).or_default().storage)
}

/// Called by the host where an answer is let out.
pub fn acknowledged(shard: u32, epoch: u64) {
    let mut world = world();
    let (at, place) = (world.now, world.here);
    world.acknowledged.push(Acknowledged { at, place, shard, epoch });
}

/// Called by the host where a shard was opened.
pub fn opened(shard: u32, epoch: u64, empty: bool) {
    let mut world = world();
    let (at, place) = (world.now, world.here);
    world.opened.push(Opened { at, place, shard, epoch, empty });
}

/// What was opened since the last time.
pub fn take_opened() -> Vec<Opened> {
    std::mem::take(&mut world().opened)
}

/// What was acknowledged since the last time.
pub fn take_acknowledged() -> Vec<Acknowledged> {
    std::mem::take(&mut world().acknowledged)
}
