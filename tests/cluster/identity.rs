//! Who a data directory is in its cluster: removed, copied, restored, lost, of another one. What
//! can be mended mends itself; what cannot ends with one line and leaves the directory alone.

use std::{collections::BTreeMap, fs, path::Path};

use shoal_tests::{Cluster, Node, Ports, Space, node};

use crate::directories::refuses;

/// A cluster that node-a founds alone and the others join there; node-a runs.
fn founded_alone(nodes: usize) -> Cluster {
    let (space, ports) = (Space::new(), Ports::any(nodes as u16));
    let names = ["node-a", "node-b", "node-c", "node-d"];
    let mut all: Vec<_> =
        (0..nodes).map(|at| Node::new(&space, names[at], ports.get(at as u16))).collect();
    let first = all[0].address();
    for (at, node) in all.iter_mut().enumerate() {
        node.set("SHARDS", "64").set("JOIN_ADDRESS", if at == 0 { "" } else { &first });
    }
    all[0].start();
    all[0].ready();
    Cluster::of(space, ports, all)
}

/// All files but the lock, which names the process that tried last.
fn content(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    files
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .filter(|(name, _)| name != "lock")
        .collect()
}

/// Refused, with its files left alone.
#[track_caller]
fn refuses_untouched(node: &mut Node, code: i32, words: &[&str]) {
    let before = content(&node.data());
    refuses(node, code, words);
    let after = content(&node.data());
    let changed = before.keys().filter(|name| after.get(*name) != before.get(*name));
    assert_eq!(changed.collect::<Vec<_>>(), Vec::<&String>::new());
}

fn id(cluster: &mut Cluster, name: &str) -> u64 {
    let status = cluster.status().unwrap();
    status.nodes.iter().filter(|row| row.name == name).map(|row| row.id).max().unwrap()
}

fn retired(node: &Node) -> Vec<String> {
    let entries = fs::read_dir(node.data()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("retired-")).collect()
}

fn remove(cluster: &mut Cluster, name: &str) -> u64 {
    let id = id(cluster, name);
    cluster.ask(0, &["drain", name, "--remove"]).succeeded();
    cluster.until("it has left", |status| status.nodes.iter().all(|row| row.id != id));
    id
}

#[test]
fn a_removed_node_stays_parked_until_somebody_restarts_it_and_then_joins_anew() {
    let mut cluster = founded_alone(4);
    cluster.nodes[1..].iter_mut().for_each(Node::start);
    cluster.settle(4);
    let old = remove(&mut cluster, "node-d");
    cluster.nodes[3].waits("parked: this node was removed from the cluster");
    cluster.nodes[3].leave();
    cluster.nodes[3].start();
    cluster.nodes[3].ready();
    let status = cluster.settle(4);
    assert!(status.node("node-d").is_some());
    assert_ne!(id(&mut cluster, "node-d"), old, "an id is never used again");
    assert_eq!(retired(&cluster.nodes[3]), [format!("retired-{old}")]);
    let log = cluster.nodes[3].log();
    assert!(log.contains("begins anew"), "in one process:\n{log}");
    let mut client = cluster.client(3);
    assert_eq!(client.increment("through the node that came back").unwrap(), 1);
}

#[test]
fn the_founder_is_removed_and_joins_its_cluster_anew_whatever_its_settings_say() {
    let mut cluster = founded_alone(3);
    cluster.nodes[1..].iter_mut().for_each(Node::start);
    cluster.settle(3);
    cluster.nodes.swap(0, 1);
    let cluster_id = cluster.status().unwrap().cluster_id;
    let old = remove(&mut cluster, "node-a");
    let founder = &mut cluster.nodes[1];
    founder.leave();
    founder.start();
    founder.ready();
    let status = cluster.settle(3);
    assert_eq!(status.cluster_id, cluster_id);
    assert_ne!(id(&mut cluster, "node-a"), old);
}

#[test]
fn a_node_removed_in_its_pod_stays_parked_over_restarts_of_that_pod_only() {
    let mut cluster = founded_alone(3);
    cluster.nodes[1..].iter_mut().for_each(Node::start);
    cluster.settle(3);
    cluster.nodes[2].leave();
    cluster.nodes[2].set("POD_UID", "one").start();
    cluster.settle(3);
    let old = remove(&mut cluster, "node-c");
    for kill in [true, false] {
        if kill {
            cluster.nodes[2].kill();
        } else {
            cluster.nodes[2].leave();
        }
        cluster.nodes[2].start();
        cluster.nodes[2].waits("parked: this node was removed from the cluster");
        assert!(retired(&cluster.nodes[2]).is_empty());
    }
    cluster.nodes[2].leave();
    cluster.nodes[2].set("POD_UID", "two").start();
    cluster.settle(3);
    assert_eq!(retired(&cluster.nodes[2]), [format!("retired-{old}")]);
}

