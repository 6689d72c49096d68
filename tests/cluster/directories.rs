//! Data directories and names that are not what they should be: an exit code and one line
//! with the remedy, or a reason not to be ready; the cluster goes on.

use std::fs;

use shoal_tests::{Cluster, Counters, Node, Ports, Space};

const IDENTITY: &str = "identity";

/// A node of one that ran, and ended in good order.
fn ran() -> Cluster {
    let mut cluster = Cluster::founded(1, 0);
    cluster.client(0).increment("counter").unwrap();
    cluster.nodes[0].leave();
    cluster
}

#[track_caller]
pub fn refuses(node: &mut Node, code: i32, words: &[&str]) -> String {
    node.start();
    let line = node.refuses(code);
    for word in words {
        assert!(line.contains(word), "{line:?} lacks {word:?}");
    }
    line
}

#[test]
fn a_directory_in_use_names_the_process() {
    let mut cluster = Cluster::founded(1, 0);
    let ports = Ports::any(1);
    let mut second = Node::new(&cluster.space, "second", ports.get(0));
    let data = cluster.nodes[0].data().display().to_string();
    second.set("RAFT_ID", "node-a").set("RAFT_DIR", &data).set("JOIN_ADDRESS", "");
    refuses(&mut second, 66, &[&data, "in use by process", "RAFT_DIR"]);
    cluster.nodes[0].assert_runs();
    cluster.client(0).increment("counter").unwrap();
}

#[test]
fn a_directory_of_another_name_names_both() {
    let mut cluster = ran();
    let node = &mut cluster.nodes[0];
    node.set("RAFT_ID", "node-x");
    refuses(node, 65, &["\"node-a\"", "\"node-x\"", "RAFT_ID", "RAFT_DIR"]);
    node.set("RAFT_ID", "node-a").start();
    node.ready();
}

#[test]
fn a_path_that_is_no_directory_and_one_of_somebody_else_are_named() {
    let (space, ports) = (Space::new(), Ports::any(1));
    let mut node = Node::new(&space, "node-a", ports.get(0));
    node.set("JOIN_ADDRESS", "");
    fs::write(node.data(), "a file").unwrap();
    refuses(&mut node, 66, &["node-a", "RAFT_DIR"]);
    fs::remove_file(node.data()).unwrap();
    fs::create_dir(node.data()).unwrap();
    fs::write(node.data().join("holiday.jpg"), "photo").unwrap();
    refuses(&mut node, 66, &["holiday.jpg", "no identity", "RAFT_DIR"]);
    assert!(node.data().join("holiday.jpg").exists());
}

#[test]
fn an_identity_that_is_newer_cut_or_garbled_is_refused_and_kept() {
    let mut cluster = ran();
    let node = &mut cluster.nodes[0];
    let path = node.data().join(IDENTITY);
    let good = fs::read(&path).unwrap();
    let mut damaged = vec![good[..good.len() / 2].to_vec(), good[..7].to_vec(), Vec::new()];
    for at in (0..good.len()).step_by(good.len() / 8) {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        damaged.push(flipped);
    }
    let shown = path.display().to_string();
    for bytes in damaged {
        fs::write(&path, &bytes).unwrap();
        refuses(node, 66, &[&shown, "damaged", "move the data directory away"]);
        assert_eq!(fs::read(&path).unwrap(), bytes, "evidence is not touched");
    }
    fs::write(&path, newer(&good)).unwrap();
    refuses(node, 66, &[&shown, "newer format (2", "up to 1", "version of shoal that wrote it"]);
    fs::write(&path, good).unwrap();
    node.start();
    node.ready();
}

/// The same identity as a later format would write it.
fn newer(good: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(good).unwrap();
    let (_, body) = text.split_once('\n').unwrap();
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&2u32.to_le_bytes());
    checksum.update(body.as_bytes());
    format!("shoal-identity 2 {} {:08x}\n{body}", body.len(), checksum.finalize()).into_bytes()
}

#[test]
fn different_founding_lists_are_shown_to_both_sides() {
    let mut cluster = Cluster::prepared(3, 1);
    let stranger = "localhost:9";
    let addresses = cluster.addresses();
    let theirs = [&addresses[0], &addresses[1], stranger].join(",");
    cluster.nodes[1].set("PEER_ADDRESSES", &theirs);
    cluster.nodes.iter_mut().for_each(Node::start);
    let told = cluster.nodes[0].waits("founding sets differ");
    for address in addresses.iter().map(String::as_str).chain([stranger]) {
        assert!(told.contains(address), "{told}");
    }
    cluster.nodes[1].waits("founding sets differ");
    cluster.nodes[1].leave();
    cluster.nodes[1].set("PEER_ADDRESSES", &addresses.join(","));
    cluster.nodes[1].start();
    cluster.nodes.iter_mut().for_each(Node::ready);
    cluster.settle(3);
}

#[test]
fn a_join_address_that_is_wrong_or_silent_is_named_until_it_answers() {
    let mut cluster = Cluster::founded(1, 1);
    let silent = Ports::any(1);
    cluster.joiner(0);
    let right = cluster.nodes[0].address();
    // Not the NODE_ADDRESS of the member but its HTTP port, and a port where nobody listens.
    for wrong in [cluster.nodes[0].http_address(), format!("localhost:{}", silent.get(0))] {
        let joiner = &mut cluster.nodes[1];
        joiner.set("JOIN_ADDRESS", &wrong).start();
        joiner.waits("waiting for a formed cluster at");
        joiner.leave();
    }
    cluster.nodes[1].set("JOIN_ADDRESS", &right).start();
    cluster.nodes[1].ready();
    cluster.settle(2);
}

#[test]
fn a_member_without_its_log_does_not_start_another_cluster() {
    let mut cluster = Cluster::founded(3, 0);
    let before = cluster.settle(3);
    let mut counters = Counters::new(20);
    counters.add(&mut cluster.client(1));
    cluster.nodes[0].leave();
    let log = cluster.nodes[0].data().join("raft.redb");
    let path = log.display().to_string();
    let words = [path.as_str(), "put it back, or wipe"];
    let kept = fs::read(&log).unwrap();
    fs::remove_file(&log).unwrap();
    refuses(&mut cluster.nodes[0], 66, &words);
    fs::write(&log, "").unwrap();
    refuses(&mut cluster.nodes[0], 66, &words);
    let after = cluster.settle(2);
    assert_eq!(after.cluster_id, before.cluster_id);
    fs::write(&log, kept).unwrap();
    cluster.nodes[0].start();
    cluster.nodes[0].ready();
    cluster.settle(3);
    counters.check(&mut cluster.client(2));
}
