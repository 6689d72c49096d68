//! The Kubernetes that the suites run on is one: pods without privileges run, find each other
//! and keep their data; it comes up once, breaks as told, and goes without a trace.
// Everything here is a test, outside of the product.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process, thread,
    time::{Duration, Instant},
};

use shoal_tests::{
    Image, Space, http,
    image::Built,
    kube::{self, Cluster, Component, Left, Namespace, Node, Tier, Victim},
    wait,
};

/// Promised of a cluster that runs.
const WARM_UP: Duration = Duration::from_secs(10);

fn busybox(cluster: &Cluster) -> Built {
    let space = Space::new();
    let archive = space.path().join("busybox.tar");
    let mut image = Image::new("busybox", &["/bin/busybox"]);
    image.program(Path::new("/usr/bin/busybox"), "/bin/busybox").unwrap();
    image.write(&archive).unwrap();
    cluster.load(&archive).unwrap()
}

/// Three pods with a volume each, which serve the file `page` of it.
fn web(image: &str) -> String {
    include_str!("web.yaml").replace("{image}", image)
}

/// A shell command in a pod.
fn shell(namespace: &Namespace<'_>, pod: &str, script: &str) -> Result<String, String> {
    let words = ["exec", pod, "--", "/bin/busybox", "sh", "-c", script];
    let said = namespace.kubectl(&words).map_err(|error| format!("{error:#}"))?;
    Ok(said.trim().to_owned())
}

fn serve(cluster: &Cluster, namespace: &Namespace<'_>) -> Built {
    let image = busybox(cluster);
    namespace.apply(&web(&image.name)).unwrap();
    namespace.kubectl(&["rollout", "status", "statefulset/web", "--timeout=120s"]).unwrap();
    for pod in ["web-0", "web-1", "web-2"] {
        shell(namespace, pod, "echo $HOSTNAME $(/bin/busybox id -u) >/data/page").unwrap();
    }
    image
}

#[test]
fn pods_without_privileges_run_find_each_other_and_keep_data() {
    let cluster = Cluster::shared(Tier::Node).unwrap();
    let namespace = cluster.namespace("pods").unwrap();
    let image = serve(&cluster, &namespace);
    let field = |path: &str| namespace.kubectl(&["get", "pod,service", "-o", path]).unwrap();
    let ids = field("jsonpath={.items[*].status.containerStatuses[*].imageID}");
    assert_eq!(ids, [&*image.id; 3].join(" "), "pods run what was built");

    let page = |url: &str| shell(&namespace, "web-0", &format!("/bin/busybox wget -qO- {url}"));
    let one = wait::until("a pod is found by name", || page("web-1.peers:8080/page"));
    assert_eq!(one, "web-1 65532");
    wait::until("a Service is found by name", || page("web/page"));
    let address = field("jsonpath={.items[?(@.metadata.name==\"web\")].spec.clusterIP}");
    let (code, body) =
        cluster.block_on(async { http::get(&format!("{address}:80"), "/page") }).unwrap();
    assert_eq!(code, 200, "{body}");
}

#[test]
fn a_released_volume_is_removed_with_its_data() {
    let cluster = Cluster::shared(Tier::Node).unwrap();
    let namespace = cluster.namespace("volumes").unwrap();
    serve(&cluster, &namespace);
    let volume = ["get", "pvc", "data-web-2", "-o", "jsonpath={.spec.volumeName}"];
    let volume = namespace.kubectl(&volume).unwrap();
    namespace.kubectl(&["scale", "statefulset/web", "--replicas=2"]).unwrap();
    namespace.kubectl(&["delete", "pvc", "data-web-2"]).unwrap();
    wait::until("the volume is removed", || {
        let listed = cluster.kubectl(&["get", "pv", &volume, "--ignore-not-found"]);
        let listed = listed.map_err(|error| error.to_string())?;
        if listed.is_empty() { Ok(()) } else { Err(listed) }
    });
    namespace.kubectl(&["scale", "statefulset/web", "--replicas=3"]).unwrap();
    namespace.kubectl(&["rollout", "status", "statefulset/web", "--timeout=60s"]).unwrap();
    assert_eq!(shell(&namespace, "web-2", "/bin/busybox ls /data").unwrap(), "", "a new volume");
    let kept = shell(&namespace, "web-1", "/bin/busybox cat /data/page").unwrap();
    assert_eq!(kept, "web-1 65532");
}

