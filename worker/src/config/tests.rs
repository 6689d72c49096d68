//! Settings good and bad, each bad one with the whole line a person reads.

use super::*;

fn args(set: &[(&str, &str)]) -> RunArgs {
    let mut args = RunArgs {
        node_address: Some("localhost:11000".into()),
        join_address: Some(String::new()),
        raft_id: Some("node-a".into()),
        ..RunArgs::default()
    };
    for (name, value) in set {
        let value = Some((*value).to_owned()).filter(|value| value != "unset");
        match *name {
            "NODE_ADDRESS" => args.node_address = value,
            "RAFT_ADDRESS" => args.raft_address = value,
            "BIND_ADDRESS" => args.bind_address = value,
            "RAFT_ID" => args.raft_id = value,
            "EPHEMERAL" => args.ephemeral = value,
            "JOIN_ADDRESS" => args.join_address = value,
            "PEER_ADDRESSES" => args.peer_addresses = value,
            "DISCOVERY" => args.discovery = value,
            "SHARDS" => args.shards = value,
            "LEASE" => args.lease = value,
            "WEIGHT" => args.weight = value,
            "MAX_PAYLOAD" => args.max_payload = value,
            "CALL_MEMORY" => args.call_memory = value,
            "LOG_LEVEL" => args.log_level = value,
            "LOG_FORMAT" => args.log_format = value,
            "TLS_CERT" => args.tls.files.cert = value.map(PathBuf::from),
            "TLS_CLIENTS" => args.tls.clients = value,
            "TLS_MODE" => args.tls.mode = value,
            "BOOTSTRAP_EXPECT" => args.bootstrap_expect = value,
            "IDENTITY_FILE" => args.identity_file = value.map(PathBuf::from),
            "ZONE" => args.zone = value,
            "POD_NAME" => args.pod.pod_name = value,
            "POD_NAMESPACE" => args.pod.pod_namespace = value,
            "POD_UID" => args.pod.pod_uid = value,
            "POD_IP" => args.pod.pod_ip = value,
            "REVISION" => args.pod.revision = value,
            "TERMINATION_LOG" => args.pod.termination_log = value,
            other => panic!("no setting {other} in this table"),
        }
    }
    args
}

fn resolve(set: &[(&str, &str)]) -> Result<Config, String> {
    Config::resolve(&args(set), "host").map_err(|error| error.to_string())
}

#[test]
fn defaults_follow_from_the_node_address() {
    let config = resolve(&[("RAFT_ID", "unset")]).unwrap();
    assert_eq!(config.raft_address.to_string(), "localhost:12000");
    assert_eq!(config.admin_address.to_string(), "localhost:13000");
    assert_eq!(config.http_address.to_string(), "localhost:14000");
    assert_eq!(config.bind_host, "localhost");
    assert_eq!(config.raft_id, "host");
    assert_eq!(config.raft_dir, PathBuf::from("data/host"));
    assert_eq!(config.start, Start::FoundAlone);
    assert_eq!((config.max_payload, config.call_memory), (4 << 20, None));
    let config = resolve(&[("NODE_ADDRESS", "[::1]:11000")]).unwrap();
    assert_eq!(config.raft_address.to_string(), "[::1]:12000");
    assert_eq!(config.bind_host, "::1");
    let named = [("NODE_ADDRESS", "orders-0.orders:11000"), ("TLS_MODE", "disabled")];
    assert_eq!(resolve(&named).unwrap().bind_host, "::");
}

#[test]
fn each_way_to_start() {
    let join = resolve(&[("JOIN_ADDRESS", "localhost:11001")]).unwrap().start;
    assert_eq!(join, Start::Join("localhost:11001".parse().unwrap()));
    let peers =
        resolve(&[("JOIN_ADDRESS", "unset"), ("PEER_ADDRESSES", "localhost:1, localhost:2")]);
    assert!(matches!(peers.unwrap().start, Start::Peers(peers) if peers.len() == 2));
}

