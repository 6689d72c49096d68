//! Statuses from scenes: what flips, what stays, what is urgent.

use std::time::Duration;

use super::*;
use crate::{
    crd::{ShardClusterSpec, State},
    rollout::{Activity, Claim, Life, Lost, Member, Members, Pod, Set, Shards, Step, Trouble},
};

fn cluster(replicas: i32) -> ShardCluster {
    let spec = ShardClusterSpec { replicas, ..ShardClusterSpec::of_image("shoal:1") };
    let mut cluster = ShardCluster::new("x", spec);
    cluster.metadata.generation = Some(4);
    cluster
}

fn observed(replicas: u32) -> Observed {
    let pod = |ordinal: u32| Pod {
        name: format!("x-{ordinal}"),
        uid: format!("u{ordinal}"),
        revision: "r1".to_owned(),
        ready: true,
        ..Pod::default()
    };
    let node = |ordinal: u32| Member {
        id: u64::from(ordinal) + 1,
        name: format!("x-{ordinal}"),
        pod_uid: format!("u{ordinal}"),
        target: true,
        voter: true,
        caught_up: true,
        owned: 16,
        ..Member::default()
    };
    let total = replicas * 16;
    Observed {
        set: Some(Set { replicas, revision: Some("r1".to_owned()), former: None }),
        pods: (0..replicas).map(|ordinal| (ordinal, pod(ordinal))).collect(),
        formed: true,
        registry: Registry::Known(Members {
            cluster: "c".to_owned(),
            leader: 1,
            shards: Shards { total, assigned: total, moving: 0, unassigned: 0 },
            nodes: (0..replicas).map(node).collect(),
            ..Members::default()
        }),
        ..Observed::default()
    }
}

fn members(observed: &mut Observed) -> &mut Members {
    match &mut observed.registry {
        Registry::Known(members) => members,
        Registry::Unknown { .. } | Registry::Founding { .. } => panic!("known"),
    }
}

/// At this second.
fn shown(
    cluster: &ShardCluster,
    observed: &Observed,
    decision: &Decision,
    refusal: Option<&Refusal>,
    second: i64,
) -> ShardClusterStatus {
    status(&scene(cluster, observed, decision, refusal, second))
}

fn scene<'a>(
    cluster: &'a ShardCluster,
    observed: &'a Observed,
    decision: &'a Decision,
    refusal: Option<&'a Refusal>,
    second: i64,
) -> Scene<'a> {
    let now = Timestamp::from_second(second).expect("a time");
    Scene { cluster, observed, decision, refusal, version: Some("1.0.0"), overdue: None, now }
}

fn reason(status: &ShardClusterStatus, kind: &str) -> (String, String) {
    let row = status.conditions.iter().find(|row| row.type_ == kind).expect("every condition");
    (row.status.clone(), row.reason.clone())
}

fn is(status: &ShardClusterStatus, kind: &str, state: &str, why: &str) {
    assert_eq!(reason(status, kind), (state.to_owned(), why.to_owned()), "{kind}: {status:#?}");
}

#[test]
fn a_cluster_as_specified_is_ready_and_its_status_stands_still() {
    let (mut cluster, observed) = (cluster(3), observed(3));
    let first = shown(&cluster, &observed, &Decision::default(), None, 100);
    is(&first, "Ready", "True", "AsSpecified");
    is(&first, "Available", "True", "Serving");
    is(&first, "Progressing", "False", "Idle");
    is(&first, "Degraded", "False", "None");
    is(&first, "Stalled", "False", "None");
    is(&first, "Paused", "False", "Running");
    assert_eq!((first.replicas, first.ready_replicas, first.updated_replicas), (3, 3, 3));
    assert_eq!(first.leader.as_deref(), Some("x-0"));
    cluster.status = Some(first.clone());
    assert_eq!(shown(&cluster, &observed, &Decision::default(), None, 900), first);
}

#[test]
fn a_time_changes_only_where_something_flips() {
    let (mut cluster, mut observed) = (cluster(3), observed(3));
    cluster.status = Some(shown(&cluster, &observed, &Decision::default(), None, 100));
    members(&mut observed).nodes[2].life = Life::Fenced;
    let down = shown(&cluster, &observed, &Decision::default(), None, 200);
    is(&down, "Degraded", "True", "MemberDown");
    is(&down, "Ready", "False", "MemberDown");
    is(&down, "Available", "False", "ShardsUnowned");
    assert!(is_urgent(cluster.status.as_ref(), &down));
    let time = |status: &ShardClusterStatus, kind: &str| {
        let row = status.conditions.iter().find(|row| row.type_ == kind).expect("there");
        row.last_transition_time.0.as_second()
    };
    assert_eq!((time(&down, "Degraded"), time(&down, "Stalled")), (200, 100));
    assert_eq!(down.members[0].name, "x-2", "unhealthy ones first");
}

