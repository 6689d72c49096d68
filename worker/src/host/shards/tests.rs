//! Two nodes in one process, a log that both tables follow, hand-over through loopback.

mod calls;
mod closing;
mod moves;

use std::{sync::atomic::AtomicBool, time::Duration};

use bytes::Bytes;
use futures::FutureExt as _;
use shoal_core::{
    handoff::{GiveUp, News},
    id::{ClusterId, Epoch, MapVersion},
    registry::{
        Assign, BeginMove, Command, Event as Applied, MoveRef, Register, Registry, ShardRow,
    },
};
use tokio::{sync::Semaphore, time::Instant};
use tonic::transport::Endpoint;

use super::*;
use crate::{
    call::{Call, Outcome, Reply},
    env::net,
    host::{
        api::{Export, HostCall, Start, Step},
        kv::Kv,
    },
    peer,
};

const S0: ShardId = ShardId(0);
const HOUR: Duration = Duration::from_secs(3_600);
/// Far beyond what any step takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// What becomes of an owner's report.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leader {
    Commits,
    /// Gives up every move that is released.
    Aborts,
    Deaf,
}

struct World {
    log: Mutex<(u64, Vec<Table>)>,
    addresses: Mutex<BTreeMap<NodeId, String>>,
    leader: Mutex<Leader>,
    reports: Mutex<Vec<News>>,
}

struct Node {
    world: Arc<World>,
    id: NodeId,
    shards: Shards,
    right: Right,
    stop: CancellationToken,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl World {
    /// Nodes 1 and 2 up, nothing assigned.
    async fn new(hosts: [Arc<dyn ShardHost>; 2]) -> (Arc<Self>, [Node; 2]) {
        let tables: Vec<_> = hosts.iter().map(|_| Table::default()).collect();
        for table in &tables {
            table.adopt(Registry::new());
        }
        let world = Arc::new(Self {
            log: Mutex::new((0, tables.clone())),
            addresses: Mutex::default(),
            leader: Mutex::new(Leader::Commits),
            reports: Mutex::default(),
        });
        world.apply(Command::Found {
            cluster: ClusterId(7),
            founder: info("a"),
            directory: 1,
            shard_count: 16,
            lease_ms: 3_000,
        });
        let joined = world.apply(Command::Join { info: info("b"), directory: 2, replaces: vec![] });
        let Applied::Joined { node: second } = joined else { panic!("{joined:?}") };
        let [first_host, second_host] = hosts;
        let first = world.node(NodeId(1), first_host, tables[0].clone());
        let second = world.node(second, second_host, tables[1].clone());
        first.register(1).await;
        second.register(1).await;
        world.apply(Command::Form { unix_seconds: 9, highest_epoch_found: Epoch::default() });
        (world, [first, second])
    }

    fn node(self: &Arc<Self>, id: NodeId, host: Arc<dyn ShardHost>, table: Table) -> Node {
        let world = Arc::clone(self);
        let channels: Channels = Arc::new(move |node| {
            let address = world.addresses.lock().get(&node).cloned()?;
            Some(Endpoint::from_shared(format!("http://{address}")).ok()?.connect_lazy())
        });
        let world = Arc::clone(self);
        let report: Reporter = Arc::new(move |report| {
            world.hear(report);
            futures::future::ready(()).boxed()
        });
        let right = Right::new().unwrap();
        let shards = Shards::new(Parts {
            node: id,
            host,
            table,
            right: right.clone(),
            executor: Handle::current(),
            channels,
            report,
            transfer_rate: None,
            metrics: Metrics::default(),
        });
        let listener = net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        self.addresses.lock().insert(id, listener.local_addr().unwrap().to_string());
        let stop = CancellationToken::new();
        let router = peer::server().add_service(shards.handover_server());
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(router.serve_with_incoming_shutdown(
            peer::incoming(listener, crate::tls::Tls::default()),
            stopped,
        ));
        let (running, shutdown) = (shards.clone(), stop.clone());
        tokio::spawn(async move { running.run(shutdown).await });
        Node { world: Arc::clone(self), id, shards, right, stop }
    }

    fn apply(&self, command: Command) -> Applied {
        let (index, tables) = &mut *self.log.lock();
        *index += 1;
        let apply = |table: &Table| table.apply(LogIndex(*index), &command);
        let mut results: Vec<_> = tables.iter().map(apply).collect();
        results.remove(0).unwrap_or_else(|refused| panic!("{command:?}: {refused}"))
    }

    fn hear(&self, report: Report) {
        self.reports.lock().push(report.news);
        let items = vec![report.key];
        let command = match (*self.leader.lock(), report.news) {
            (Leader::Deaf, _) | (_, News::Working) => return,
            (Leader::Commits, News::Released) => Command::CommitMove { items },
            (Leader::Aborts, News::Released) | (_, News::GaveUp(_)) => Command::AbortMove { items },
        };
        self.apply(command); // a repeated report is refused inside
    }

    fn row(&self, shard: ShardId) -> ShardRow {
        self.log.lock().1[0].routes().row(shard).unwrap()
    }

    fn process(&self, node: NodeId) -> Process {
        let registry = self.log.lock().1[0].clone();
        let incarnation = registry.registry().node(node).unwrap().incarnation;
        Process::new(node, incarnation)
    }

    fn assign(&self, shard: ShardId, to: &Node) {
        let (epoch, Process { incarnation, .. }) = (self.row(shard).epoch, self.process(to.id));
        self.apply(Command::Assign {
            items: vec![Assign { shard, epoch, target: to.id, incarnation }],
        });
    }

    fn begin_move(&self, shard: ShardId, to: &Node) -> MoveRef {
        let (epoch, Process { incarnation, .. }) = (self.row(shard).epoch, self.process(to.id));
        self.apply(Command::BeginMove {
            items: vec![BeginMove { shard, epoch, target: to.id, incarnation }],
        });
        MoveRef { shard, epoch, id: shoal_core::id::MoveId(self.row(shard).changed.0) }
    }

    async fn gave_up(&self) -> GiveUp {
        eventually("an owner gives up", || {
            let reports = self.reports.lock();
            reports.iter().find_map(|news| match news {
                News::GaveUp(why) => Some(*why),
                News::Working | News::Released => None,
            })
        })
        .await
    }
}

impl Node {
    async fn register(&self, counter: u64) {
        let incarnation = Incarnation { counter, nonce: self.id.0 };
        self.shards.begin_incarnation(incarnation).await;
        let table = self.world.log.lock().1[0].clone();
        let row = table.registry().node(self.id).unwrap().clone();
        self.world.apply(Command::Register(Register {
            node: self.id,
            replaces: row.incarnation,
            incarnation,
            info: row.info,
            lock: None,
            renewed: row.renewed,
            proof: false,
            reown: false,
        }));
        self.right.extend(clock::now().plus(HOUR));
    }