/// As an operator renders a pod, with some settings more.
fn in_pod(set: &[(&str, &str)]) -> Result<Config, String> {
    let pod = [
        ("NODE_ADDRESS", "unset"),
        ("JOIN_ADDRESS", "unset"),
        ("RAFT_ID", "unset"),
        ("POD_NAME", "orders-1"),
        ("POD_NAMESPACE", "shop"),
        ("POD_UID", "u-1"),
        ("POD_IP", "10.0.0.7"),
        ("TLS_MODE", "disabled"),
        ("DISCOVERY", "kubernetes:app=shoal,instance=orders"),
    ];
    resolve(&[&pod[..], set].concat())
}

#[test]
fn a_pod_says_who_and_where_it_is() {
    let config = in_pod(&[("IDENTITY_FILE", "/i.json"), ("REVISION", "r7"), ("ZONE", "")]).unwrap();
    assert_eq!(config.raft_id, "orders-1");
    assert_eq!(config.node_address.to_string(), "10.0.0.7:11000");
    assert_eq!(config.http_address.to_string(), "10.0.0.7:14000");
    assert_eq!(config.bind_host, "::");
    assert_eq!(config.start, Start::Identity("/i.json".into()));
    assert_eq!(config.discovery, Discovery::Kubernetes("app=shoal,instance=orders".to_owned()));
    assert_eq!((config.revision.as_str(), config.zone.as_str()), ("r7", ""));
    assert_eq!(config.pod_uid.as_deref(), Some("u-1"));
    assert_eq!(config.termination_log, Some("/dev/termination-log".into()));
    assert_eq!(config.pod.unwrap().namespace.as_deref(), Some("shop"));
    let config = in_pod(&[
        ("BOOTSTRAP_EXPECT", "3"),
        ("POD_IP", "fd00::7"),
        ("REVISION", ""),
        ("TERMINATION_LOG", ""),
        ("BIND_ADDRESS", "127.0.0.1"),
    ])
    .unwrap();
    let names = ["orders-0", "orders-1", "orders-2"].map(str::to_owned).to_vec();
    assert_eq!(config.start, Start::Pods(names));
    assert_eq!(config.node_address.to_string(), "[fd00::7]:11000");
    assert_eq!(config.revision, crate::VERSION);
    assert_eq!((config.termination_log, config.bind_host.as_str()), (None, "127.0.0.1"));
    let config = resolve(&[]).unwrap();
    assert_eq!((config.pod, config.termination_log), (None, None));
}

#[test]
fn a_name_finds_nodes_and_founds_with_addresses_alone() {
    let finds = [("JOIN_ADDRESS", "unset"), ("DISCOVERY", "dns:orders-peers.shop.svc")];
    let config = resolve(&finds).unwrap();
    assert_eq!(config.start, Start::Found);
    assert_eq!(config.discovery, Discovery::Dns("orders-peers.shop.svc:11000".parse().unwrap()));
    let founds = [&finds[..], &[("PEER_ADDRESSES", "a:1,b:1"), ("DISCOVERY", "dns:n:7")]].concat();
    let config = resolve(&founds).unwrap();
    assert!(matches!(config.start, Start::Peers(peers) if peers.len() == 2));
    assert_eq!(config.discovery, Discovery::Dns("n:7".parse().unwrap()));
    assert_eq!(resolve(&[("DISCOVERY", "static")]).unwrap().discovery, Discovery::Static);
}