#[test]
fn s18_a_restored_copy_is_refused_before_it_votes() {
    let mut cluster = Cluster::founded(3, 0);
    cluster.nodes[1].leave();
    let copy = cluster.space.path().join("copy");
    cluster.nodes[1].copy_data(&copy);
    cluster.nodes[1].start();
    cluster.nodes[1].ready();
    cluster.settle(3);
    cluster.nodes[1].leave();
    let data = cluster.nodes[1].data();
    fs::remove_dir_all(&data).unwrap();
    node::copy(&copy, &data);
    let directory = format!("data directory {}: it is a restored copy", data.display());
    let words = [&directory, "at incarnation 1 where", "has registered", "wipe it"];
    refuses_untouched(&mut cluster.nodes[1], 65, &words);
    assert!(!cluster.nodes[1].log().contains("runs cluster"), "raft did not run");
    fs::remove_dir_all(&data).unwrap();
    cluster.nodes[1].start();
    cluster.nodes[1].ready();
    cluster.settle(3);
}

#[test]
fn s1_a_copy_beside_the_living_original_is_refused_with_its_address() {
    let mut cluster = Cluster::founded(3, 1);
    cluster.nodes[1].leave();
    let copy = cluster.space.path().join("copy");
    cluster.nodes[1].copy_data(&copy);
    cluster.nodes[1].start();
    cluster.settle(3);
    let original = cluster.nodes[1].address();
    let twin = cluster.joiner(0);
    node::copy(&copy, &twin.data());
    twin.set("RAFT_ID", "node-b");
    // One run behind the original, and then one that the original has not passed.
    refuses_untouched(twin, 65, &["is a restored copy"]);
    let text = fs::read(twin.data().join("identity")).unwrap();
    let bumped = with_body(&text, |body| body["incarnation"] = 2.into());
    fs::write(twin.data().join("identity"), bumped).unwrap();
    refuses_untouched(twin, 65, &["another process, at", &original, "from another copy"]);
}

#[test]
fn a_name_in_use_is_refused_with_its_address_and_taken_over_once_its_holder_is_dead() {
    let mut cluster = founded_alone(3);
    cluster.nodes[1..].iter_mut().for_each(Node::start);
    cluster.settle(3);
    let (old, address) = (id(&mut cluster, "node-c"), cluster.nodes[2].address());
    let other = Ports::any(1);
    let mut twin = Node::new(&cluster.space, "twin", other.get(0));
    twin.set("RAFT_ID", "node-c").set("JOIN_ADDRESS", &cluster.nodes[0].address());
    twin.start();
    let line = twin.refuses(65);
    for words in ["RAFT_ID: node name \"node-c\" is in use by", &address, "choose another name"] {
        assert!(line.contains(words), "{line:?} lacks {words:?}");
    }
    // Its disk is lost; nobody has to be told.
    cluster.nodes[2].kill();
    fs::remove_dir_all(cluster.nodes[2].data()).unwrap();
    cluster.nodes[2].start();
    cluster.nodes[2].ready();
    let status = cluster.until("the lost voter is swapped for the new one", |status| {
        let gone = status.nodes.iter().all(|row| row.id != old);
        gone && status.voters.len() == 3 && !status.voters.contains(&old)
    });
    assert!(status.nodes.iter().any(|row| row.name == "node-c" && row.id != old));
    cluster.settle(3);
}

#[test]
fn s5_a_founder_that_lost_its_disk_hears_from_its_cluster_and_stops() {
    let mut cluster = founded_alone(3);
    cluster.nodes[1..].iter_mut().for_each(Node::start);
    let cluster_id = cluster.settle(3).cluster_id;
    cluster.nodes.swap(0, 2);
    let founder = &mut cluster.nodes[2];
    founder.kill();
    fs::remove_dir_all(founder.data()).unwrap();
    founder.start();
    let line = founder.refuses(65);
    let expected = format!("formed cluster {cluster_id} counts this node as its own");
    assert!(line.contains(&expected) && line.contains("set JOIN_ADDRESS"), "{line}");
    // As the line says.
    let member = cluster.nodes[1].address();
    let founder = &mut cluster.nodes[2];
    fs::remove_dir_all(founder.data()).unwrap();
    founder.set("JOIN_ADDRESS", &member).start();
    assert_eq!(cluster.settle(3).cluster_id, cluster_id);
}

