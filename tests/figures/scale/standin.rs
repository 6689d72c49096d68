//! Nodes without a process: each holds a session as a worker does, by the same machine and
//! the same client over a connection of its own, and owns what it is given without serving it.
//!
//! One table, watched as a node beyond the log watches it, stands for all of theirs.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use futures::{
    FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream::FuturesUnordered,
};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use shoal_core::{
    id::{ClusterId, Incarnation, NodeId, Timestamp},
    registry::{Addresses, LockId, NodeInfo},
    session::{
        holder::{Action, Answer, Call, Event, Holder, OwnRow, Via, Why},
        lease::Lease,
    },
};
use shoal_proto::shoal::peer::v1::{
    self as pb, session_client::SessionClient, session_response::Result as Answered,
};
use shoal_worker::{
    discovery::PeerSet,
    env::{clock, random},
    peer::{AddressBook, Channels, Purpose},
    raft::Heard,
    session::{Client, State},
    table::Table,
    watch::{Client as Watcher, Config, Metrics},
    wire,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{self, Instant},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Channel;

use super::{
    watchers::{Source, Watchers},
    world,
};
use crate::cluster::Cluster;

/// Joins under way at once.
const JOINS: usize = 32;
const LOOK: Duration = Duration::from_millis(20);
/// Members of the log that may be watched in a large cluster, the leader aside.
const SOURCES: usize = 20;
/// Any one wait.
const PATIENCE: Duration = Duration::from_secs(90);
/// More than a process needs in its life.
const INCARNATIONS: u64 = 1_000;
const LONGEST_US: u64 = 60_000_000;

/// What the sessions saw since the last look.
pub struct Tally {
    /// Microseconds from a renewal sent to its answer.
    pub renewals: Histogram<u64>,
    /// Renewals without a good answer.
    pub failed: u64,
    /// Rights that ended, and sessions that had to begin anew.
    pub lost: u64,
    /// Members that hold a session since they were started.
    pub registered: BTreeSet<NodeId>,
    /// When the last of those did.
    pub last: Option<Instant>,
    /// Sessions that ended for good.
    pub ended: Vec<Why>,
}

impl Tally {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            renewals: Histogram::new_with_max(LONGEST_US, 3)?,
            failed: 0,
            lost: 0,
            registered: BTreeSet::new(),
            last: None,
            ended: Vec::new(),
        })
    }
}

struct Shared {
    cluster: ClusterId,
    table: Table,
    book: AddressBook,
    tally: Mutex<Tally>,
}

#[derive(Clone)]
struct Member {
    id: NodeId,
    number: u32,
    /// Of its last incarnation.
    counter: u64,
}

/// All stand-ins of one cluster.
pub struct Crowd {
    shared: Arc<Shared>,
    members: Vec<Member>,
    /// A machine that boots anew proves no death by its locks.
    boot: u32,
    running: JoinSet<()>,
    /// RAFT_ADDRESSes of the processes.
    peers: watch::Sender<PeerSet>,
    heard: watch::Sender<Option<Heard>>,
    stop: CancellationToken,
    _watching: DropGuard,
}