#[test]
fn a_lost_volume_of_a_wanted_member_is_named_first() {
    let (cluster, mut observed) = (cluster(3), observed(3));
    let claim = |ordinal| Claim {
        name: format!("data-x-{ordinal}"),
        ordinal,
        lost: Some(Lost::Gone),
        ..Claim::default()
    };
    // One that nobody wants any more is no loss.
    observed.claims = vec![claim(3)];
    let before = shown(&cluster, &observed, &Decision::default(), None, 100);
    is(&before, "Degraded", "False", "None");
    observed.claims.push(claim(2));
    members(&mut observed).nodes[2].life = Life::Fenced;
    let lost = shown(&cluster, &observed, &Decision::default(), None, 100);
    is(&lost, "Degraded", "True", "VolumeLost");
    let row = lost.conditions.iter().find(|row| row.type_ == "Degraded").expect("there");
    assert!(row.message.contains("claim data-x-2 is gone"), "{}", row.message);
}

#[test]
fn a_certificate_that_nobody_renews_costs_margin_and_nothing_else() {
    let (cluster, mut observed, decision) = (cluster(3), observed(3), Decision::default());
    let words = "Secret x-ca: its certificate ends 2030-01-01T00:00:00Z and was not renewed";
    let overdue = |observed: &Observed| {
        status(&Scene { overdue: Some(words), ..scene(&cluster, observed, &decision, None, 1) })
    };
    let shown = overdue(&observed);
    is(&shown, "Degraded", "True", "CertificateExpiring");
    is(&shown, "Ready", "True", "AsSpecified");
    let row = shown.conditions.iter().find(|row| row.type_ == "Degraded").expect("there");
    assert_eq!(row.message, words);
    members(&mut observed).nodes[2].life = Life::Fenced;
    is(&overdue(&observed), "Degraded", "True", "MemberDown");
}

#[test]
fn counts_that_go_on_are_not_urgent() {
    let (cluster, mut observed) = (cluster(3), observed(3));
    let before = shown(&cluster, &observed, &Decision::default(), None, 100);
    members(&mut observed).shards.moving = 5;
    let now = shown(&cluster, &observed, &Decision::default(), None, 101);
    assert_ne!(before, now);
    assert!(!is_urgent(Some(&before), &now));
}

#[test]
fn what_stalls_is_named() {
    let (cluster, mut observed) = (cluster(3), observed(3));
    let refusal =
        Refusal { reason: Stalled::NotSupported, message: "spec.tls.mode: not yet".to_owned() };
    let refused = shown(&cluster, &observed, &Decision::default(), Some(&refusal), 1);
    is(&refused, "Stalled", "True", "NotSupported");
    is(&refused, "Ready", "False", "Stalled");
    let pod = observed.pods.get_mut(&1).expect("there");
    pod.ready = false;
    pod.trouble = Some(Trouble::Image("container worker: ErrImagePull".to_owned()));
    let image = shown(&cluster, &observed, &Decision::default(), None, 1);
    is(&image, "Stalled", "True", "ImagePull");
    let blocked = crate::rollout::Blocked {
        halt: Some(Halt::DrainTimedOut),
        member: "x-2".to_owned(),
        message: "x-2 is draining".to_owned(),
    };
    let decision = Decision { blocked: Some(blocked), ..Decision::default() };
    let late = shown(&cluster, &observed, &decision, None, 1);
    is(&late, "Stalled", "True", "DrainTimedOut");
    assert_eq!(late.blocked.expect("blocked").member.as_deref(), Some("x-2"));
}

#[test]
fn states_are_shown_and_nobody_is_forgotten_while_no_quorum_answers() {
    let (mut cluster, mut observed) = (cluster(3), observed(3));
    cluster.status = Some(shown(&cluster, &observed, &Decision::default(), None, 1));
    observed.registry = Registry::Unknown { why: "cut off".to_owned() };
    let dark = shown(&cluster, &observed, &Decision::default(), None, 2);
    is(&dark, "Available", "False", "QuorumLost");
    assert_eq!(dark.members.len(), 3);
    assert_eq!(dark.members[0].node_id.as_deref(), Some("n1"), "what was known stays");
    cluster.spec.state = State::Stopped;
    let stopped = shown(&cluster, &Observed::default(), &Decision::default(), None, 3);
    is(&stopped, "Paused", "True", "Stopped");
    is(&stopped, "Available", "False", "Hibernated");
    cluster.spec.state = State::Paused;
    let paused = shown(&cluster, &observed, &Decision::default(), None, 3);
    is(&paused, "Paused", "True", "Paused");
}