#[test]
fn a_founding_that_nobody_else_remembers_is_left_within_the_process() {
    let mut cluster = Cluster::prepared(3, 0);
    // Joined, and admitted by a founder whose disk is gone.
    let names = cluster.addresses();
    let stale = &cluster.nodes[1];
    fs::create_dir_all(stale.data()).unwrap();
    let member = |at: usize| serde_json::json!({ "name": names[at], "nonce": nonce(at) });
    let body = serde_json::json!({
        "name": "node-b", "incarnation": 0, "nonce": nonce(1), "first_boot_unix_ms": 1,
        "formed": false, "ever_left": false, "renounced": null, "highest_epoch": 0,
        "cluster": {
            "id": "77", "node": 2, "founder": member(0),
            "founded_on": [member(0), member(1), member(2)],
        },
    });
    fs::write(stale.data().join("identity"), identity(1, &body.to_string())).unwrap();
    cluster.nodes.iter_mut().for_each(Node::start);
    cluster.nodes.iter_mut().for_each(Node::ready);
    cluster.settle(3);
    let log = cluster.nodes[1].log();
    assert!(
        log.contains("runs cluster=00000000000000000000000000000077 node=n2")
            && log.contains("begins anew"),
        "{log}"
    );
    let mut client = cluster.client(1);
    for key in 0..100 {
        assert_eq!(client.increment(&format!("key-{key}")).unwrap(), 1);
    }
}

#[test]
fn an_id_that_the_cluster_never_gave_is_set_aside() {
    let mut cluster = Cluster::founded(3, 1);
    let cluster_id = cluster.settle(3).cluster_id;
    let joiner = cluster.joiner(0);
    fs::create_dir_all(joiner.data()).unwrap();
    let founder = serde_json::json!({ "name": "x", "nonce": nonce(7) });
    let body = serde_json::json!({
        "name": joiner.name, "incarnation": 4, "nonce": nonce(8), "first_boot_unix_ms": 1,
        "formed": true, "ever_left": false, "renounced": null, "highest_epoch": 0,
        "cluster": { "id": cluster_id, "node": 2, "founder": founder, "founded_on": [] },
    });
    fs::write(joiner.data().join("identity"), identity(1, &body.to_string())).unwrap();
    joiner.start();
    joiner.ready();
    cluster.settle(4);
    assert_eq!(retired(&cluster.nodes[3]), ["retired-2"]);
}

#[test]
fn a_directory_of_another_cluster_is_refused_with_both_named() {
    let mut ours = founded_alone(2);
    ours.nodes[1].start();
    let id = ours.settle(2).cluster_id;
    let theirs = founded_alone(1);
    let other = theirs.status_of(0).unwrap().cluster_id;
    ours.nodes[1].leave();
    ours.nodes[0].leave();
    let stray = &mut ours.nodes[1];
    stray.set("JOIN_ADDRESS", &theirs.nodes[0].address());
    let belongs = format!("it belongs to cluster {id}, and {}", theirs.nodes[0].address());
    let words = [&belongs, &format!("to cluster {other}"), "JOIN_ADDRESS", "move the directory"];
    refuses_untouched(stray, 65, &words);
    // Settings of founding are ignored once a member of the own cluster answers.
    ours.nodes[0].start();
    ours.nodes[1].start();
    assert_eq!(ours.settle(2).cluster_id, id);
}

#[test]
fn a_damaged_log_is_refused_as_it_is() {
    let mut cluster = Cluster::founded(1, 0);
    cluster.client(0).increment("key").unwrap();
    cluster.nodes[0].leave();
    let node = &mut cluster.nodes[0];
    let log_file = node.data().join("raft.redb");
    let whole = fs::read(&log_file).unwrap();
    let path = log_file.display().to_string();
    let mut flipped = whole.clone();
    flipped.iter_mut().step_by(100).for_each(|byte| *byte ^= 4);
    for bytes in [&whole[..whole.len() / 2], &flipped, b"no log at all"] {
        fs::write(&log_file, bytes).unwrap();
        refuses_untouched(node, 66, &[&path, "the log is damaged", "joins anew"]);
    }
    fs::write(&log_file, &whole).unwrap();
    node.start();
    node.ready();
}

#[test]
fn a_disk_that_takes_no_identity_ends_the_process() {
    let mut cluster = Cluster::founded(1, 0);
    let node = &mut cluster.nodes[0];
    node.leave();
    let draft = node.data().join("identity.new");
    fs::create_dir(&draft).unwrap();
    node.start();
    let line = node.refuses(70);
    let path = node.data().join("identity").display().to_string();
    assert!(line.contains(&path) && line.contains("cannot be written"), "{line}");
    fs::remove_dir(&draft).unwrap();
    node.start();
    node.ready();
}

fn nonce(of: usize) -> String {
    format!("{:032x}", 0x5eed + of)
}

/// An identity file as a build of that format writes it.
fn identity(format: u32, body: &str) -> Vec<u8> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&format.to_le_bytes());
    hasher.update(body.as_bytes());
    format!("shoal-identity {format} {} {:08x}\n{body}", body.len(), hasher.finalize()).into_bytes()
}

/// The same identity file with another body.
fn with_body(file: &[u8], change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let text = std::str::from_utf8(file).unwrap();
    let (_, body) = text.split_once('\n').unwrap();
    let mut body = serde_json::from_str(body).unwrap();
    change(&mut body);
    identity(1, &body.to_string())
}
