//! Founding over loopback, with real directories and a Raft that only keeps count.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use shoal_proto::shoal::peer::v1::{FoundingPeer, FoundingQuestion};
use tokio::task::JoinHandle;

use super::*;
use crate::{
    config::HostPort,
    env::net,
    peer::{self, AddressBook},
};

/// Short, so that the pause of an abandoned founding is little more than its second.
const LEASE: Duration = Duration::from_millis(200);
const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Cluster {
    founder: Option<Handle>,
    members: Vec<u128>,
}

/// Every cluster's log, kept in one place.
#[derive(Default)]
struct Logs {
    clusters: Mutex<BTreeMap<ClusterId, Cluster>>,
    handles: Mutex<Vec<Handle>>,
    /// Until then nobody is admitted.
    closed: Mutex<bool>,
    stopped: AtomicUsize,
    started: AtomicUsize,
}

struct Raft {
    logs: Arc<Logs>,
    identity: Arc<Mutex<Identity>>,
    handle: OnceLock<Handle>,
}

impl Effects for Raft {
    async fn initialize(&self, cluster: ClusterId) -> Result<(), Cause> {
        let nonce = self.identity.lock().directory().nonce;
        let handle = self.handle.get().cloned().ok_or("no handle")?;
        let founded = Cluster { founder: Some(handle.clone()), members: vec![nonce] };
        self.logs.clusters.lock().insert(cluster, founded);
        handle.membership_committed(vec![nonce]).await;
        Ok(())
    }

    async fn start(&self, _: ClusterId, _: NodeId) -> Result<(), Cause> {
        self.logs.started.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn stop(&self) -> Result<Stopped, Cause> {
        self.logs.stopped.fetch_add(1, Ordering::Relaxed);
        Ok(Stopped::NeverRan)
    }

    async fn request_join(
        &self,
        cluster: ClusterId,
        _: &str,
        directory: u128,
    ) -> Result<NodeId, Cause> {
        if *self.logs.closed.lock() {
            return Err(Refusal("nobody is admitted yet".to_owned()).into());
        }
        let (node, founder, members) = {
            let mut clusters = self.logs.clusters.lock();
            let log = clusters.get_mut(&cluster).ok_or("unknown cluster")?;
            if !log.members.contains(&directory) {
                log.members.push(directory);
            }
            (NodeId(log.members.len() as u64), log.founder.clone(), log.members.clone())
        };
        if let Some(founder) = founder.filter(|_| members.len() == 3) {
            founder.membership_committed(members).await;
        }
        Ok(node)
    }

    async fn propose_formed(&self, cluster: ClusterId, _: Epoch) -> Result<(), Cause> {
        let handles = self.logs.handles.lock().clone();
        for handle in handles {
            if handle.state().borrow().directory.cluster() == Some(cluster) {
                handle.formed_in_log().await;
                handle.formed_committed().await;
            }
        }
        Ok(())
    }
}

struct Node {
    dir: PathBuf,
    handle: Handle,
    stop: CancellationToken,
    outcome: JoinHandle<Result<Ended, Error>>,
}

impl Node {
    async fn end(self) -> (PathBuf, Result<Ended, Error>) {
        self.stop.cancel();
        (self.dir, self.outcome.await.unwrap())
    }
}

struct World {
    root: tempfile::TempDir,
    logs: Arc<Logs>,
    peers: watch::Sender<PeerSet>,
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        Self { root, logs: Arc::default(), peers: watch::Sender::default() }
    }

    fn set() -> FoundingSet {
        FoundingSet::new(["a", "b", "c"].map(str::to_owned)).unwrap()
    }

    async fn start(&self, name: &str, plan: Plan) -> Node {
        self.start_in(self.root.path().join(name), name, plan).await
    }