#[test]
fn a_drain_keeps_its_beginning_and_says_whether_it_can_be_taken_back() {
    let (mut cluster, mut observed) = (cluster(2), observed(3));
    members(&mut observed).nodes[2].drain = crate::rollout::Drain::Removal;
    members(&mut observed).nodes[2].draining = Duration::from_secs(5);
    let decision = Decision { activity: Activity::Draining, ..Decision::default() };
    let first = shown(&cluster, &observed, &decision, None, 50);
    let drain = |status: &ShardClusterStatus| {
        let row = status.members.iter().find(|row| row.name == "x-2").expect("there");
        row.drain.clone().expect("drains")
    };
    assert_eq!((drain(&first).since.0.as_second(), drain(&first).revocable), (50, true));
    is(&first, "Ready", "False", "Scaling");
    is(&first, "Progressing", "True", "Draining");
    cluster.status = Some(first);
    members(&mut observed).nodes[2].life = Life::Closed;
    let later = shown(&cluster, &observed, &decision, None, 60);
    assert_eq!((drain(&later).since.0.as_second(), drain(&later).revocable), (50, false));
}

#[test]
fn a_lost_registry_is_shown_until_it_is_given_up_and_then_forgotten() {
    let (mut cluster, mut observed) = (cluster(3), observed(3));
    cluster.status = Some(shown(&cluster, &observed, &Decision::default(), None, 1));
    observed.registry = Registry::Founding { joined: std::collections::BTreeMap::new() };
    let lost = crate::rollout::Blocked {
        halt: Some(Halt::QuorumLost),
        member: String::new(),
        message: "the registry is lost".to_owned(),
    };
    let decision = Decision { blocked: Some(lost), ..Decision::default() };
    let waits = shown(&cluster, &observed, &decision, None, 2);
    is(&waits, "Available", "False", "QuorumLost");
    is(&waits, "Stalled", "True", "QuorumLost");
    let refusal = Refusal {
        reason: Stalled::RecoveryRefused,
        message: "metadata.annotations[shoal.dev/recover]: it names another".to_owned(),
    };
    let refused = shown(&cluster, &observed, &decision, Some(&refusal), 2);
    is(&refused, "Stalled", "True", "RecoveryRefused");
    let decision = Decision { activity: Activity::Abandoning, ..Decision::default() };
    let marked = shown(&cluster, &observed, &decision, None, 3);
    is(&marked, "Progressing", "True", "Abandoning");
    is(&marked, "Ready", "False", "ShardsUnowned");
    assert_eq!(marked.cluster_id.as_deref(), Some("c"), "the annotation names it");
    observed.formed = false;
    let anew = shown(&cluster, &observed, &Decision::default(), None, 4);
    is(&anew, "Available", "False", "NotFormed");
    assert_eq!(anew.cluster_id, None);
    assert!(anew.members.iter().all(|member| member.node_id.is_none()));
    assert!(is_urgent(Some(&marked), &anew));
}

#[test]
fn what_goes_on_is_named_and_keeps_it_from_being_ready() {
    for (activity, progressing, ready) in [
        (Activity::Creating, "Creating", "Creating"),
        (Activity::ScalingUp, "ScalingUp", "Scaling"),
        (Activity::Draining, "Draining", "Scaling"),
        (Activity::Removing, "Removing", "Scaling"),
        (Activity::Rolling, "Rolling", "Rolling"),
    ] {
        let decision = Decision { activity, ..Decision::default() };
        let now = shown(&cluster(3), &observed(3), &decision, None, 1);
        is(&now, "Progressing", "True", progressing);
        is(&now, "Ready", "False", ready);
    }
    let step = Step::DeleteClaim { name: "c".to_owned(), uid: "v".to_owned() };
    let mends = Decision { step: Some(step), ..Decision::default() };
    is(&shown(&cluster(3), &observed(3), &mends, None, 1), "Progressing", "True", "Repairing");
    let stops = Decision { activity: Activity::Removing, ..Decision::default() };
    is(&shown(&cluster(0), &observed(3), &stops, None, 1), "Progressing", "True", "Stopping");
}

#[test]
fn a_zone_whose_loss_would_cost_the_quorum_is_named_where_there_are_three() {
    let shared = |zones: [&str; 5]| {
        let mut observed = observed(5);
        for (node, zone) in members(&mut observed).nodes.iter_mut().zip(zones) {
            node.zone = zone.to_owned();
        }
        reason(&shown(&cluster(5), &observed, &Decision::default(), None, 1), "Degraded").1
    };
    assert_eq!(shared(["a", "a", "a", "b", "c"]), "VotersShareZone");
    assert_eq!(shared(["a", "a", "b", "b", "c"]), "None");
    // With two zones one of them always holds a majority.
    assert_eq!(shared(["a", "a", "a", "b", "b"]), "None");
    assert_eq!(shared(["a", "a", "a", "b", ""]), "None", "a node of which nothing is known");
}
