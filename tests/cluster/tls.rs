//! Clusters with mutual TLS: who takes part, who is refused and how that is told, and
//! certificates that change under load.

use shoal_core::id::{Incarnation, NodeId};
use shoal_proto::shoal::peer::v1::{
    self as pb, founding_client::FoundingClient, map_client::MapClient, raft_client::RaftClient,
    session_client::SessionClient,
};
use shoal_tests::{
    Client, Cluster, Counters, Load, Node,
    authority::{Authority, Issued, Paths},
    command, grpc, http,
    tls::{Door, certificate_of},
    wait,
};
use shoal_worker::forward::frame::{Batch, Decoder, Frame, Hello, VERSION};
use tokio::runtime::Runtime;
use tonic::{Code, Status};

const RAFT: &str = "/shoal.peer.v1.Raft/RequestVote";
const WHERE: &str = "/shoal.v1.Shoal/WhereIsPeer";
const STATUS: &str = "/shoal.admin.v1.Admin/Status";

/// Of a node on this machine.
fn issue(authority: &Authority, name: &str) -> Issued {
    authority.node(&[name, "localhost", "127.0.0.1", "::1"])
}

fn paths(cluster: &Cluster, name: &str) -> Paths {
    Paths::under(cluster.space.path(), name)
}

fn secure(cluster: &mut Cluster, at: usize, issued: &Issued, authorities: &[&Authority]) {
    let paths = paths(cluster, &cluster.nodes[at].name);
    paths.fill(issued, authorities);
    cluster.nodes[at].secure(&paths);
}