    async fn start_in(&self, dir: PathBuf, name: &str, plan: Plan) -> Node {
        let identity = Arc::new(Mutex::new(Identity::open(&dir, name).unwrap()));
        let listener = net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let raft = Arc::new(Raft {
            logs: Arc::clone(&self.logs),
            identity: Arc::clone(&identity),
            handle: OnceLock::new(),
        });
        let config = Config {
            name: name.to_owned(),
            node_name: name.to_owned(),
            address: address.clone(),
            plan,
            lease: LEASE,
            recorded: None,
            abandoning: None,
            confirm_required: false,
        };
        let channels = Channels::new(AddressBook::default());
        let effects = Arc::clone(&raft);
        let (found, handle) =
            Found::new(config, identity, effects, self.peers.subscribe(), channels);
        assert!(raft.handle.set(handle.clone()).is_ok());
        self.logs.handles.lock().push(handle.clone());
        self.peers.send_modify(|peers| {
            peers.raft_addresses.insert(address);
        });
        let stop = CancellationToken::new();
        let serving = peer::server().add_service(handle.service()).serve_with_incoming_shutdown(
            peer::incoming(listener, crate::tls::Tls::default()),
            stop.clone().cancelled_owned(),
        );
        tokio::spawn(serving);
        let outcome = tokio::spawn(found.run(false, stop.clone()));
        Node { dir, handle, stop, outcome }
    }

    async fn start_all(&self) -> Vec<Node> {
        let mut nodes = Vec::new();
        for name in ["a", "b", "c"] {
            nodes.push(self.start(name, Plan::Found(Self::set())).await);
        }
        nodes
    }
}

async fn wait(handle: &Handle, until: impl FnMut(&State) -> bool) -> State {
    let mut state = handle.state();
    let waited = tokio::time::timeout(DEADLINE, state.wait_for(until)).await;
    match waited {
        Ok(state) => state.unwrap().clone(),
        Err(_) => panic!("still {:?}", handle.state().borrow()),
    }
}

