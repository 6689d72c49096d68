//! The plain HTTP endpoints, as a kubelet and a scraper use them.

use shoal_tests::{Cluster, http};

#[test]
fn a_node_is_alive_before_it_is_ready_and_says_what_it_waits_for() {
    let mut cluster = Cluster::prepared(3, 0);
    let missing = format!("waiting for 1 of 3 founding peers: {}", cluster.nodes[2].address());
    cluster.nodes[0].start();
    cluster.nodes[1].start();
    cluster.nodes[0].waits(&missing);
    let address = cluster.nodes[0].http_address();
    assert_eq!(http::get(&address, "/livez").unwrap(), (200, "ok\n".to_owned()));
    assert_eq!(http::get(&address, "/drained").unwrap().0, 200, "it owns nothing");
    assert_eq!(http::get(&address, "/metrics").unwrap().0, 200);
    cluster.nodes[2].start();
    for node in &mut cluster.nodes {
        node.ready();
    }
    cluster.settle(3);
    let (code, text) = http::get(&address, "/readyz").unwrap();
    assert!(code == 200 && text.starts_with("ready"), "{code} {text}");
    // One node of three does not make the others unready.
    cluster.nodes[2].kill();
    cluster.nodes[1].kill();
    cluster.nodes[0].ready();
}

#[test]
fn metrics_are_in_the_text_format_and_count_calls() {
    let cluster = Cluster::founded(3, 0);
    let mut client = cluster.client(0);
    for at in 0..100 {
        client.increment(&format!("key-{at}")).unwrap();
    }
    let (code, text) = http::get(&cluster.nodes[0].http_address(), "/metrics").unwrap();
    assert_eq!(code, 200);
    assert!(text.ends_with("# EOF\n"), "OpenMetrics ends so");
    let calls = |kind: &str| {
        let name = format!("shoal_forward_calls_total{{kind=\"{kind}\"}} ");
        let sample = text.lines().find_map(|line| line.strip_prefix(&name));
        sample.unwrap_or_else(|| panic!("no {name}:\n{text}")).parse::<u64>().unwrap()
    };
    let (local, forwarded) = (calls("local"), calls("forwarded"));
    assert!(local > 0 && forwarded > 0, "{local} {forwarded}");
    assert_eq!(local + forwarded, 100);
}

#[test]
fn other_paths_and_methods_are_refused() {
    let cluster = Cluster::founded(1, 0);
    let address = cluster.nodes[0].http_address();
    for path in ["/", "/status", "/livez/../readyz", "/metrics/x"] {
        assert_eq!(http::get(&address, path).unwrap().0, 404, "{path}");
    }
    assert_eq!(http::send(&address, "POST", "/drained").unwrap().0, 405);
    assert_eq!(http::get(&address, "/livez").unwrap().0, 200);
}
