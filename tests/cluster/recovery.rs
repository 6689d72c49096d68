//! A cluster whose quorum is lost for good goes on from one directory, or from a snapshot: under
//! another id and higher tokens, and beside no living member of what it was.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use shoal_tests::{
    Client, Cluster, Counters, Node,
    authority::{Authority, Paths},
    cluster::Status,
    command, wait,
};

use crate::tls;

/// Of these clusters, and the second that the first assignment waits longer.
const LEASE_AND_MORE: Duration = Duration::from_secs(4);
const KEYS: usize = 40;

/// A store of somebody else that keeps the highest token of each key, and refuses lower ones.
#[derive(Default)]
pub(crate) struct FencedStore(BTreeMap<String, u64>);

impl FencedStore {
    fn takes(&mut self, key: &str, token: u64) -> bool {
        let seen = self.0.entry(key.to_owned()).or_default();
        let takes = token >= *seen;
        *seen = token.max(*seen);
        takes
    }

    /// The present owner of each key is let in; its tokens.
    #[track_caller]
    pub(crate) fn takes_all(&mut self, client: &mut Client) -> BTreeMap<String, u64> {
        let keys = (0..KEYS).map(|at| format!("key-{at}"));
        keys.map(|key| {
            let (_, answer) = client.read(&key).unwrap();
            assert!(self.takes(&key, answer.epoch), "{key} is served under an older token");
            (key, answer.epoch)
        })
        .collect()
    }

    pub(crate) fn refuses_all(&mut self, older: &BTreeMap<String, u64>) {
        for (key, token) in older {
            assert!(!self.takes(key, *token), "{key}: {token:x} is older");
        }
    }
}

fn lose(node: &mut Node) {
    if node.runs() {
        node.kill();
    }
    fs::remove_dir_all(node.data()).unwrap();
}

/// `shoal recover` with these arguments, done: what it says to programs.
#[track_caller]
fn recover(cluster: &Cluster, arguments: &[&str]) -> serde_json::Value {
    let fixed = ["recover", "--yes", "--output", "json"];
    let all: Vec<&str> = fixed.into_iter().chain(arguments.iter().copied()).collect();
    serde_json::from_str(&cluster.ask(0, &all).succeeded()).unwrap()
}

/// The one line of a refusal, which changed nothing.
#[track_caller]
fn refused(cluster: &Cluster, directory: &str) -> String {
    let identity = fs::read(format!("{directory}/identity")).unwrap();
    let line = cluster.ask(0, &["recover", "--yes", "--data-dir", directory]).failed(1);
    assert_eq!(fs::read(format!("{directory}/identity")).unwrap(), identity);
    line
}

fn data(cluster: &Cluster, at: usize) -> String {
    cluster.nodes[at].data().display().to_string()
}

/// The recovered node at this place serves alone, and did not before the rights of others ended.
#[track_caller]
fn serves_alone(cluster: &mut Cluster, at: usize, told: &serde_json::Value) -> Status {
    let began = Instant::now();
    cluster.nodes[at].start();
    cluster.nodes[at].ready();
    let status = cluster.serves(1);
    assert!(began.elapsed() >= LEASE_AND_MORE, "its first shard was given too early");
    assert_eq!(Some(status.cluster_id.as_str()), told["cluster_id"].as_str());
    assert_eq!(Some(status.leader_id), told["node_id"].as_u64());
    assert_eq!(status.voters, [status.leader_id]);
    assert_eq!(status.shards.assigned, status.shards.total);
    status
}

#[test]
fn s13_tokens_after_recovery_and_after_recreation_grow() {
    let mut cluster = Cluster::founded(3, 0);
    let lost = cluster.settle(3).cluster_id;
    let mut store = FencedStore::default();
    let before = store.takes_all(&mut cluster.client(0));
    lose(&mut cluster.nodes[0]);
    lose(&mut cluster.nodes[1]);
    cluster.nodes[2].kill();
    let told = recover(&cluster, &["--data-dir", &data(&cluster, 2)]);
    assert_eq!(told["recovered_from"].as_str(), Some(lost.as_str()));
    let aside = cluster.nodes[2].data().join(format!("recovered-from-{lost}"));
    assert!(aside.join("raft.redb").exists() && aside.join("identity").exists());
    let status = serves_alone(&mut cluster, 2, &told);
    assert_ne!(status.cluster_id, lost);
    let recovered = store.takes_all(&mut cluster.client(2));
    store.refuses_all(&before);
    let mut counters = Counters::new(KEYS);
    counters.add(&mut cluster.client(2));
    // The others join anew by the names they had, and vote.
    for at in [0, 1] {
        cluster.nodes[at].start();
        cluster.nodes[at].ready();
    }
    cluster.settle(3);
    cluster.until("three vote", |status| status.voters.len() == 3);
    counters.add(&mut cluster.client(0));
    counters.check(&mut cluster.client(1));
    // A restart of the recovered node is that of any other.
    cluster.nodes[2].leave();
    cluster.nodes[2].start();
    cluster.nodes[2].ready();
    assert_eq!(cluster.settle(3).cluster_id, status.cluster_id);
    // Everything is gone, and the cluster is founded anew.
    cluster.nodes.iter_mut().for_each(lose);
    cluster.nodes.iter_mut().for_each(Node::start);
    cluster.nodes.iter_mut().for_each(Node::ready);
    cluster.settle(3);
    store.takes_all(&mut cluster.client(0));
    store.refuses_all(&recovered);
    store.refuses_all(&before);
}