#[test]
fn every_bad_setting_of_a_pod_is_named_with_its_remedy() {
    let table: &[(&[(&str, &str)], &str)] = &[
        (&[], "BOOTSTRAP_EXPECT is missing: set it to how many pods found the cluster together"),
        (&[("BOOTSTRAP_EXPECT", "4")], "BOOTSTRAP_EXPECT is \"4\": no founding set has that size"),
        (&[("BOOTSTRAP_EXPECT", "three")], "give 1, 2, 3 or 5"),
        (&[("BOOTSTRAP_EXPECT", "3"), ("POD_NAME", "orders")], "it does not end with an ordinal"),
        (
            &[("BOOTSTRAP_EXPECT", "3"), ("POD_NAME", "orders-7f9c")],
            "run the nodes as a StatefulSet",
        ),
        (
            &[("BOOTSTRAP_EXPECT", "3"), ("IDENTITY_FILE", "f")],
            "IDENTITY_FILE and BOOTSTRAP_EXPECT exclude each other",
        ),
        (&[("IDENTITY_FILE", "f"), ("JOIN_ADDRESS", "")], "DISCOVERY and JOIN_ADDRESS exclude"),
        (&[("IDENTITY_FILE", "f"), ("PEER_ADDRESSES", "a:1")], "and PEER_ADDRESSES exclude"),
        (
            &[("IDENTITY_FILE", "f"), ("POD_NAME", ""), ("NODE_ADDRESS", "a:1")],
            "POD_NAME is missing: with kubernetes discovery set it from metadata.name",
        ),
        (&[("IDENTITY_FILE", "f"), ("POD_NAMESPACE", "")], "POD_NAMESPACE is missing"),
        (&[("IDENTITY_FILE", "f"), ("RAFT_ID", "other")], "RAFT_ID is \"other\": peers know"),
        (&[("IDENTITY_FILE", "f"), ("POD_IP", "")], "NODE_ADDRESS is missing"),
        (&[("IDENTITY_FILE", "f"), ("POD_IP", "here")], "POD_IP is \"here\": it is no IP address"),
        (&[("DISCOVERY", "kubernetes:")], "it has no label selector"),
        (&[("DISCOVERY", "kubernetes")], "set static, dns:<name>[:port] or kubernetes:<label"),
        (&[("DISCOVERY", "dns:")], "DISCOVERY is \"dns:\": it names no host"),
        (&[("DISCOVERY", "dns:a b")], "it names no host"),
        (&[("DISCOVERY", "dns:a:x")], "its port is not a number"),
        (&[("DISCOVERY", "dns:a"), ("JOIN_ADDRESS", "a:1")], "JOIN_ADDRESS and DISCOVERY exclude"),
        (&[("DISCOVERY", "dns:a"), ("IDENTITY_FILE", "f")], "found by no address"),
        (&[("DISCOVERY", "static"), ("BOOTSTRAP_EXPECT", "3")], "has no names"),
        (
            &[("IDENTITY_FILE", "f"), ("EPHEMERAL", "yes")],
            "EPHEMERAL is \"yes\": it is neither; set true or false",
        ),
    ];
    for (set, expected) in table {
        let error = in_pod(set).expect_err(expected);
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        assert!(!error.contains('\n'));
    }
}

#[test]
fn what_was_given_for_founding_must_fit_the_cluster() {
    let given = resolve(&[("SHARDS", "64"), ("LEASE", "5")]).unwrap();
    assert_eq!(given.fits(64, 5_000, true), Ok(()));
    let error = given.fits(1_024, 5_000, false).unwrap_err().to_string();
    assert!(error.starts_with("SHARDS is \"64\": the cluster was founded with 1024 shards; "));
    let error = given.fits(64, 2_500, true).unwrap_err().to_string();
    assert!(error.starts_with("LEASE is \"5\": the lease of the cluster is 2.5 s; "), "{error}");
    // A member restarts with what it was founded with, whatever was configured since.
    assert_eq!(given.fits(64, 2_500, false), Ok(()));
    assert_eq!(resolve(&[]).unwrap().fits(16, 60_000, true), Ok(()));
}

