//! More calls than a node can answer at once, over a few connections, while the kernel limits the
//! memory of its process. It has to stay below that, to refuse fast, and to keep its session.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use shoal_proto::shoal::v1::{CallRequest, shoal_client::ShoalClient};
use tokio::runtime::{Builder, Runtime};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

use super::super::{
    cgroup::{self, Cgroup},
    kind::Kind,
    scene::Scene,
};

const CONNECTIONS: usize = 8;
/// Calls at once on each connection.
const CALLS: usize = 64;
/// Keys of all calls, which are deleted at the end.
const KEYS: usize = 64;
/// So long that what is accepted is also answered, where many share a connection.
const DEADLINE: Duration = Duration::from_secs(10);
/// Of a pod of the usual size; calls of 1 MiB at once alone are as much.
const LIMIT: u64 = 512 << 20;
/// Until the node is back within its limit.
const SETTLES: Duration = Duration::from_secs(45);
/// A refusal says so; its time is a figure, and only this much a promise.
const FAST: Duration = Duration::from_secs(5);

/// What is sent.
#[derive(Clone, Copy, Debug)]
struct Flood {
    method: &'static str,
    /// Of the request, or of the answer.
    size: usize,
    /// So much at once that a node cannot take all of it.
    refused: bool,
}

impl Flood {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::OverloadLarge => Self { method: "put", size: 1 << 20, refused: true },
            Kind::OverloadAnswers => Self { method: "get", size: 1 << 20, refused: true },
            _ => Self { method: "put", size: 64 << 10, refused: false },
        }
    }
}

struct Counts {
    stop: AtomicBool,
    answered: AtomicU64,
    /// Times until a refusal, in µs.
    refused: Mutex<Histogram<u64>>,
    /// Refusals that do not say that they were not executed, and when to come back.
    silent: AtomicU64,
    /// Other ends, by their codes and words.
    failed: Mutex<BTreeMap<String, u64>>,
}

pub struct Overload {
    at: usize,
    flood: Flood,
    incarnation: String,
    cgroup: Cgroup,
    counts: Arc<Counts>,
    address: String,
    runtime: Runtime,
}

impl Overload {
    pub fn start(kind: Kind, scene: &mut Scene, at: usize) -> anyhow::Result<Self> {
        let flood = Flood::of(kind);
        let cgroup = confine(scene, at)?;
        let (incarnation, address) = (incarnation(scene, at)?, scene.address(at));
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let counts = Arc::new(Counts {
            stop: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            refused: Mutex::new(Histogram::new(3)?),
            silent: AtomicU64::new(0),
            failed: Mutex::default(),
        });
        if flood.method == "get" {
            runtime.block_on(fill(&address, flood.size))?;
        }
        cgroup::forget_peak(scene.pid(at))?;
        for connection in 0..CONNECTIONS {
            let _inside = runtime.enter();
            let client = client(&address)?;
            for call in 0..CALLS {
                let key = format!("flood-{}", (connection * CALLS + call) % KEYS);
                runtime.spawn(send(flood, client.clone(), key, counts.clone()));
            }
        }
        Ok(Self { at, flood, incarnation, cgroup, counts, address, runtime })
    }

    /// It was flooded, lives, keeps its session, and stays below its limit.
    pub fn met(&mut self, scene: &mut Scene) -> anyhow::Result<String> {
        let counts = &*self.counts;
        let ended = scene.nodes[self.at].has_ended();
        let kills = self.cgroup.kills()?;
        ensure!(ended.is_none() && kills == 0, "it ended with {ended:?}, {kills} for memory");
        let answered = counts.answered.load(Ordering::Relaxed);
        let refused = counts.refused.lock().clone();
        let millis = |micros: u64| Duration::from_micros(micros).as_secs_f64() * 1e3;
        let (count, slowest) = (refused.len(), Duration::from_micros(refused.max()));
        ensure!(answered > CALLS as u64, "only {answered} calls were answered, {count} refused");
        ensure!(count > 0 || !self.flood.refused, "no call was refused, {answered} were answered");
        ensure!(slowest < FAST, "a refusal took {slowest:?}");
        let silent = counts.silent.load(Ordering::Relaxed);
        ensure!(silent == 0, "{silent} refusals do not say when to come back");
        let most = cgroup::peak(scene.pid(self.at))?;
        ensure!(most < LIMIT, "it took {} MiB of memory", most >> 20);
        let now = incarnation(scene, self.at)?;
        ensure!(now == self.incarnation, "its session was lost: {} is now {now}", self.incarnation);
        Ok(format!(
            "{answered} calls of {} KiB answered, {count} refused within {:.1} ms (p50), {:.1} ms \
             (p99), {:.1} ms at most, failed otherwise: {:?}; {} MiB of memory at most, of {} MiB",
            self.flood.size >> 10,
            millis(refused.value_at_quantile(0.5)),
            millis(refused.value_at_quantile(0.99)),
            millis(refused.max()),
            counts.failed.lock(),
            most >> 20,
            LIMIT >> 20
        ))
    }