    fn fence(&self) {
        let table = self.world.log.lock().1[0].clone();
        let row = table.registry().node(self.id).unwrap().clone();
        let (node, incarnation, renewed) = (self.id, row.incarnation, row.renewed);
        self.world.apply(Command::Fence { node, incarnation, renewed });
    }

    fn ask(&self, method: &str, key: &str, payload: &[u8]) -> Call {
        Call {
            id: 1,
            shard: S0,
            epoch: self.world.row(S0).epoch,
            map_version: MapVersion(0),
            budget: PATIENCE,
            received: Instant::now(),
            attempt: 1,
            idempotent: false,
            key: Bytes::copy_from_slice(key.as_bytes()),
            method: method.to_owned(),
            payload: Bytes::copy_from_slice(payload),
        }
    }

    async fn outcome(&self, method: &str, key: &str, payload: &[u8]) -> Outcome {
        self.shards.call(self.ask(method, key, payload)).await
    }

    async fn answer(&self, method: &str, key: &str) -> String {
        match self.outcome(method, key, b"").await {
            Outcome::Reply(Reply { result: Ok(bytes), .. }) => {
                String::from_utf8(bytes.to_vec()).unwrap()
            }
            other => panic!("{method}: {other:?}"),
        }
    }

    async fn serves(&self, shard: ShardId) {
        eventually("the shard is served", || {
            let slot = self.shards.life()?.slot(shard)?;
            let at_rest = self.world.row(shard).target().is_none();
            (at_rest && matches!(slot.census().0, Local::Open { .. })).then_some(())
        })
        .await;
    }
}

fn info(name: &str) -> shoal_core::registry::NodeInfo {
    let name = name.to_owned();
    shoal_core::registry::NodeInfo { name, weight: 1, feature_level: 1, ..Default::default() }
}

fn kv() -> Arc<dyn ShardHost> {
    Arc::new(Kv::default())
}

/// How many pauses were measured, and their seconds together.
fn pauses(metrics: &Metrics) -> (u64, f64) {
    let (mut registry, mut text) =
        (prometheus_client::registry::Registry::default(), String::new());
    metrics.register(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("the metric");
        line.trim().parse::<f64>().unwrap()
    };
    let count = value("host_handover_pause_seconds_count") as u64;
    (count, value("host_handover_pause_seconds_sum"))
}

async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// kv with two more methods: `wait` ends when the gate opens, `block` holds its thread until
/// then and cannot be cancelled.
struct Gated {
    kv: Kv,
    gate: Semaphore,
    entered: AtomicU32,
    running: AtomicU32,
    closed_busy: AtomicBool,
    deny_import: bool,
}

impl Default for Gated {
    fn default() -> Self {
        Self {
            kv: Kv::default(),
            gate: Semaphore::new(0),
            entered: AtomicU32::new(0),
            running: AtomicU32::new(0),
            closed_busy: AtomicBool::new(false),
            deny_import: false,
        }
    }
}

impl Gated {
    async fn entered(&self, calls: u32) {
        eventually("handlers run", || (self.entered.load(Ordering::SeqCst) >= calls).then_some(()))
            .await;
    }
}

impl ShardHost for Gated {
    fn methods(&self) -> &[Method] {
        self.kv.methods()
    }