#[test]
fn s20_recovery_is_refused_while_a_member_answers() {
    let mut cluster = Cluster::founded(3, 0);
    let id = cluster.settle(3).cluster_id;
    let (running, stopped) = (data(&cluster, 0), data(&cluster, 2));
    let line = refused(&cluster, &running);
    let begins = format!("shoal: data directory {running} is in use by process ");
    let ends = ": recovery is for stopped nodes; stop it, and recover only if the cluster has no \
                quorum then";
    assert!(line.starts_with(&begins) && line.ends_with(ends), "{line}");
    cluster.nodes[2].leave();
    cluster.nodes[1].kill();
    let address = cluster.nodes[0].address();
    let expected = format!(
        "shoal: node-a of cluster {id} answers at {address}: stop it, and recover only if the \
         cluster has no quorum with every node running that still can; nothing was changed"
    );
    assert_eq!(refused(&cluster, &stopped), expected);
    // A new directory in its place belongs to nobody yet, and would join whatever comes first.
    lose(&mut cluster.nodes[0]);
    cluster.nodes[0].start();
    cluster.nodes[0].waits("");
    let expected = format!(
        "shoal: a node answers at {address}, where node-a of cluster {id} was, and is in no \
         cluster yet: stop it until this is done; nothing was changed"
    );
    assert_eq!(refused(&cluster, &stopped), expected);
    // Nothing was lost by the attempts: with its quorum back the cluster goes on.
    cluster.nodes[1].start();
    cluster.nodes[2].start();
    assert_eq!(cluster.settle(3).cluster_id, id);
}

#[test]
fn s20_a_member_that_takes_tls_only_forbids_a_recovery_also_of_who_cannot_ask() {
    let authority = Authority::new("ours");
    let mut cluster = tls::founded(&authority, 0, &[("TLS_CLIENTS", "required")]);
    let id = cluster.settle(3).cluster_id;
    cluster.nodes[2].leave();
    cluster.nodes[1].kill();
    let (directory, address) = (data(&cluster, 2), cluster.nodes[0].address());
    let lives = format!("shoal: node-a of cluster {id} answers at {address}: stop it, ");
    let arguments = ["recover", "--yes", "--data-dir", &directory];
    // Whether it lives is told to anyone, with a certificate and without.
    for line in [command::run(&arguments, &[]).failed(1), refused(&cluster, &directory)] {
        assert!(line.starts_with(&lives), "{line}");
    }
    let other = Authority::new("theirs");
    let paths = Paths::under(cluster.space.path(), "admin");
    paths.fill(&other.node(&["admin", "localhost"]), &[&other]);
    let files = [("TLS_CERT", &paths.cert), ("TLS_KEY", &paths.key), ("TLS_CA", &paths.ca)];
    let files = files.map(|(setting, path)| (setting, path.display().to_string()));
    let settings: Vec<_> = files.iter().map(|(setting, path)| (*setting, path.as_str())).collect();
    let line = command::run(&arguments, &settings).failed(1);
    let begins = format!(
        "shoal: something answers at {address}, where node-a of cluster {id} was, and cannot be \
         asked: no TLS with the node ("
    );
    assert!(line.starts_with(&begins) && line.ends_with("; nothing was changed"), "{line}");
    lose(&mut cluster.nodes[0]);
    lose(&mut cluster.nodes[1]);
    let told = recover(&cluster, &["--data-dir", &directory]);
    serves_alone(&mut cluster, 2, &told);
}