    /// Ends the flood; what it wrote can be deleted, and then the node is without a limit again.
    pub fn end(self, scene: &mut Scene) -> anyhow::Result<()> {
        self.counts.stop.store(true, Ordering::Relaxed);
        let program = scene.program().to_owned();
        scene.becomes(self.at, &program);
        if !scene.nodes[self.at].runs() {
            scene.start(self.at)?;
            scene.wait("the node is back", SETTLES, Scene::whole)?;
        }
        let mut client = {
            let _inside = self.runtime.enter();
            client(&self.address)?
        };
        self.runtime.block_on(async {
            for at in 0..KEYS {
                let delete = request(format!("flood-{at}"), "delete", Bytes::new());
                again(&mut client, delete).await.context("the flood is taken away again")?;
            }
            anyhow::Ok(())
        })?;
        self.runtime.shutdown_background();
        self.cgroup.release(scene.pid(self.at))
    }
}

/// Starts the node again within a limit.
fn confine(scene: &mut Scene, at: usize) -> anyhow::Result<Cgroup> {
    let name = scene.nodes[at].name.clone();
    let cgroup = Cgroup::new(&name, LIMIT)?;
    let script = scene.space.path().join(format!("{name}.limited"));
    let program = cgroup.entrance(scene.program(), &script)?;
    scene.leave(at)?;
    scene.becomes(at, &program);
    scene.start(at)?;
    scene.wait("the node is back within its limit", SETTLES, Scene::whole)?;
    Ok(cgroup)
}

fn client(address: &str) -> anyhow::Result<ShoalClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    Ok(ShoalClient::new(endpoint.connect_lazy()))
}

fn request(key: String, method: &str, payload: Bytes) -> CallRequest {
    CallRequest { key: key.into(), method: method.to_owned(), payload }
}

fn timed(message: CallRequest) -> Request<CallRequest> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

/// Every key holds a value of this size.
async fn fill(address: &str, size: usize) -> anyhow::Result<()> {
    let mut client = client(address)?;
    for at in 0..KEYS {
        let put = request(format!("flood-{at}"), "put", vec![b'x'; size].into());
        again(&mut client, put).await.context("every key is given a value")?;
    }
    Ok(())
}

/// As a client that comes back when it was told to.
async fn again(client: &mut ShoalClient<Channel>, message: CallRequest) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let Err(status) = client.call(timed(message.clone())).await else { return Ok(()) };
        let pause = status.get_details_retry_info().and_then(|info| info.retry_delay);
        let pause = pause.filter(|_| began.elapsed() < SETTLES).ok_or(status)?;
        tokio::time::sleep(pause).await;
    }
}

async fn send(flood: Flood, mut client: ShoalClient<Channel>, key: String, counts: Arc<Counts>) {
    let payload = Bytes::from(vec![b'x'; if flood.method == "put" { flood.size } else { 0 }]);
    while !counts.stop.load(Ordering::Relaxed) {
        let message = request(key.clone(), flood.method, payload.clone());
        let began = Instant::now();
        let Err(status) = client.call(timed(message)).await else {
            counts.answered.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        if status.code() == Code::ResourceExhausted {
            let micros = began.elapsed().as_micros() as u64;
            counts.refused.lock().record(micros).expect("a histogram that grows");
            counts.silent.fetch_add(u64::from(!tells(&status)), Ordering::Relaxed);
        } else {
            let told = format!("{:?}: {}", status.code(), status.message());
            *counts.failed.lock().entry(told).or_default() += 1;
        }
        // As a client without a policy of its own: it comes back at once, but not in a loop that
        // takes the machine away from what is measured.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a client needs to send it again.
fn tells(status: &Status) -> bool {
    let executed = status.get_details_error_info().map(|info| info.reason);
    status.get_details_retry_info().is_some() && executed.as_deref() == Some("NOT_EXECUTED")
}

fn incarnation(scene: &Scene, at: usize) -> anyhow::Result<String> {
    let status = scene.status()?;
    let name = &scene.nodes[at].name;
    let row = status.nodes.iter().find(|node| node.name == *name).context("the flooded node")?;
    Ok(format!("{} {}", row.life, row.incarnation))
}
