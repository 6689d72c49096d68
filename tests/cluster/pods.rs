//! Nodes that run in pods: found by the API server's list, founded under an operator's identity
//! file, stopped by their pod's deletion, parked once they are removed.

use std::{fs, path::PathBuf, time::Duration};

use serde_json::json;
use shoal_proto::shoal::admin::v1::{ConfirmFoundingRequest, StatusResponse};
use shoal_tests::{ApiServer, Cluster, Counters, Load, Node, Ports, Space, admin, cluster, wait};
use tonic::Code;

/// Founding pods.
pub(crate) const FOUNDERS: usize = 3;
const SHARDS: &str = "64";
/// Long past what a drain takes.
const GRACE: Duration = Duration::from_secs(120);

/// Pods `orders-0` … as an operator renders them, none of them started.
pub(crate) struct Pods {
    pub(crate) cluster: Cluster,
    api: ApiServer,
    identity: PathBuf,
}

pub(crate) fn name(at: usize) -> String {
    format!("orders-{at}")
}

impl Pods {
    pub(crate) fn prepared(pods: usize) -> Self {
        let (space, ports) = (Space::new(), Ports::any(1));
        let api = ApiServer::start(&space);
        let identity = space.path().join("identity.json");
        let mut pods_of = Self { cluster: Cluster::of(space, ports, Vec::new()), api, identity };
        (0..pods).for_each(|at| pods_of.add(at, &format!("127.0.0.{}", at + 2)));
        pods_of
    }

    fn add(&mut self, at: usize, ip: &str) {
        let node = self.pod(at, ip);
        self.cluster.nodes.push(node);
    }

    fn pod(&self, at: usize, ip: &str) -> Node {
        let (name, uid) = (name(at), format!("uid-{at}"));
        self.api.apply(&name, &uid, ip);
        let mut node = Node::at(&self.cluster.space, &name, ip, self.cluster.port());
        node.unset("RAFT_ID").set("POD_NAME", &name).set("POD_UID", &uid);
        node.set("POD_NAMESPACE", "shop").set("POD_IP", ip).set("BIND_ADDRESS", ip);
        node.set("DISCOVERY", "kubernetes:app=shoal").set("KUBE_CONFIG", &self.api.config());
        node.set("IDENTITY_FILE", &self.identity.display().to_string());
        node.set("TERMINATION_LOG", &self.last_words(at).display().to_string());
        node.set("SHARDS", SHARDS).set("REVISION", "r1").set("ZONE", "");
        node
    }

    fn last_words(&self, at: usize) -> PathBuf {
        self.cluster.space.path().join(format!("{}.termination", name(at)))
    }

    pub(crate) fn record(&self, cluster: Option<&str>) {
        self.write(&json!({ "formedClusterID": cluster }));
    }

    /// The recorded cluster is about to be given up.
    pub(crate) fn mark(&self, cluster: &str, since: &str) {
        self.write(&json!({
            "formedClusterID": cluster, "abandoning": cluster, "abandoningSince": since,
        }));
    }

    fn write(&self, fields: &serde_json::Value) {
        let founding: Vec<String> = (0..FOUNDERS).map(name).collect();
        let mut text = json!({ "crUID": "u", "founding": founding });
        for (field, value) in fields.as_object().unwrap() {
            text[field] = value.clone();
        }
        // As the kubelet does: the old one or the new one, never a part.
        let draft = self.identity.with_extension("draft");
        fs::write(&draft, text.to_string()).unwrap();
        fs::rename(&draft, &self.identity).unwrap();
    }

    pub(crate) fn status(&self, at: usize) -> Result<StatusResponse, String> {
        let told = admin::status(&self.cluster.nodes[at].admin_address());
        told.map_err(|status| status.to_string())
    }

    fn confirm(&self, at: usize, cluster: &str) -> Result<(), Code> {
        let request = ConfirmFoundingRequest { cluster_id: cluster.to_owned() };
        admin::ask(&self.cluster.nodes[at].admin_address(), async |mut client| {
            client.confirm_founding(request).await
        })
        .map(drop)
        .map_err(|status| status.code())
    }

    pub(crate) fn start(&mut self) {
        self.cluster.nodes.iter_mut().for_each(Node::start);
    }