impl Crowd {
    /// Of a formed cluster; nobody has joined yet.
    pub async fn of(cluster: &Cluster) -> anyhow::Result<Self> {
        let status = cluster.status().await?;
        let id = status.cluster_id.parse().ok().context("no cluster id")?;
        let addresses = status.nodes.iter().map(|node| node.raft_address.clone()).collect();
        let shared = Shared {
            cluster: id,
            table: Table::default(),
            book: AddressBook::default(),
            tally: Mutex::new(Tally::new()?),
        };
        for node in &status.nodes {
            shared.book.learn(NodeId(node.id), &node.raft_address);
        }
        let heard = Heard { leader: Some(NodeId(status.leader_id)), ..Heard::default() };
        let stop = CancellationToken::new();
        Ok(Self {
            shared: Arc::new(shared),
            members: Vec::new(),
            boot: 0,
            running: JoinSet::new(),
            peers: watch::Sender::new(PeerSet::of(addresses)),
            heard: watch::Sender::new(Some(heard)),
            _watching: stop.clone().drop_guard(),
            stop,
        })
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// As many nodes as watch each of `sources`, where a thousand share twenty.
    pub fn watch_beside(&self, sources: &[Source]) -> Watchers {
        let each = self.members.len().div_ceil(SOURCES);
        let ids: Vec<NodeId> = self.members.iter().map(|member| member.id).collect();
        let count = (each * sources.len()).min(ids.len());
        Watchers::start(self.shared.cluster, sources, &ids[..count])
    }

    /// Joins more until there are so many, and starts their sessions.
    pub async fn grow(&mut self, to: usize) -> anyhow::Result<()> {
        let known = self.members.len();
        let leader = self.heard.borrow().as_ref().and_then(|heard| heard.leader);
        let leader = leader.context("nobody is known to lead")?;
        let channels = Channels::new(self.shared.book.clone());
        let channel = channels.channel(leader, Purpose::Session)?;
        let cluster = self.shared.cluster;
        let numbers: Vec<u32> = (known..to).map(|at| at as u32 + 1).collect();
        let joins = futures::stream::iter(numbers)
            .map(|number| join(SessionClient::new(channel.clone()), cluster, number));
        let joining = joins.buffered(JOINS).try_collect::<Vec<_>>();
        let joined = time::timeout(PATIENCE, joining).await.context("the stand-ins do not join")?;
        self.members.extend(joined?);
        for member in &self.members[known..] {
            self.shared.book.learn(member.id, &self.shared.address(leader)?);
        }
        if known == 0 {
            self.watch().await?;
        }
        let new: Vec<_> = self.members[known..].to_vec();
        for member in new {
            self.start(member);
        }
        self.registered(to).await.map(drop)
    }

    fn start(&mut self, member: Member) {
        self.running.spawn(Session::new(&self.shared, member, self.boot).run());
    }

    /// Waits until so many hold a session; since when.
    pub async fn registered(&self, count: usize) -> anyhow::Result<Instant> {
        let until = Instant::now() + PATIENCE;
        loop {
            let (now, last) = self.registered_now()?;
            if now >= count {
                return last.context("nobody registered");
            }
            ensure!(Instant::now() < until, "{now} of {count} hold a session");
            time::sleep(LOOK).await;
        }
    }

    /// How many hold a session since they were started, and since when the last one does.
    pub fn registered_now(&self) -> anyhow::Result<(usize, Option<Instant>)> {
        let tally = self.shared.tally.lock();
        ensure!(tally.ended.is_empty(), "a session ended: {:?}", tally.ended);
        Ok((tally.registered.len(), tally.last))
    }

    /// What was seen since the last look.
    pub fn look(&self) -> anyhow::Result<Tally> {
        let mut tally = self.shared.tally.lock();
        let next =
            Tally { registered: tally.registered.clone(), last: tally.last, ..Tally::new()? };
        Ok(std::mem::replace(&mut tally, next))
    }

    /// All end at once, as if the power failed.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.running.shutdown().await;
        // Nobody knows who will lead: each third finds another process.
        let addresses = self.peers.borrow().addresses();
        for (member, address) in self.members.iter().zip(addresses.iter().cycle()) {
            self.shared.book.learn(member.id, address);
        }
        *self.shared.tally.lock() = Tally::new()?;
        Ok(())
    }

    /// All begin anew: other processes on the same boot, or on another one.
    pub fn revive(&mut self, rebooted: bool) {
        self.boot += u32::from(rebooted);
        for member in &mut self.members {
            member.counter += INCARNATIONS;
        }
        for member in self.members.clone() {
            self.start(member);
        }
    }

    /// The table of all, and the leader's address under each of their ids: their own
    /// processes would pass their requests on to it.
    async fn watch(&self) -> anyhow::Result<()> {
        let first = self.members.first().context("nobody joined")?.id;
        let session = watch::Sender::new(State {
            incarnation: Incarnation::default(),
            registered: true,
            exit: None,
            change_source: 0,
        });
        let watcher = Watcher::new(
            Config { node: first, cluster: self.shared.cluster, address: String::new() },
            self.shared.table.clone(),
            Channels::new(self.shared.book.clone()),
            self.peers.subscribe(),
            session.subscribe(),
            self.heard.clone(),
            Metrics::default(),
        );
        let stop = self.stop.clone();
        tokio::spawn(async move {
            let _session = session;
            watcher.run(stop).await;
        });
        let shared = self.shared.clone();
        let heard = self.heard.subscribe();
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(follow_leader(shared, heard)));
        let until = Instant::now() + PATIENCE;
        while !self.shared.table.registry().formed() {
            ensure!(Instant::now() < until, "no table comes");
            time::sleep(LOOK).await;
        }
        Ok(())
    }
}

/// The leader's address is that of each stand-in.
async fn follow_leader(shared: Arc<Shared>, mut heard: watch::Receiver<Option<Heard>>) {
    loop {
        let leader = heard.borrow_and_update().as_ref().and_then(|heard| heard.leader);
        if let Some(Ok(address)) = leader.map(|leader| shared.address(leader)) {
            let ids: Vec<NodeId> = shared.table.registry().nodes().map(|(id, _)| id).collect();
            let processes = |id: NodeId| {
                heard.borrow().as_ref().is_some_and(|h| h.ids().any(|known| known == id))
            };
            for id in ids.into_iter().filter(|id| !processes(*id)) {
                shared.book.learn(id, &address);
            }
        }
        if heard.changed().await.is_err() {
            return;
        }
    }
}

impl Shared {
    fn address(&self, node: NodeId) -> anyhow::Result<String> {
        self.book.address(node).with_context(|| format!("no address of {node}"))
    }
}

/// Nobody listens there: what is sent to a stand-in is refused at once.
fn info(number: u32) -> NodeInfo {
    let nowhere = || "127.0.0.1:9".to_owned();
    let addresses =
        Addresses { data: nowhere(), raft: nowhere(), admin: nowhere(), http: nowhere() };
    NodeInfo { addresses, ..world::info(number) }
}