/// Three nodes founded together, each with a certificate of its own, and room for `more`.
pub fn founded(authority: &Authority, more: usize, settings: &[(&'static str, &str)]) -> Cluster {
    let mut cluster = Cluster::prepared(3, more);
    for at in 0..3 {
        let issued = issue(authority, &cluster.nodes[at].name);
        secure(&mut cluster, at, &issued, &[authority]);
        for (setting, value) in settings {
            cluster.nodes[at].set(setting, value);
        }
        cluster.nodes[at].start();
    }
    cluster.nodes.iter_mut().for_each(Node::ready);
    cluster.settle(3);
    cluster
}

#[test]
fn plaintext_and_tls_are_served_on_one_data_port() {
    let authority = Authority::new("ours");
    let cluster = founded(&authority, 0, &[]);
    let stranger = |at: usize| {
        Client::over(&Door::secure(&cluster.nodes[at].address(), "localhost", &authority, None))
    };
    let mut counters = Counters::new(40);
    for at in 0..3 {
        counters.add(&mut cluster.client(at));
        counters.add(&mut stranger(at));
    }
    let mut client = cluster.client(0);
    let forwarded = counters.keys().filter(|key| client.read(key).unwrap().1.forwarded).count();
    assert!(forwarded > 0, "calls went over pipes");
    counters.check(&mut stranger(1));
    let page = http::get(&cluster.nodes[0].http_address(), "/metrics").unwrap().1;
    let sample = "shoal_tls_certificate_not_after_timestamp_seconds ";
    let ends = page.lines().find_map(|line| line.strip_prefix(sample)).expect("the gauge");
    assert!(ends.parse::<f64>().unwrap() > 1e9, "{ends}");
}

#[test]
fn strangers_are_told_where_peers_are_and_nothing_else() {
    let authority = Authority::new("ours");
    let cluster = founded(&authority, 0, &[]);
    let node = &cluster.nodes[0];
    for door in
        [Door::plain(&node.address()), Door::secure(&node.address(), "node-a", &authority, None)]
    {
        let answer = grpc::unary_over(&door, WHERE).unwrap();
        assert!(String::from_utf8_lossy(&answer).contains(&node.raft_address()));
    }
    let client = authority.client(&["somebody"]);
    let other = Authority::new("theirs");
    let foreign = issue(&other, "node-b");
    for (address, path) in [(node.raft_address(), RAFT), (node.admin_address(), STATUS)] {
        for door in [
            Door::plain(&address),
            Door::secure(&address, "node-a", &authority, None),
            Door::secure(&address, "node-a", &authority, Some(&foreign)),
            Door::secure(&address, "node-a", &other, Some(&foreign)),
        ] {
            let status = grpc::unary_over(&door, path).unwrap_err();
            let by_a_service = ["header", "certificate is of", "takes part only"];
            assert!(
                by_a_service.iter().all(|words| !status.message().contains(words)),
                "{status:?}"
            );
        }
        let plain = grpc::unary(&address, path).unwrap_err();
        assert!(format!("{plain:?}").contains("this port takes TLS only"), "{plain:?}");
    }
    // With a certificate administration is answered; nodes take none of a client's.
    let with = |address: &str| Door::secure(address, "node-a", &authority, Some(&client));
    grpc::unary_over(&with(&node.admin_address()), STATUS).unwrap();
    let status = grpc::unary_over(&with(&node.raft_address()), RAFT).unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert!(status.message().contains("somebody and for clients only"), "{status:?}");
}

#[test]
fn what_clients_must_bring_is_said() {
    let authority = Authority::new("ours");
    let demands = [
        ("required", "this port takes TLS only", None),
        ("mutual", "this port takes TLS only", Some("with a certificate of its TLS_CA only")),
    ];
    for (setting, of_plain, of_nameless) in demands {
        let cluster = founded(&authority, 0, &[("TLS_CLIENTS", setting)]);
        let address = cluster.nodes[0].address();
        let door = |issued: Option<&Issued>| {
            Client::over(&Door::secure(&address, "localhost", &authority, issued))
        };
        let status = cluster.client(0).increment("key").unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
        assert!(status.message().contains(of_plain), "{status:?}");
        let nameless = door(None).increment("key");
        match of_nameless {
            None => assert_eq!(nameless.unwrap(), 1),
            Some(words) => {
                let status = nameless.unwrap_err();
                assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
                assert!(status.message().contains(words), "{status:?}");
            }
        }
        let mut counters = Counters::new(20);
        counters.add(&mut door(Some(&authority.client(&["somebody"]))));
        grpc::unary(&address, WHERE).unwrap();
        let plain = command::run(&["call", "get", "key"], &[("NODE_ADDRESS", &address)]).failed(1);
        assert!(plain.contains(of_plain), "{plain}");
        cluster.ask(0, &["call", "incr", "counter"]).succeeded();
    }
}

#[test]
fn a_node_of_another_authority_neither_joins_nor_reads() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let mut cluster = founded(&ours, 1, &[]);
    cluster.joiner(0);
    let issued = issue(&theirs, "node-d");
    secure(&mut cluster, 3, &issued, &[&theirs]);
    cluster.nodes[3].start();
    cluster.nodes[3].waits("UnknownIssuer");
    // One that trusts ours gets no further.
    cluster.nodes[3].leave();
    secure(&mut cluster, 3, &issued, &[&theirs, &ours]);
    cluster.nodes[3].start();
    cluster.nodes[3].waits("received fatal alert");
    let line = cluster.ask(3, &["status"]);
    assert!(line.stdout.contains("none, not formed yet"), "{line:?}");
    assert!(cluster.status().unwrap().node("node-d").is_none());
    // With a certificate of ours it joins.
    cluster.nodes[3].leave();
    let issued = issue(&ours, "node-d");
    secure(&mut cluster, 3, &issued, &[&ours]);
    cluster.nodes[3].start();
    cluster.nodes[3].ready();
    cluster.settle(4);
}

#[test]
fn nodes_found_by_a_dns_name_are_held_to_that_name() {
    let authority = Authority::new("ours");
    let mut cluster = Cluster::prepared(3, 2);
    // No certificate holds an address.
    for at in 0..3 {
        let issued = authority.node(&[&cluster.nodes[at].name, "localhost"]);
        secure(&mut cluster, at, &issued, &[&authority]);
        cluster.nodes[at].start();
    }
    cluster.nodes.iter_mut().for_each(Node::ready);
    cluster.settle(3);
    let port = cluster.nodes[0].address().rsplit_once(':').unwrap().1.to_owned();
    let mut add = |found_by: &str| {
        let node = cluster.joiner(0).unset("JOIN_ADDRESS");
        node.set("DISCOVERY", &format!("dns:{found_by}:{port}"));
        let at = cluster.nodes.len() - 1;
        let issued = authority.node(&[&cluster.nodes[at].name, "localhost"]);
        secure(&mut cluster, at, &issued, &[&authority]);
        cluster.nodes[at].start();
        at
    };
    // Another name of the same address, which no certificate holds.
    let stranger = add("127.0.0.1");
    let at = add("localhost");
    cluster.nodes[at].ready();
    cluster.settle(4);
    cluster.nodes[stranger].waits("no TLS with what answers there");
}

/// Whether a member answered: nobody who may, or the words that refuse.
#[track_caller]
fn denied<T: std::fmt::Debug>(answer: Result<T, Status>, claimed: &str) {
    let status = answer.expect_err("it is refused");
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    let words = format!(
        "the certificate is of node-d, localhost, 127.0.0.1, ::1, the message of {claimed:?}"
    );
    assert_eq!(status.message(), words);
}

#[test]
fn nobody_speaks_in_the_name_of_another_node() {
    let authority = Authority::new("ours");
    let mut cluster = founded(&authority, 0, &[]);
    let status = cluster.status().unwrap();
    let id = |name: &str| status.node(name).unwrap().id;
    let hop = || {
        Some(pb::Hop {
            cluster_id: status.cluster_id.clone(),
            from: id("node-b"),
            forwarded: false,
        })
    };
    let (a, issued) = (&cluster.nodes[0], issue(&authority, "node-d"));
    let door = Door::secure(&a.raft_address(), "node-a", &authority, Some(&issued));
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let channel = door.channel();
        let mut session = SessionClient::new(channel.clone());
        let info = pb::NodeInfo { name: "node-b".to_owned(), ..Default::default() };
        let join_hop = pb::Hop { from: 0, ..hop().unwrap() };
        let join = pb::JoinRequest { hop: Some(join_hop), info: Some(info), ..Default::default() };
        denied(session.join(join).await, "node-b");
        let renew = pb::RenewRequest { hop: hop(), node: id("node-b"), ..Default::default() };
        denied(session.renew(renew).await, "node-b");
        let leave = pb::LeaveRequest { hop: hop(), node: id("node-c"), ..Default::default() };
        denied(session.close(leave).await, "node-c");
        let header = pb::RaftHeader {
            cluster_id: status.cluster_id.clone(),
            from: id("node-b"),
            to: id("node-a"),
            ..Default::default()
        };
        let vote = pb::VoteRequest { header: Some(header), ..Default::default() };
        denied(RaftClient::new(channel.clone()).request_vote(vote).await, "node-b");
        let watch = pb::WatchMapRequest {
            cluster_id: status.cluster_id.clone(),
            node: id("node-b"),
            ..Default::default()
        };
        denied(MapClient::new(channel.clone()).watch_map(watch).await, "node-b");
        let from = pb::FoundingPeer { name: "node-b".to_owned(), address: a.raft_address() };
        let question = pb::FoundingQuestion {
            nonce: vec![0; 16].into(),
            from: Some(from),
            ..Default::default()
        };
        denied(FoundingClient::new(channel).ask(question).await, "node-b");
    });
    cluster.settle(3);
}