    /// Until all founders show the one cluster that they have joined, and one waits for the word.
    pub(crate) fn joined(&self) -> String {
        wait::until("the founders have joined and wait for the operator", || {
            let all: Vec<_> = (0..FOUNDERS).map(|at| self.status(at)).collect::<Result<_, _>>()?;
            let same = all.iter().all(|status| status.cluster_id == all[0].cluster_id);
            let waits = "waiting for the operator to confirm the founding of cluster";
            let waits = all.iter().any(|status| status.waiting.starts_with(waits));
            let unformed = all.iter().all(|status| !status.formed);
            let joined = same && !all[0].cluster_id.is_empty() && waits && unformed;
            if joined { Ok(all[0].cluster_id.clone()) } else { Err(format!("{all:?}")) }
        })
    }

    /// As an operator does: records the cluster and confirms it until it is formed.
    pub(crate) fn formed(&mut self) -> String {
        let cluster = self.joined();
        self.record(Some(&cluster));
        wait::until("the cluster is formed", || {
            let confirmed: Vec<_> = (0..FOUNDERS).map(|at| self.confirm(at, &cluster)).collect();
            let all: Vec<_> = (0..FOUNDERS).map(|at| self.status(at)).collect();
            let formed = |status: &Result<StatusResponse, _>| {
                status.as_ref().is_ok_and(|status| status.formed && status.cluster_id == cluster)
            };
            if all.iter().all(formed) { Ok(()) } else { Err(format!("{confirmed:?} {all:?}")) }
        });
        cluster
    }

    /// Formed by its founders, all pods serving.
    pub(crate) fn running(pods: usize) -> (Self, String) {
        let mut running = Self::prepared(pods);
        running.record(None);
        running.start();
        let cluster = running.formed();
        running.cluster.nodes.iter_mut().for_each(Node::ready);
        running.cluster.settle(pods);
        (running, cluster)
    }

    fn incarnation(&mut self, at: usize) -> String {
        let status = self.cluster.status().unwrap();
        status.node(&name(at)).expect("a member").incarnation.clone()
    }
}

#[test]
fn pods_form_one_cluster_once_the_operator_confirms_it() {
    let mut pods = Pods::prepared(4);
    pods.start();
    for node in &mut pods.cluster.nodes {
        node.waits("waiting for the operator to name the founding nodes: IDENTITY_FILE");
    }
    let status = pods.status(0).unwrap();
    assert_eq!((status.cluster_id.as_str(), status.formed), ("", false));
    assert!(!status.waiting.is_empty() && !status.version.is_empty());
    fs::write(&pods.identity, "{}").unwrap();
    pods.cluster.nodes[1].waits("is not what an operator writes");
    pods.record(None);
    let cluster = pods.joined();
    assert_eq!(pods.confirm(0, &"7".repeat(32)), Err(Code::FailedPrecondition));
    pods.cluster.nodes[3].waits("to form a cluster");
    assert_eq!(pods.formed(), cluster);
    let status = pods.cluster.settle(4);
    assert_eq!(status.cluster_id, cluster);
    let nodes = pods.status(0).unwrap().nodes;
    for (at, node) in nodes.iter().enumerate() {
        let uid = format!("uid-{}", node.name.trim_start_matches("orders-"));
        assert_eq!(
            (node.pod_uid.as_str(), node.revision.as_str(), node.zone.as_str()),
            (uid.as_str(), "r1", ""),
            "{at}"
        );
    }
}

#[test]
fn a_recorded_cluster_and_empty_directories_found_no_second_one() {
    let (mut pods, cluster) = Pods::running(FOUNDERS);
    // One lost directory: it joins the recorded cluster again.
    pods.cluster.nodes[0].kill();
    fs::remove_dir_all(pods.cluster.nodes[0].data()).unwrap();
    pods.cluster.nodes[0].start();
    pods.cluster.nodes[0].ready();
    assert_eq!(pods.cluster.settle(FOUNDERS).cluster_id, cluster);
    // All of them: nobody holds what was recorded, and so there is nothing to join.
    for node in &mut pods.cluster.nodes {
        node.kill();
        fs::remove_dir_all(node.data()).unwrap();
    }
    pods.start();
    let waits =
        format!("waiting for a member of cluster {cluster}, which the operator has recorded");
    pods.cluster.nodes.iter_mut().for_each(|node| drop(node.waits(&waits)));
    // The record alone kept them from it.
    pods.record(None);
    let second = pods.joined();
    assert_ne!(second, cluster);
    pods.record(Some(&cluster));
    assert!((0..FOUNDERS).all(|at| pods.confirm(at, &cluster) == Err(Code::FailedPrecondition)));
    // Unformed, it stays where it was, whatever is confirmed.
    for node in &mut pods.cluster.nodes {
        node.kill();
        node.start();
    }
    let words = format!("belongs to cluster {second}, but the operator has recorded {cluster}");
    pods.cluster.nodes.iter_mut().for_each(|node| drop(node.waits(&words)));
    assert!((0..FOUNDERS).all(|at| {
        let status = pods.status(at).unwrap();
        status.cluster_id == second && !status.formed
    }));
}

