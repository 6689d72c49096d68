//! More calls than a node can answer at once, over a few connections, while the kernel limits what
//! its process may still allocate. It has to stay below that, and to keep its session.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use parking_lot::Mutex;
use shoal_proto::shoal::v1::{CallRequest, shoal_client::ShoalClient};
use tokio::runtime::{Builder, Runtime};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

use super::super::scene::Scene;

const CONNECTIONS: usize = 8;
/// Calls at once on each connection.
const CALLS: usize = 64;
const PAYLOAD: usize = 64 << 10;
/// Keys of all calls, which are deleted at the end.
const KEYS: usize = 64;
/// So long that what is accepted is also answered, where many share a connection.
const DEADLINE: Duration = Duration::from_secs(10);
/// What the process may allocate beside what it had: far more than these calls hold, far less
/// than it takes if it keeps them.
const LIMIT: u64 = 256 << 20;

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    answered: AtomicU64,
    refused: AtomicU64,
    /// Other ends, by their codes.
    failed: Mutex<BTreeMap<i32, u64>>,
    /// Longest time until a refusal, in ms.
    slowest_refusal: AtomicU64,
}

pub struct Overload {
    at: usize,
    incarnation: String,
    cgroup: Cgroup,
    /// What it had in memory before.
    resident: u64,
    counts: Arc<Counts>,
    address: String,
    runtime: Runtime,
}

impl Overload {
    pub fn start(scene: &Scene, at: usize) -> anyhow::Result<Self> {
        let cgroup = Cgroup::around(scene.pid(at), LIMIT)?;
        let (incarnation, address) = (incarnation(scene, at)?, scene.address(at));
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let counts = Arc::new(Counts::default());
        for connection in 0..CONNECTIONS {
            let _inside = runtime.enter();
            let client = client(&address)?;
            for call in 0..CALLS {
                let key = format!("flood-{}", (connection * CALLS + call) % KEYS);
                runtime.spawn(flood(client.clone(), key, counts.clone()));
            }
        }
        let resident = resident(scene.pid(at), "VmRSS")?;
        Ok(Self { at, incarnation, cgroup, resident, counts, address, runtime })
    }

    /// It was flooded, lives, keeps its session, and stays below its limit.
    pub fn met(&mut self, scene: &Scene) -> anyhow::Result<String> {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { answered, refused, failed, slowest_refusal, .. } = &*self.counts;
        let (answered, refused) = (of(answered), of(refused));
        let failed = failed.lock();
        let failed: Vec<_> =
            failed.iter().map(|(code, count)| format!("{count} {:?}", Code::from(*code))).collect();
        ensure!(answered > CALLS as u64, "only {answered} calls were answered, {refused} refused");
        let most = resident(scene.pid(self.at), "VmHWM")?.saturating_sub(self.resident);
        ensure!(most < LIMIT, "it took {most} bytes more");
        let now = incarnation(scene, self.at)?;
        ensure!(now == self.incarnation, "its session was lost: {} is now {now}", self.incarnation);
        Ok(format!(
            "{answered} calls of 64 KiB answered, {refused} refused, the slowest after {} ms, \
             failed otherwise: [{}]; {} MiB taken at most, of {} MiB",
            of(slowest_refusal),
            failed.join(", "),
            most >> 20,
            LIMIT >> 20
        ))
    }

    pub fn end(self, scene: &Scene) -> anyhow::Result<()> {
        self.counts.stop.store(true, Ordering::Relaxed);
        let mut client = {
            let _inside = self.runtime.enter();
            client(&self.address)?
        };
        self.runtime.block_on(async {
            for at in 0..KEYS {
                let key = format!("flood-{at}").into();
                let mut delete = Request::new(CallRequest {
                    key,
                    method: "delete".to_owned(),
                    ..CallRequest::default()
                });
                delete.set_timeout(Duration::from_secs(10));
                client.call(delete).await.context("the flood is taken away again")?;
            }
            anyhow::Ok(())
        })?;
        self.runtime.shutdown_background();
        self.cgroup.release(scene.pid(self.at))
    }
}

fn client(address: &str) -> anyhow::Result<ShoalClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    Ok(ShoalClient::new(endpoint.connect_lazy()))
}

async fn flood(mut client: ShoalClient<Channel>, key: String, counts: Arc<Counts>) {
    let payload = Bytes::from(vec![b'x'; PAYLOAD]);
    while !counts.stop.load(Ordering::Relaxed) {
        let message = CallRequest {
            key: key.clone().into(),
            method: "put".to_owned(),
            payload: payload.clone(),
        };
        let mut request = Request::new(message);
        request.set_timeout(DEADLINE);
        let began = Instant::now();
        let ended = client.call(request).await.map_err(|status: Status| status.code());
        match ended {
            Ok(_) => _ = counts.answered.fetch_add(1, Ordering::Relaxed),
            Err(Code::ResourceExhausted) => {
                let took = began.elapsed().as_millis() as u64;
                counts.slowest_refusal.fetch_max(took, Ordering::Relaxed);
                counts.refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(code) => *counts.failed.lock().entry(code as i32).or_default() += 1,
        }
    }
}

/// Bytes of a process in memory: `VmRSS` now, `VmHWM` at most.
fn resident(pid: u32, field: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    Ok(kib.context("no such field of a process")? << 10)
}

fn incarnation(scene: &Scene, at: usize) -> anyhow::Result<String> {
    let status = scene.status()?;
    let name = &scene.nodes[at].name;
    let row = status.nodes.iter().find(|node| node.name == *name).context("the flooded node")?;
    Ok(format!("{} {}", row.life, row.incarnation))
}

/// A limit on what a process allocates from now on.
struct Cgroup {
    path: PathBuf,
    root: PathBuf,
}

impl Cgroup {
    fn around(pid: u32, limit: u64) -> anyhow::Result<Self> {
        let unified = Path::new("/sys/fs/cgroup");
        let second = unified.join("cgroup.controllers").exists();
        let root = if second { unified.to_owned() } else { unified.join("memory") };
        let path = root.join(format!("shoal-faults-{pid}"));
        fs::create_dir(&path).with_context(|| format!("{}: run this as root", path.display()))?;
        let cgroup = Self { path, root };
        let file = if second { "memory.max" } else { "memory.limit_in_bytes" };
        cgroup.write(file, &limit.to_string())?;
        cgroup.write("cgroup.procs", &pid.to_string())?;
        Ok(cgroup)
    }

    fn write(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let path = self.path.join(file);
        fs::write(&path, text).with_context(|| path.display().to_string())
    }

    fn release(&self, pid: u32) -> anyhow::Result<()> {
        fs::write(self.root.join("cgroup.procs"), pid.to_string())?;
        // What it has allocated is still counted here, in version 1 until it is moved up.
        fs::remove_dir(&self.path).with_context(|| self.path.display().to_string())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // After a failure its process still ends first, with the scene; an empty one is no harm.
        let _ = fs::remove_dir(&self.path);
    }
}