#[test]
fn s13_a_paused_member_of_the_lost_cluster_acknowledges_nothing_and_ends() {
    let mut cluster = Cluster::founded(3, 0);
    let lost = cluster.settle(3).cluster_id;
    let mut paused = cluster.client(0);
    let owned = (0..KEYS)
        .map(|at| format!("key-{at}"))
        .find(|key| paused.read(key).unwrap().1.owner == "node-a")
        .expect("node-a owns a key of many");
    let (_, before) = paused.read(&owned).unwrap();
    cluster.nodes[0].signal(Signal::STOP);
    lose(&mut cluster.nodes[1]);
    cluster.nodes[2].kill();
    // Written to a connection that the paused process has open.
    paused.deadline = Duration::from_secs(120);
    let key = owned.clone();
    let late = std::thread::spawn(move || paused.increment(&key));
    let told = recover(&cluster, &["--data-dir", &data(&cluster, 2)]);
    let began = Instant::now();
    cluster.nodes[2].start();
    cluster.nodes[2].ready();
    let status = wait::until("all shards are served", || {
        let status = cluster.status_of(2)?;
        let served = status.shards.assigned == status.shards.total;
        if served && status.leader_id != 0 { Ok(status) } else { Err(format!("{status:?}")) }
    });
    assert!(began.elapsed() >= LEASE_AND_MORE);
    assert_eq!(Some(status.cluster_id.as_str()), told["cluster_id"].as_str());
    let mut client = cluster.client(2);
    assert_eq!(client.increment(&owned).unwrap(), 1);
    cluster.nodes[0].signal(Signal::CONT);
    let line = cluster.nodes[0].refuses(65);
    let expected = format!(
        "shoal: data directory {}: its cluster {lost} lost its quorum and was recovered as {}, of \
         which {} is a member; move the directory away, and the node joins {} with an empty one",
        data(&cluster, 0),
        status.cluster_id,
        cluster.nodes[2].raft_address(),
        status.cluster_id
    );
    assert_eq!(line, expected);
    let late = late.join().unwrap();
    assert!(late.is_err(), "what was read late is not acknowledged: {late:?}");
    let (value, after) = client.read(&owned).unwrap();
    assert_eq!(value, 1, "nor did it reach the present owner");
    assert!(after.epoch >> 32 > before.epoch >> 32);
    // The same words when it is started again, and with the directory away it joins.
    cluster.nodes[0].start();
    assert_eq!(cluster.nodes[0].refuses(65), expected);
    let old = cluster.nodes[0].data();
    fs::rename(&old, old.with_extension("old")).unwrap();
    cluster.nodes[0].start();
    cluster.nodes[0].ready();
    cluster.settle(2);
    assert_eq!(client.read(&owned).unwrap().0, 1);
}

#[test]
fn of_two_directories_the_newest_log_goes_on() {
    let mut cluster = Cluster::founded(3, 0);
    cluster.settle(3);
    cluster.nodes[1].kill();
    // It may have led.
    wait::until("the setting is changed", || {
        let ended = cluster.ask(0, &["configure", "max_moves=33"]);
        if ended.code == Some(0) { Ok(()) } else { Err(ended.stderr) }
    });
    // What is applied there is on its disk.
    wait::until("node-c knows the setting", || knows(&cluster, 2));
    lose(&mut cluster.nodes[0]);
    cluster.nodes[2].kill();
    let (older, newer) = (data(&cluster, 1), data(&cluster, 2));
    let told = recover(&cluster, &["--data-dir", &older, "--data-dir", &newer]);
    assert_eq!(told["data_dir"].as_str(), Some(newer.as_str()));
    let status = serves_alone(&mut cluster, 2, &told);
    knows(&cluster, 2).unwrap();
    let line = {
        cluster.nodes[1].start();
        cluster.nodes[1].refuses(65)
    };
    assert!(line.contains(&format!("was recovered as {}", status.cluster_id)), "{line}");
}

/// The setting that was changed last.
fn knows(cluster: &Cluster, at: usize) -> Result<(), String> {
    let told = cluster.ask(at, &["status"]).stdout;
    if told.contains("max_moves=33") { Ok(()) } else { Err(told) }
}

#[test]
fn a_snapshot_goes_on_where_every_directory_is_lost() {
    let mut cluster = Cluster::founded(3, 0);
    let lost = cluster.settle(3).cluster_id;
    let mut store = FencedStore::default();
    let before = store.takes_all(&mut cluster.client(0));
    let file = cluster.space.path().join("registry.shoal").display().to_string();
    cluster.ask(1, &["snapshot", &file]).succeeded();
    cluster.nodes.iter_mut().for_each(lose);
    let directory = data(&cluster, 0);
    let arguments = ["--from-snapshot", &file, "--data-dir", &directory, "--raft-id", "node-a"];
    let told = recover(&cluster, &arguments);
    assert_eq!(told["recovered_from"].as_str(), Some(lost.as_str()));
    serves_alone(&mut cluster, 0, &told);
    store.takes_all(&mut cluster.client(0));
    store.refuses_all(&before);
    cluster.nodes[1].start();
    cluster.nodes[1].ready();
    cluster.settle(2);
}