#[test]
fn a_pod_that_is_deleted_hands_over_before_any_signal() {
    let (mut pods, _) = Pods::running(FOUNDERS);
    let mut counters = Counters::new(100);
    counters.add(&mut pods.cluster.client(0));
    let entries = [pods.cluster.nodes[0].address(), pods.cluster.nodes[2].address()];
    let load = Load::start(&entries);
    let leaver = &mut pods.cluster.nodes[1];
    pods.api.delete(&leaver.name, GRACE);
    assert_eq!(leaver.ended(), 0, "{}", leaver.log());
    let log = leaver.log();
    assert!(log.contains("this pod is being deleted") && log.contains("\"budget\":115"), "{log}");
    assert!(log.contains("handed over and closed"), "{log}");
    pods.cluster.serves(FOUNDERS - 1);
    load.end().flawless();
    counters.check(&mut pods.cluster.client(0));
}

#[test]
fn the_last_words_of_a_pod_are_the_incarnation_that_the_registry_shows() {
    let (mut pods, _) = Pods::running(FOUNDERS);
    let mut last = String::new();
    for _ in 0..2 {
        let words = fs::read_to_string(pods.last_words(1)).unwrap();
        assert_eq!(words, pods.incarnation(1));
        assert_ne!(words, last);
        last = words;
        pods.cluster.nodes[1].kill();
        assert_eq!(fs::read_to_string(pods.last_words(1)).unwrap(), last, "what is left");
        pods.cluster.nodes[1].start();
        pods.cluster.nodes[1].ready();
        let before = last.clone();
        let anew = |status: &cluster::Status| {
            let row = status.node(&name(1));
            row.is_some_and(|row| row.life == "up" && row.incarnation != before)
        };
        pods.cluster.until("it has registered anew", anew);
    }
}

#[test]
fn a_removed_pod_stays_parked_however_often_its_container_is_killed() {
    let (mut pods, _) = Pods::running(FOUNDERS + 1);
    let removed = pods.cluster.status().unwrap().node(&name(1)).unwrap().id;
    let load = Load::start(&[pods.cluster.nodes[0].address(), pods.cluster.nodes[2].address()]);
    pods.cluster.ask(0, &["drain", &name(1), "--remove"]).succeeded();
    pods.cluster.settle(FOUNDERS);
    for _ in 0..5 {
        pods.cluster.nodes[1].waits("parked: this node was removed from the cluster");
        pods.cluster.nodes[1].kill();
        pods.cluster.nodes[1].start();
    }
    pods.cluster.nodes[1].waits("parked: this node was removed from the cluster");
    let mut through = pods.cluster.client(1);
    through.increment("through the parked one").unwrap();
    let status = pods.cluster.settle(FOUNDERS);
    assert!(!status.voters.contains(&removed) && status.node(&name(1)).is_none());
    load.end().flawless();
    // The next pod of that name is another one.
    pods.cluster.nodes[1].kill();
    pods.cluster.nodes[1].set("POD_UID", "uid-of-another").start();
    pods.cluster.nodes[1].ready();
    let status = pods.cluster.settle(FOUNDERS + 1);
    assert_ne!(status.node(&name(1)).unwrap().id, removed);
}

#[test]
fn l9_pods_come_back_at_other_addresses() {
    let (mut pods, cluster) = Pods::running(FOUNDERS);
    let mut counters = Counters::new(50);
    counters.add(&mut pods.cluster.client(0));
    pods.cluster.nodes.iter_mut().for_each(Node::kill);
    for at in 0..FOUNDERS {
        pods.cluster.nodes[at] = pods.pod(at, &format!("127.0.1.{}", at + 2));
    }
    pods.start();
    pods.cluster.nodes.iter_mut().for_each(Node::ready);
    let status = pods.cluster.settle(FOUNDERS);
    assert_eq!(status.cluster_id, cluster);
    pods.cluster.client(2).increment("served at new addresses").unwrap();
}
