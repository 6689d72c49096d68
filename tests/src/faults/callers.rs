//! Clients of a scene: stock gRPC, one call at a time for each key and entry, every call written
//! down. They run until they are told to end, whatever happens to the nodes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use shoal_proto::shoal::v1::{CallRequest, CallResponse, shoal_client::ShoalClient};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
    time,
};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

use super::history::{Act, Answer, Clock, Entry, Op, Outcome, Time, Use};

/// What a call has. Longer than any planned change parks one, shorter than most faults last, so
/// that a client behind one tries again while it lasts.
pub const DEADLINE: Duration = Duration::from_secs(3);
/// Between two calls of one client, on average.
const PAUSE: Duration = Duration::from_millis(150);
const CONNECT: Duration = Duration::from_secs(1);
/// A stock option: else a connection whose packets are dropped is kept for minutes.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Connections to one entry, shared by its clients.
const CONNECTIONS: usize = 2;
/// Threads of all clients.
const THREADS: usize = 2;

/// A key and what it is used for.
#[derive(Clone, Debug)]
pub struct Key {
    pub name: String,
    pub of: Use,
}

/// Half counters, half registers.
pub fn keys(count: usize) -> Vec<Key> {
    let key = |at: usize| {
        let of = if at.is_multiple_of(2) { Use::Counter } else { Use::Register };
        Key { name: format!("key-{at}"), of }
    };
    (0..count).map(key).collect()
}

/// An address and how clients think of it.
#[derive(Clone, Debug)]
pub struct Door {
    pub entry: Entry,
    pub address: String,
}

struct Shared {
    clock: Clock,
    stop: AtomicBool,
    /// Finished calls that nobody has taken yet.
    done: Mutex<Vec<Op>>,
    /// When the running call of each client began.
    running: Vec<AtomicU64>,
    /// No two puts put the same.
    unique: AtomicI64,
}

pub struct Callers {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
    runtime: Runtime,
}

impl Callers {
    /// One client for each key at each door, from the network of the calling thread.
    pub fn start(clock: Clock, keys: &[Key], doors: &[Door], seed: u64) -> anyhow::Result<Self> {
        let clients = keys.len() * doors.len();
        let shared = Arc::new(Shared {
            clock,
            stop: AtomicBool::new(false),
            done: Mutex::default(),
            running: (0..clients).map(|_| AtomicU64::new(Time::MAX)).collect(),
            unique: AtomicI64::new(1),
        });
        let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
        let mut started = Vec::new();
        for door in doors {
            let _inside = runtime.enter();
            let channels: Vec<_> =
                (0..CONNECTIONS).map(|_| channel(&door.address)).collect::<Result<_, _>>()?;
            for (at, key) in keys.iter().enumerate() {
                let number = started.len();
                let client = Client {
                    shared: shared.clone(),
                    number,
                    at,
                    key: key.clone(),
                    entry: door.entry,
                    shoal: ShoalClient::new(channels[at % CONNECTIONS].clone()),
                    chance: StdRng::seed_from_u64(seed.wrapping_add(number as u64)),
                };
                started.push(runtime.spawn(client.run()));
            }
        }
        Ok(Self { shared, clients: started, runtime })
    }

    /// What has finished since this was last asked, and a time before which nothing runs any more.
    pub fn take(&self) -> (Vec<Op>, Time) {
        // First the horizon: what ends after this look is at least as late.
        let now = self.shared.clock.now();
        let running = self.shared.running.iter().map(|began| began.load(Ordering::SeqCst));
        let horizon = running.min().unwrap_or(Time::MAX).min(now);
        (std::mem::take(&mut *self.shared.done.lock()), horizon)
    }

    /// Lets every running call end, and gives what was not taken.
    pub fn end(self) -> Vec<Op> {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.runtime.block_on(async {
            for client in self.clients {
                client.await.expect("a client ends");
            }
        });
        std::mem::take(&mut *self.shared.done.lock())
    }
}

/// Connects by itself, again and again.
fn channel(address: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let endpoint = endpoint
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_lazy())
}

/// Connections that end one after another before a call was sent on them.
const TRIES: u32 = 8;

struct Client {
    shared: Arc<Shared>,
    number: usize,
    at: usize,
    key: Key,
    entry: Entry,
    shoal: ShoalClient<Channel>,
    chance: StdRng,
}

impl Client {
    async fn run(mut self) {
        while !self.shared.stop.load(Ordering::SeqCst) {
            self.once().await;
            let pause = PAUSE.mul_f64(self.chance.random_range(0.2..1.8));
            time::sleep(pause).await;
        }
    }

    async fn once(&mut self) {
        let shared = self.shared.clone();
        let (act, method, payload) = self.draw();
        let running = &shared.running[self.number];
        // Before the clock is read: a look in between sees too early a time, never too late a one.
        running.store(shared.clock.now(), Ordering::SeqCst);
        let invoked = shared.clock.now();
        let answer = self.call(method, payload).await;
        let returned = shared.clock.now();
        let outcome = outcome(act, answer);
        let (key, entry) = (self.at, self.entry);
        shared.done.lock().push(Op { key, entry, act, invoked, returned, outcome });
        running.store(Time::MAX, Ordering::SeqCst);
    }

    /// What to do next, as a method of kv and its payload.
    fn draw(&mut self) -> (Act, &'static str, String) {
        // An increment by nothing is a read that also tells the epoch of an empty key.
        let read = (Act::Read, "incr", "0".to_owned());
        match (self.key.of, self.chance.random_range(0..10)) {
            (Use::Counter, 0..7) => (Act::Increment, "incr", String::new()),
            (Use::Counter, _) | (Use::Register, 0..3) => read,
            (Use::Register, 3..6) => (Act::Read, "get", String::new()),
            (Use::Register, _) => {
                let value = self.shared.unique.fetch_add(1, Ordering::Relaxed);
                (Act::Put(value), "put", value.to_string())
            }
        }
    }

    /// As gRPC's own clients do, sends again what a connection that ended had not sent.
    async fn call(&mut self, method: &str, payload: String) -> Result<CallResponse, Status> {
        let mut tries = 0;
        loop {
            let mut request = Request::new(CallRequest {
                key: self.key.name.clone().into(),
                method: method.to_owned(),
                payload: payload.clone().into(),
            });
            request.set_timeout(DEADLINE);
            tries += 1;
            match self.shoal.call(request).await {
                Err(status) if is_unsent(&status) && tries < TRIES => {}
                answer => return answer.map(tonic::Response::into_inner),
            }
        }
    }
}

fn is_unsent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn outcome(act: Act, answer: Result<CallResponse, Status>) -> Outcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(status) if status.code() == Code::NotFound => return Outcome::Absent,
        Err(status) => return Outcome::failed(&status),
    };
    let text = std::str::from_utf8(&answer.payload).ok();
    let value = match act {
        Act::Put(value) => Some(value),
        Act::Increment | Act::Read => text.and_then(|text| text.parse().ok()),
    };
    // Every value of these keys is a number: another answer is as wrong as any.
    let value = value.unwrap_or(i64::MIN);
    let CallResponse { shard, epoch, owner, .. } = answer;
    Outcome::Done(Answer { value, shard, epoch, owner })
}