#[test]
fn what_is_killed_comes_back_without_the_pods_noticing() {
    let cluster = Cluster::alone(Tier::Node).unwrap();
    let namespace = cluster.namespace("faults").unwrap();
    serve(&cluster, &namespace);
    let pods = |path: &str| namespace.kubectl(&["get", "pods", "-o", path]);
    let before = pods("jsonpath={.items[*].metadata.uid}").unwrap();

    cluster.kill(Component::ApiServer).unwrap();
    assert!(pods("name").is_err(), "a killed API server answers");
    cluster.start(Component::ApiServer).unwrap();
    cluster.kill(Component::Kubelet(Node::One)).unwrap();
    cluster.start(Component::Kubelet(Node::One)).unwrap();
    assert_eq!(pods("jsonpath={.items[*].metadata.uid}").unwrap(), before);

    cluster.kill_in(&namespace, "web-0", "web", Victim::Container).unwrap();
    wait::until("the container is started again", || {
        let counts = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
        let counts = pods(counts).map_err(|error| error.to_string())?;
        if counts == "1 0 0" { Ok(()) } else { Err(counts) }
    });
    assert_eq!(pods("jsonpath={.items[*].metadata.uid}").unwrap(), before);
    cluster.set_dns_cache(Some(30)).unwrap();
    cluster.set_dns_cache(None).unwrap();
}

#[test]
fn pods_of_two_nodes_reach_each_other_until_one_is_lost() {
    // Its own: two nodes take much of a machine, and no longer than this.
    const NAME: &str = "two-nodes";
    let cluster = Cluster::up(NAME, Tier::Nodes2).unwrap();
    let namespace = cluster.namespace("nodes").unwrap();
    cluster.kubectl(&["wait", "--for=condition=Ready", "node/node1", "node/node2"]).unwrap();
    serve(&cluster, &namespace);
    let nodes = namespace.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}"]);
    let nodes = nodes.unwrap();
    assert!(nodes.contains("node1") && nodes.contains("node2"), "they are spread: {nodes}");
    for pod in ["web-0", "web-1", "web-2"] {
        for peer in ["web-0", "web-1", "web-2"] {
            let script = format!("/bin/busybox wget -qO- {peer}.peers:8080/page");
            let page = wait::until("a pod reaches another", || shell(&namespace, pod, &script));
            assert_eq!(page, format!("{peer} 65532"));
        }
    }

    let node = |name: &str| {
        let ready = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        cluster.kubectl(&["get", "node", name, "-o", ready]).map_err(|error| error.to_string())
    };
    let is = |name: &str, wanted: &str| {
        let ready = node(name)?;
        if ready == wanted { Ok(()) } else { Err(ready) }
    };
    cluster.kill_node(Node::Two).unwrap();
    wait::until("the node is lost", || is("node2", "Unknown"));
    is("node1", "True").unwrap();
    // Both at once, as where power comes back: a kubelet that is first gives up, and is started
    // again.
    thread::scope(|scope| {
        let kubelet = scope.spawn(|| cluster.start(Component::Kubelet(Node::Two)));
        cluster.start(Component::Containerd(Node::Two)).unwrap();
        kubelet.join().unwrap().unwrap();
    });
    wait::until("the node is back", || is("node2", "True"));
    drop(namespace);
    drop(cluster);
    kube::down(NAME).unwrap();
}

#[test]
fn up_is_idempotent_and_down_leaves_nothing() {
    // Its own, which no other test needs meanwhile.
    const NAME: &str = "self-test";
    let settings = || {
        ["vm/overcommit_memory", "kernel/panic", "net/ipv4/ip_forward"]
            .map(|name| fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap())
    };
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = (settings(), mounts());
    kube::down(NAME).unwrap();
    let cluster = Cluster::up(NAME, Tier::Node).unwrap();
    let namespace = cluster.namespace("trace").unwrap();
    serve(&cluster, &namespace);
    let place = cluster.kubeconfig().parent().unwrap().parent().unwrap().to_owned();
    let recorded = || -> BTreeMap<_, _> {
        let entries = fs::read_dir(place.join("pids")).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
    };
    let first = recorded();
    let began = Instant::now();
    Cluster::up(NAME, Tier::Node).unwrap();
    assert!(began.elapsed() < WARM_UP, "{:?}", began.elapsed());
    assert_eq!(recorded(), first, "what runs is left alone");

    let init = &first[&place.join("pids/sandbox")];
    let processes = descendants(init.split(' ').next().unwrap());
    assert!(processes.len() > first.len() + 6, "components, shims and pods: {processes:?}");
    drop(namespace);
    kube::down(NAME).unwrap();
    for id in processes {
        assert!(!Path::new("/proc").join(&id).exists(), "process {id} is left");
    }
    assert_eq!(kube::left(NAME).unwrap(), Left::Nothing);
    assert_eq!((settings(), mounts()), before);
    let left: Vec<_> =
        fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["log"]);
}

/// All below this process, which runs.
fn descendants(id: &str) -> Vec<String> {
    assert_ne!(id, process::id().to_string());
    let mut found = vec![id.to_owned()];
    let mut looked = 0;
    while let Some(id) = found.get(looked) {
        looked += 1;
        // Each thread has its own list.
        let Ok(threads) = fs::read_dir(format!("/proc/{id}/task")) else { continue };
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().map(str::to_owned));
        }
    }
    found
}