async fn join(
    mut client: SessionClient<Channel>,
    cluster: ClusterId,
    number: u32,
) -> anyhow::Result<Member> {
    let request = pb::JoinRequest {
        hop: Some(wire::session::hop(cluster, NodeId(0))),
        info: Some(wire::session::node_info(&info(number))),
        directory: random::u128().to_be_bytes().to_vec().into(),
    };
    match client.join(request).await?.into_inner().result {
        Some(Answered::Accepted(accepted)) => {
            Ok(Member { id: NodeId(accepted.node), number, counter: 0 })
        }
        other => bail!("stand-in {number} may not join: {other:?}"),
    }
}

/// The session of one stand-in.
struct Session {
    shared: Arc<Shared>,
    client: Client,
    member: Member,
    incarnations: u64,
    holder: Holder,
    pending: FuturesUnordered<BoxFuture<'static, Event>>,
    wake_at: Option<Timestamp>,
    ended: bool,
}

impl Session {
    fn new(shared: &Arc<Shared>, member: Member, boot: u32) -> Self {
        let boot_id = format!("0c2f6a4e-52a8-4b3f-{boot:04}-{:012}", member.number);
        let lock = LockId { boot_id, device: 0x801, inode: 1 << 20 };
        let channels = Channels::new(shared.book.clone());
        let info = info(member.number);
        let table = shared.table.clone();
        let client = Client::new(member.id, info, Some(lock), table, channels);
        let (holder, first) = Holder::new(Lease::default(), clock::now());
        let mut session = Self {
            shared: shared.clone(),
            client,
            member,
            incarnations: 0,
            holder,
            pending: FuturesUnordered::new(),
            wake_at: first.wake_at,
            ended: false,
        };
        first.actions.into_iter().for_each(|action| session.perform(action));
        session
    }

    async fn run(mut self) {
        while !self.ended {
            let event = tokio::select! {
                biased;
                Some(event) = self.pending.next() => event,
                () = until(self.wake_at) => Event::Wake { jitter: random::fraction() },
            };
            // Its one thread ticks, and the table is that of all.
            let oldest_tick = clock::now();
            self.step(Event::Health { oldest_tick, probe_pending_since: None });
            self.step(self.table());
            self.step(event);
        }
    }

    fn step(&mut self, event: Event) {
        let output = self.holder.on(event, clock::now());
        self.wake_at = output.wake_at;
        output.actions.into_iter().for_each(|action| self.perform(action));
    }

    fn table(&self) -> Event {
        let registry = self.shared.table.registry();
        let row = registry.node(self.member.id).map(|node| OwnRow {
            incarnation: node.incarnation,
            life: node.life,
            drain: node.drain,
            marked: node.marked,
        });
        Event::Table { index: registry.applied(), row }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::NewIncarnation => {
                self.incarnations += 1;
                if self.incarnations > 1 {
                    self.shared.tally.lock().lost += 1;
                }
                let counter = self.member.counter + self.incarnations;
                let incarnation = Incarnation { counter, nonce: random::u64() };
                let drawn = futures::future::ready(Event::Incarnation(incarnation));
                self.pending.push(drawn.boxed());
            }
            Action::Send { request, call, incarnation, via } => {
                let (client, shared) = (self.client.clone(), self.shared.clone());
                let (me, table) = (self.member.id, shared.table.applied());
                // Another member than its own process would only pass it on to the leader.
                let via = if via == Via::Another { Via::Member(me) } else { via };
                self.pending.push(Box::pin(async move {
                    let began = Instant::now();
                    let answer = client.session(call, incarnation, table, via).await;
                    shared.note(me, call, answer, began.elapsed());
                    Event::Answered { request, answer }
                }));
            }
            Action::CloseAll(incarnation) => {
                self.pending.push(futures::future::ready(Event::AllClosed(incarnation)).boxed());
            }
            Action::StopServing => self.shared.tally.lock().lost += 1,
            Action::Exit(why) => {
                self.shared.tally.lock().ended.push(why);
                self.ended = true;
            }
            Action::ServeUntil { .. } | Action::Leave | Action::Stay | Action::ChangeSource => {}
        }
    }
}

impl Shared {
    fn note(&self, member: NodeId, call: Call, answer: Answer, took: Duration) {
        let granted = matches!(answer, Answer::Granted { .. });
        let mut tally = self.tally.lock();
        if granted && tally.registered.insert(member) {
            tally.last = Some(Instant::now());
        }
        match (call, granted) {
            (Call::Renew, true) => tally.renewals.saturating_record(took.as_micros() as u64),
            (Call::Renew, false) => tally.failed += 1,
            (Call::Register | Call::CloseInPlace, _) => {}
        }
    }
}

async fn until(wake_at: Option<Timestamp>) {
    match wake_at {
        Some(instant) => time::sleep(clock::now().until_maybe_past(instant)).await,
        None => std::future::pending().await,
    }
}
