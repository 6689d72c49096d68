//! Calls that must be refused, and calls to nodes that cannot serve: each with its code, its
//! words, and nothing changed.

use std::time::Duration;

use shoal_tests::{Client, Cluster, Counters, grpc, wait};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, words: &[&str]) -> Status {
    let status = answer.expect_err("it is to be refused");
    assert_eq!(status.code(), code, "{status:?}");
    for word in words {
        assert!(status.message().contains(word), "{status:?} lacks {word:?}");
    }
    status
}

/// Certainly not executed, with the time after which to try again.
#[track_caller]
fn unavailable<T: std::fmt::Debug>(answer: Result<T, Status>, words: &[&str]) {
    let status = refused(answer, Code::Unavailable, words);
    let retry = status.get_details_retry_info();
    assert!(retry.is_some_and(|retry| retry.retry_delay.is_some()), "{status:?}");
}

#[test]
fn limits_of_keys_payloads_and_methods_hold_at_every_entry() {
    let cluster = Cluster::founded(3, 0);
    let mut counters = Counters::new(20);
    counters.add(&mut cluster.client(0));
    let (longest, too_long) = ("k".repeat(4_096), "k".repeat(4_097));
    let (largest, too_large) = (vec![7; 4 << 20], vec![7; (4 << 20) + 1]);
    for at in 0..3 {
        let mut client = cluster.client(at);
        client.call("put", &longest, "value").unwrap();
        assert_eq!(client.call("get", &longest, "").unwrap().payload, "value".as_bytes());
        refused(
            client.call("put", &too_long, "v"),
            Code::ResourceExhausted,
            &["key", "4097", "4096"],
        );
        refused(client.call("get", "", ""), Code::InvalidArgument, &["the key is empty"]);
        client.call("put", "large", &largest).unwrap();
        assert_eq!(client.call("get", "large", "").unwrap().payload, largest);
        let words = ["payload", "4194305", "4194304"];
        refused(client.call("put", "large", &too_large), Code::ResourceExhausted, &words);
        let known = ["fetch", "get, put, delete, incr, compare-and-set"];
        refused(client.call("fetch", "key", ""), Code::Unimplemented, &known);
        refused(client.call("", "key", ""), Code::InvalidArgument, &["method", "256"]);
        refused(client.call(&"m".repeat(257), "key", ""), Code::InvalidArgument, &["257", "256"]);
        refused(client.call("incr", "large", ""), Code::FailedPrecondition, &["decimal"]);
        refused(client.call("incr", "key", "one"), Code::InvalidArgument, &["decimal"]);
        refused(
            client.call("compare-and-set", "key", "?"),
            Code::InvalidArgument,
            &["CompareAndSet"],
        );
        refused(client.call("get", "nothing", ""), Code::NotFound, &["holds nothing"]);
    }
    counters.check(&mut cluster.client(2));
}

#[test]
fn a_lower_limit_of_payloads_is_named() {
    let mut cluster = Cluster::prepared(1, 0);
    cluster.nodes[0].set("MAX_PAYLOAD", "1KiB").start();
    cluster.nodes[0].ready();
    cluster.settle(1);
    let mut client = cluster.client(0);
    client.call("put", "key", [0; 1_024]).unwrap();
    let words = ["payload", "1025", "1024"];
    refused(client.call("put", "key", [0; 1_025]), Code::ResourceExhausted, &words);
    // Far above, where the message need not be read to its end.
    refused(client.call("put", "key", vec![0; 8 << 20]), Code::ResourceExhausted, &["limit"]);
    assert_eq!(client.call("get", "key", "").unwrap().payload, vec![0; 1_024]);
}

#[test]
fn unknown_services_and_methods_are_named_on_every_port() {
    let cluster = Cluster::founded(1, 0);
    let node = &cluster.nodes[0];
    let mut counters = Counters::new(5);
    counters.add(&mut cluster.client(0));
    for port in [node.address(), node.raft_address(), node.admin_address()] {
        for path in ["/shoal.v1.Shoal/Fetch", "/shoal.admin.v1.Admin/Explode", "/a.B/C"] {
            let answer = grpc::unary(&port, path);
            assert_eq!(answer.unwrap_err().code(), Code::Unimplemented, "{path} at {port}");
        }
    }
    refused(grpc::unary(&node.address(), "/a.B/C"), Code::Unimplemented, &["/a.B/C"]);
    counters.check(&mut cluster.client(0));
}

#[test]
fn a_node_of_no_formed_cluster_refuses_and_serves_once_it_is_formed() {
    let mut cluster = Cluster::prepared(3, 0);
    cluster.nodes[0].start();
    cluster.nodes[0].waits("waiting for 2 of 3 founding peers");
    let mut client = cluster.client(0);
    unavailable(client.increment("counter"), &["formed"]);
    let status = cluster.ask(0, &["status"]).succeeded();
    for words in ["none, not formed yet", "waiting for 2 of 3 founding peers"] {
        assert!(status.contains(words), "{status:?} lacks {words:?}");
    }
    let line = cluster.ask(0, &["nodes"]).failed(1);
    assert!(line.contains("not a member of a cluster yet"), "{line}");
    let line = cluster.ask(0, &["call", "incr", "counter"]).failed(1);
    assert!(line.contains("formed"), "{line}");
    cluster.nodes[1].start();
    cluster.nodes[2].start();
    cluster.nodes[0].ready();
    cluster.settle(3);
    assert_eq!(client.increment("counter").unwrap(), 1, "nothing was executed before");
}

#[test]
fn without_a_majority_calls_are_refused_and_none_is_executed_twice_or_lost() {
    let mut cluster = Cluster::founded(3, 0);
    let mut counters = Counters::new(12);
    counters.add(&mut cluster.client(0));
    let mut client = cluster.client(0);
    let keys: Vec<_> = counters.keys().map(str::to_owned).collect();
    let own = keys.iter().find(|key| client.read(key).unwrap().1.owner == "node-a").unwrap();
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    client.deadline = Duration::from_millis(500);
    // Its own right ends with the lease; what it may no longer acknowledge it does not.
    wait::until("the survivor refuses every key", || {
        match keys.iter().find_map(|key| client.read(key).ok()) {
            Some((value, answer)) => Err(format!("{value} {answer:?}")),
            None => Ok(()),
        }
    });
    // Within its time, the caller is told so by the node itself.
    client.deadline = Duration::from_secs(30);
    unavailable(client.read(own), &["may not serve at the moment"]);
    let drain = cluster.ask(0, &["drain", "node-b"]);
    assert_eq!(drain.code, Some(1), "{drain:?}");
    assert!(drain.stderr.contains("UNAVAILABLE"), "{drain:?}");
    cluster.nodes[0].ready(); // it depends on no leader
    cluster.nodes[1].start();
    cluster.nodes[2].start();
    cluster.settle(3);
    let answers = keys.iter().map(|key| client.read(key).unwrap().0);
    assert!(answers.into_iter().all(|value| value <= 1), "acknowledged at most once each");
    Client::to(&cluster.nodes[2].address()).increment("after").unwrap();
}

#[test]
fn a_command_to_nobody_says_so() {
    let ports = shoal_tests::Ports::any(1);
    let address = format!("localhost:{}", ports.get(0));
    for command in [&["status"][..], &["call", "get", "key"], &["plan"], &["shards"]] {
        let line = shoal_tests::command::run(command, &[("NODE_ADDRESS", &address)]).failed(69);
        assert!(line.contains("no node answers at localhost:"), "{line}");
    }
}