/// Why a member takes no pipe with this Hello.
fn pipe_refused(door: &Door, hello: &Hello) -> String {
    Runtime::new().unwrap().block_on(async {
        let stream = door.open().await.unwrap();
        let (requests, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = tonic::codegen::http::Request::post("http://node/shoal.v1.Pipe/Open");
        let request = request.header("content-type", "application/grpc").body(()).unwrap();
        let (answer, mut send) =
            requests.ready().await.unwrap().send_request(request, false).unwrap();
        let (mut batch, mut parts) = (Batch::default(), Vec::new());
        batch.push(&Frame::Hello(hello.clone()));
        batch.take(&mut parts);
        for part in parts {
            send.send_data(part, false).unwrap();
        }
        let mut body = answer.await.unwrap().into_body();
        let mut decoder = Decoder::default();
        loop {
            match decoder.next().unwrap() {
                Some(Frame::Refuse { reason }) => return reason,
                Some(other) => panic!("it is not refused: {other:?}"),
                None => decoder.push(body.data().await.expect("an answer").unwrap()),
            }
        }
    })
}

#[test]
fn a_pipe_of_a_node_is_opened_with_its_certificate_only() {
    let authority = Authority::new("ours");
    let mut cluster = founded(&authority, 0, &[]);
    let status = cluster.status().unwrap();
    let id = |name: &str| NodeId(status.node(name).unwrap().id);
    let hello = Hello {
        version: VERSION,
        node: true,
        cluster: status.cluster_id.parse().unwrap(),
        from: id("node-b"),
        incarnation: Incarnation { counter: 99, nonce: 1 },
        to: id("node-a"),
        thread: 0,
        generation: 1,
    };
    let address = cluster.nodes[0].address();
    let with = |issued: Option<&Issued>| Door::secure(&address, "node-a", &authority, issued);
    for door in [Door::plain(&address), with(None)] {
        let reason = pipe_refused(&door, &hello);
        assert_eq!(reason, "node-b takes part only with a certificate of TLS_CA");
    }
    let reason = pipe_refused(&with(Some(&authority.client(&["node-b"]))), &hello);
    assert!(reason.contains("for clients only"), "{reason}");
    let reason = pipe_refused(&with(Some(&issue(&authority, "node-c"))), &hello);
    assert!(reason.contains("is of node-c, ") && reason.contains("of \"node-b\""), "{reason}");
    // The pipes of the node itself go on.
    let mut counters = Counters::new(20);
    counters.add(&mut cluster.client(1));
    counters.check(&mut cluster.client(2));
}

#[test]
fn a_certificate_that_lacks_the_name_of_the_node_is_named() {
    let authority = Authority::new("ours");
    let mut cluster = Cluster::prepared(1, 0);
    let issued = issue(&authority, "node-x");
    secure(&mut cluster, 0, &issued, &[&authority]);
    cluster.nodes[0].start();
    let line = cluster.nodes[0].refuses(64);
    for part in ["TLS_CERT is ", "node-a.crt", "it names node-x, ", "not RAFT_ID node-a"] {
        assert!(line.contains(part), "{line:?} lacks {part:?}");
    }
}

#[test]
fn certificates_are_replaced_under_load_and_no_call_fails() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let mut cluster = founded(&old, 0, &[]);
    let mut doors: Vec<_> = cluster.addresses().iter().map(|entry| Door::plain(entry)).collect();
    let secure_door =
        |address: &str, authority: &Authority| Door::secure(address, "localhost", authority, None);
    doors.extend(cluster.addresses().iter().map(|entry| secure_door(entry, &old)));
    let load = Load::over(doors);
    // First everybody trusts both, then certificates of the new one, then no old one.
    let steps: [(&Authority, &[&Authority]); 3] =
        [(&old, &[&old, &new]), (&new, &[&old, &new]), (&new, &[&new])];
    for (issuer, trusted) in steps {
        for at in 0..3 {
            let node = &cluster.nodes[at];
            let issued = issue(issuer, &node.name);
            paths(&cluster, &node.name).fill(&issued, trusted);
            let wanted = certificate_of(&issued.certificate);
            for address in [node.address(), node.raft_address(), node.admin_address()] {
                let door = Door::secure(&address, &node.name, issuer, Some(&issued));
                wait::until("new connections show the new certificate", || {
                    let shown = door.shown().map_err(|error| error.to_string())?;
                    (shown == wanted.to_vec()).then_some(()).ok_or_else(|| "the old".to_owned())
                });
            }
        }
    }
    // A broken file is told, and the old goes on.
    let node = &cluster.nodes[0];
    std::fs::write(&paths(&cluster, "node-a").cert, "broken").unwrap();
    wait::until("the broken file is told", || {
        let told = node.log().contains("replaced certificates cannot be used");
        told.then_some(()).ok_or_else(|| node.log())
    });
    Client::over(&secure_door(&node.address(), &new)).increment("after").unwrap();
    load.end().flawless();
    let issued = issue(&new, "node-a");
    paths(&cluster, "node-a").fill(&issued, &[&new]);
    // Nodes that start with the new one alone take part.
    cluster.nodes[2].leave();
    cluster.nodes[2].start();
    cluster.nodes[2].ready();
    cluster.settle(3);
}