async fn formed(nodes: &[Node]) -> ClusterId {
    let mut clusters = Vec::new();
    for node in nodes {
        let state =
            wait(&node.handle, |state| state.formed == Formed::Committed && state.directory.formed);
        clusters.push(state.await.directory.cluster().unwrap());
    }
    assert!(clusters.iter().all(|cluster| *cluster == clusters[0]));
    clusters[0]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_directories_found_one_cluster_and_keep_it() {
    let world = World::new();
    let nodes = world.start_all().await;
    let cluster = formed(&nodes).await;
    assert_eq!(nodes[0].handle.state().borrow().waiting, None);
    let mut ids = Vec::new();
    for node in nodes {
        let (dir, outcome) = node.end().await;
        outcome.unwrap();
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let identity = Identity::open(&dir, &name).unwrap();
        let directory = identity.directory();
        assert_eq!((directory.cluster(), directory.formed), (Some(cluster), true));
        ids.push(directory.joined.as_ref().unwrap().node.unwrap());
    }
    ids.sort();
    assert_eq!(ids, [NodeId(1), NodeId(2), NodeId(3)]);
    // Started again, it enters as the node it is, whatever its settings say.
    let before = world.logs.started.load(Ordering::Relaxed);
    let again = world.start("b", Plan::Join).await;
    wait(&again.handle, |state| state.directory.cluster() == Some(cluster)).await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while world.logs.started.load(Ordering::Relaxed) == before {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_named() {
    let world = World::new();
    let a = world.start("a", Plan::Found(World::set())).await;
    let b = world.start("b", Plan::Found(World::set())).await;
    let expected = Some("waiting for 1 of 3 founding peers: c".to_owned());
    for node in [&a, &b] {
        wait(&node.handle, |state| state.waiting == expected).await;
    }
    let c = world.start("c", Plan::Found(World::set())).await;
    formed(&[a, b, c]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_a_node_is_not_admitted_is_named_until_it_is() {
    let world = World::new();
    *world.logs.closed.lock() = true;
    let nodes = world.start_all().await;
    let refused = |state: &State| {
        let waits = state.waiting.as_deref().unwrap_or_default();
        waits.ends_with("to admit this node: nobody is admitted yet")
    };
    let founds = |node: &&Node| node.handle.state().borrow().directory.founded().is_some();
    for node in &nodes {
        wait(&node.handle, |state| state.directory.joined.is_some()).await;
    }
    for node in nodes.iter().filter(|node| !founds(node)) {
        wait(&node.handle, refused).await;
    }
    *world.logs.closed.lock() = false;
    formed(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_a_founder_without_its_disk_is_renounced_and_left() {
    let world = World::new();
    *world.logs.closed.lock() = true;
    let mut nodes = world.start_all().await;
    for node in &nodes {
        wait(&node.handle, |state| state.directory.joined.is_some()).await;
    }
    let first = nodes[0].handle.state().borrow().directory.joined.clone().unwrap();
    let at =
        nodes.iter().position(|node| node.handle.state().borrow().directory.founded().is_some());
    let founder = nodes.remove(at.unwrap());
    let (dir, outcome) = founder.end().await;
    outcome.unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    *world.logs.closed.lock() = false;
    nodes.push(world.start(&first.founder.name, Plan::Found(World::set())).await);
    let second = formed(&nodes).await;
    assert_ne!(second, first.cluster);
    let stopped = world.logs.stopped.load(Ordering::Relaxed);
    assert!(stopped >= 4, "both partners renounced, then left: {stopped}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_in_use_ends_the_newcomer() {
    let world = World::new();
    let nodes = world.start_all().await;
    formed(&nodes).await;
    // The registry admits no second node of a name whose session lives.
    *world.logs.closed.lock() = true;
    let dir = world.root.path().join("second-a");
    let twin = world.start_in(dir, "a", Plan::Found(World::set())).await;
    let outcome = tokio::time::timeout(DEADLINE, twin.outcome).await.unwrap().unwrap();
    let error = outcome.unwrap_err();
    assert_eq!(error.exit_code(), EXIT_IDENTITY);
    assert!(error.to_string().contains("the name a belongs to another directory"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_alone_listens_then_forms_and_a_former_cluster_ends_it() {
    let world = World::new();
    let plan = plan(&Start::FoundAlone, "a").unwrap();
    let alone = world.start("a", plan).await;
    let cluster = formed(std::slice::from_ref(&alone)).await;
    let address = world.peers.borrow().raft_addresses.first().unwrap().clone();
    let channel = Channels::new(AddressBook::default()).dial(&address).unwrap();
    let greet = async |formed: ClusterId, to: &str| {
        let greeting = FoundingQuestion {
            nonce: vec![1; 16].into(),
            from: Some(FoundingPeer { name: "b".to_owned(), address: "127.0.0.1:9".to_owned() }),
            formed_cluster_id: Some(formed.to_string()),
            to: Some(to.to_owned()),
            ..FoundingQuestion::default()
        };
        FoundingClient::new(channel.clone()).ask(greeting).await
    };
    greet(cluster, "a").await.expect("of its own cluster");
    greet(ClusterId(7), "z").await.expect("meant for another name");
    let _ = greet(ClusterId(7), "a").await;
    let outcome = tokio::time::timeout(DEADLINE, alone.outcome).await.unwrap().unwrap();
    let error = outcome.unwrap_err();
    assert_eq!(error.exit_code(), EXIT_IDENTITY);
    assert!(error.to_string().contains(&ClusterId(7).to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_question_is_refused() {
    let world = World::new();
    let _node = world.start("a", Plan::Found(World::set())).await;
    let address = world.peers.borrow().raft_addresses.first().unwrap().clone();
    let channel = Channels::new(AddressBook::default()).dial(&address).unwrap();
    let asked = FoundingClient::new(channel).ask(FoundingQuestion::default()).await;
    let status = asked.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert_eq!(status.message(), "nonce is not 16 bytes long");
}

#[test]
fn the_settings_choose_the_plan() {
    let peers: Vec<HostPort> = (1..5).map(|i| format!("h:{i}").parse().unwrap()).collect();
    let three = FoundingSet::new((1..4).map(|i| format!("h:{i}"))).unwrap();
    assert_eq!(plan(&Start::Peers(peers.clone()), "h:1"), Ok(Plan::Found(three)));
    let alone = FoundingSet::new(["h:1".to_owned()]).unwrap();
    assert_eq!(plan(&Start::FoundAlone, "h:1"), Ok(Plan::Found(alone)));
    assert_eq!(plan(&Start::Join(peers[0].clone()), "h:9"), Ok(Plan::Join));
}