#[test]
fn every_bad_setting_is_named_with_its_remedy() {
    let table: &[(&[(&str, &str)], &str)] = &[
        (&[("NODE_ADDRESS", "unset")], "NODE_ADDRESS is missing"),
        (
            &[("NODE_ADDRESS", "localhost")],
            "NODE_ADDRESS is \"localhost\": it has no port; write host:port",
        ),
        (&[("NODE_ADDRESS", "localhost:0")], "its port is not a number"),
        (&[("NODE_ADDRESS", "::1:11000")], "not in brackets"),
        (&[("NODE_ADDRESS", "localhost:65000")], "its port + 1000 is over 65535"),
        (
            &[("RAFT_ADDRESS", "localhost:11000")],
            "RAFT_ADDRESS is \"localhost:11000\": it is the same as NODE_ADDRESS",
        ),
        (
            &[("BIND_ADDRESS", "example.com")],
            "BIND_ADDRESS is \"example.com\": it is no IP address",
        ),
        (&[("RAFT_ID", "a b")], "RAFT_ID is \"a b\""),
        (
            &[("PEER_ADDRESSES", "localhost:1")],
            "JOIN_ADDRESS and PEER_ADDRESSES exclude each other",
        ),
        (&[("JOIN_ADDRESS", "unset")], "JOIN_ADDRESS or PEER_ADDRESSES is missing"),
        (
            &[("JOIN_ADDRESS", "localhost:11000")],
            "JOIN_ADDRESS is \"localhost:11000\": it is this node itself; name another member",
        ),
        (&[("JOIN_ADDRESS", "nowhere")], "JOIN_ADDRESS is \"nowhere\": it has no port"),
        (&[("JOIN_ADDRESS", "unset"), ("PEER_ADDRESSES", "a:1,a:1")], "stands in it twice"),
        (&[("DISCOVERY", "consul")], "DISCOVERY is \"consul\": this build knows no such discovery"),
        (
            &[("SHARDS", "1000")],
            "SHARDS is \"1000\": it is not a power of two; give a power of two from 16 to 65536",
        ),
        (&[("SHARDS", "8")], "outside 16…65536"),
        (&[("LEASE", "1")], "LEASE is \"1\": it is outside 2…60"),
        (&[("LEASE", "3s")], "LEASE is \"3s\": it is not a whole number"),
        (&[("WEIGHT", "0")], "WEIGHT is \"0\""),
        (&[("MAX_PAYLOAD", "4GB")], "MAX_PAYLOAD is \"4GB\""),
        (&[("MAX_PAYLOAD", "99MiB")], "outside 1KiB…64MiB"),
        (&[("CALL_MEMORY", "much")], "CALL_MEMORY is \"much\": it is not a size; give bytes up to"),
        (&[("CALL_MEMORY", "2048GiB")], "it is over 1024GiB"),
        (
            &[("CALL_MEMORY", "16MiB")],
            "CALL_MEMORY is \"16MiB\": calls of MAX_PAYLOAD, 4194304 bytes, need at least 16809984; \
             give more, or lower MAX_PAYLOAD",
        ),
        (&[("LOG_LEVEL", "loud")], "LOG_LEVEL is \"loud\""),
        (&[("LOG_FORMAT", "xml")], "LOG_FORMAT is \"xml\""),
        (&[("TLS_MODE", "mutual")], "TLS_CERT is missing: set TLS_CERT, TLS_KEY and TLS_CA"),
        (&[("TLS_MODE", "on")], "TLS_MODE is \"on\": it is not a TLS mode"),
        (&[("TLS_CERT", "a.pem")], "TLS_KEY is missing: set TLS_CERT, TLS_KEY and TLS_CA"),
        (&[("TLS_CLIENTS", "never")], "TLS_CLIENTS is \"never\""),
        (&[("TLS_CLIENTS", "mutual")], "TLS_CLIENTS and disabled TLS exclude each other"),
        (&[("NODE_ADDRESS", "10.0.0.1:11000")], "TLS_MODE is missing"),
    ];
    for (set, expected) in table {
        let error = resolve(set).expect_err(expected);
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        assert!(!error.contains('\n'));
    }
}