#[test]
fn the_command_line_uses_the_certificates_and_says_when_it_needs_them() {
    let authority = Authority::new("ours");
    let mut cluster = founded(&authority, 0, &[]);
    for arguments in
        [&["status"][..], &["nodes"], &["shards"], &["plan"], &["call", "incr", "counter"]]
    {
        cluster.ask(1, arguments).succeeded();
    }
    let bench = ["bench", "--calls", "2000", "--keys", "1000", "--concurrency", "8"];
    cluster.ask(2, &bench).succeeded();
    let address = cluster.nodes[0].address();
    let line = command::run(&["status"], &[("NODE_ADDRESS", &address)]).failed(1);
    assert!(line.contains("takes TLS only: set TLS_CERT, TLS_KEY and TLS_CA"), "{line}");
    // A client's certificate, given as flags.
    let client = Paths::under(cluster.space.path(), "client");
    client.fill(&authority.client(&["an administrator"]), &[&authority]);
    let (cert, key, ca) =
        (client.cert.to_str().unwrap(), client.key.to_str().unwrap(), client.ca.to_str().unwrap());
    let flags = ["status", "--tls-cert", cert, "--tls-key", key, "--tls-ca", ca];
    command::run(&flags, &[("NODE_ADDRESS", &address)]).succeeded();
    // One of another authority.
    let other = Authority::new("theirs");
    client.fill(&other.client(&["an administrator"]), &[&authority]);
    let line = command::run(&flags, &[("NODE_ADDRESS", &address)]).failed(1);
    assert!(line.contains("no TLS with the node"), "{line}");
    client.fill(&authority.client(&["an administrator"]), &[&other]);
    let line = command::run(&flags, &[("NODE_ADDRESS", &address)]).failed(1);
    assert!(line.contains("no TLS with the node (invalid peer certificate"), "{line}");
    let line = command::run(&flags[..3], &[("NODE_ADDRESS", &address)]).failed(64);
    assert!(line.contains("TLS_KEY is missing"), "{line}");
    // A drain goes on while the node that was asked first leaves.
    cluster.ask(0, &["drain", "node-c", "--remove"]).succeeded();
    cluster.nodes[2].leave();
    cluster.settle(2);
}
