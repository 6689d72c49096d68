//! A node in a container: its process is killed beneath the first one there.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use rustix::process::Signal;
use shoal_tests::{Cluster, Node, cluster::Status, node, wait};

use crate::alone;

/// 128 and the number of SIGKILL.
const KILLED: i32 = 137;

/// The first process of the container, and the only one that it looks after.
fn pair(node: &Node) -> Result<(i32, i32), String> {
    match node.family() {
        Some((first, children)) if children.len() == 1 => Ok((first, children[0])),
        other => Err(format!("not one child: {other:?}")),
    }
}

/// Three nodes, of which the first runs in a container and leads.
fn led_from_a_container() -> Cluster {
    let mut cluster = Cluster::prepared(3, 0);
    cluster.nodes[0].contained();
    cluster.start_led_by_first();
    cluster
}

fn incarnation(status: &Status, name: &str) -> String {
    status.node(name).expect("a node of this cluster").incarnation.clone()
}

/// Kills the node's process. The next one beneath the same first process has its shards again.
fn survives(cluster: &mut Cluster, times: u64) {
    let before = cluster.settle(3);
    let name = cluster.nodes[0].name.clone();
    let (first, process) = wait::until("its process runs", || pair(&cluster.nodes[0]));
    node::signal(process.cast_unsigned(), Signal::KILL);
    let after = cluster.until("it has registered anew", |status| {
        incarnation(status, &name) != incarnation(&before, &name)
    });
    assert_eq!(after.node(&name).unwrap().id, before.node(&name).unwrap().id);
    let after = cluster.settle(3);
    assert!(after.node(&name).unwrap().shards_owned > 0, "{after:?}");
    let (same, next) = pair(&cluster.nodes[0]).unwrap();
    assert!(same == first && next != process, "{first} {process}, then {same} {next}");
    assert_eq!(cluster.nodes[0].figure("shoal_process_restarts_total"), times);
}

#[test]
fn a_killed_process_starts_again_in_its_container_and_not_a_third_time_in_a_minute() {
    let _alone = alone();
    let mut cluster = led_from_a_container();
    survives(&mut cluster, 1);
    survives(&mut cluster, 2);
    let (_, process) = pair(&cluster.nodes[0]).unwrap();
    node::signal(process.cast_unsigned(), Signal::KILL);
    assert_eq!(cluster.nodes[0].ended(), KILLED, "{}", cluster.nodes[0].log());
    // The runtime starts the container again, and what remained of a minute is forgotten.
    cluster.nodes[0].start();
    cluster.nodes[0].ready();
    cluster.serves(3);
}

#[test]
fn a_container_that_is_told_to_stop_passes_it_on_and_reaps_what_it_inherits() {
    let _alone = alone();
    let mut cluster = led_from_a_container();
    let (first, process) = wait::until("its process runs", || pair(&cluster.nodes[0]));

    // A shell that ends before its child does, as in an exec: the child becomes the first one's.
    let told = cluster.nodes[0].data().with_extension("orphan");
    let script = format!("exec 3<&0; (read line <&3; echo $line > {}) &", told.display());
    let mut shell = Command::new("nsenter")
        .args(["--target", &first.to_string(), "--pid", "sh", "-c", &script])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut orphan = shell.stdin.take().unwrap();
    assert!(shell.wait().unwrap().success());
    wait::until("it has inherited the orphan", || match cluster.nodes[0].family() {
        Some((_, children)) if children.len() == 2 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    orphan.write_all(b"ended\n").unwrap();
    drop(orphan);
    wait::until("the orphan is reaped", || pair(&cluster.nodes[0]).map(drop));
    assert_eq!(fs::read_to_string(told).unwrap(), "ended\n");
    assert_eq!(pair(&cluster.nodes[0]).unwrap(), (first, process));

    node::signal(first.cast_unsigned(), Signal::TERM);
    assert_eq!(cluster.nodes[0].ended(), 0, "{}", cluster.nodes[0].log());
    let log = cluster.nodes[0].log();
    assert!(!log.contains("starting it again"), "{log}");
    let left = cluster.until("it has closed", |status| {
        status.node("node-a").is_some_and(|row| row.shards_owned == 0)
    });
    assert_eq!(left.shards.unassigned, 0, "{left:?}");
}
