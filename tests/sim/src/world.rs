//! The world of one seed: machines in one true time, moved on a millisecond at once.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use clap::Parser;
use parking_lot::Mutex;
use shoal_worker::{
    config::{Config, RunArgs},
    env::{
        random,
        sim::{self, Crash, Place},
    },
    host::kv::Kv,
    node::{self, Work},
};

use crate::{
    client::{Client, Entries},
    entropy,
    history::History,
    machine::{Machine, Program},
    people::{Desk, People},
    probe,
};

/// Ports as by default.
const DATA: u16 = 11_000;
const STEP: Duration = Duration::from_millis(1);
/// Where the clients and the prober live.
const OUTSIDE: Place = 90;
const CLIENTS: usize = 6;

/// What a world begins as.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Machines that found the cluster together.
    pub founders: usize,
    /// Machines that join it.
    pub joiners: usize,
    /// Whether these start only once `Fault::Join` lets them.
    pub late: bool,
    pub shards: u32,
    pub keys: u64,
}

impl Shape {
    pub fn drawn() -> Self {
        let founders = if random::below(3) == 0 { 5 } else { 3 };
        let joiners = (random::below(8 - founders as u64) as usize).min(2);
        let late = random::below(2) == 0;
        Self { founders, joiners, late, shards: 16, keys: 48 }
    }

    pub fn nodes(&self) -> usize {
        self.founders + self.joiners
    }
}

pub struct World {
    pub shape: Shape,
    pub nodes: Vec<Machine>,
    outside: Machine,
    /// When a process that is gone comes back.
    pub back_at: Vec<Option<Duration>>,
    /// Told to stop and not gone yet.
    pub stopping: Vec<bool>,
    pub history: Arc<Mutex<History>>,
    pub sight: Arc<Mutex<probe::Sight>>,
    pub desk: Arc<Mutex<Desk>>,
    entries: Entries,
    now: Duration,
    /// How processes ended by themselves.
    pub ends: Vec<String>,
}

pub fn data_address(place: Place) -> SocketAddr {
    SocketAddr::new(sim::address(place), DATA)
}

/// The settings of a node as they are given on a command line.
#[derive(Parser)]
struct Given {
    #[command(flatten)]
    run: RunArgs,
}

fn config(shape: Shape, place: Place) -> Result<Config, String> {
    let founders: Vec<_> = (0..shape.founders).map(|at| data_address(at).to_string()).collect();
    let mut words = vec![
        "shoal".to_owned(),
        format!("--node-address={}", data_address(place)),
        "--raft-dir=/data".to_owned(),
        format!("--raft-id=node-{place}"),
        format!("--shards={}", shape.shards),
        "--tls-mode=disabled".to_owned(),
    ];
    words.push(if place < shape.founders {
        format!("--peer-addresses={}", founders.join(","))
    } else {
        format!("--join-address={}", founders[0])
    });
    let args = Given::try_parse_from(words).map_err(|error| error.to_string())?.run;
    Config::resolve(&args, "simulated").map_err(|error| error.to_string())
}

impl World {
    pub fn new(shape: Shape) -> Self {
        let nodes = shape.nodes();
        let begins = |place| place < shape.founders || !shape.late;
        let mut world = Self {
            shape,
            nodes: (0..nodes).map(Machine::new).collect(),
            outside: Machine::new(OUTSIDE),
            back_at: (0..nodes).map(|place| begins(place).then(start_delay)).collect(),
            stopping: vec![false; nodes],
            history: Arc::default(),
            sight: Arc::new(Mutex::new(probe::Sight::new(nodes))),
            desk: Arc::default(),
            entries: Entries::default(),
            now: Duration::ZERO,
            ends: Vec::new(),
        };
        world.open_to_clients();
        world
    }

    fn open_to_clients(&mut self) {
        let (entries, history, sight) =
            (self.entries.clone(), self.history.clone(), self.sight.clone());
        let (keys, nodes) = (self.shape.keys, self.nodes.len());
        let people = People { desk: self.desk.clone(), sight: sight.clone() };
        let program: Program = Box::new(move |_| {
            Box::pin(async move {
                for _ in 0..CLIENTS {
                    let client = Client::new(entries.clone(), history.clone(), keys);
                    tokio::spawn(client.run());
                }
                tokio::spawn(people.run());
                probe::run(nodes, entries, sight).await;
                Ok(())
            })
        });
        self.outside.start(program).expect("a runtime can be made");
    }

