//! Processes that end and come back: told to, killed, one by one, all at once.

use std::time::{Duration, Instant};

use shoal_proto::shoal::admin::v1::StopAllRequest;
use shoal_tests::{Cluster, Counters, Load, Node, Ports, admin, command, wait};

/// Of a cluster that is founded without LEASE.
const LEASE: Duration = Duration::from_secs(3);

/// What one counter says of its shard.
struct Known {
    key: String,
    owner: String,
    epoch: u64,
}

fn known(cluster: &Cluster, through: usize, counters: &Counters) -> Vec<Known> {
    let mut client = cluster.client(through);
    let read = counters.keys().map(|key| {
        let (_, answer) = client.read(key).unwrap();
        Known { key: key.to_owned(), owner: answer.owner, epoch: answer.epoch }
    });
    read.collect()
}

#[test]
fn each_node_restarts_by_sigterm_and_nothing_is_lost() {
    let mut cluster = Cluster::founded(3, 0);
    let mut counters = Counters::new(200);
    counters.add(&mut cluster.client(0));
    for at in 0..3 {
        let others: Vec<_> = (0..3).filter(|other| *other != at).collect();
        let entries: Vec<_> = others.iter().map(|at| cluster.nodes[*at].address()).collect();
        let load = Load::start(&entries);
        cluster.nodes[at].leave();
        cluster.nodes[at].start();
        cluster.nodes[at].ready();
        cluster.settle(3);
        load.end().flawless();
        counters.add(&mut cluster.client(at));
    }
    counters.check(&mut cluster.client(1));
}

#[test]
fn a_killed_node_fails_over_when_its_lease_ends() {
    let mut cluster = Cluster::founded(3, 0);
    let leader = cluster.settle(3).leader().unwrap().name.clone();
    let mut counters = Counters::new(60);
    counters.add(&mut cluster.client(0));
    for leads in [false, true] {
        let names: Vec<_> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
        let leader_now = cluster.settle(3).leader().unwrap().name.clone();
        let killed = names.iter().find(|name| (**name == leader_now) == leads).unwrap();
        let (killed, entry) = (cluster.place(killed), cluster.place(killed) + 1);
        let before = known(&cluster, entry % 3, &counters);
        let mut client = cluster.client(entry % 3);
        let began = Instant::now();
        cluster.nodes[killed].kill();
        let lost = before.iter().filter(|known| known.owner == cluster.nodes[killed].name);
        let lost: Vec<_> = lost.collect();
        assert!(!lost.is_empty() && lost.len() < before.len(), "some keys are the killed one's");
        for known in &lost {
            let what = format!("{} is answered again", known.key);
            let (value, answer) =
                wait::until(&what, || client.read(&known.key).map_err(|status| status.to_string()));
            assert_eq!(value, 0, "kv is in memory");
            assert!(answer.epoch > known.epoch && answer.owner != known.owner, "{answer:?}");
            counters.lost(&known.key);
        }
        let lasted = began.elapsed();
        // The last renewal may be L/4 old, and a little older by the time it was applied.
        assert!(lasted > LEASE / 2, "its right had not ended after {lasted:?}");
        counters.check(&mut client);
        counters.add(&mut client);
        cluster.nodes[killed].start();
        cluster.nodes[killed].ready();
        cluster.settle(3);
    }
    counters.check(&mut cluster.client(0));
    assert!(!leader.is_empty());
}

#[test]
fn a_process_that_proves_the_death_of_the_last_one_need_not_wait() {
    const LONG: Duration = Duration::from_secs(60);
    let mut cluster = Cluster::prepared(3, 0);
    for node in &mut cluster.nodes {
        node.set("LEASE", &LONG.as_secs().to_string());
        node.start();
    }
    cluster.settle(3);
    let mut counters = Counters::new(60);
    counters.add(&mut cluster.client(0));
    let before = known(&cluster, 0, &counters);
    let began = Instant::now();
    cluster.nodes[1].kill();
    cluster.nodes[1].start();
    cluster.nodes[1].ready();
    let mut client = cluster.client(0);
    for known in before.iter().filter(|known| known.owner == "node-b") {
        let what = format!("{} is answered again", known.key);
        let answer = wait::until(&what, || match client.read(&known.key) {
            Ok((_, answer)) => Ok(answer),
            Err(status) => Err(status.to_string()),
        });
        assert_eq!((answer.owner.as_str(), answer.epoch), ("node-b", known.epoch + 1));
        counters.lost(&known.key);
    }
    assert!(began.elapsed() < LONG - LONG / 4, "it waited for the lease");
    counters.check(&mut client);
}

/// The cluster after all processes ended: the same one, every shard served under an epoch
/// above the last.
#[track_caller]
fn comes_back(cluster: &mut Cluster, id: &str, before: &[Known]) {
    for node in cluster.nodes.iter_mut().rev() {
        node.start();
    }
    cluster.nodes.iter_mut().for_each(Node::ready);
    let size = cluster.nodes.len();
    assert_eq!(cluster.settle(size).cluster_id, id);
    let mut client = cluster.client(0);
    for known in before {
        let (_, answer) = client.read(&known.key).unwrap();
        assert!(answer.epoch > known.epoch, "{}: {answer:?}", known.key);
    }
    client.increment("after all").unwrap();
}

/// A cluster in which every process ends so, and starts again.
#[track_caller]
fn ends_as_a_whole(end: impl FnOnce(&mut Cluster)) {
    let mut cluster = Cluster::founded(3, 0);
    let id = cluster.settle(3).cluster_id;
    let mut counters = Counters::new(20);
    counters.add(&mut cluster.client(0));
    let before = known(&cluster, 0, &counters);
    end(&mut cluster);
    comes_back(&mut cluster, &id, &before);
}

#[track_caller]
fn all_told_to_stop(cluster: &mut Cluster) {
    cluster.nodes.iter().for_each(Node::terminate);
    for node in &mut cluster.nodes {
        assert_eq!(node.ended(), 0, "{}", node.log());
    }
}

#[test]
fn a_cluster_that_was_stopped_as_a_whole_is_the_same_one_when_it_starts() {
    ends_as_a_whole(|cluster| {
        let address = cluster.nodes[1].admin_address();
        admin::ask(&address, |mut client| async move {
            client.stop_all(StopAllRequest::default()).await.map(|_| ())
        })
        .unwrap();
        all_told_to_stop(cluster);
    });
}

#[test]
fn every_process_is_told_to_stop_at_once() {
    ends_as_a_whole(all_told_to_stop);
}

#[test]
fn every_process_is_killed_at_once() {
    ends_as_a_whole(|cluster| cluster.nodes.iter_mut().for_each(Node::kill));
}

#[test]
fn the_demo_without_a_report_of_the_death_waits_for_the_lease() {
    let ports = Ports::any(4);
    let port = ports.get(0).to_string();
    let base = ["dev", "--demo", "--no-report", "--plain", "--output", "json"];
    // Other clusters run beside it: fewer shards than by default take their places in time.
    let arguments = [&base[..], &["--shards", "128", "--base-port", &port]].concat();
    let told = command::run_within(&arguments, &[], Duration::from_secs(240)).succeeded();
    let verdict = told.find("\n{").map_or(told.as_str(), |at| &told[at..]);
    let verdict: serde_json::Value = serde_json::from_str(verdict).unwrap();
    assert_eq!(verdict["passed"], true, "{verdict}");
    let without_owner = Duration::from_millis(verdict["without_owner_ms"].as_u64().unwrap());
    assert!(without_owner > LEASE / 2, "{verdict}");
}