    fn reset(&self) -> Step<'_, ()> {
        self.kv.reset()
    }

    fn prepare(&self, shard: ShardId) -> Step<'_, ()> {
        self.kv.prepare(shard)
    }

    fn import(&self, shard: ShardId, bytes: Bytes) -> Step<'_, ()> {
        if self.deny_import {
            return async { Err(crate::host::api::Error::App("full".to_owned())) }.boxed();
        }
        self.kv.import(shard, bytes)
    }

    fn imported(&self, shard: ShardId) -> Step<'_, ()> {
        self.kv.imported(shard)
    }

    fn open(&self, shard: ShardId, epoch: Epoch, start: Start) -> Step<'_, ()> {
        self.kv.open(shard, epoch, start)
    }

    fn call(&self, call: HostCall) -> BoxFuture<'_, Result<Bytes, crate::call::AppError>> {
        async move {
            match call.method.as_str() {
                "wait" => {
                    self.entered.fetch_add(1, Ordering::SeqCst);
                    self.gate.acquire().await.unwrap().forget();
                    let owned = call.ownership.check().is_ok();
                    Ok(Bytes::from(owned.to_string()))
                }
                "block" => {
                    self.running.fetch_add(1, Ordering::SeqCst);
                    self.entered.fetch_add(1, Ordering::SeqCst);
                    // A failed test ends too: a runtime waits for its threads.
                    let end = Instant::now() + PATIENCE;
                    while self.gate.available_permits() == 0 && Instant::now() < end {
                        crate::env::thread::sleep(Duration::from_millis(1));
                    }
                    self.running.fetch_sub(1, Ordering::SeqCst);
                    Ok(Bytes::new())
                }
                _ => self.kv.call(call).await,
            }
        }
        .boxed()
    }

    fn export(&self, shard: ShardId, since: u64) -> Step<'_, Export> {
        self.kv.export(shard, since)
    }

    fn freeze(&self, shard: ShardId) -> Step<'_, Vec<Bytes>> {
        self.kv.freeze(shard)
    }

    fn close(&self, shard: ShardId) -> Step<'_, ()> {
        if self.running.load(Ordering::SeqCst) > 0 {
            self.closed_busy.store(true, Ordering::SeqCst);
        }
        self.kv.close(shard)
    }
}