    pub fn now(&self) -> Duration {
        self.now
    }

    /// Starts the process of a machine now.
    fn boot(&mut self, place: Place) {
        let shape = self.shape;
        let program: Program = Box::new(move |stop| {
            Box::pin(async move {
                let config = config(shape, place)?;
                let executor = tokio::runtime::Handle::current();
                let work = Work { host: Arc::new(Kv::default()), executor };
                let stopped = async move { stop.cancelled().await };
                node::run(config, work, stopped).await.map_err(|exit| exit.to_string())
            })
        });
        tracing::info!(place, "starts");
        self.stopping[place] = false;
        self.sight.lock().begins(place);
        self.nodes[place].start(program).expect("a runtime can be made");
    }

    pub fn crash(&mut self, place: Place, how: Crash, back_in: Duration) {
        tracing::info!(place, ?how, "crashes");
        self.nodes[place].crash(how);
        self.stopping[place] = false;
        self.back_at[place] = Some(self.now + back_in);
    }

    pub fn stop(&mut self, place: Place) {
        tracing::info!(place, "is told to stop");
        self.stopping[place] = true;
        self.sight.lock().leaves(place);
        self.nodes[place].stop();
    }

    /// One step of true time.
    pub fn step(&mut self) {
        self.now += STEP;
        entropy::set_time(self.now);
        sim::advance(self.now);
        self.throw_away();
        for place in 0..self.nodes.len() {
            if self.back_at[place].is_some_and(|at| at <= self.now) {
                self.back_at[place] = None;
                self.boot(place);
            }
        }
        // Whose turn is first is chance.
        let (count, first) = (self.nodes.len(), random::below(self.nodes.len() as u64) as usize);
        for turn in 0..count {
            let place = (first + turn) % count;
            if let Some(ended) = self.nodes[place].run() {
                self.ended(place, ended);
            }
        }
        self.outside.run();
        let (opened, acknowledged) = (sim::take_opened(), sim::take_acknowledged());
        self.history.lock().witness(opened, acknowledged);
    }

    /// Those that are removed for good stop, and begin anew with an empty disk.
    fn throw_away(&mut self) {
        let removed = self.desk.lock().removed.clone();
        for place in removed {
            if !self.nodes[place].is_running() {
                tracing::info!(place, "begins anew");
                sim::storage(place, sim::Storage::wipe);
                self.desk.lock().removed.retain(|gone| *gone != place);
            } else if !self.stopping[place] {
                self.stop(place);
            }
        }
    }

    /// Machines whose process was started at least once.
    pub fn begun(&self) -> Vec<Place> {
        let sight = self.sight.lock();
        (0..self.nodes.len()).filter(|at| sight.has_begun(*at)).collect()
    }

    /// Lets a machine start that waits for it; false if none does.
    pub fn join(&mut self) -> bool {
        let waits = |place: &Place| !self.sight.lock().has_begun(*place);
        let next = (0..self.nodes.len()).find(|at| waits(at) && self.back_at[*at].is_none());
        if let Some(place) = next {
            self.back_at[place] = Some(self.now);
        }
        next.is_some()
    }

    /// Nobody is told to stop, and everybody who was ever started runs.
    pub fn is_complete(&self) -> bool {
        !self.stopping.contains(&true)
            && self.begun().iter().all(|place| self.nodes[*place].is_running())
    }

    fn ended(&mut self, place: Place, ended: Result<(), String>) {
        tracing::info!(place, ?ended, "ended");
        if let Err(why) = &ended {
            self.ends.push(format!("{:?} machine {place}: {why}", self.now));
        }
        self.stopping[place] = false;
        self.back_at[place] = Some(self.now + start_delay());
    }

    pub fn run_for(&mut self, span: Duration) {
        let until = self.now + span;
        while self.now < until {
            self.step();
        }
    }

    /// Steps until it holds; false if it did not in time.
    pub fn run_until(&mut self, span: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let until = self.now + span;
        while self.now < until {
            self.step();
            if self.now.as_millis().is_multiple_of(50) && holds(self) {
                return true;
            }
        }
        false
    }
}

fn start_delay() -> Duration {
    Duration::from_millis(200 + random::below(1_500))
}
